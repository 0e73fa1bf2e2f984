"""Time grid, sampling and theta's gradient beside PyTorch and kornia.

python -m benchmarks.warps [--quick]
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.alternating import alternate, chosen, report, table, times_as_long
from stn_lightning.geometry import affine, projective, sampling, thin_plate_spline

Warp = Callable[[Tensor, Tensor], Tensor]
SHAPES = [(64, 1, 28, 28), (16, 3, 112, 112), (8, 3, 224, 224)]
START = {
    "affine": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "projective": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
    "TPS": (0.0,) * 32,
}
NOTES = """Milliseconds forward + backward, theta's gradient alone; in brackets how many times as
long as ours. Plain PyTorch: `affine_grid` or, for the others, a matrix product of the points with
the homography, or of a precomputed float32 basis with the displacements, then `grid_sample`; it
is neither exact at the identity nor safe under autocast. kornia: `homography_warp`;
`get_tps_transform` and `warp_image_tps`, which solve the spline for each batch."""


def ours(size: tuple[int, int]) -> dict[str, Warp]:
    basis = thin_plate_spline.basis(thin_plate_spline.control_points(), size)
    return {
        "affine": lambda image, theta: sampling.bilinear(image, affine.grid(theta, size)),
        "projective": lambda image, theta: sampling.bilinear(image, projective.grid(theta, size)),
        "TPS": lambda image, theta: sampling.bilinear(
            image, thin_plate_spline.grid(theta, basis, size)
        ),
    }


def plain(size: tuple[int, int]) -> dict[str, Warp]:
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).reshape(-1, 2)
    homogeneous = torch.cat([points, torch.ones(len(points), 1)], 1)
    basis = thin_plate_spline.basis(thin_plate_spline.control_points(), size).float()

    def read(image: Tensor, grid: Tensor) -> Tensor:
        return functional.grid_sample(
            image, grid.reshape(len(image), *size, 2), align_corners=False
        )

    def projected(image: Tensor, theta: Tensor) -> Tensor:
        matrix = torch.cat([theta, torch.ones(len(theta), 1)], 1).reshape(-1, 3, 3)
        where = homogeneous @ matrix.mT
        return read(image, where[..., :2] / where[..., 2:])

    return {
        "affine": lambda image, theta: read(
            image,
            functional.affine_grid(theta.reshape(-1, 2, 3), list(image.shape), align_corners=False),
        ),
        "projective": projected,
        "TPS": lambda image, theta: read(image, points + basis @ theta.reshape(len(theta), -1, 2)),
    }


def by_kornia(size: tuple[int, int]) -> dict[str, Warp]:
    try:
        from kornia.geometry import transform
    except ImportError:
        return {}
    points = thin_plate_spline.control_points().float()

    def homography(image: Tensor, theta: Tensor) -> Tensor:
        rest = theta.new_tensor(
            [0.0, 0.0, 1.0][theta.shape[1] - 9 :] if theta.shape[1] == 6 else [1.0]
        ).expand(len(theta), -1)
        matrix = torch.cat([theta, rest], 1).reshape(-1, 3, 3)
        return transform.homography_warp(
            image, matrix, size, align_corners=False, normalized_coordinates=True
        )

    def spline(image: Tensor, theta: Tensor) -> Tensor:
        fixed = points.expand(len(theta), -1, -1)
        kernel, linear = transform.get_tps_transform(
            fixed, fixed + theta.reshape(len(theta), -1, 2)
        )
        return transform.warp_image_tps(image, fixed, kernel, linear)

    return {"affine": homography, "projective": homography, "TPS": spline}


def main() -> None:
    options = chosen(__doc__, 15)
    rows = []
    for shape in SHAPES[:1] if options.quick else SHAPES:
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        ways = {
            "ours": ours(shape[2:]),
            "plain PyTorch": plain(shape[2:]),
            "kornia": by_kornia(shape[2:]),
        }
        for family, start in START.items():
            noise = torch.randn(shape[0], len(start), generator=torch.Generator().manual_seed(1))
            theta = (torch.tensor(start) + 0.05 * noise).requires_grad_()
            cases = {
                name: _step(way[family], image, theta)
                for name, way in ways.items()
                if family in way
            }
            taken = alternate(cases, options.rounds, options.clock)
            cells = [
                f"{1000 * statistics.median(taken[n]):.2f} "
                f"({times_as_long(taken['ours'], taken[n]):.2f})"
                for n in list(taken)[1:]
            ]
            rows.append(
                [
                    family,
                    "x".join(map(str, shape)),
                    f"{1000 * statistics.median(taken['ours']):.2f}",
                    *cells,
                ]
            )
    report("Geometry alone", table(["family", "images", *ways], rows), NOTES, options.rounds)


def _step(warp: Warp, image: Tensor, theta: Tensor) -> Callable[[], object]:
    def step() -> None:
        theta.grad = None
        warp(image, theta).square().sum().backward()

    return step


if __name__ == "__main__":
    main()
