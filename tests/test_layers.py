from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers

FEW_CHANNELS = [
    {},
    {"stride": 2},
    {"padding": 2},
    {"stride": (2, 3), "padding": (0, 1)},
    {"kernel_size": (4, 5)},
    {"kernel_size": (5, 3), "padding": (2, 1)},
    {"bias": False},
    {"in_channels": 2, "kernel_size": 5, "stride": (3, 2), "padding": (1, 2)},
]
"""What `Conv2d` computes from windows when the image wants a gradient."""


def test_layers_learn_their_input_from_the_first_batch_without_a_warning() -> None:
    linear, convolution = layers.linear(3), layers.conv2d(4, 5, stride=2, padding=1)
    assert linear(torch.rand(2, 7)).shape == (2, 3)
    assert linear.weight.shape == (3, 7)
    assert convolution(torch.rand(2, 6, 9, 9)).shape == (2, 4, 4, 4)
    assert convolution.weight.shape == (4, 6, 5, 5)


def test_layers_start_as_pytorchs_own_do() -> None:
    image = torch.rand(2, 7)
    torch.manual_seed(5)
    expected = nn.Linear(7, 3)
    torch.manual_seed(5)
    linear = layers.linear(3)
    assert torch.equal(linear(image), expected(image))


def test_a_layer_starts_as_it_is_told_and_learns() -> None:
    def initialise(layer: nn.Linear) -> None:
        nn.init.constant_(layer.weight, layer.in_features)

    linear = layers.linear(3, initialise)
    linear(torch.ones(2, 7)).square().sum().backward()
    assert torch.equal(linear.weight, torch.full((3, 7), 7.0))
    assert linear.weight.grad is not None
    assert linear.weight.grad.all()


@pytest.mark.parametrize("initialise", [None, layers.initialise_for_relu])
def test_a_layer_that_has_seen_nothing_takes_over_saved_weights_and_keeps_them(
    initialise: Callable[[nn.Module], None] | None,
) -> None:
    saved = nn.Linear(7, 3)
    linear = layers.linear(3, initialise)
    linear.load_state_dict(saved.state_dict())
    image = torch.rand(2, 7)
    assert torch.equal(linear(image), saved(image))
    assert torch.equal(linear.weight, saved.weight)


def pair(**given: Any) -> tuple[layers.Conv2d, nn.Conv2d]:
    """The same layer, ours and PyTorch's."""
    options = {"in_channels": 1, "out_channels": 6, "kernel_size": 3, **given}
    ours, plain = layers.Conv2d(**options), nn.Conv2d(**options)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def gradients(layer: nn.Conv2d, image: Tensor, slope: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(layer(image), [image, *layer.parameters()], slope))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the weights that PyTorch's convolution has been called with."""
    shapes: list[tuple[int, ...]] = []
    original = functional.conv2d

    def conv2d(image: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(weight.shape))
        return original(image, weight, *rest)

    monkeypatch.setattr(functional, "conv2d", conv2d)
    return shapes


