"""The commands of `stn`, each imported when it is called."""
