"""MNIST from its four original IDX files.

Reference:
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; the IDX format is
    described on its page.
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from stn_lightning.batch import Split
from stn_lightning.datasets.files.download import File, fetch
from stn_lightning.datasets.sources import ImageTensorDataset, ImageTensorSource

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {
    "train-images": File(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels": File(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "test-images": File(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "test-labels": File(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
VALIDATION = 5000
"""The last pictures of the training set; the paper names no validation split (?)."""


def data_root() -> Path:
    """Where data sets live: the environment's STN_DATA, else `data` in the current folder.

    Raises:
        ValueError: where STN_DATA names no folder.
    """
    named = os.environ.get("STN_DATA")
    if named and not Path(named).is_dir():
        raise ValueError(
            f"STN_DATA is {named}, which is no folder; make it, or let STN_DATA name the folder of the data sets"
        )
    return Path(named or "data")


class MNIST(ImageTensorSource):
    """55,000 pictures to train on, 5,000 to validate, 10,000 to test, 28 x 28.

    Args:
        root: folder of the four files; `mnist` in the data folder when left out. Files that are
            missing are downloaded into it.
    """

    class_names = tuple("0123456789")

    def __init__(self, root: str | None = None) -> None:
        self.root = Path(root) if root is not None else data_root() / "mnist"

    def prepare(self) -> None:
        for file in FILES.values():
            fetch(file, self.root, MIRRORS)

    def load(self, split: Split) -> ImageTensorDataset:
        part = "test" if split == "test" else "train"
        images = read_idx(self.root / FILES[f"{part}-images"].name)
        labels = read_idx(self.root / FILES[f"{part}-labels"].name)
        if images.shape[1:] != (28, 28) or labels.dim() != 1 or len(images) != len(labels):
            raise ValueError(
                f"{self.root}: {part} has images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}, "
                "expected (N, 28, 28) and (N,); delete the files to have them downloaded again"
            )
        cut = len(images) - VALIDATION
        keep = {"train": slice(0, cut), "val": slice(cut, None), "test": slice(None)}[split]
        return ImageTensorDataset(images[keep, None], labels[keep].long())


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """An IDX file of bytes, gzipped or not, as a tensor.

    Raises:
        ValueError: names the file and the byte where it stops making sense.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as problem:
        raise ValueError(
            f"{path}: cannot be read ({problem}); delete it to have it downloaded again"
        ) from problem
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{path}: byte 0: {raw[:4].hex()} does not begin an IDX file of bytes (000008..); is it the right file?"
        )
    header = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise ValueError(
            f"{path}: ends at byte {len(raw)}, its header promises {expected}; delete it to have it downloaded again"
        )
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())
