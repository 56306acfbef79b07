"""Cases and geometry: the index, reading and writing NIfTI, one importer per data set."""
