"""TODO datasets/files."""
