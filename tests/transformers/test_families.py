"""What holds for every family: identity, gradients, groups, precision, degenerate parameters."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.geometry import lattice, sampling
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    ComposableFamily,
    Diffeomorphic,
    Family,
    LearntTargetGrid,
    Projective,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_lightning.transformers.families import Size

Kernel = Callable[..., Tensor]

PLANE: list[Family] = [
    Translation(),
    Attention(),
    Similarity(),
    Affine(),
    Projective(),
    *map(ThinPlateSpline, (2, 3, 4, 7)),
]
PLANE += [Diffeomorphic(3, 9), LearntTargetGrid()]
GROUPS: list[ComposableFamily] = [Attention(), Similarity(), Affine(), Projective(), Affine3D()]
KERNELS: list[Kernel] = [sampling.bilinear, sampling.nearest, sampling.bicubic]
PADDINGS: list[sampling.Padding] = ["zeros", "border", "reflection", [0.3, 0.6, 0.9]]


def name(family: Family) -> str:
    return f"{type(family).__name__}-{len(family.identity)}"


def identity(family: Family, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([family.identity] * batch, dtype=dtype)


def generic(
    family: Family,
    batch: int = 1,
    std: float = 0.1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Tensor:
    """A theta that is nothing special: no grid point of it hits a pixel's centre, where a gradient
    has a kink.
    """
    noise = torch.randn(
        batch, len(family.identity), generator=torch.Generator().manual_seed(seed), dtype=dtype
    )
    return identity(family, batch, dtype) + std * noise


def size_for(family: Family, *plane: int) -> Size:
    return (3, *plane) if isinstance(family, Affine3D) else plane


def read(image: Tensor, grid: Tensor, padding: sampling.Padding = "zeros") -> Tensor:
    kernel = sampling.trilinear if image.dim() == 5 else sampling.bilinear
    return kernel(image, grid, padding)


plane_families = pytest.mark.parametrize("family", PLANE, ids=name)
all_families = pytest.mark.parametrize("family", [*PLANE, Affine3D()], ids=name)
all_groups = pytest.mark.parametrize("family", GROUPS, ids=name)


# Identity


@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (28, 28), (42, 42), (60, 60), (224, 224), (449, 301)], ids=str
)
@plane_families
def test_identity_returns_the_image_bit_for_bit(family: Family, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    grid = family(identity(family), size)
    for kernel, padding in product(KERNELS, PADDINGS):
        assert torch.equal(kernel(image, grid, padding), image), (kernel, padding)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 5), (28, 28, 28), (5, 42, 60)], ids=str)
def test_identity_returns_the_volume_bit_for_bit(size: Size) -> None:
    content, family = torch.rand(2, 3, *size), Affine3D()
    grid = family(identity(family, 2), size)
    for padding in PADDINGS:
        assert torch.equal(sampling.trilinear(content, grid, padding), content), padding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@all_families
def test_identity_is_exact_in_every_precision(family: Family, dtype: torch.dtype) -> None:
    size = size_for(family, 42, 29)
    image = torch.rand(2, 3, *size).to(dtype)
    for precision in (dtype, torch.float32):  # of theta
        read_back = read(image, family(identity(family, 2, precision), size))
        assert read_back.dtype == dtype
        assert torch.equal(read_back, image)


@all_families
def test_identity_has_as_many_numbers_as_theta(family: Family) -> None:
    numbers = {
        Translation: 2,
        Attention: 3,
        Similarity: 4,
        Affine: 6,
        Projective: 8,
        Affine3D: 12,
        Diffeomorphic: 18,
        LearntTargetGrid: 6,
    }
    if isinstance(family, ThinPlateSpline):
        assert len(family.identity) == 2 * len(family.points)
    else:
        assert len(family.identity) == numbers[type(family)]


def test_the_papers_spline_has_sixteen_points() -> None:
    assert len(ThinPlateSpline().identity) == 32


# Gradients


@all_families
def test_gradients_of_the_grid_pass_gradcheck(family: Family) -> None:
    theta = generic(family, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: family(t, size_for(family, 2, 3)), (theta,))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.3, 0.6]], ids=str)
@all_families
def test_gradients_of_image_and_theta_through_a_warp_pass_gradcheck(
    family: Family, padding: sampling.Padding
) -> None:
    size = size_for(family, 3, 4)
    image = torch.rand(
        1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    theta = generic(family, std=0.25).requires_grad_()
    out = size_for(family, 2, 3)
    assert torch.autograd.gradcheck(lambda i, t: read(i, family(t, out), padding), (image, theta))


@pytest.mark.parametrize("kernel", [sampling.bilinear, sampling.bicubic])
@plane_families
def test_theta_gets_a_gradient_at_the_identity(family: Family, kernel: Kernel) -> None:
    image = torch.rand(1, 1, 7, 9)
    theta = identity(family).requires_grad_()
    (kernel(image, family(theta, (7, 9))) * torch.rand(7, 9)).sum().backward()
    assert theta.grad is not None
    assert theta.grad.all()


# Groups


def matrix(family: ComposableFamily, theta: Tensor) -> Tensor:
    """The homogeneous matrix of theta, from the conventions page rather than from the code."""
    match family, theta[0].tolist():
        case Attention(), [s, t_x, t_y]:
            rows = [[s, 0, t_x], [0, s, t_y], [0, 0, 1]]
        case Similarity(), [a, c, t_x, t_y]:
            rows = [[a, -c, t_x], [c, a, t_y], [0, 0, 1]]
        case Affine(), numbers:
            rows = [numbers[:3], numbers[3:], [0, 0, 1]]
        case Projective(), numbers:
            rows = [numbers[:3], numbers[3:6], [*numbers[6:], 1]]
        case Affine3D(), numbers:
            rows = [numbers[:4], numbers[4:8], numbers[8:], [0, 0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def mapped(family: ComposableFamily, theta: Tensor, points: Tensor) -> Tensor:
    homogeneous = (
        torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix(family, theta).T
    )
    return homogeneous[..., :-1] / homogeneous[..., -1:]


@all_groups
def test_convention_theta_maps_output_points_to_input_points(family: ComposableFamily) -> None:
    theta, size = generic(family), size_for(family, 4, 5)
    expected = mapped(family, theta, lattice.points(size, theta)[None])
    torch.testing.assert_close(family(theta, size), expected, rtol=0, atol=1e-13)


@all_groups
def test_convention_compose_takes_points_through_the_second_and_then_the_first(
    family: ComposableFamily,
) -> None:
    first, then, size = generic(family, seed=1), generic(family, seed=2), size_for(family, 4, 5)
    expected = mapped(family, first, family(then, size))  # what two warps in a row do to the points
    torch.testing.assert_close(
        family(family.compose(first, then), size), expected, rtol=0, atol=1e-12
    )
    assert not torch.allclose(
        family(family.compose(then, first), size), expected, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("family", GROUPS[:-1], ids=name)
def test_two_warps_in_a_row_are_the_composed_warp_of_the_image(family: ComposableFamily) -> None:
    size = (60, 60)
    first, then = family(generic(family, seed=1), size), family(generic(family, seed=2), size)
    at_once = family(family.compose(generic(family, seed=1), generic(family, seed=2)), size)
    x, y = lattice.points(size, first).unbind(-1)
    smooth = (-4 * ((x - 0.2).square() + y.square())).exp()[None, None]
    middle = (..., slice(15, 45), slice(15, 45))  # what no border has touched
    in_a_row = read(read(smooth, first), then)[middle]
    torch.testing.assert_close(in_a_row, read(smooth, at_once)[middle], rtol=0, atol=0.005)
    assert (in_a_row - read(smooth, first)[middle]).abs().max() > 0.02
    assert (in_a_row - read(smooth, then)[middle]).abs().max() > 0.02


@all_groups
def test_the_identity_is_neutral(family: ComposableFamily) -> None:
    theta, neutral = generic(family), identity(family, dtype=torch.float64)
    assert torch.equal(family.compose(theta, neutral), theta)
    assert torch.equal(family.compose(neutral, theta), theta)
    assert torch.equal(family.inverse(neutral), neutral)


def near_identity(family: ComposableFamily) -> st.SearchStrategy[Tensor]:
    noise = st.lists(
        st.floats(-0.2, 0.2), min_size=len(family.identity), max_size=len(family.identity)
    )
    return noise.map(
        lambda n: identity(family, dtype=torch.float64) + torch.tensor([n], dtype=torch.float64)
    )


group_members = st.sampled_from(GROUPS).flatmap(
    lambda f: st.tuples(st.just(f), near_identity(f), near_identity(f), near_identity(f))
)


@given(group_members)
def test_composition_is_associative(
    members: tuple[ComposableFamily, Tensor, Tensor, Tensor],
) -> None:
    family, a, b, c = members
    left, right = family.compose(family.compose(a, b), c), family.compose(a, family.compose(b, c))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-10)


@given(group_members)
def test_composing_with_the_inverse_gives_the_identity(
    members: tuple[ComposableFamily, Tensor, Tensor, Tensor],
) -> None:
    family, theta, *_ = members
    neutral = identity(family, dtype=torch.float64)
    torch.testing.assert_close(
        family.compose(theta, family.inverse(theta)), neutral, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        family.compose(family.inverse(theta), theta), neutral, rtol=0, atol=1e-10
    )


@given(group_members)
def test_the_inverse_of_the_inverse_is_where_one_began(
    members: tuple[ComposableFamily, Tensor, Tensor, Tensor],
) -> None:
    family, theta, *_ = members
    torch.testing.assert_close(family.inverse(family.inverse(theta)), theta, rtol=0, atol=1e-10)


@given(group_members)
def test_the_inverse_of_a_composition_is_the_composition_of_inverses_turned_round(
    members: tuple[ComposableFamily, Tensor, Tensor, Tensor],
) -> None:
    family, a, b, _ = members
    turned_round = family.compose(family.inverse(b), family.inverse(a))
    torch.testing.assert_close(
        family.inverse(family.compose(a, b)), turned_round, rtol=0, atol=1e-9
    )


@all_groups
def test_gradients_of_compose_and_inverse_pass_gradcheck(family: ComposableFamily) -> None:
    first, then = (
        generic(family, batch=2, seed=1).requires_grad_(),
        generic(family, batch=2, seed=2).requires_grad_(),
    )
    assert torch.autograd.gradcheck(family.compose, (first, then))
    assert torch.autograd.gradcheck(family.inverse, (first,))


@pytest.mark.parametrize("family", [Translation(0.5), ThinPlateSpline()], ids=name)
def test_a_fixed_scale_and_a_spline_are_no_groups(family: Family) -> None:
    assert not isinstance(family, ComposableFamily)


# Precision


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@contextmanager
def medium_matmul() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("low_precision", [autocast, medium_matmul])
@pytest.mark.parametrize("family", [*PLANE, Translation(0.5), Affine3D()], ids=name)
def test_low_precision_moves_no_point_by_a_thousandth_of_a_pixel(
    family: Family, low_precision: Callable[[], AbstractContextManager[None]]
) -> None:
    crop = generic(family, batch=4, dtype=torch.float32)
    if not isinstance(family, ThinPlateSpline | Translation | Diffeomorphic):
        crop = crop * 0.5  # half of 448 pixels for 224
    size = size_for(family, 224, 224)
    fresh = copy.deepcopy(
        family
    )  # has to build what it keeps, such as a basis, in low precision too
    for part in fresh.modules():
        if isinstance(part, ThinPlateSpline):
            part._cached = None
    with low_precision():
        grid = fresh(crop, size)
    exact = family(crop.double(), size)
    assert grid.dtype == torch.float32
    assert (grid - exact).abs().max().item() * 448 / 2 < 1e-3


@plane_families
def test_gradients_of_theta_are_as_exact_under_autocast(family: Family) -> None:
    image, theta = torch.rand(2, 1, 20, 24), generic(family, batch=2, dtype=torch.float32)
    gradients = []
    for low in (False, True):
        leaf = theta.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            read(image, family(leaf, (20, 24))).square().sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_families
def test_half_precision_parameters_lose_nothing_but_their_own_rounding(
    family: Family, dtype: torch.dtype
) -> None:
    theta, size = generic(family, batch=2).to(dtype), size_for(family, 20, 24)
    assert family(theta, size).dtype == torch.float32
    torch.testing.assert_close(
        family(theta, size).double(), family(theta.double(), size), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_spline_keeps_its_basis_in_float64_wherever_its_module_goes(dtype: torch.dtype) -> None:
    family = ThinPlateSpline()
    theta = generic(family, dtype=torch.float32)
    before = family(theta, (20, 24))
    nn.Sequential(family).to(dtype)
    assert family.points.dtype == torch.float64
    assert torch.equal(family(theta, (20, 24)), before)


# A spline's basis


def test_a_spline_solves_its_system_once_for_a_size() -> None:
    family = ThinPlateSpline()
    family(generic(family), (5, 6))
    basis = family._basis((5, 6))
    family(generic(family, seed=1), (5, 6))
    assert family._basis((5, 6)) is basis
    assert family(generic(family), (6, 5)).shape == (1, 6, 5, 2)
    assert family._basis((6, 5)) is not basis


def test_a_spline_first_used_in_inference_mode_trains_afterwards() -> None:
    family = ThinPlateSpline()
    with torch.inference_mode():  # Lightning's sanity check
        family(identity(family), (5, 6))
    theta = identity(family).requires_grad_()
    family(theta, (5, 6)).sum().backward()
    assert theta.grad is not None
    assert theta.grad.all()


def test_a_spline_leaves_its_basis_out_of_checkpoints_but_not_out_of_copies() -> None:
    family = ThinPlateSpline()
    theta = generic(family)
    grid = family(theta, (5, 6))
    assert family.state_dict() == {}
    for other in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        assert torch.equal(other(theta, (5, 6)), grid)


# A learnt target


def bent(seed: int = 0) -> LearntTargetGrid:
    family = LearntTargetGrid().double()
    with torch.no_grad():
        family.target.copy_(0.1 * torch.randn(1, 32, generator=torch.Generator().manual_seed(seed)))
    return family


def test_a_learnt_target_is_moved_by_each_images_affine_map() -> None:
    family = bent()
    target = ThinPlateSpline()(family.target, (5, 6))[0]  # (5, 6, 2)
    theta = generic(family, batch=2)
    for one, grid in zip(theta, family(theta, (5, 6)), strict=True):
        a, b, t_x, c, d, t_y = one.tolist()
        x, y = target.unbind(-1)
        torch.testing.assert_close(
            grid, torch.stack([a * x + b * y + t_x, c * x + d * y + t_y], -1), rtol=0, atol=1e-12
        )


def test_gradients_of_a_learnt_target_and_their_gradients_pass_gradcheck() -> None:
    family = bent()
    theta = generic(family, batch=2).requires_grad_()

    def grid(theta: Tensor, target: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(family, {"target": target}, (theta, (2, 3)))
        return result

    inputs = (theta, family.target.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(grid, inputs)
    assert torch.autograd.gradgradcheck(grid, inputs)


def test_a_learnt_target_learns_what_all_images_share_and_is_saved() -> None:
    """Every image is bent alike: no affine map straightens it, the target does."""
    torch.manual_seed(0)
    original = functional.interpolate(torch.rand(8, 1, 6, 6), (24, 24), mode="bicubic")
    bend = ThinPlateSpline()(0.08 * torch.randn(1, 32), (24, 24))
    seen = sampling.bilinear(original, bend.expand(8, -1, -1, -1), "border")
    family = LearntTargetGrid()
    optimiser = torch.optim.Adam(family.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (
            (sampling.bilinear(seen, family(identity(family, 8), (24, 24)), "border") - original)
            .square()
            .mean()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
    assert list(family.state_dict()) == ["target"]


# Degenerate parameters

homographies = st.lists(st.floats(-1e4, 1e4, width=32), min_size=8, max_size=8)


@given(homographies, st.sampled_from(KERNELS), st.sampled_from(PADDINGS))
def test_every_homography_gives_finite_pixels_and_gradients(
    numbers: list[float], kernel: Kernel, padding: sampling.Padding
) -> None:
    theta, image = (
        torch.tensor([numbers], requires_grad=True),
        torch.rand(1, 3, 5, 6, requires_grad=True),
    )
    sampled = kernel(image, Projective()(theta, (4, 7)), padding)
    sampled.square().sum().backward()
    assert theta.grad is not None
    assert image.grad is not None
    assert all(torch.isfinite(values).all() for values in (sampled, theta.grad, image.grad))


@pytest.mark.parametrize("size", [0.0, 1.0, 1e6, 1e20], ids=str)
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@all_families
def test_parameters_of_any_size_give_finite_pixels_and_gradients(
    family: Family, padding: sampling.Padding, size: float
) -> None:
    theta = (size * generic(family, batch=2, std=1.0, dtype=torch.float32)).requires_grad_()
    image = torch.rand(2, 3, *size_for(family, 5, 6)).requires_grad_()
    sampled = read(image, family(theta, size_for(family, 4, 7)), padding)
    sampled.square().sum().backward()
    assert theta.grad is not None
    assert image.grad is not None
    assert all(torch.isfinite(values).all() for values in (sampled, theta.grad, image.grad))


@given(st.sampled_from([Attention(), Similarity(), Affine()]), st.data())
def test_a_crop_without_area_reads_one_place(family: ComposableFamily, data: st.DataObject) -> None:
    t_x, t_y = data.draw(st.floats(-0.9, 0.9)), data.draw(st.floats(-0.9, 0.9))
    numbers = {
        Attention: [0, t_x, t_y],
        Similarity: [0, 0, t_x, t_y],
        Affine: [0, 0, t_x, 0, 0, t_y],
    }[type(family)]
    sampled = read(torch.rand(1, 1, 5, 6), family(torch.tensor([numbers]), (3, 3)))
    assert torch.equal(sampled, sampled[:, :, :1, :1].expand_as(sampled))


# Mistakes


@pytest.mark.parametrize("scale", [0.0, -0.5, math.nan])
def test_a_crop_without_size_is_refused_with_advice(scale: float) -> None:
    with pytest.raises(
        ValueError, match=r"must be greater than 0; 0\.5 is half of the image's side"
    ):
        Translation(scale)


@pytest.mark.parametrize("lattice_size", [1, 0, -2])
def test_a_spline_without_area_is_refused_with_advice(lattice_size: int) -> None:
    with pytest.raises(ValueError, match="take 2 x 2 or more"):
        ThinPlateSpline(lattice_size)


def test_every_public_family_is_tested_here() -> None:
    """But Bounded, which has a file of its own."""
    from stn_lightning import transformers

    public = {
        value
        for value in vars(transformers).values()
        if inspect.isclass(value) and issubclass(value, Family)
    }
    assert public - {Family, ComposableFamily, transformers.BoundedFamily} == {
        type(family) for family in [*PLANE, *GROUPS]
    }
