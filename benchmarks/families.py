"""Time the grid of each family beside reading one image.

    python benchmarks/families.py

Forward and backward from theta, processor time, one thread. Medians of repeats that alternate in
one process, in multiples of what `Bilinear` takes to read one channel at an affine grid.
"""

import statistics
import time

import torch

from stn_lightning.transformers import (
    Affine,
    Attention,
    Bilinear,
    Diffeomorphic,
    Family,
    LearntTargetGrid,
    Projective,
    Similarity,
    ThinPlateSpline,
    Translation,
)

FAMILIES = [
    Translation(),
    Attention(),
    Similarity(),
    Affine(),
    Projective(),
    ThinPlateSpline(),
    Diffeomorphic(),
    LearntTargetGrid(),
]
SIZES = {"64 of 28 x 28": (64, 28), "8 of 224 x 224": (8, 224)}


def spent(family: Family, batch: int, side: int, read: bool) -> float:
    """Return the seconds for a grid.

    With an image, for reading it at the grid, too.
    """
    theta = torch.tensor([family.identity] * batch) + 0.02 * torch.randn(
        batch, len(family.identity)
    )
    theta.requires_grad_()
    image, weights = torch.rand(batch, 1, side, side), torch.rand(batch, side, side, 2)
    start = time.process_time()
    grid = family(theta, (side, side))
    (Bilinear()(image, grid).square().sum() if read else (grid * weights).sum()).backward()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = []
    for batch, side in SIZES.values():
        turns = [
            [spent(f, batch, side, False) for f in FAMILIES] + [spent(Affine(), batch, side, True)]
            for _ in range(21)
        ][1:]
        *grids, warp = (1000 * statistics.median(column) for column in zip(*turns, strict=True))
        read = warp - grids[FAMILIES.index(next(f for f in FAMILIES if isinstance(f, Affine)))]
        columns.append([f"{grid:.2f} ms ({grid / read:.1f})" for grid in grids])
    print("| family | " + " | ".join(SIZES) + " |\n|---|---|---|")
    for family, *cells in zip(FAMILIES, *columns, strict=True):
        print(f"| `{type(family).__name__}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
