"""Store signals to stop, and act on them later.

Standard library only: the command line calls `start_listening` before it imports PyTorch, as a
signal during these seconds would kill the process.

The first signal is only stored. A second one ends the process at once if it comes at least a second
later; launchers and schedulers often send the same signal twice within a second. A thread waits for
it, because Python does not run signal handlers while the main thread waits in a collective
operation.
"""

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
AGAIN = 1.0
"""Seconds after the first signal in which further signals are ignored."""


class _Listener:
    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.leaving: int | None = None
        self.since = 0.0
        self.terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        self.previous = {
            number: signal.signal(number, self.note)
            for number in SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup
        }
        read_end, self.write_end = os.pipe()  # Python writes the number of each signal into it
        os.set_blocking(self.write_end, False)
        self.previous_wakeup = signal.set_wakeup_fd(self.write_end, warn_on_full_buffer=False)
        threading.Thread(target=self.watch, args=(read_end,), name="signals", daemon=True).start()

    def note(self, number: int, _: FrameType | None = None) -> None:
        if number == signal.SIGHUP:
            self.leave_closed_terminals()
        if self.caught is None:
            self.since = time.monotonic()
            self.caught = signal.Signals(number)

    def leave_closed_terminals(self) -> None:
        """Discard output to closed terminals, which would be an error."""
        for stream in self.terminals:
            if not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

    def watch(self, read_end: int) -> None:
        while byte := os.read(read_end, 1):
            number = byte[0]
            if number in SIGNALS:
                self.note(number)
                if time.monotonic() - self.since > AGAIN:
                    os.write(2, f"{signal.Signals(number).name} again: leaving at once\n".encode())
                    os._exit(128 + number if self.leaving is None else self.leaving)
        os.close(read_end)

    def release(self) -> None:
        signal.set_wakeup_fd(self.previous_wakeup)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        os.close(self.write_end)


_listener: _Listener | None = None


def start_listening() -> bool:
    """Store `SIGNALS` instead of ending at them.

    SIGHUP stays ignored if it is, as under nohup.

    Returns:
        True if this call started it; False if it was started before, or if this is not the main
        thread, in which Python allows no signal handlers.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        return False
    _listener = _Listener()
    return True


def release() -> None:
    """Restore the previous signal handlers, and forget stored signals."""
    global _listener
    if _listener is not None:
        _listener.release()
        _listener = None


def caught_signal() -> signal.Signals | None:
    """Return the first signal since `start_listening`."""
    return None if _listener is None else _listener.caught


def set_exit_code(code: int) -> None:
    """Set the exit code for a second signal.

    It is called after everything was saved.
    """
    if _listener is not None:
        _listener.leaving = code


def worker_init_fn() -> Callable[[int], None]:
    """Return a `worker_init_fn` that ignores the signals.

    Schedulers signal all processes of a job, and Ctrl-C all processes of a terminal. If a worker
    ended, the main process would fail before it has saved. At its exit Python ends workers by
    SIGTERM and waits for them. As they ignore SIGTERM, they are killed before that.
    """
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)
    return _ignore_signals


def _ignore_signals(_: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report killed workers
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
