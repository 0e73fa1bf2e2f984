"""MNIST from its four original IDX files.

Reference:
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; the IDX format is
    described on its page.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from stn_lightning.batch import Split
from stn_lightning.datasets.files.download import File, check_file, fetch
from stn_lightning.datasets.files.paths import data_root
from stn_lightning.datasets.sources import ImageTensorDataset, ImageTensorSource

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {
    "train-images": File(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    "train-labels": File(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    "test-images": File(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    "test-labels": File(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
}
UNPACKED = {
    "train-images": File(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    "train-labels": File(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    "test-images": File(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    "test-labels": File(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
}
"""The same files without compression."""
VALIDATION = 5000
"""Number of validation images, the last of the training set; the paper mentions no such split (?).
"""


class MNIST(ImageTensorSource):
    """55,000 digits to train, 5,000 to validate, 10,000 to test.

    Args:
        root: folder of the four files, gzipped or not; `mnist` in the data folder when left out.
            Files in TorchVision's layout, `MNIST/raw` in this folder or beside it, are used, too.
            Missing files are downloaded into `root`.
        train_on_validation: whether to train on the validation images, too. This is for the last
            training, after all settings are chosen; validation then says nothing about new images.
    """

    class_names = tuple("0123456789")

    def __init__(self, root: str | None = None, train_on_validation: bool = False) -> None:
        self.root = Path(root) if root is not None else data_root() / "mnist"
        self.train_on_validation = train_on_validation

    def prepare(self) -> None:
        for key, file in FILES.items():
            path = self._path(key)
            if path.exists():
                check_file(file if path.name == file.name else UNPACKED[key], path)
            else:
                fetch(file, self.root, MIRRORS)

    def load(self, split: Split) -> ImageTensorDataset:
        part = "test" if split == "test" else "train"
        images, labels = (read_idx(self._path(f"{part}-{kind}")) for kind in ("images", "labels"))
        if images.shape[1:] != (28, 28) or labels.dim() != 1 or len(images) != len(labels):
            raise ValueError(
                f"{self.root}: {part} has images of shape {tuple(images.shape)} and labels of "
                f"shape {tuple(labels.shape)}, expected (N, 28, 28) and (N,); delete the files to "
                "have them downloaded again"
            )
        cut = len(images) - VALIDATION
        end = None if self.train_on_validation else cut
        keep = {"train": slice(0, end), "val": slice(cut, None), "test": slice(None)}[split]
        return ImageTensorDataset(images[keep, None], labels[keep].long())

    def _path(self, key: str) -> Path:
        """Find a file in either layout."""
        folders = (self.root, self.root / "MNIST" / "raw", self.root.parent / "MNIST" / "raw")
        names = (FILES[key].name, UNPACKED[key].name)
        paths = [folder / name for folder in folders for name in names]
        return next((path for path in paths if path.exists()), paths[0])


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """Read an IDX file of bytes, gzipped or not.

    Raises:
        ValueError: the file is damaged, or no IDX file; the message names the file and the byte.
    """
    cure = "delete it to have it downloaded again"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as problem:
        raise ValueError(f"{path}: cannot be read ({problem}); {cure}") from problem
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{path}: byte 0: {raw[:4].hex()} does not begin an IDX file of bytes (000008..); "
            "is it the right file?"
        )
    header = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise ValueError(f"{path}: ends at byte {len(raw)}, its header promises {expected}; {cure}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())
