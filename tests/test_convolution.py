from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.convolution import Convolution

SHAPES = [
    {},
    {"stride": 2},
    {"padding": 2},
    {"stride": (2, 3), "padding": (0, 1)},
    {"kernel_size": (3, 5)},
    {"bias": False},
]


def pair(channels: int = 1, **given: Any) -> tuple[Convolution, nn.Conv2d]:
    """The same layer, ours and PyTorch's."""
    options = {"kernel_size": 3, **given}
    ours, plain = Convolution(channels, 6, **options), nn.Conv2d(channels, 6, **options)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def gradients(layer: nn.Conv2d, image: Tensor, slope: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(layer(image), [image, *layer.parameters()], slope))


@pytest.mark.parametrize("given", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_pytorchs(
    given: dict[str, Any], layout: torch.memory_format
) -> None:
    ours, plain = (layer.double().to(memory_format=layout) for layer in pair(**given))
    image = torch.rand(3, 1, 12, 14, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    assert torch.equal(ours(image), plain(image))
    slope = torch.rand_like(plain(image))
    for mine, theirs in zip(
        gradients(ours, image, slope), gradients(plain, image, slope), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_only_what_learns_gets_a_gradient() -> None:
    ours, _ = pair()
    ours.weight.requires_grad_(False)
    ours(torch.rand(2, 1, 8, 8)).sum().backward()
    assert ours.weight.grad is None
    assert ours.bias is not None
    torch.testing.assert_close(ours.bias.grad, torch.full((6,), 2 * 36.0))


def test_first_and_second_derivatives_are_right() -> None:
    ours = Convolution(1, 2, 3, stride=2, padding=1).double()
    image, weight, bias = (
        torch.rand(shape, dtype=torch.float64).requires_grad_()
        for shape in ((2, 1, 5, 6), (2, 1, 3, 3), (2,))
    )

    def run(image: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, image)

    assert torch.autograd.gradcheck(run, (image, weight, bias))
    assert torch.autograd.gradgradcheck(run, (image, weight, bias))


def test_it_computes_in_the_precision_that_autocast_asks_for() -> None:
    ours, plain = pair()
    image = torch.rand(4, 1, 10, 10).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(image).dtype == torch.bfloat16
        mine, theirs = (
            gradients(layer, image, torch.ones(4, 6, 8, 8, dtype=torch.bfloat16))
            for layer in (ours, plain)
        )
    assert [g.dtype for g in mine] == [torch.float32] * 3
    for ours_, plain_ in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours_, plain_, rtol=0.02, atol=0.02)


def test_each_example_has_a_gradient_of_its_own() -> None:
    ours, plain = pair()
    images = torch.rand(3, 1, 8, 8)

    def slope(layer: nn.Conv2d) -> Any:
        parameters = {name: value.detach() for name, value in layer.named_parameters()}
        loss = lambda p, i: torch.func.functional_call(layer, p, i[None]).square().sum()  # noqa: E731
        return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)

    torch.testing.assert_close(slope(ours), slope(plain))


@pytest.mark.parametrize(
    "given",
    [
        {"channels": 3},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"dilation": 2},
    ],
    ids=str,
)
def test_everything_else_is_pytorchs_own(given: dict[str, Any]) -> None:
    ours, plain = pair(**given)
    image = torch.rand(2, given.get("channels", 1), 9, 9)
    output = ours(image)
    assert torch.equal(output, plain(image))
    assert "SingleChannel" not in type(output.grad_fn).__name__


def test_graphs_hold_the_plain_operation() -> None:
    ours, _ = pair()
    program = torch.export.export(ours, (torch.rand(2, 1, 8, 8),))
    assert torch.ops.aten.conv2d.default in {node.target for node in program.graph.nodes}
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(
        program.module()(image), functional.conv2d(image, ours.weight, ours.bias)
    )
