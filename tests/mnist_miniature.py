"""MNIST in miniature: the four files in the original format, filled with the embedded digits."""

import gzip
from pathlib import Path

import pytest
from torch import Tensor

from stn_lightning.datasets import EmbeddedDigits, mnist
from stn_lightning.datasets.files.download import File, sha256


def write_idx(path: Path, values: Tensor) -> None:
    header = bytes([0, 0, 8, values.dim()]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(header + values.numpy().tobytes()))


def write_mnist(
    folder: Path, patch: pytest.MonkeyPatch, images: int = 200, validation: int = 40
) -> None:
    """Write the files into `folder` and let the package take them for the real ones."""
    folder.mkdir(parents=True)
    source = EmbeddedDigits()
    for part, split in (("train", source.load("train")), ("test", source.load("test"))):
        write_idx(folder / mnist.FILES[f"{part}-images"].name, split.image[:images, 0])
        write_idx(folder / mnist.FILES[f"{part}-labels"].name, split.label[:images].byte())
    patch.setattr(
        mnist,
        "FILES",
        {
            key: File(file.name, sha256(path := folder / file.name), path.stat().st_size)
            for key, file in mnist.FILES.items()
        },
    )
    patch.setattr(mnist, "VALIDATION", validation)
