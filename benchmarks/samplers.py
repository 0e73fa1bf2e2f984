"""Measure samplers' errors and times beside other libraries'.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --markdown

The first takes a minute; the second prints the table of docs/speed.md. One thread. Time is forward
and backward from theta (the image needs no gradient), processor time, the median of repeats that
alternate in one process. The error is the RMS difference from the mean of 16 x 16 bilinear samples
of each output pixel, for white noise of standard deviation 1. kornia and MONAI are left out where
they are not installed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import affine, sampling
from stn_lightning.transformers import Antialiased, Bilinear, Sampler, WideGradient

Warp = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
"""(image, theta, output size) -> output."""

SIZES = {"64x3x64x64 -> 32x32": (64, 64, 32), "8x3x448x448 -> 224x224": (8, 448, 224)}


def ours(sampler: Sampler) -> Warp:
    return lambda image, theta, size: sampler(image, affine.grid(theta, size))


def plain(image: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    grid = functional.affine_grid(
        theta.unflatten(1, (2, 3)), [*image.shape[:2], *size], align_corners=False
    )
    return functional.grid_sample(image, grid, align_corners=False)


def competitors() -> dict[str, Warp]:
    found: dict[str, Warp] = {"affine_grid + grid_sample": plain}
    try:
        from kornia.geometry.transform import homography_warp

        def with_kornia(image: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
            bottom = theta.new_tensor([0, 0, 1]).expand(len(theta), 1, 3)
            matrix = torch.cat([theta.unflatten(1, (2, 3)), bottom], 1)
            return homography_warp(
                image, matrix, size, align_corners=False, normalized_coordinates=True
            )

        found["kornia homography_warp"] = with_kornia
    except ImportError:
        pass
    try:
        from monai.networks.layers import AffineTransform

        transform = AffineTransform(
            normalized=True, align_corners=False, padding_mode="zeros", reverse_indexing=False
        )
        found["MONAI AffineTransform"] = lambda image, theta, size: transform(
            image, theta.unflatten(1, (2, 3)), size
        )
    except ImportError:
        pass
    return found


def thetas(
    batch: int, by: tuple[float, float], degrees: float, image: int, out: int, jitter: float
) -> Tensor:
    """Return crops that shrink along their axes, turned and moved."""
    generator = torch.Generator().manual_seed(1)
    a = math.radians(degrees)
    x, y = by[0] * out / image, by[1] * out / image
    shifts = jitter * (2 * torch.rand(batch, 2, generator=generator) - 1)
    rows = [[x * math.cos(a), -y * math.sin(a)], [x * math.sin(a), y * math.cos(a)]]
    return torch.cat([torch.tensor(rows).expand(batch, 2, 2), shifts[:, :, None]], 2).flatten(1)


CASES = {
    "identity (enlarged by 1)": ((1.0, 1.0), 0.0),
    "half the size": ((2.0, 2.0), 0.0),
    "a quarter": ((4.0, 4.0), 0.0),
    "an eighth": ((8.0, 8.0), 0.0),
    "a half, turned 30": ((2.0, 2.0), 30.0),
    "a quarter, turned 30": ((4.0, 4.0), 30.0),
    "an eighth, turned 30": ((8.0, 8.0), 30.0),
    "a third, turned 45": ((3.0, 3.0), 45.0),
    "one way by 2": ((2.0, 1.0), 0.0),
    "one way by 4": ((4.0, 1.0), 0.0),
    "one way by 8": ((8.0, 1.0), 0.0),
    "one way by 2, turned 30": ((2.0, 1.0), 30.0),
    "one way by 4, turned 30": ((4.0, 1.0), 30.0),
    "one way by 8, turned 30": ((8.0, 1.0), 30.0),
}


def error(warp: Warp, by: tuple[float, float], degrees: float) -> float:
    """Return a sampler's RMS error.

    Crops are half of a 128 x 128 image.
    """
    out = round(64 / max(by))
    image = torch.randn(16, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    theta = thetas(len(image), by, degrees, 128, out, jitter=0.2)
    exact = functional.avg_pool2d(
        sampling.bilinear(image, affine.grid(theta, (16 * out, 16 * out))), 16
    )
    return (warp(image, theta, (out, out)) - exact).square().mean().sqrt().item()


def times(
    warps: dict[str, Warp],
    by: tuple[float, float],
    degrees: float,
    size: tuple[int, int, int],
    repeats: int,
) -> dict[str, float]:
    batch, side, out = size
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    theta = thetas(batch, by, degrees, side, out, jitter=0.02).requires_grad_()
    spent: dict[str, list[float]] = {name: [] for name in warps}
    for _ in range(repeats + 1):
        for name, warp in warps.items():
            theta.grad = None
            start = time.process_time()
            warp(image, theta, (out, out)).square().sum().backward()
            spent[name].append(time.process_time() - start)
    return {
        name: 1000 * statistics.median(taken[1:]) for name, taken in spent.items()
    }  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="one row a case: error, and time in multiples of Bilinear's",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warps = competitors() | {
        "Bilinear": ours(Bilinear()),
        "Antialiased": ours(Antialiased()),
        "WideGradient": ours(WideGradient()),
    }
    if options.markdown:
        print("| shrinking | " + " | ".join(warps) + " |")
        print("|---" * (1 + len(warps)) + "|")
    for title, (by, degrees) in CASES.items():
        errors = {name: error(warp, by, degrees) for name, warp in warps.items()}
        taken = [times(warps, by, degrees, size, options.repeats) for size in SIZES.values()]
        (row if options.markdown else block)(title, errors, taken)


def row(title: str, errors: dict[str, float], taken: list[dict[str, float]]) -> None:
    cells = [
        " / ".join([f"{errors[name]:.3f}", *(f"{t[name] / t['Bilinear']:.2f}" for t in taken)])
        for name in errors
    ]
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def block(title: str, errors: dict[str, float], taken: list[dict[str, float]]) -> None:
    print(
        f"\n{title}\n{'':28}{'error':>8}{'of ours':>9}"
        + "".join(f"{name:>26}{'of ours':>9}" for name in SIZES)
    )
    for name in errors:
        line = f"{name:28}{errors[name]:8.3f}{errors[name] / max(errors['Bilinear'], 1e-9):9.2f}"
        print(
            line + "".join(f"{t[name]:23.1f} ms{t[name] / t['Bilinear']:9.2f}" for t in taken),
            flush=True,
        )


if __name__ == "__main__":
    main()
