"""What a reader sees: the report, its figures and tables, and the state of a workspace."""
