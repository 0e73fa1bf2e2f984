"""Synchronised batch normalisation computes what the layers before it did."""

import pytest
import torch
from torch import Tensor, nn

from stn_lightning.runtime.batch_norm import SyncBatchNorm, synced


class Doubling(nn.BatchNorm2d):
    """A layer whose result is not that of batch normalisation."""

    def forward(self, image: Tensor) -> Tensor:
        return 2 * super().forward(image)


def test_plain_layers_are_replaced_and_put_back() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    image, sync = torch.randn(2, 3, 8, 8), SyncBatchNorm()
    expected = network(image)
    converted = sync.apply(network)
    assert len(synced(converted)) == 1
    torch.testing.assert_close(converted(image), expected)
    reverted = sync.revert(converted).eval()
    assert not synced(reverted)
    torch.testing.assert_close(reverted(image), expected)


def test_layers_of_timm_keep_their_activation() -> None:
    layers = pytest.importorskip("timm.layers", reason="the extra birds is not installed")
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4, act_layer=nn.ReLU6), nn.BatchNorm2d(4)
    ).eval()
    image, sync = 9 * torch.randn(2, 3, 8, 8), SyncBatchNorm()
    expected, keys = network(image), network.state_dict().keys()
    converted = sync.apply(network)
    assert len(synced(converted)) == 2
    assert converted.state_dict().keys() == keys
    torch.testing.assert_close(converted(image), expected)
    torch.testing.assert_close(sync.revert(converted)(image), expected)


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not know Doubling, .* --trainer\.sync_batchnorm f"):
        SyncBatchNorm().apply(nn.Sequential(Doubling(4)))
