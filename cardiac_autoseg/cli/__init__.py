"""The cas_* commands: parsing and printing only."""