@pytest.mark.parametrize("given", FEW_CHANNELS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_from_windows_are_pytorchs(
    given: dict[str, Any], layout: torch.memory_format, kernels: list[tuple[int, ...]]
) -> None:
    ours, plain = (layer.double().to(memory_format=layout) for layer in pair(**given))
    image = torch.rand(3, ours.in_channels, 12, 14, dtype=torch.float64)
    image = image.to(memory_format=layout).requires_grad_()
    rows, columns = ours.kernel_size
    output = ours(image)
    assert kernels == [(6, ours.in_channels * columns, rows, 1)]
    torch.testing.assert_close(output, plain(image))
    slope = torch.rand_like(output)
    for mine, theirs in zip(
        gradients(ours, image, slope), gradients(plain, image, slope), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_output_lies_in_channels_last_as_the_network_does() -> None:
    ours, _ = pair()
    output = ours.to(memory_format=torch.channels_last)(torch.rand(2, 1, 8, 8, requires_grad=True))
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_without_images_stays_one() -> None:
    ours, _ = pair()
    assert ours(torch.rand(0, 1, 8, 9, requires_grad=True)).shape == (0, 6, 6, 7)


def test_first_and_second_derivatives_from_windows_are_right() -> None:
    ours = layers.Conv2d(1, 2, 3, stride=2, padding=1).double()
    image, weight, bias = (
        torch.rand(shape, dtype=torch.float64).requires_grad_()
        for shape in ((2, 1, 5, 6), (2, 1, 3, 3), (2,))
    )

    def run(image: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, image)

    assert torch.autograd.gradcheck(run, (image, weight, bias))
    assert torch.autograd.gradgradcheck(run, (image, weight, bias))


def test_windows_are_computed_in_the_precision_that_autocast_asks_for() -> None:
    ours, plain = pair()
    image = torch.rand(4, 1, 10, 10).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(image).dtype == torch.bfloat16
        slope = torch.ones(4, 6, 8, 8, dtype=torch.bfloat16)
        mine, theirs = (gradients(layer, image, slope) for layer in (ours, plain))
    assert [g.dtype for g in mine] == [torch.float32] * 3
    for ours_, plain_ in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours_, plain_, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("of", ["parameters", "image"])
def test_each_example_has_a_gradient_of_its_own(of: str) -> None:
    ours, plain = pair()
    images = torch.rand(3, 1, 8, 8)

    def slope(layer: nn.Conv2d) -> Any:
        parameters = {name: value.detach() for name, value in layer.named_parameters()}
        loss = lambda p, i: torch.func.functional_call(layer, p, i[None]).square().sum()  # noqa: E731
        gradient = torch.func.grad(loss, ["parameters", "image"].index(of))
        return torch.func.vmap(gradient, (None, 0))(parameters, images)

    torch.testing.assert_close(slope(ours), slope(plain))


@pytest.mark.parametrize(
    "given",
    [
        {"in_channels": 2},
        {"in_channels": 3, "kernel_size": 5},
        {"kernel_size": 1},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"dilation": 2},
        {"in_channels": 2, "kernel_size": 5, "groups": 2},
    ],
    ids=str,
)
def test_a_layer_that_windows_would_slow_down_or_change_is_pytorchs_own(
    given: dict[str, Any], kernels: list[tuple[int, ...]]
) -> None:
    ours, plain = pair(**given)
    image = torch.rand(2, ours.in_channels, 9, 9, requires_grad=True)
    assert torch.equal(ours(image), plain(image))
    assert kernels == [tuple(ours.weight.shape)] * 2


def test_an_image_that_wants_no_gradient_is_left_to_pytorch(
    kernels: list[tuple[int, ...]],
) -> None:
    ours, _ = pair()
    ours(torch.rand(2, 1, 8, 8))
    with torch.no_grad():
        ours(torch.rand(2, 1, 8, 8, requires_grad=True))
    ours(torch.rand(1, 8, 8, requires_grad=True))  # nor is an image without a batch
    assert kernels == [(6, 1, 3, 3)] * 3


@pytest.mark.parametrize(("channels", "windows"), [(1, True), (2, True), (3, False)])
def test_a_loaded_lazy_layer_computes_each_batch_as_the_saved_one(
    channels: int, windows: bool, kernels: list[tuple[int, ...]]
) -> None:
    saved, loaded = layers.Conv2d(channels, 4, 5), layers.conv2d(4, 5)
    loaded.load_state_dict(saved.state_dict())
    image = torch.rand(2, channels, 9, 9, requires_grad=True)
    expected = saved(image)
    for _ in range(2):  # the first batch sets the layer's class
        assert torch.equal(loaded(image), expected)
    assert kernels == [(4, 5 * channels, 5, 1) if windows else (4, channels, 5, 5)] * 3


def test_exported_graphs_hold_the_plain_convolution() -> None:
    ours, plain = pair()
    image = torch.rand(2, 1, 8, 8, requires_grad=True)
    program = torch.export.export(ours, (image,))
    assert [
        node.args[1].meta["val"].shape
        for node in program.graph.nodes
        if node.target == torch.ops.aten.conv2d.default
    ] == [(6, 1, 3, 3)]
    torch.testing.assert_close(program.module()(image), plain(image))


@pytest.mark.parametrize("widths", [[], [8, 0]])
def test_fully_connected_layers_without_units_are_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="of fully connected layers; give 1 unit or more each"):
        layers.fully_connected(widths)


def test_an_image_is_not_reduced_by_a_factor_below_one() -> None:
    image = torch.rand(1, 2, 6, 6)
    assert layers.reduce_image(image, 1) is image
    assert layers.reduce_image(image, 3).shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="shrink 0 is a factor that reduces the image"):
        layers.reduce_image(image, 0)
