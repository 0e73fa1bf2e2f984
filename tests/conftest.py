from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from hypothesis import register_random, settings

torch.set_num_threads(1)


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
