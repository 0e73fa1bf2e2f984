import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from stn_lightning.runtime import signals


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_is_noted_and_nothing_else(number: signal.Signals) -> None:
    assert signals.start_listening()
    assert signals.caught_signal() is None
    os.kill(os.getpid(), number)
    assert signals.caught_signal() is number


def test_the_first_signal_counts_and_those_right_after_it_are_the_same() -> None:
    signals.start_listening()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    time.sleep(0.1)
    assert signals.caught_signal() is signal.SIGUSR1


def test_whoever_had_the_signals_gets_them_back() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    assert signals.start_listening()
    assert not signals.start_listening(), "it has begun before"
    assert [signal.getsignal(number) for number in signals.SIGNALS] != before
    os.kill(os.getpid(), signal.SIGTERM)
    signals.release()
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert signals.caught_signal() is None


def test_a_thread_that_may_not_have_handlers_is_told_so() -> None:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(signals.start_listening()))
    thread.start()
    thread.join()
    assert answers == [False]


def test_a_hang_up_that_is_ignored_as_under_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals.start_listening()
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.caught_signal() is None
        signals.release()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


AT_A_TERMINAL = """
import fcntl, sys, termios, time
from pathlib import Path
from stn_lightning.runtime import signals
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signals.start_listening()
print("listening", flush=True)
while signals.caught_signal() is None:
    time.sleep(0.01)
print("an epoch", flush=True)
print("a warning", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text(signals.caught_signal().name)
"""


@contextlib.contextmanager
def at_a_terminal(said: Path) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """The program, listening, and the terminal's other end."""
    own, its = os.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, str(said)]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    try:
        with os.fdopen(own, "rb") as terminal:
            assert terminal.readline() == b"listening\r\n"
            yield process, terminal
    finally:
        process.kill()
        process.wait()


def test_what_is_printed_after_its_terminal_was_closed_is_no_error(tmp_path: Path) -> None:
    with at_a_terminal(tmp_path / "caught") as (process, terminal):
        terminal.close()
        assert process.wait(60) == 0
    assert (tmp_path / "caught").read_text() == "SIGHUP"


def test_a_terminal_that_is_still_there_is_printed_on_after_a_hang_up(tmp_path: Path) -> None:
    with at_a_terminal(tmp_path / "caught") as (process, terminal):
        process.send_signal(signal.SIGHUP)
        assert terminal.readline() == b"an epoch\r\n"
        assert terminal.readline() == b"a warning\r\n"
        assert process.wait(60) == 0


PROGRAM = """
import sys, ctypes
from stn_lightning.runtime import signals
assert "torch" not in sys.modules, "it listens before anything heavy is imported"
signals.start_listening()
{saved}
print("listening", flush=True)
c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
c.pthread_mutex_lock(mutex)
c.pthread_mutex_lock(mutex)  # never returns, and Python runs no handler meanwhile
"""


@pytest.mark.parametrize(
    ("saved", "code"), [("", 128 + signal.SIGTERM), ("signals.set_exit_code(75)", 75)]
)
def test_a_second_signal_ends_a_process_that_is_stuck_in_c(
    tmp_path: Path, saved: str, code: int
) -> None:
    program = PROGRAM.format(saved=saved)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        process.terminate()
        time.sleep(0.3)
        process.terminate()  # the same once more, as launchers do
        time.sleep(signals.AGAIN + 0.1)
        assert process.poll() is None
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert "SIGTERM again: leaving at once" in said
