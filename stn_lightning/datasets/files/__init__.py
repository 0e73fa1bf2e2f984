"""Files of data sets: download, archives, tables, paths, and the cache of resized images."""
