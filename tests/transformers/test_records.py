"""`record_warps`: what a network's transformers do, by call."""

import threading

import pytest
import torch
from torch import Tensor, nn

from stn_lightning.distortions import Distortion, WarpingDistortion
from stn_lightning.transformers import (
    Affine,
    Attention,
    BoundedFamily,
    ComposableFamily,
    Family,
    FullyConnectedLocalisation,
    InitialTheta,
    ParallelTransformer,
    Sampler,
    SpatialTransformer,
    Start,
    Transformer,
    Translation,
    WarpRecord,
    record_warps,
)
from tests.transformers.doubles import awaken

BOUNDED = BoundedFamily(Translation(0.5), -0.5, 0.5)


def transformer(
    family: Family | None = None, in_size: tuple[int, int] = (6, 6)
) -> SpatialTransformer:
    network = SpatialTransformer(FullyConnectedLocalisation([8]), family or Affine(), (4, 5))
    awaken(network, torch.rand(1, 1, *in_size), std=0.5)
    return network


def parallel(family: Family | None = None) -> ParallelTransformer:
    network = ParallelTransformer(
        FullyConnectedLocalisation([8]), family or Affine(), 3, (4, 5), start=None
    )
    awaken(network, torch.rand(1, 1, 6, 6), std=0.5)
    return network


def test_each_call_is_recorded_in_order_and_only_while_the_block_runs() -> None:
    first, second = transformer(), transformer(in_size=(4, 5))
    network, image = nn.Sequential(first, second), torch.rand(2, 1, 6, 6)
    network(image)
    with record_warps(network) as records:
        output = network(image)
        other = transformer()
        other(image)
    network(image)
    assert [record.transformer for record in records] == [first, second]
    assert [record.image_size for record in records] == [(6, 6), (4, 5)]
    assert records[1].output.image is output


def test_recordings_nest() -> None:
    network, image = transformer(), torch.rand(2, 1, 6, 6)
    with record_warps(network) as outer:
        network(image)
        with record_warps(network) as inner:
            network(image)
        network(image)
    assert (len(outer), len(inner)) == (3, 1)


def test_an_error_ends_the_recording() -> None:
    network, image = transformer(), torch.rand(2, 1, 6, 6)
    with pytest.raises(RuntimeError, match="stop"), record_warps(network) as records:
        raise RuntimeError("stop")
    network(image)
    assert records == []


def test_threads_that_share_a_network_record_their_own_calls_alone() -> None:
    network, barrier = transformer(), threading.Barrier(4)
    images = torch.rand(4, 1, 1, 6, 6)
    expected = [network.warp(image).theta for image in images]
    found: dict[int, list[WarpRecord]] = {}

    def call(number: int) -> None:
        with torch.no_grad(), record_warps(network) as records:
            barrier.wait()  # all recordings are open before the first call
            network(images[number])
            barrier.wait()
        found[number] = records

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, theta in enumerate(expected):
        (record,) = found[number]
        assert torch.equal(record.output.theta, theta)


def test_thetas_grids_and_crops_have_an_axis_for_parallel_transformers() -> None:
    image = torch.rand(2, 1, 6, 6)
    for network, n in ((transformer(), 1), (parallel(), 3)):
        with record_warps(network) as records:
            output = network(image)
        (record,) = records
        assert record.thetas.shape == (2, n, 6)
        assert record.grids.shape == (2, n, 4, 5, 2)
        assert record.crops.shape == (2, n, 1, 4, 5)
        assert torch.equal(record.crops.reshape(output.shape), output)


def test_the_recorded_theta_of_a_bounded_family_is_the_one_applied() -> None:
    image = 9 * torch.randn(4, 1, 6, 6)
    for network in (transformer(BOUNDED), parallel(BOUNDED)):
        with record_warps(network) as records:
            network(image)
        thetas, grids = records[0].thetas.flatten(0, 1), records[0].grids.flatten(0, 1)
        assert 0.1 < thetas.abs().max() <= 0.5
        assert torch.equal(Translation(0.5)(thetas, (4, 5)), grids)


@pytest.mark.parametrize("family", [Affine(), BOUNDED], ids=["affine", "bounded"])
def test_the_gradient_of_a_loss_reaches_the_recorded_theta(family: Family) -> None:
    for network in (transformer(family), parallel(family)):
        with record_warps(network) as records:
            loss = network(torch.rand(2, 1, 6, 6)).square().sum()
        (gradient,) = torch.autograd.grad(loss, records[0].output.theta)
        assert gradient.any()


def test_an_initial_theta_is_applied_as_given_in_a_bounded_family() -> None:
    family = BoundedFamily(Attention(), [0.3, -0.6, -0.6], [1.1, 0.6, 0.6])
    start = InitialTheta([0.4, 0.1, -0.2])
    network = SpatialTransformer(FullyConnectedLocalisation([8]), family, start=start)
    theta = network.warp(torch.rand(1, 1, 6, 6)).theta
    torch.testing.assert_close(theta, torch.tensor([[0.4, 0.1, -0.2]]))


class _Incomplete(ComposableFamily):
    identity = (0.0,)

    def grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        return theta


@pytest.mark.parametrize(
    "kind",
    [
        Family,
        ComposableFamily,
        _Incomplete,
        Sampler,
        Transformer,
        Start,
        Distortion,
        WarpingDistortion,
    ],
)
def test_a_class_without_its_abstract_methods_cannot_be_constructed(kind: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()
