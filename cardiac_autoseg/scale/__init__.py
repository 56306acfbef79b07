"""Many training runs as one experiment: which there are, how long they take, and running what is missing."""
