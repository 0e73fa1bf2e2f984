import numpy as np
import pytest
import torch

from stn_lightning.geometry import lattice
from stn_lightning.geometry.moments import moments


@pytest.mark.parametrize("size", [(7, 9), (5, 6, 8)])
def test_moments_are_those_of_numpy(size: tuple[int, ...]) -> None:
    image = (
        torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        - 0.3
    )
    places = lattice.points(size, image).flatten(0, -2).numpy()  # (points, x y z)
    above = np.triu_indices(len(size))
    for one, found in zip(
        image.flatten(0, 1), moments(image).unflatten(1, (2, -1)).flatten(0, 1), strict=True
    ):
        ink = one.clamp(min=0).flatten().numpy()
        covariance = np.cov(places, rowvar=False, aweights=ink, ddof=0)
        expected = [
            *np.average(places, axis=0, weights=ink),
            np.sqrt(np.trace(covariance)),
            *(covariance / np.trace(covariance))[above],
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_without_ink_has_moments_and_gradients() -> None:
    image = torch.zeros(2, 1, 8, 8, requires_grad=True)
    found = moments(image)
    assert found[:, :2].abs().max() == 0
    found.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moments_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    image = torch.zeros(1, 1, 448, 448, dtype=dtype)
    image[0, 0, 300, 17] = 1
    x, y = moments(image)[0, :2].double()
    assert (x * 224 + 223.5, y * 224 + 223.5) == (
        pytest.approx(17, abs=1e-3),
        pytest.approx(300, abs=1e-3),
    )
