import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from stn_lightning.distortions import RandomPose3D
from stn_lightning.geometry import affine, sampling, volume

from .samples import Recorded, digits, distorted

pool = digits()
SIZE = 40


@pytest.mark.parametrize(
    "rotation", [45.0, 0.0]
)  # 0: lines along the depth are parallel to the slab's sides
def test_posed_digits_are_those_of_scipy(rotation: float) -> None:
    """The same slab, drawn by turning the cube's voxels back into the image with SciPy's
    rotations and interpolation.
    """
    distortion = RandomPose3D(SIZE, rotation)
    numbers = Recorded(0, 0, 0, torch.arange(12))
    images = distortion(pool[:12].float() / 255, numbers, pool)
    angles, scales, places = (draw.numpy() for draw in numbers.draws)
    at = (2 * np.arange(SIZE) + 1 - SIZE) / SIZE
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    for i in range(12):
        scale = scales[i, 0] / 2
        turn = Rotation.from_euler("xyz", angles[i], degrees=True).as_matrix()
        centre = places[i] * (1 - scale)
        u, v, w = (
            np.einsum(
                "ij,jdhw->idhw", turn, np.stack([x - centre[0], y - centre[1], z - centre[2]])
            )
            / scale
        )
        face = ndimage.map_coordinates(
            pool[i, 0].double().numpy() / 255,
            [(v + 1) * 14 - 0.5, (u + 1) * 14 - 0.5],
            order=1,
            mode="grid-constant",
        )
        slab = np.clip(14 * (0.25 - np.abs(w)) + 0.5, 0, 1)
        np.testing.assert_allclose(images[i, 0], face * slab, atol=2e-4)


def test_the_transformer_given_the_inverse_of_a_pose_sees_the_digit_upright() -> None:
    distortion = RandomPose3D(60, thickness=0.5)
    index = torch.arange(8)
    images = distorted(distortion, pool, index)
    theta = distortion.theta(Recorded(0, 0, 0, index))
    upright = sampling.trilinear(images, volume.grid(volume.inverse(theta), (28, 28, 28)))
    seen = upright[:, :, 10:18].mean(2)
    half = sampling.bilinear(
        pool[:8].float() / 255,
        affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]).expand(8, -1), (28, 28)),
    )
    for one, other in zip(seen.flatten(1), half.flatten(1), strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.9


def test_turns_scales_and_places_are_even_within_their_ranges() -> None:
    numbers = Recorded(0, 0, 0, torch.arange(4000))
    theta = RandomPose3D().theta(numbers).double().unflatten(1, (3, 4))
    angles, scales, places = numbers.draws
    for values, low, high in [
        *((a, -45, 45) for a in angles.T),
        (scales[:, 0], 0.7, 1.2),
        *((p, -1, 1) for p in places.T),
    ]:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    linear = theta[:, :, :3] * scales[:, :, None] / 2
    torch.testing.assert_close(
        linear @ linear.transpose(1, 2), torch.eye(3).double().expand(4000, 3, 3), atol=1e-5, rtol=0
    )


def test_the_face_of_an_unturned_slab_stays_inside_the_cube() -> None:
    theta = RandomPose3D(rotation=0.0).theta(Recorded(0, 0, 0, torch.arange(2000)))
    forth = volume.inverse(theta).unflatten(1, (3, 4))
    assert (forth[:, :, 3].abs() + forth.diagonal(dim1=1, dim2=2)).max() <= 1 + 1e-5


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.2, 0.7), (0.7, 2.1)])
def test_a_scale_that_does_not_fit_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="give 0 < smallest <= largest <= 2"):
        RandomPose3D(scale=scale)
