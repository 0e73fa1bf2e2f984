"""What the processes of one training decide together, so that none waits for another that has left.

Every function here is called by all processes at the same point, as a collective is. With one
process they cost nothing.
"""

import functools
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from stn_lightning.runtime.atomic_files import MACHINE
from stn_lightning.runtime.lightning_internals import (
    ddp_options,
    ddp_timeout,
    spare_this_process,
)

MINUTES = 5.0
"""Until a collective that not all processes join is an error; PyTorch waits 30 minutes (10 with
NCCL).
"""
_patience = timedelta(minutes=MINUTES)
"""Of votes, which have a group of their own where there are GPUs: that of the strategy."""


class DDP(DDPStrategy):
    """Lightning's `DDPStrategy` with a time-out that a scheduler's grace and a person's patience
    survive.

    Args:
        minutes: until a collective that not all processes join is an error.
        options: of `DDPStrategy` and `DistributedDataParallel`.

    Raises:
        ValueError: at the start of a training that accumulates gradients with `static_graph`, which
            PyTorch cannot do.
    """

    def __init__(self, minutes: float = MINUTES, **options: Any) -> None:
        super().__init__(timeout=timedelta(minutes=minutes), **options)

    def setup(self, trainer: Trainer) -> None:
        if ddp_options(self).get("static_graph") and trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"static_graph true does not go with accumulate_grad_batches {trainer.accumulate_grad_batches}; leave one of them out"
            )
        super().setup(trainer)

    def setup_environment(self) -> None:
        """Lightning seeds anew here, and layers that a first picture sizes, drawn later, would not
        start as in one process.
        """
        global _patience
        _patience = ddp_timeout(self) or _patience
        with torch.random.fork_rng(devices=[]):
            super().setup_environment()


def all_reduce_max(value: int) -> int:
    """The largest `value` of all processes: a vote, where 0 means no."""
    if not is_distributed():
        return value
    ballot = torch.tensor(value)
    distributed.all_reduce(
        ballot, distributed.ReduceOp.MAX, group=_cpu_group(distributed.group.WORLD)
    )
    return int(ballot)


def gather_to_rank_zero(value: Any) -> list[Any]:
    """Everyone's `value`, by rank, in the first process; an empty list in the others."""
    if not is_distributed():
        return [value]
    values = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(value, values, group=_cpu_group(distributed.group.WORLD))
    return values or []


def on_rank_zero(trainer: Trainer, action: Callable[[], None]) -> None:
    """Do `action` in the first process; where it fails, it fails in all."""
    problem = None
    if trainer.is_global_zero:
        try:
            action()
        except Exception as error:
            problem = error
    fail_together(trainer, problem)


def fail_together(trainer: Trainer, problem: Exception | None) -> None:
    """Raise the first process's `problem` in all processes, if it has one."""
    problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        leave_together(trainer)
        raise problem


def leave_together(trainer: Trainer) -> None:
    """See to it that nobody is killed for leaving last, before everybody raises the same exception.

    Lightning's launcher kills the first process by SIGKILL, while it is still writing its logs,
    when it sees another leave with an exit code that is not 0.
    """
    spare_this_process(trainer)
    trainer.strategy.barrier()


def destroy_process_groups() -> None:
    """End what connects the processes, once each has done its work; threads that outlive the
    interpreter would abort it on its way out.
    """
    if distributed.is_available() and distributed.is_initialized():
        _cpu_group.cache_clear()
        distributed.destroy_process_group()


def lost_process_reason(problem: BaseException) -> str | None:
    """What to say where `problem` means that another process, or the way to it, is gone; None where
    it means something else.
    """
    if not isinstance(problem, distributed.DistError) and "gloo/transport" not in str(problem):
        return None
    who = (
        f"process {distributed.get_rank()} of {distributed.get_world_size()}, on {MACHINE},"
        if is_distributed()
        else f"{MACHINE}"
    )
    said = re.sub(r"^\[.*?\] |\. This is typically.*", "", str(problem).strip(), flags=re.DOTALL)
    return f"{who} has lost another or the way to it ({said})"


def is_distributed() -> bool:
    """Return True in a training of several processes."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


@functools.lru_cache(maxsize=1)
def _cpu_group(world: Any) -> Any:
    """A group for tensors of the CPU, so that a vote never waits for a GPU."""
    if distributed.get_backend() == "gloo":
        return world
    return distributed.new_group(backend="gloo", timeout=_patience)
