"""The command line: configuration files in, a run folder out. One file a command; none is imported
before it is asked for.
"""
