"""A folder of data on a file system that many share: prepared by whoever is first, read by those
who may not write.
"""

import hashlib
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stn_lightning.batch import Split
from stn_lightning.datasets import CUB, MNIST, SVHN, cub, svhn
from stn_lightning.datasets.files.download import File
from tests.cub_miniature import write_cub
from tests.mnist_miniature import write_mnist
from tests.runtime.test_checkpointing import without_privileges
from tests.svhn_miniature import write_svhn

Make = Callable[[Path, pytest.MonkeyPatch], Any]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def mnist(root: Path, patch: pytest.MonkeyPatch) -> MNIST:
    write_mnist(root / "mnist", patch)
    return MNIST(str(root / "mnist"))


def birds(root: Path, patch: pytest.MonkeyPatch) -> CUB:
    """In its archive."""
    write_cub(root)
    archive = pack(root / "CUB_200_2011.tgz", root / "CUB_200_2011")
    patch.setattr(
        cub, "ARCHIVE", File(archive.name, hashlib.sha256(archive.read_bytes()).hexdigest(), 10**6)
    )
    return CUB(str(root), 32, str(root / "cache"), validation=1)


def numbers(root: Path, patch: pytest.MonkeyPatch) -> SVHN:
    """In their archives."""
    write_svhn(root, 30, 10)
    patch.setattr(svhn, "VALIDATION", 5)
    patch.setattr(svhn, "UNPACKED", 100)
    for part in ("train", "test"):
        archive = pack(root / f"{part}.tar.gz", root / part)
        patch.setitem(svhn.ARCHIVES, part, File(archive.name, None, archive.stat().st_size))
    return SVHN(extra=False, root=str(root))


def pack(archive: Path, folder: Path) -> Path:
    """An archive in a folder's place."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    folder.rename(folder.with_name(f"was-{folder.name}"))
    return archive


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that everybody may enter, and nobody change once it is `closed`."""
    root = tmp_path_factory.mktemp("shared") / "data"
    root.mkdir()
    base = tmp_path_factory.getbasetemp()
    for folder in (
        root.parent,
        base,
        base.parent,
        base.parent.parent,
    ):  # pytest's own can be entered by their owner alone
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    yield root
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def closed(root: Path) -> dict[str, int]:
    """Nobody may write any more; what there is, and when it was changed."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("make", [mnist, birds, numbers])
def test_what_was_prepared_is_read_from_a_folder_that_nobody_may_write(
    shared: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    source = make(shared, monkeypatch)
    source.prepare()
    before = closed(shared)
    with without_privileges():
        with pytest.raises(PermissionError):
            (shared / "written").touch()
        source.prepare()
        assert all(len(source.load(split).label) for split in SPLITS)
        source.check()
    assert {str(path): path.stat().st_mtime_ns for path in shared.rglob("*")} == before


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded"
)  # forked, so that what was patched is patched
@pytest.mark.parametrize("make", [birds, numbers])
def test_nodes_that_prepare_the_same_folder_at_once_do_it_once(
    shared: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    source = make(shared, monkeypatch)
    names = {path.name for path in shared.iterdir()}
    nodes = [multiprocessing.get_context("fork").Process(target=source.prepare) for _ in range(4)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert [node.exitcode for node in nodes] == [0] * 4
    assert all(len(source.load(split).label) for split in SPLITS)
    left = {path.name for path in shared.iterdir()} - names
    assert not [name for name in left if name.startswith(".") or "unpacked" in name], left
