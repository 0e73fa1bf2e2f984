"""SVHN, Format 1: crops of house numbers.

Reference:
    Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning"; the
    crop is the one of Goodfellow et al. 2014 and Jaderberg et al. 2015, section 4.2.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from stn_lightning.batch import Split
from stn_lightning.datasets.files.archives import unpack
from stn_lightning.datasets.files.download import File, fetch
from stn_lightning.datasets.files.paths import data_root
from stn_lightning.datasets.sources import Source
from stn_lightning.datasets.svhn_boxes import CLASSES
from stn_lightning.datasets.svhn_crops import BROKEN, SVHNCropFile

MIRRORS = (
    "https://ufldl.stanford.edu/housenumbers/",
    "http://ufldl.stanford.edu/housenumbers/",  # the published address
)
ARCHIVES = {
    "train": File("train.tar.gz", None, 404_141_560),
    "test": File("test.tar.gz", None, 276_555_967),
    "extra": File("extra.tar.gz", None, 1_955_489_752),
}
"""Their checksums have not been published. The size is compared, and unpacking compares gzip's own
checksum.
"""
UNPACKED = 4
"""Largest ratio of the unpacked size to the archive's; images hardly compress."""
MEMBERS = 250_000
"""Largest number of files in an archive; extra has 202,353 images."""
VALIDATION = 5000
"""Number of validation images, the first of the training part. The paper has as many, and does not
say which (?).
"""
MARGIN = {64: 4, 128: 8}
"""Pixels around the crop on every side, for random crops."""
LOOSENESS = {64: 1.0, 128: 2.0}
"""Side of the crop / side of the number's box enlarged by 30 %. So at 128 px there is more
background, and digits have the same size as at 64 px (?).
"""


class SVHNSplit(NamedTuple):
    """A split, in memory-mapped files."""

    parts: tuple[UInt8[np.ndarray, "images 3 side side"], ...]
    """images of each file"""
    rows: Int64[Tensor, " images"]
    """row of each image; the rows of the second file are counted after those of the first"""
    label: Int64[Tensor, "images digits"]

    def read(self, indices: Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        """Read some images."""
        rows = self.rows[indices].numpy()
        taken = np.empty((len(rows), *self.parts[0].shape[1:]), np.uint8)
        first = 0
        for part in self.parts:
            here = (rows >= first) & (rows < first + len(part))
            taken[here] = part[rows[here] - first]
            first += len(part)
        return torch.from_numpy(taken)


class SVHN(Source):
    """Crops of whole house numbers with one to five digits.

    Args:
        size: side of a crop, in pixels: 64 or 128, as in the paper.
        extra: whether to train on the 200,000 easier numbers of the third archive, too, as in the
            paper.
        root: folder of the archives or of the unpacked folders (`train/`, `test/`, `extra/`);
            `svhn` in the data folder when left out. Missing archives are downloaded into it.

    Raises:
        ValueError: `size` is neither 64 nor 128.
    """

    class_names = CLASSES

    def __init__(self, size: int = 64, extra: bool = True, root: str | None = None) -> None:
        if size not in MARGIN:
            raise ValueError(f"house numbers of {size} px; give 64 or 128")
        self.size, self.margin = size, MARGIN[size]
        self.root = Path(root) if root is not None else data_root() / "svhn"
        self.parts = ("train", "test", "extra") if extra else ("train", "test")

    def crops(self, part: str) -> SVHNCropFile:
        """Return the crops of one archive."""
        return SVHNCropFile(
            self.root / part,
            self.root / f"{part}-{self.size}.npy",
            self.size,
            self.margin,
            LOOSENESS[self.size],
        )

    def prepare(self) -> None:
        for part in self.parts:
            crops = self.crops(part)
            if not crops.path.exists():
                self._unpack(part)
                crops.build()

    def _unpack(self, part: str) -> None:
        folder, archive = self.root / part, ARCHIVES[part]
        if folder.is_dir():
            return
        fetch(archive, self.root, MIRRORS)
        size = UNPACKED * (self.root / archive.name).stat().st_size
        unpack(self.root / archive.name, folder, members=MEMBERS, size=size, inside=part)

    def load(self, split: Split) -> SVHNSplit:
        parts = (
            ("test",) if split == "test" else tuple(part for part in self.parts if part != "test")
        )
        images, labels = zip(*(self.crops(part).open() for part in parts), strict=True)
        label = torch.from_numpy(np.concatenate(labels)).long()
        rows = (label[:, 0] != BROKEN).nonzero()[:, 0]
        if split != "test":
            rows = rows[:VALIDATION] if split == "val" else rows[VALIDATION:]
        return SVHNSplit(images, rows, label[rows])

    def check(self) -> str:
        files = [self.crops(part).left_out for part in self.parts]
        lines = {file: len(file.read_text().splitlines()) for file in files if file.exists()}
        named = ", ".join(f"{n:,} ({file})" for file, n in lines.items() if n)
        return super().check() + (f"; left out {named}" if named else "")
