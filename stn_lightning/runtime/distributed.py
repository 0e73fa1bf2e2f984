"""Collective decisions of the processes of a training.

All processes must call these functions at the same points, as for any collective operation. With
one process they cost nothing.
"""

import contextlib
import functools
import inspect
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from stn_lightning.runtime.atomic_files import HOST
from stn_lightning.runtime.lightning_internals import (
    ddp_options,
    ddp_timeout,
    spare_this_process,
)

MINUTES = 5.0
"""Time-out of a collective operation that not all processes join. PyTorch's default is 30 minutes,
or 10 with NCCL.
"""
SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"  # before PyTorch 2.14
)
"""Option of `DistributedDataParallel`: whether each step begins with rank 0's buffers."""
FAILURE = ".failure."
"""First part of the name of a file in which a process writes why it failed."""
GONE = re.compile(
    r"closed by peer|reset by peer|refused|broken pipe|unreachable|no route|time[d-]? ?out|"
    r"(read|write) error|remote process|remote error|connection (was )?(closed|aborted|reset)",
    re.IGNORECASE,
)
"""Messages of errors of lost connections, in contrast to mistakes in a program."""
_patience = timedelta(minutes=MINUTES)
"""Time-out of the process group on CPUs that `all_reduce_max` uses, which is the strategy's."""
_failure: Path | None = None
"""File in which the first process that fails writes why."""


class DDP(DDPStrategy):
    """`DDPStrategy` with a short time-out, and a cause for failures.

    Args:
        minutes: time-out of a collective operation that not all processes join.
        options: options of `DDPStrategy` and `DistributedDataParallel`.

    Raises:
        ValueError: at the start of the training, if gradients are accumulated with `static_graph`,
            which PyTorch does not support.
    """

    def __init__(self, minutes: float = MINUTES, **options: Any) -> None:
        # the statistics of batch normalisation are averaged before they are used; rank 0's alone
        # would replace all others' in every step
        if not {"broadcast_buffers", "forward_sync_buffers"} & options.keys():
            options[SYNC_BUFFERS] = False
        super().__init__(timeout=timedelta(minutes=minutes), **options)

    def setup(self, trainer: Trainer) -> None:
        if ddp_options(self).get("static_graph") and trainer.accumulate_grad_batches > 1:
            raise ValueError(
                "static_graph true does not go with accumulate_grad_batches "
                f"{trainer.accumulate_grad_batches}; leave one of them out"
            )
        super().setup(trainer)

    def setup_environment(self) -> None:
        """Set up the processes without changing random numbers.

        Lightning seeds again here, so that lazy layers, which are initialised later, would get
        other weights than in a single process.
        """
        global _patience
        _patience = ddp_timeout(self) or _patience
        with torch.random.fork_rng(devices=[]):
            super().setup_environment()
        _name_failure_file(self)

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        announce_failure(exception)


def _name_failure_file(strategy: DDPStrategy) -> None:
    """Agree on a file that no other training has."""
    global _failure
    module = strategy.lightning_module
    if module is None or not is_distributed():
        return
    folder = Path(module.trainer.default_root_dir)
    if strategy.is_global_zero:
        for old in folder.glob(f"{FAILURE}*"):
            old.unlink(missing_ok=True)
    _failure = folder / f"{FAILURE}{strategy.broadcast(uuid.uuid4().hex)}"


def all_reduce_max(value: int) -> int:
    """Return the largest `value` of all processes: a vote."""
    if not is_distributed():
        return value
    ballot = torch.tensor(value)
    distributed.all_reduce(
        ballot, distributed.ReduceOp.MAX, group=_cpu_group(distributed.group.WORLD)
    )
    return int(ballot)


def gather_to_rank_zero(value: Any) -> list[Any]:
    """Return all values by rank on rank 0, else nothing."""
    if not is_distributed():
        return [value]
    values = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(value, values, group=_cpu_group(distributed.group.WORLD))
    return values or []


def on_rank_zero(trainer: Trainer, action: Callable[[], None]) -> None:
    """Run `action` on rank 0; raise its error everywhere."""
    problem = None
    if trainer.is_global_zero:
        try:
            action()
        except Exception as error:
            problem = error
    fail_together(trainer, problem)


def fail_together(trainer: Trainer, problem: Exception | None) -> None:
    """Raise rank 0's `problem`, if any, in all processes."""
    problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        leave_together(trainer)
        raise problem


def leave_together(trainer: Trainer) -> None:
    """Wait for all processes, which then raise the same exception.

    Otherwise Lightning's launcher would kill rank 0, while it still writes its logs, as soon as
    another process has ended with an exit code other than 0.
    """
    spare_this_process(trainer)
    trainer.strategy.barrier()


def destroy_process_groups() -> None:
    """Close the connections between processes at the end.

    Their threads could abort the interpreter during its exit.
    """
    if distributed.is_available() and distributed.is_initialized():
        _cpu_group.cache_clear()
        distributed.destroy_process_group()


def announce_failure(problem: BaseException) -> None:
    """Write for the other processes why this one fails.

    Otherwise they only notice a closed connection, as after the loss of a node. Nothing is written
    for `SystemExit`, with which all processes end.
    """
    if (
        _failure is None
        or not is_distributed()
        or isinstance(problem, SystemExit)
        or is_lost_process(problem)
    ):
        return
    text = f"{type(problem).__name__}: {problem}".strip().partition("\n")[0]
    # errors are ignored, as this process reports its own; "x", as the first failure is the cause
    with contextlib.suppress(OSError), _failure.open("x") as file:
        file.write(f"process {distributed.get_rank()} failed: {text}")


def failure_of_another() -> str | None:
    """Return why another process failed; None where unknown."""
    if _failure is not None:
        with contextlib.suppress(OSError):
            return _failure.read_text()
    return None


def is_lost_process(problem: BaseException) -> bool:
    """Return True if a connection was lost."""
    if isinstance(problem, distributed.DistNetworkError | distributed.DistStoreError):
        return True
    of_connections = isinstance(problem, distributed.DistError) or "gloo/transport" in str(problem)
    return of_connections and GONE.search(str(problem)) is not None


def lost_process_reason(problem: BaseException) -> str | None:
    """Return a message for a lost process, else None."""
    if not is_lost_process(problem):
        return None
    who = (
        f"process {distributed.get_rank()} of {distributed.get_world_size()}, on {HOST},"
        if is_distributed()
        else f"{HOST}"
    )
    cause = re.sub(r"^\[.*?\] |\. This is typically.*", "", str(problem).strip(), flags=re.DOTALL)
    return f"{who} has lost another or the way to it ({cause})"


def is_distributed() -> bool:
    """Return True in a training of several processes."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


@functools.lru_cache(maxsize=1)
def _cpu_group(world: Any) -> Any:
    """Return a process group that never waits for GPUs."""
    if distributed.get_backend() == "gloo":
        return world
    return distributed.new_group(backend="gloo", timeout=_patience)
