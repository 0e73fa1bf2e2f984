import math
from collections.abc import Callable
from itertools import product
from typing import Any

import cv2
import jaxtyping
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import Tensor

from stn_lightning.geometry import affine, antialiasing, lattice, sampling, wide

Array = npt.NDArray[Any]
Kernel = Callable[..., Tensor]
KERNELS: list[Kernel] = [sampling.bilinear, sampling.nearest, sampling.bicubic]
PADDINGS: list[sampling.Padding] = ["zeros", "border", "reflection", [0.3, 0.6, 0.9]]
HALF_PIXEL = 0.5

all_kernels = pytest.mark.parametrize("kernel", KERNELS)
all_paddings = pytest.mark.parametrize("padding", PADDINGS, ids=str)
not_mirrored = pytest.mark.parametrize(
    "padding", [p for p in PADDINGS if p != "reflection"], ids=str
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scattered(
    batch: int, size: tuple[int, ...], reach: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A grid of random points up to `reach` times as far from the centre as the border."""
    return reach * (2 * noise(batch, *size, len(size), seed=1, dtype=dtype) - 1)


def tent(d: float) -> float:
    return max(0.0, 1 - abs(d))


def box(d: float) -> float:
    return float(abs(d) < HALF_PIXEL)


def keys(d: float, a: float = -0.75) -> float:
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


WEIGHTS: dict[Kernel, Callable[[float], float]] = {
    sampling.bilinear: tent,
    sampling.nearest: box,
    sampling.bicubic: keys,
}


def equation_3(
    image: Array, grid: Array, weight: Callable[[float], float], padding: sampling.Padding
) -> Array:
    """The paper's sum over pixels, one output pixel at a time, in float64; what lies outside is
    looked up pixel by pixel.
    """
    channels, *size = image.shape
    values = []
    for at in np.ndindex(*grid.shape[:-1]):
        place = [
            ((p + 1) * n - 1) / 2 for p, n in zip(grid[at][::-1], size, strict=True)
        ]  # (y, x) or (z, y, x), in pixels
        value = np.zeros(channels)
        for pixel in product(*[range(math.floor(p) - 1, math.floor(p) + 3) for p in place]):
            value += math.prod(
                weight(p - i) for p, i in zip(place, pixel, strict=True)
            ) * looked_up(image, pixel, padding)
        values.append(value)
    return np.stack(values, axis=1).reshape(channels, *grid.shape[:-1])


def looked_up(image: Array, pixel: tuple[int, ...], padding: sampling.Padding) -> Array:
    size = image.shape[1:]
    if padding == "border":
        pixel = tuple(min(max(i, 0), n - 1) for i, n in zip(pixel, size, strict=True))
    elif padding == "reflection":  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
        pixel = tuple(
            min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i, n in zip(pixel, size, strict=True)
        )
    elif not all(0 <= i < n for i, n in zip(pixel, size, strict=True)):
        return np.zeros(len(image)) if padding == "zeros" else np.array(padding, dtype=np.float64)
    value: Array = np.moveaxis(image, 0, -1)[pixel]
    return value


# Values


@all_paddings
@all_kernels
def test_a_plane_kernel_agrees_with_the_papers_equation(
    kernel: Kernel, padding: sampling.Padding
) -> None:
    image, grid = noise(2, 3, 5, 7), scattered(2, (6, 8), reach=2.5)
    expected = np.stack(
        [
            equation_3(image[i].numpy(), grid[i].double().numpy(), WEIGHTS[kernel], padding)
            for i in range(2)
        ]
    )
    np.testing.assert_allclose(kernel(image, grid, padding).numpy(), expected, rtol=0, atol=1e-5)


@all_paddings
def test_trilinear_agrees_with_the_papers_equation(padding: sampling.Padding) -> None:
    content, grid = noise(1, 3, 3, 5, 4), scattered(1, (3, 4, 5), reach=2.5)
    expected = equation_3(content[0].numpy(), grid[0].double().numpy(), tent, padding)
    np.testing.assert_allclose(
        sampling.trilinear(content, grid, padding)[0].numpy(), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("padding", "mode"),
    [("zeros", "grid-constant"), ("border", "nearest"), ("reflection", "reflect")],
)
@pytest.mark.parametrize(("kernel", "order"), [(sampling.bilinear, 1), (sampling.nearest, 0)])
def test_a_plane_kernel_agrees_with_scipy(
    kernel: Kernel, order: int, padding: sampling.Padding, mode: str
) -> None:
    image, grid = noise(1, 1, 28, 45), scattered(1, (50, 40), reach=1.5)
    pixels = lattice.to_pixels(grid.double(), (28, 45))[0].flip(-1).movedim(-1, 0)
    expected = map_coordinates(image[0, 0].double().numpy(), pixels.numpy(), order=order, mode=mode)
    np.testing.assert_allclose(
        kernel(image, grid, padding)[0, 0].numpy(), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("padding", "mode"),
    [("zeros", "grid-constant"), ("border", "nearest"), ("reflection", "reflect")],
)
def test_trilinear_agrees_with_scipy(padding: sampling.Padding, mode: str) -> None:
    content, grid = noise(1, 1, 9, 11, 14), scattered(1, (10, 12, 13), reach=1.5)
    pixels = lattice.to_pixels(grid.double(), (9, 11, 14))[0].flip(-1).movedim(-1, 0)
    expected = map_coordinates(content[0, 0].double().numpy(), pixels.numpy(), order=1, mode=mode)
    np.testing.assert_allclose(
        sampling.trilinear(content, grid, padding)[0, 0].numpy(), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("padding", "border"),
    [
        ("zeros", cv2.BORDER_CONSTANT),
        ("border", cv2.BORDER_REPLICATE),
        ("reflection", cv2.BORDER_REFLECT),
        ([0.4], cv2.BORDER_CONSTANT),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("kernel", "interpolation"),
    [(sampling.bilinear, cv2.INTER_LINEAR), (sampling.bicubic, cv2.INTER_CUBIC)],
)
def test_a_plane_kernel_agrees_with_opencv(
    kernel: Kernel, interpolation: int, padding: sampling.Padding, border: int
) -> None:
    image = noise(1, 1, 28, 45)
    pixels = (
        lattice.to_pixels(scattered(1, (50, 40), reach=1.5), (28, 45)) * 32
    ).round() / 32  # OpenCV's own resolution
    colour = 0.0 if isinstance(padding, str) else padding[0]
    x, y = pixels[0].unbind(-1)
    expected = cv2.remap(
        image[0, 0].numpy(),
        x.numpy(),
        y.numpy(),
        interpolation,
        borderMode=border,
        borderValue=(colour,) * 4,
    )
    actual = kernel(image, lattice.from_pixels(pixels.double(), (28, 45)), padding)
    np.testing.assert_allclose(actual[0, 0].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "interpolation"),
    [(sampling.bilinear, cv2.INTER_LINEAR), (sampling.bicubic, cv2.INTER_CUBIC)],
)
def test_enlarging_agrees_with_opencvs_resize(kernel: Kernel, interpolation: int) -> None:
    image = noise(1, 1, 13, 20)
    expected = cv2.resize(image[0, 0].numpy(), (47, 31), interpolation=interpolation)
    actual = kernel(image, lattice.points((31, 47), image)[None], "border")
    np.testing.assert_allclose(actual[0, 0].numpy(), expected, rtol=0, atol=1e-5)


# Conventions


def test_convention_a_grid_holds_x_then_y() -> None:
    image = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])[None, None]
    assert sampling.nearest(image, torch.tensor([[[[0.75, -0.5]]]])).item() == 4


def test_convention_a_grid_of_a_volume_holds_x_then_y_then_z() -> None:
    content = torch.arange(2.0 * 4 * 8).reshape(1, 1, 2, 4, 8)
    assert (
        sampling.trilinear(content, torch.tensor([[[[[0.875, -0.25, -0.5]]]]])).item()
        == content[0, 0, 0, 1, 7]
    )


def test_convention_a_point_on_the_border_lies_half_a_pixel_from_the_outermost_centre() -> None:
    image = torch.full((1, 1, 1, 4), 8.0)
    points = torch.tensor([[[[-1.0, 0.0], [-0.75, 0.0], [1.0, 0.0], [1.25, 0.0]]]])
    assert sampling.bilinear(image, points).flatten().tolist() == [4, 8, 4, 0]


def test_convention_reflection_mirrors_at_the_border_so_that_the_border_pixel_comes_twice() -> None:
    image = torch.tensor([1.0, 2, 3, 4])[None, None, None]
    grid = torch.stack(
        [lattice.from_pixels(torch.arange(-9.0, 9)[:, None], (4,))[:, 0], torch.zeros(18)], -1
    )[None, None]
    mirrored = [1, 1, 2, 3, 4, 4, 3, 2, 1, 1, 2, 3, 4, 4, 3, 2, 1, 1]
    for kernel in KERNELS:
        assert kernel(image, grid, "reflection").flatten().tolist() == mirrored


# Exactness


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (28, 28), (42, 60), (224, 224), (449, 301), (3, 5001)], ids=str
)
def test_the_lattice_reads_the_image_bit_for_bit(size: tuple[int, int]) -> None:
    image = noise(2, 3, *size)
    grid = lattice.points(size, image).expand(2, *size, 2)
    for kernel, padding in product(KERNELS, PADDINGS):
        assert torch.equal(kernel(image, grid, padding), image), (kernel, padding)


@all_paddings
def test_the_lattice_reads_a_volume_bit_for_bit(padding: sampling.Padding) -> None:
    content = noise(2, 3, 5, 28, 33)
    grid = lattice.points((5, 28, 33), content).expand(2, -1, -1, -1, -1)
    assert torch.equal(sampling.trilinear(content, grid, padding), content)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@all_kernels
def test_the_output_has_the_images_precision_and_identity_is_exact_in_each(
    kernel: Kernel, dtype: torch.dtype
) -> None:
    image = noise(1, 3, 42, 29).to(dtype)
    for padding, precision in product(PADDINGS, (torch.float32, torch.float64)):
        sampled = kernel(image, lattice.points((42, 29), noise(1, dtype=precision))[None], padding)
        assert sampled.dtype == dtype
        assert torch.equal(sampled, image)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@all_kernels
def test_a_grid_more_precise_than_the_image_is_used_in_full(
    kernel: Kernel, padding: sampling.Padding
) -> None:
    image, grid = noise(1, 3, 42, 29), scattered(1, (20, 20), reach=1.5, dtype=torch.float64)
    assert torch.equal(kernel(image, grid, padding), kernel(image.double(), grid, padding).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_paddings
@all_kernels
def test_a_half_precision_image_is_rounded_once(
    kernel: Kernel, padding: sampling.Padding, dtype: torch.dtype
) -> None:
    image, grid = noise(1, 3, 42, 29).to(dtype), scattered(1, (20, 20), reach=1.5)
    assert torch.equal(kernel(image, grid, padding), kernel(image.float(), grid, padding).to(dtype))


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(-70, 70),
    st.integers(-70, 70),
    st.sampled_from(KERNELS),
)
def test_a_shift_by_whole_pixels_is_exact(
    height: int, width: int, right: int, down: int, kernel: Kernel
) -> None:
    image = noise(1, 1, height, width)
    theta = torch.tensor([[1, 0, -2 * right / width, 0, 1, -2 * down / height]])
    canvas = torch.zeros(1, 1, height + 140, width + 140)
    canvas[:, :, 70 + down : 70 + down + height, 70 + right : 70 + right + width] = image
    expected = canvas[:, :, 70 : 70 + height, 70 : 70 + width]
    assert torch.equal(kernel(image, affine.grid(theta, (height, width))), expected)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(KERNELS), st.sampled_from(PADDINGS))
def test_flips_equal_torch_flip(
    height: int, width: int, kernel: Kernel, padding: sampling.Padding
) -> None:
    image = noise(1, 3, height, width)
    sideways, upside_down = (
        torch.tensor([[-1.0, 0, 0, 0, 1, 0]]),
        torch.tensor([[1.0, 0, 0, 0, -1, 0]]),
    )
    assert torch.equal(
        kernel(image, affine.grid(sideways, (height, width)), padding), image.flip(3)
    )
    assert torch.equal(
        kernel(image, affine.grid(upside_down, (height, width)), padding), image.flip(2)
    )


@given(st.integers(1, 60), st.integers(-3, 3), st.sampled_from(KERNELS), st.sampled_from(PADDINGS))
def test_quarter_turns_equal_torch_rot90(
    side: int, quarters: int, kernel: Kernel, padding: sampling.Padding
) -> None:
    image = noise(1, 3, side, side)
    cos, sin = (
        math.cos(quarters * math.pi / 2),
        math.sin(quarters * math.pi / 2),
    )  # of float32, so not quite 0 and 1
    grid = affine.grid(torch.tensor([[cos, -sin, 0, sin, cos, 0]]), (side, side))
    assert torch.equal(kernel(image, grid, padding), torch.rot90(image, quarters, (2, 3)))


def test_a_quarter_turn_of_an_oblong_image_equals_torch_rot90() -> None:
    image = noise(1, 3, 28, 45)
    grid = affine.grid(torch.tensor([[0.0, -1, 0, 1, 0, 0]]), (45, 28))
    assert torch.equal(sampling.bilinear(image, grid), torch.rot90(image, 1, (2, 3)))


# Invariants

affine_maps = st.tuples(*[st.floats(-2, 2, width=32)] * 6).map(
    lambda numbers: torch.tensor([numbers])
)


@given(affine_maps, st.sampled_from(KERNELS), st.sampled_from(["border", "reflection", [0.625]]))
def test_a_constant_image_stays_constant(
    theta: Tensor, kernel: Kernel, padding: sampling.Padding
) -> None:
    image = torch.full((1, 1, 5, 9), 0.625)
    sampled = kernel(image, affine.grid(theta, (6, 7)), padding)
    torch.testing.assert_close(sampled, torch.full_like(sampled, 0.625), rtol=0, atol=1e-6)


@given(affine_maps)
def test_a_linear_ramp_is_reproduced_inside(theta: Tensor) -> None:
    x, y = lattice.points((9, 14), theta).unbind(-1)
    ramp = (0.3 * x - 0.7 * y + 0.1)[None, None]
    grid = affine.grid(theta, (6, 7))
    pixels = lattice.to_pixels(grid, (9, 14))
    inside = ((pixels >= 0) & (pixels <= torch.tensor([13, 8]))).all(-1)
    expected = (0.3 * grid[..., 0] - 0.7 * grid[..., 1] + 0.1)[inside]
    torch.testing.assert_close(
        sampling.bilinear(ramp, grid)[:, 0][inside], expected, rtol=0, atol=1e-5
    )


@given(affine_maps, st.sampled_from(KERNELS), st.sampled_from(["zeros", "border", "reflection"]))
def test_sampling_is_linear_in_the_image(
    theta: Tensor, kernel: Kernel, padding: sampling.Padding
) -> None:
    a, b, grid = noise(1, 1, 5, 9, seed=2), noise(1, 1, 5, 9, seed=3), affine.grid(theta, (6, 7))
    together = kernel(2 * a - b, grid, padding)
    torch.testing.assert_close(
        together, 2 * kernel(a, grid, padding) - kernel(b, grid, padding), rtol=0, atol=1e-5
    )


@all_paddings
@all_kernels
def test_every_channel_is_read_alike(kernel: Kernel, padding: sampling.Padding) -> None:
    image, grid = noise(1, 1, 7, 9).repeat(1, 3, 1, 1), scattered(1, (5, 6), reach=1.5)
    first, *others = kernel(image, grid, padding if isinstance(padding, str) else [0.5])[0]
    assert all(torch.equal(first, other) for other in others)


@all_paddings
@all_kernels
def test_every_image_of_a_batch_is_read_by_its_own_grid(
    kernel: Kernel, padding: sampling.Padding
) -> None:
    image, grid = noise(3, 3, 7, 9), scattered(3, (5, 6), reach=1.5)
    together = kernel(image, grid, padding)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], kernel(image[i : i + 1], grid[i : i + 1], padding), rtol=0, atol=0
        )


@all_paddings
@all_kernels
def test_channels_last_stays_channels_last(kernel: Kernel, padding: sampling.Padding) -> None:
    image, grid = noise(2, 3, 7, 9), scattered(2, (5, 6), reach=1.5)
    interleaved = kernel(image.contiguous(memory_format=torch.channels_last), grid, padding)
    assert interleaved.is_contiguous(memory_format=torch.channels_last)
    assert kernel(image, grid, padding).is_contiguous()
    torch.testing.assert_close(interleaved, kernel(image, grid, padding), rtol=0, atol=1e-6)


# Far outside


def padded_with(padding: sampling.Padding, border: Tensor) -> Tensor:
    """What a point outside reads: `border`, or nothing, or the colour."""
    colour = [0.0] if isinstance(padding, str) else padding
    return (
        border
        if padding == "border"
        else torch.tensor(colour)[None, :, None, None].expand_as(border)
    )


@not_mirrored
@all_kernels
def test_a_crop_wholly_outside_reads_the_padding_exactly(
    kernel: Kernel, padding: sampling.Padding
) -> None:
    image = noise(1, 3, 5, 7)
    beside = affine.grid(
        torch.tensor([[1.0, 0, 3, 0, 1, 0]]), (5, 7)
    )  # to the right, with a gap of half the image's width
    assert torch.equal(
        kernel(image, beside, padding), padded_with(padding, image[..., -1:].expand_as(image))
    )


@pytest.mark.parametrize("far", [1e6, 1e20, 1e30, math.inf])
@not_mirrored
@all_kernels
def test_points_at_any_distance_read_the_padding_exactly(
    kernel: Kernel, padding: sampling.Padding, far: float
) -> None:
    image = noise(1, 3, 5, 7)
    corners = torch.tensor([[[[-far, -far], [far, -far]], [[-far, far], [far, far]]]])
    assert torch.equal(
        kernel(image, corners, padding),
        padded_with(padding, image[:, :, [0, -1]][:, :, :, [0, -1]]),
    )


@pytest.mark.parametrize("size", [1e6, 1e20])
@all_paddings
@all_kernels
def test_huge_parameters_give_finite_pixels_and_gradients(
    kernel: Kernel, padding: sampling.Padding, size: float
) -> None:
    image = noise(2, 3, 5, 7).requires_grad_()
    theta = (size * (2 * noise(2, 6, seed=4) - 1)).requires_grad_()
    sampled = kernel(image, affine.grid(theta, (4, 6)), padding)
    sampled.square().sum().backward()
    assert image.grad is not None
    assert theta.grad is not None
    assert torch.isfinite(sampled).all()
    assert torch.isfinite(image.grad).all()
    assert torch.isfinite(theta.grad).all()


# Gradients


@all_paddings
@pytest.mark.parametrize("kernel", [sampling.bilinear, sampling.bicubic])
def test_gradients_of_image_and_grid_pass_gradcheck(
    kernel: Kernel, padding: sampling.Padding
) -> None:
    image, grid = (
        noise(2, 3, 4, 5, dtype=torch.float64),
        scattered(2, (3, 2), reach=1.4, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(
        lambda i, g: kernel(i, g, padding), (image.requires_grad_(), grid.requires_grad_())
    )


@all_paddings
def test_gradients_of_volume_and_grid_pass_gradcheck(padding: sampling.Padding) -> None:
    content, grid = (
        noise(1, 3, 3, 4, 3, dtype=torch.float64),
        scattered(1, (2, 3, 2), reach=1.4, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(
        lambda i, g: sampling.trilinear(i, g, padding),
        (content.requires_grad_(), grid.requires_grad_()),
    )


def test_nearest_gives_the_image_a_gradient_and_the_grid_none() -> None:
    image, grid = (
        noise(1, 1, 4, 5).requires_grad_(),
        scattered(1, (3, 2), reach=0.9).requires_grad_(),
    )
    sampling.nearest(image, grid).sum().backward()
    assert image.grad is not None
    assert image.grad.sum() == 6
    assert grid.grad is not None
    assert not grid.grad.any()


# Mistakes


@pytest.mark.parametrize("colour", [[0.1, 0.2], [], [0.1] * 4], ids=len)
def test_a_colour_that_does_not_fit_the_channels_is_refused_with_advice(
    colour: list[float],
) -> None:
    with pytest.raises(ValueError, match=r"image of 3 channels; give one number for each channel"):
        sampling.bilinear(noise(1, 3, 4, 4), lattice.points((4, 4), noise(1))[None], colour)


def test_one_number_is_a_colour_for_all_channels() -> None:
    image, outside = noise(1, 3, 4, 4), torch.full((1, 1, 1, 2), 5.0)
    assert sampling.bilinear(image, outside, [0.25]).flatten().tolist() == [0.25] * 3


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of types, which users do not have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("word", ["zero", "reflect"])
def test_an_unknown_padding_is_refused_by_every_function(word: Any) -> None:
    image, grid = torch.rand(1, 1, 4, 4), torch.rand(1, 3, 3, 2)
    for function in (
        sampling.bilinear,
        sampling.nearest,
        sampling.bicubic,
        antialiasing.sample_antialiased,
    ):
        with pytest.raises(ValueError, match=f'padding "{word}" is unknown'):
            function(image, grid, word)


@pytest.mark.usefixtures("_unchecked")
def test_functions_of_images_refuse_volumes_with_advice() -> None:
    volume, grid = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 3, 3, 3, 3)
    sampled = sampling.trilinear(volume, grid)
    with pytest.raises(ValueError, match="take the sampler Trilinear for volumes"):
        antialiasing.sample_antialiased(volume, grid)
    with pytest.raises(ValueError, match="take the sampler Trilinear for volumes"):
        wide.widen_gradient(sampled, volume, grid)
