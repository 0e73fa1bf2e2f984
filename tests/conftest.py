import os
import signal
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from hypothesis import register_random, settings

from stn_lightning.runtime import signals
from stn_lightning.runtime.precision import PrecisionChoice

pytest_plugins = ["tests.stn_command"]
# one of each process, those that tests start included: they share the cores
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where nohup started the tests


class TorchRandom:
    """PyTorch's global random numbers, for hypothesis to start afresh before every example."""

    seed: ClassVar[Callable[[int], object]] = torch.manual_seed
    getstate: ClassVar[Callable[[], torch.Tensor]] = torch.get_rng_state
    setstate: ClassVar[Callable[[torch.Tensor], None]] = torch.set_rng_state


register_random(TorchRandom)
settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden values are float32's, whatever is fastest on this machine."""
    choice = PrecisionChoice("32-true", "a test")
    monkeypatch.setattr("stn_lightning.cli.command.choose_precision", lambda *_: choice)


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Iterator[None]:
    """Whatever a test did: the next one of this process must not find signals that were caught
    before it.
    """
    yield
    signals.release()
