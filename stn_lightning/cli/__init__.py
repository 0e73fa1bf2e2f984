"""The command line `stn`, and the commands that train."""
