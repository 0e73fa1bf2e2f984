"""Measure time and memory against the size of the problem.

    python -m benchmarks.growth [--quick]

Sizes are the number of images, their side, the batch and the number of transformers. Each case is
a process of its own; its peak memory includes 0.4 GB of imports.
"""

import json
import resource
import statistics
import sys
import time
from typing import Any

import torch

from benchmarks.alternating import chosen, in_a_process, report, table
from stn_lightning.batch import Split
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import RotatedScaledTranslated
from stn_lightning.runtime.memory import keep_freed_memory
from stn_lightning.transformers import (
    ConvolutionalLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)

STEPS = 8
BASE = {"images": 10_000, "side": 28, "batch": 256, "n": 1}
VARIED = {
    "images": [10_000, 100_000, 1_000_000],
    "side": [28, 112, 448],
    "batch": [64, 256, 1024],
    "n": [1, 2, 4],
}
NOTES = """Milliseconds in which an image is read, distorted (RTS) and warped with gradient by n
parallel transformers to its own side; seconds until the first batch of an epoch, for which the
whole order is drawn. Batches of 32 where the side varies. Linear would be the same milliseconds
in every row of `images`, `batch` and, per transformer, `n`."""


class _Noise(ImageTensorSource):
    """Give any number of random images of any side."""

    class_names = ("0", "1")

    def __init__(self, images: int, side: int) -> None:
        self.shape = (images, 1, side, side)

    def prepare(self) -> None: ...

    def load(self, split: Split) -> ImageTensorDataset:
        return ImageTensorDataset(
            torch.empty(self.shape, dtype=torch.uint8).random_(0, 256),
            torch.zeros(self.shape[0], dtype=torch.int64),
        )


def measure(images: int, side: int, batch: int, n: int) -> dict[str, float]:
    """Measure one case in this process.

    Returns:
        Milliseconds an image, seconds to the first batch, peak memory in GB.
    """
    keep_freed_memory()
    data = MNISTDataModule(
        _Noise(images, side), RotatedScaledTranslated(size=side * 3 // 2, digit=side), batch
    )
    data.setup("fit")
    corners = Tiling() if n > 1 else None
    transformer = ParallelTransformer(
        ConvolutionalLocalisation(4, 5, 8), Translation(0.5), n, (side, side), start=corners
    )
    start = time.perf_counter()
    batches = iter(data.train_dataloader())
    drawn = next(batches)
    first, taken = time.perf_counter() - start, []
    for _ in range(STEPS):
        start = time.perf_counter()
        transformer(data.transform_batch(drawn).image).square().mean().backward()
        drawn = next(batches)
        taken.append((time.perf_counter() - start) / batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB
    return {"ms": 1000 * statistics.median(taken[2:]), "first": first, "peak": peak}


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measure(*map(int, sys.argv[2:]))))
        return
    options = chosen(__doc__, 1)
    rows: list[list[Any]] = []
    for name, values in VARIED.items():
        for value in values[:1] if options.quick else values:
            case = {**BASE, name: value}
            if name == "side":
                case |= {"batch": 32, "images": 512}
            found = in_a_process(["-m", "benchmarks.growth", "--case", *map(str, case.values())])
            rows.append([name, value, found["ms"], found["first"], found["peak"]])
    head = ["what grows", "", "ms an image", "seconds to the first batch", "peak memory, GB"]
    report("Growth", table(head, rows), NOTES, 1)


if __name__ == "__main__":
    main()
