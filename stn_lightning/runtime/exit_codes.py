"""Exit codes of the commands, for programs and scripts.

Standard library only. The last two are those of BSD's sysexits.h.
"""

FINISHED = 0
FAILED = 1
"""An error; starting the command again does not help."""
USAGE = 2
"""A mistake in the arguments or settings, which one line explains."""
PROCESS_LOST = 69
"""EX_UNAVAILABLE: the connection to another process was lost. Starting again resumes the run."""
PREEMPTED = 75
"""EX_TEMPFAIL: stopped by a signal, and saved. Starting again resumes the run."""
RESUMABLE = (PREEMPTED, PROCESS_LOST)
"""Starting the same command again resumes the run."""
