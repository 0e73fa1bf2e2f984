"""The cache of resized images belongs to one data set, as it is now."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn_lightning.datasets import ImageFolder
from stn_lightning.datasets.files.cache import Cache


def write(root: Path, value: int, images: int = 20) -> None:
    for i in range(images):
        path = root / "bird" / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (value, value, value)).save(path)


def same_times(*roots: Path) -> None:
    """All files get one time, as some archives give them."""
    for root in roots:
        for path in root.rglob("*.bmp"):
            os.utime(path, ns=(10**18, 10**18))


def source_of(root: Path, **options: object) -> ImageFolder:
    cache = str(root.parents[1] / "cache")
    return ImageFolder(str(root), side=8, cache=cache, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("times", ["as written", "all the same"])
def test_data_sets_of_the_same_names_and_sizes_are_told_apart(tmp_path: Path, times: str) -> None:
    first, second = tmp_path / "a/birds", tmp_path / "b/birds"
    write(first, 10)
    write(second, 200)
    if times == "all the same":
        same_times(first, second)
    for root in (first, second):
        source_of(root).prepare()
    assert (source_of(first).load("train").image[0] == 10).all()
    assert (source_of(second).load("train").image[0] == 200).all()


def test_an_image_that_is_edited_to_the_same_size_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "a/birds"
    write(root, 10)
    source_of(root).prepare()
    names = source_of(root).load("train").names
    Image.new("RGB", (12, 12), (99, 99, 99)).save(root / names[-1])
    with pytest.raises(FileNotFoundError, match="is missing; `stn prepare` makes it"):
        source_of(root).load("train")
    source_of(root).prepare()
    assert (source_of(root).load("train").image[-1] == 99).all()


def test_an_edit_that_keeps_size_and_time_is_found_by_the_check(tmp_path: Path) -> None:
    root = tmp_path / "a/birds"
    write(root, 10)
    source_of(root).prepare()
    source_of(root).check()
    path = root / "bird/7.bmp"
    before = path.stat()
    Image.new("RGB", (12, 12), (99, 99, 99)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=r"\.images: .*7\.bmp has changed .*; delete it, and"):
        source_of(root).check()


def test_a_data_set_that_is_moved_or_copied_with_its_times_keeps_its_cache(tmp_path: Path) -> None:
    write(tmp_path / "a/birds", 10)
    source_of(tmp_path / "a/birds").prepare()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/birds").rename(tmp_path / "b/birds")
    assert len(source_of(tmp_path / "b/birds").load("train").label)


def test_another_background_has_a_cache_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "a/birds", 10)
    source_of(tmp_path / "a/birds").prepare()
    with pytest.raises(FileNotFoundError):
        source_of(tmp_path / "a/birds", background=(0, 0, 0)).load("train")


def test_the_names_of_a_cache_cost_a_stat_per_image(tmp_path: Path) -> None:
    """A million images: 10,000 of them here, in a hundredth of a minute."""
    folder = tmp_path / "many"
    folder.mkdir()
    files = [folder / f"{i:05d}.jpg" for i in range(10_000)]
    for file in files:
        file.write_bytes(b"")
    cache = Cache(tmp_path / "cache", files, 8, lambda _: np.zeros((1, 1, 3), np.uint8), (0, 0, 0))
    start = time.process_time()
    paths = [cache._path(group) for group in cache.groups]
    assert len(set(paths)) == len(paths) == 40
    assert time.process_time() - start < 1
