"""Signals that ask a program to stop, acted on later.

Standard library only: the command line listens before it imports anything heavy, since a signal
during seconds of imports would kill it.

A first signal is only noted. Another one, a second later or more, ends the process at once:
launchers and schedulers often send the same signal twice within that second. A thread waits for it,
because Python runs no handler while the main thread sits in a collective that will never return.
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
"""Seconds from the first signal on in which others count as the same."""


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
        ear, self.mouth = os.pipe()
        os.set_blocking(self.mouth, False)
        self.previous_wakeup = signal.set_wakeup_fd(self.mouth, warn_on_full_buffer=False)
        threading.Thread(target=self.watch, args=(ear,), name="signals", daemon=True).start()

    def note(self, number: int, _: FrameType | None = None) -> None:
        if number == signal.SIGHUP:
            self.leave_closed_terminals()
        if self.caught is None:
            self.since = time.monotonic()
            self.caught = signal.Signals(number)

    def leave_closed_terminals(self) -> None:
        """Send to nowhere what would be printed there, as it would be an error before the save."""
        for stream in self.terminals:
            if not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

    def watch(self, ear: int) -> None:
        while byte := os.read(ear, 1):
            number = byte[0]
            if number in SIGNALS:
                self.note(number)
                if time.monotonic() - self.since > AGAIN:
                    os.write(2, f"{signal.Signals(number).name} again: leaving at once\n".encode())
                    os._exit(128 + number if self.leaving is None else self.leaving)
        os.close(ear)

    def release(self) -> None:
        signal.set_wakeup_fd(self.previous_wakeup)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        os.close(self.mouth)


_listener: _Listener | None = None


def start_listening() -> bool:
    """Note SIGTERM, SIGINT, SIGUSR1 and SIGHUP instead of dying.

    A SIGHUP that is ignored, as under nohup, stays so.

    Returns:
        whether this call began it: False where it has begun before, and in a thread, where Python
        allows no handlers.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        return False
    _listener = _Listener()
    return True


def release() -> None:
    """Give the signals back to their previous handlers.

    Signals that were caught are forgotten.
    """
    global _listener
    if _listener is not None:
        _listener.release()
        _listener = None


def caught_signal() -> signal.Signals | None:
    """Return the first signal since `start_listening`."""
    return None if _listener is None else _listener.caught


def set_exit_code(code: int) -> None:
    """Set the exit code after everything was saved.

    It ends with it also where another signal ends it at once.
    """
    if _listener is not None:
        _listener.leaving = code


def shield_workers() -> Callable[[int], None]:
    """Return a `worker_init_fn` that makes workers ignore the signals.

    Schedulers signal all processes of a job, and Ctrl-C all of a terminal. A worker that dies of it
    would take the main process along before it has saved. At its exit the main process ends by
    SIGTERM what workers there still are, and waits for them; as they ignore that too, they are
    killed just before.
    """
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)
    return _deafen


def _deafen(_: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # torch's handler reports every worker that is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
