"""Files: downloads, archives, caches and text tables."""
