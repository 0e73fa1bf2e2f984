"""Files of data sets: download, archives, tables, paths, cache."""
