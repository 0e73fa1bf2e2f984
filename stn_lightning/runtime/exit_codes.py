"""Exit codes of the commands, for programs and scripts.

Standard library only. The last two are those of BSD's sysexits.h.
"""

FINISHED = 0
FAILED = 1
"""An error; starting again does not help."""
USAGE = 2
"""The user got something wrong, which one line explains."""
PROCESS_LOST = 69
"""EX_UNAVAILABLE: another process, or the way to it, is gone. A new start resumes."""
PREEMPTED = 75
"""EX_TEMPFAIL: stopped by a signal after everything was saved. A new start resumes."""
