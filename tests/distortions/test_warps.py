"""Oracles: SciPy's interpolation and splines and OpenCV's homography, fed with the numbers that
were drawn.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import interpolate, ndimage, stats
from torch import Tensor

from stn_lightning.distortions import (
    Augmented,
    Elastic,
    Perspective,
    Rotated,
    RotatedScaledTranslated,
    WarpingDistortion,
)
from stn_lightning.geometry import affine, lattice, projective, sampling
from stn_lightning.transformers import Affine, Bilinear, ComposableFamily, Projective

from .samples import Recorded, digits, randomness

Array = npt.NDArray[np.float64]
LEAST_PVALUE = 1e-3
"""A correct distortion fails a statistical test at this level once in a thousand seeds; the seeds
here are fixed.
"""


def drawn_by(distortion: WarpingDistortion, n: int) -> tuple[Tensor, list[Array], Array]:
    """The first `n` digits and their distortions, (n, 1, size, size), and the numbers drawn for
    them, call by call.
    """
    pool = digits()[:n]
    recorded = Recorded(0, 0, 0, torch.arange(n))
    image = distortion(pool.float() / 255, recorded, pool)
    return (
        pool[:, 0].double() / 255,
        [draw.numpy() for draw in recorded.draws],
        image[:, 0].double().numpy(),
    )


def read(original: Tensor, x: Array, y: Array) -> Array:
    """SciPy's bilinear interpolation at pixel indices, zero outside."""
    return np.asarray(
        ndimage.map_coordinates(original.numpy(), [y, x], order=1, mode="grid-constant")
    )


