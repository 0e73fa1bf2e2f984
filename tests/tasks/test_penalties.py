"""Penalties of several transformers add up."""

import pytest
import torch

from stn_lightning.geometry import affine
from stn_lightning.tasks.penalties import add_penalties
from stn_lightning.transformers import Affine, FullyConnectedLocalisation, ParallelTransformer
from stn_lightning.transformers.transformer import WarpOutput, WarpRecord


def record(shift: float, n: int = 2) -> WarpRecord:
    """Crops of half an image, which reach beyond its border by `shift` - 0.5."""
    transformer = ParallelTransformer(FullyConnectedLocalisation([8]), Affine(), n, (8, 8))
    theta = torch.tensor([0.5, 0, shift, 0, 0.5, 0]).expand(3, n, -1)
    grid = affine.grid(theta.flatten(0, 1), (8, 8)).unflatten(0, (3, n))
    return WarpRecord(transformer, (16, 16), WarpOutput(torch.zeros(3, n, 1, 8, 8), theta, grid))


@pytest.mark.parametrize("weights", [(0.5, 0.0), (0.0, 0.25)])
def test_the_penalties_of_all_transformers_are_added(weights: tuple[float, float]) -> None:
    loss, near, far = torch.tensor(2.0), record(0.75), record(1.5)
    single = [add_penalties(loss, [each], *weights) - loss for each in (near, far)]
    assert all(each > 0 for each in single)
    torch.testing.assert_close(add_penalties(loss, [near, far], *weights), loss + sum(single))
    assert add_penalties(loss, [], *weights) == loss
