"""A run: its folder, its record and how it is loaded."""