def centred(size: int) -> tuple[Array, Array]:
    """x and y of all pixels, in pixels from the canvas's centre."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return x, y


@pytest.mark.parametrize(("distortion", "room"), [(Rotated(), 0), (RotatedScaledTranslated(), 1)])
def test_rotated_scaled_and_translated_digits_are_those_of_scipy(
    distortion: WarpingDistortion, room: int
) -> None:
    originals, (degrees, scale, place), images = drawn_by(distortion, 60)
    x, y = centred(distortion.size)
    for i, original in enumerate(originals):
        turn, zoom = (
            math.radians(degrees[i, 0]),
            scale[i, 0],
        )  # clockwise on the screen, as y points down
        moved = room * place[i] * (distortion.size - 28 * zoom) / 2
        right, down = x - moved[0], y - moved[1]
        there = (
            (math.cos(turn) * right + math.sin(turn) * down) / zoom,
            (math.cos(turn) * down - math.sin(turn) * right) / zoom,
        )
        np.testing.assert_allclose(
            images[i], read(original, there[0] + 13.5, there[1] + 13.5), atol=2e-5
        )


def test_projective_digits_are_those_of_opencv_and_scipy() -> None:
    distortion = Perspective()
    originals, (scale, moves), images = drawn_by(distortion, 100)
    x, y = centred(28)
    frame = np.array([[-14, -14], [14, -14], [14, 14], [-14, 14]], np.float32)
    compared = 0
    for i, original in enumerate(originals):
        corners = frame * scale[i] + np.sign(frame) * moves[i][:, None] / math.sqrt(2)
        back = cv2.getPerspectiveTransform(corners.astype(np.float32), frame)
        h = np.asarray(back, np.float64) / back[2, 2]
        w = h[2, 0] * x + h[2, 1] * y + 1
        if w.min() < 0.05:  # a horizon crosses the canvas; another test looks there
            continue
        compared += 1
        there = (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / w, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / w
        np.testing.assert_allclose(
            images[i], read(original, there[0] + 13.5, there[1] + 13.5), atol=1e-3
        )  # OpenCV's corners are float32
    assert compared > 80


def test_elastic_digits_are_those_of_scipys_thin_plate_spline() -> None:
    distortion = Elastic()
    originals, (scale, moves), images = drawn_by(distortion, 60)
    x, y = centred(28)
    ticks = np.linspace(-14, 14, 4)
    points = np.array([(a, b) for b in ticks for a in ticks])  # reading order
    for i, original in enumerate(originals):
        looked_at = points / scale[i] + 14 * moves[i].reshape(16, 2)
        spline = interpolate.RBFInterpolator(
            points, looked_at, kernel="thin_plate_spline", degree=1
        )
        there = spline(np.stack([x.ravel(), y.ravel()], 1)).reshape(28, 28, 2)
        np.testing.assert_allclose(
            images[i], read(original, there[..., 0] + 13.5, there[..., 1] + 13.5), atol=2e-5
        )


def uniform(sample: Tensor, low: float, high: float) -> bool:
    """Whether the numbers stay in their range and are evenly spread over it."""
    inside = low - 1e-4 <= sample.min().item() and sample.max().item() <= high + 1e-4
    return inside and stats.kstest(sample, stats.uniform(low, high - low).cdf).pvalue > LEAST_PVALUE


def degrees_and_scale(theta: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.rad2deg(torch.atan2(theta[:, 1], theta[:, 0])), (size / 28) / theta[:, :2].norm(
        dim=1
    )


def test_r_turns_evenly_by_up_to_90_degrees_and_does_nothing_else() -> None:
    theta = Rotated().theta(randomness(5000)).double()
    degrees, scale = degrees_and_scale(theta, 28)
    assert uniform(degrees, -90, 90)
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=0, atol=1e-6)
    assert theta[:, [2, 5]].abs().max() < 1e-6
    torch.testing.assert_close(
        theta[:, [3, 4]], theta[:, [1, 0]] * theta.new_tensor([-1, 1]), rtol=0, atol=0
    )  # no mirror, no shear


def test_rts_turns_by_up_to_45_degrees_and_scales_by_0_7_to_1_2() -> None:
    theta = RotatedScaledTranslated().theta(randomness(5000)).double()
    degrees, scale = degrees_and_scale(theta, 42)
    assert uniform(degrees, -45, 45)
    assert uniform(scale, 0.7, 1.2)
    assert abs(stats.spearmanr(degrees, scale).statistic) < 0.05
    torch.testing.assert_close(
        theta[:, [3, 4]], theta[:, [1, 0]] * theta.new_tensor([-1, 1]), rtol=0, atol=0
    )


def test_rts_puts_the_frame_evenly_anywhere_inside_42_by_42() -> None:
    theta = RotatedScaledTranslated().theta(randomness(5000)).double()
    degrees, scale = degrees_and_scale(theta, 42)
    centre = (
        affine.inverse(theta)[:, [2, 5]] * 21
    )  # where the digit's centre comes to lie, in pixels from the canvas's
    room = 21 - 14 * scale
    for axis in range(2):
        assert uniform(centre[:, axis] / room, -1, 1)
        assert abs(stats.spearmanr(centre[:, axis], scale).statistic) < 0.05
        assert abs(stats.spearmanr(centre[:, axis], degrees).statistic) < 0.05
    assert abs(stats.spearmanr(centre[:, 0], centre[:, 1]).statistic) < 0.05


def test_p_scales_by_0_75_to_1() -> None:
    theta = Perspective(std=0.0).theta(randomness(5000)).double()
    assert uniform(1 / theta[:, 0], 0.75, 1.0)
    torch.testing.assert_close(theta[:, 4], theta[:, 0])
    assert theta[:, [1, 2, 3, 5, 6, 7]].abs().max() < 1e-6


def test_p_stretches_each_corner_by_5_pixels_along_its_diagonal() -> None:
    theta = Perspective().theta(randomness(3000)).double()
    forth = projective.inverse(theta)
    frame = theta.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    h = torch.cat([forth, torch.ones_like(forth[:, :1])], 1).unflatten(1, (3, 3))
    corners = torch.cat([frame, torch.ones_like(frame[:, :1])], 1) @ h.transpose(1, 2)  # (B, 4, 3)
    pixels = corners[..., :2] / corners[..., 2:] * 14
    assert (pixels * frame).diff(dim=2).abs().max() < 1e-3, "as far along x as along y"
    outwards = (pixels * frame).sum(2) / math.sqrt(2)
    # the scale cancels in differences, which leaves that of two independent displacements
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
        assert (
            stats.kstest(
                outwards[:, i] - outwards[:, j], stats.norm(0, 5 * math.sqrt(2)).cdf
            ).pvalue
            > LEAST_PVALUE
        )
    pairs = torch.stack([outwards[:, 0] - outwards[:, 1], outwards[:, 2] - outwards[:, 3]], 1)
    assert pairs.std().item() == pytest.approx(5 * math.sqrt(2), rel=0.02)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.06


def test_e_scales_by_0_75_to_1() -> None:
    distortion = Elastic(std=0.0)
    theta = distortion.theta(randomness(5000)).double().unflatten(1, (16, 2))
    zoom = theta / distortion.points + 1  # no control point lies on an axis
    assert uniform(1 / zoom[:, 0, 0], 0.75, 1.0)
    torch.testing.assert_close(zoom, zoom[:, :1, :1].expand_as(zoom))


def test_e_moves_each_of_16_control_points_by_1_5_pixels_along_each_axis() -> None:
    moved = (
        Elastic(scale=(1.0, 1.0)).theta(randomness(2000)).double() * 14
    )  # in pixels of the digit
    assert moved.shape == (2000, 32)
    assert stats.kstest(moved.flatten(), stats.norm(0, 1.5).cdf).pvalue > LEAST_PVALUE
    assert (np.corrcoef(moved.T) - np.eye(32)).max() < 0.12
    opposite = Elastic().theta(randomness(2000)).double().unflatten(1, (16, 2)) * 14
    assert (
        stats.kstest(
            (opposite[:, 0] + opposite[:, 15]).flatten(), stats.norm(0, 1.5 * math.sqrt(2)).cdf
        ).pvalue
        > LEAST_PVALUE
    )


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of each image with its partner."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def blobs(n: int) -> Tensor:
    """`n` smooth images, each two spots of ink of different strength, (n, 1, 28, 28)."""
    at = lattice.points((28, 28), torch.zeros(1))
    where = torch.rand(n, 2, 1, 1, 2) - 0.5
    spots = torch.exp(-(at - where).square().sum(-1) / (2 * 0.15**2))  # (n, 2, 28, 28)
    return (spots[:, :1] + 0.5 * spots[:, 1:]).clamp(max=1)


@pytest.mark.parametrize(
    ("distortion", "family", "error"),
    [
        (Rotated(), Affine(), 0.004),
        (RotatedScaledTranslated(), Affine(), 0.008),
        (Perspective(std=2.0), Projective(), 0.01),
    ],
)
def test_the_transformer_given_the_inverse_theta_restores_the_image(
    distortion: WarpingDistortion, family: ComposableFamily, error: float
) -> None:
    originals = blobs(200)
    theta = distortion.theta(randomness(200))
    image = distortion(originals, randomness(200), torch.zeros(200, 1, 28, 28, dtype=torch.uint8))
    restored = Bilinear()(image, family(family.inverse(theta), (28, 28)))
    off = (restored - originals).abs().mean((1, 2, 3))
    left_alone = (
        (
            Bilinear()(image, family(theta.new_tensor(family.identity).expand_as(theta), (28, 28)))
            - originals
        )
        .abs()
        .mean((1, 2, 3))
    )
    assert off.max() < 5 * error
    assert off.mean() < error
    assert off.mean() < left_alone.mean() / 5


def test_the_transformer_given_the_inverse_theta_makes_real_digits_upright_again() -> None:
    pool = digits()[:200]
    theta = RotatedScaledTranslated().theta(randomness(200))
    image = RotatedScaledTranslated()(pool.float() / 255, randomness(200), pool)
    restored = Bilinear()(image, Affine()(affine.inverse(theta), (28, 28)))
    assert correlation(restored, pool.float()).min() > 0.9
    assert correlation(image[:, :, 7:35, 7:35], pool.float()).mean() < 0.5


def test_ten_thousand_draws_of_p_are_finite_and_stay_between_0_and_1() -> None:
    distortion, n = Perspective(), 10_000
    original = torch.ones(1, 1, 28, 28).expand(1000, -1, -1, -1)
    pool = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    for index in torch.arange(n).split(1000):
        numbers = Recorded(0, 0, 0, index)
        image = distortion(original, numbers, pool)
        assert distortion.theta(Recorded(0, 0, 0, index)).isfinite().all()
        assert image.isfinite().all()
        assert image.min() >= 0
        assert image.max() <= 1


def test_p_shows_nothing_from_beyond_the_horizon() -> None:
    """Where the oracle's homography looks at a point behind the viewer, the distorted digit shows
    background.
    """
    distortion, n = Perspective(std=9.0), 300
    original = torch.ones(n, 1, 28, 28)
    numbers = Recorded(0, 0, 0, torch.arange(n))
    image = distortion(original, numbers, torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    x, y = centred(28)
    frame = np.array([[-14, -14], [14, -14], [14, 14], [-14, 14]], np.float32)
    crossed = 0
    for i in range(n):
        corners = frame * numbers.draws[0][i].numpy() + np.sign(frame) * numbers.draws[1][
            i
        ].numpy()[:, None] / math.sqrt(2)
        h = cv2.getPerspectiveTransform(corners.astype(np.float32), frame)
        w = np.asarray((h[2, 0] * x + h[2, 1] * y + h[2, 2]) / h[2, 2])
        behind = w < -0.05
        crossed += bool(behind.any())
        assert not image[i, 0].numpy()[behind].any()
    assert crossed > 20


@pytest.mark.parametrize("scale", [(0.7, 1.6), (1.2, 0.7), (0.0, 1.0)])
def test_rts_refuses_a_scale_that_does_not_fit_its_canvas_and_says_what_does(
    scale: tuple[float, float],
) -> None:
    with pytest.raises(ValueError, match=r"scale .* give 0 < smallest <= largest <= 1.5"):
        RotatedScaledTranslated(scale=scale)


def test_the_largest_scale_that_fits_fills_the_canvas() -> None:
    filled = RotatedScaledTranslated(size=42, rotation=0.0, scale=(1.5, 1.5))
    image = filled(
        torch.ones(3, 1, 28, 28), randomness(3), torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    )
    assert (image[:, :, 1:-1, 1:-1] == 1).all()


def test_the_splines_tables_are_not_saved_and_stay_in_float64() -> None:
    distortion = Elastic()
    assert not distortion.state_dict()
    assert distortion.basis.dtype == torch.float64


def test_an_augmentation_without_strength_leaves_a_distortion_as_it_is() -> None:
    pool = digits()[:20]
    still = Augmented(RotatedScaledTranslated(), Elastic(std=0.0, scale=(1.0, 1.0)))
    expected = RotatedScaledTranslated()(pool / 255, randomness(20), pool)
    assert torch.equal(still(pool / 255, randomness(20), pool), expected)


def test_an_augmentation_and_a_distortion_are_one_map_sampled_once() -> None:
    pool = digits()[:20]
    smaller = Augmented(RotatedScaledTranslated(), Elastic(std=0.0, scale=(0.8, 0.8)))
    theta = RotatedScaledTranslated().theta(randomness(20)) / 0.8
    expected = sampling.bilinear(pool / 255, affine.grid(theta, (42, 42)))
    torch.testing.assert_close(
        smaller(pool / 255, randomness(20), pool), expected, atol=1e-4, rtol=0
    )


def test_an_augmentation_keeps_the_images_size() -> None:
    with pytest.raises(ValueError, match="give size and digit 28"):
        Augmented(RotatedScaledTranslated(), Elastic(size=42))
