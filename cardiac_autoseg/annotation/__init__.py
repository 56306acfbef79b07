"""Label sources: who drew what, and simulated annotators."""
