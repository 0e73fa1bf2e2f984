"""Trainings in processes of their own, to be signalled and killed.

They are forked from a server that has imported everything, which takes milliseconds instead of
seconds.
"""

import logging
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.reliability.training"])


def _run(
    rank: int,
    ranks: int,
    port: int,
    folder: Path,
    function: str,
    arguments: Sequence[Any],
    settings: dict[str, Any],
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0"
    )
    if ranks == 1:
        del os.environ["LOCAL_RANK"]
    multiprocessing.set_start_method(
        "fork", force=True
    )  # for the loader's workers, as in a program of its own
    log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    import torch

    from tests.reliability import training

    torch.set_num_threads(1)
    getattr(training, function)(folder, *arguments, ranks=ranks, **settings)


def save_without_end(folder: Path) -> None:
    """Checkpoints of a megabyte, one after the other, each full of its number."""
    import torch

    from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO

    torch.set_num_threads(1)
    for count in range(10**9):
        AtomicCheckpointIO().save_checkpoint(
            {"count": count, "state_dict": {"weight": torch.full((250_000,), count)}},
            folder / "last.ckpt",
        )


def _call(
    function: Callable[..., None], environment: dict[str, str], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    tempfile.tempdir = None  # which makes it look at TMPDIR again
    function(*arguments)


@contextmanager
def started(
    function: Callable[..., None], *arguments: Any, environment: dict[str, str]
) -> Iterator[ForkServerProcess]:
    """A process that calls `function`; it is killed in the end."""
    process = SERVER.Process(target=_call, args=(function, environment, arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def running(
    folder: Path, *callbacks: Any, ranks: int = 1, function: str = "train", **settings: Any
) -> Iterator[list[ForkServerProcess]]:
    """The processes of a training in `folder`; what is left of them is killed in the end."""
    folder.mkdir(exist_ok=True, parents=True)
    port = _free_port()
    processes = [
        SERVER.Process(target=_run, args=(rank, ranks, port, folder, function, callbacks, settings))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def finish(processes: list[ForkServerProcess], seconds: float = 240) -> list[int | None]:
    """Wait for all, and return their exit codes: None for one that has not ended."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    return [process.exitcode for process in processes]


def run(folder: Path, *callbacks: Any, ranks: int = 1, **settings: Any) -> list[int | None]:
    with running(folder, *callbacks, ranks=ranks, **settings) as processes:
        return finish(processes)


def until(
    done: Callable[[], object],
    missing: Callable[[], str],
    seconds: float = 240,
    pause: float = 0.005,
) -> None:
    """Wait until `done` is true; fail after so many seconds, and say what is missing."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, missing()
        time.sleep(pause)


def wait_for(lines: int, folder: Path, seconds: float = 240) -> None:
    """Until the record of a training has so many lines."""
    file = folder / "record.jsonl"
    until(
        lambda: file.exists() and file.read_text().count("\n") >= lines,
        lambda: f"{file} did not get {lines} lines; {log(folder)}",
        seconds,
    )


def log(folder: Path) -> str:
    """What the processes said."""
    return "\n".join(f"{file.name}: {file.read_text()}" for file in sorted(folder.glob("log.*")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
