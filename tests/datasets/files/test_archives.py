import gzip
import io
import random
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_lightning.datasets.files.archives import unpack
from stn_lightning.runtime.atomic_files import MACHINE, remove_stale
from tests.reliability.processes import SERVER, started

CONTENT = {"a.txt": b"one", "folder/b.txt": b"two" * 100, "folder/deep/c.txt": b""}
LIMITS: Any = {"members": 10, "size": 1000}


def tarball(
    path: Path,
    content: dict[str, bytes],
    *special: tarfile.TarInfo,
    mode: str = "w:gz",
    padding: int = 0,
) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # a mode that is not written out
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in special:
            tar.addfile(member)
    if padding:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(padding)))
    return path


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "tar": lambda folder: tarball(folder / "a.tar", CONTENT, mode="w"),
    "tar.gz": lambda folder: tarball(folder / "a.tgz", CONTENT),
    "tar.xz": lambda folder: tarball(folder / "a.txz", CONTENT, mode="w:xz"),
    "zip": lambda folder: zipped(folder / "a.zip", CONTENT),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_becomes_a_folder_and_leaves_nothing_beside_it(
    tmp_path: Path, kind: str
) -> None:
    archive = ARCHIVES[kind](tmp_path)
    unpack(archive, tmp_path / "data" / "set", **LIMITS)
    assert held(tmp_path / "data") == {f"set/{name}": data for name, data in CONTENT.items()}
    archive.unlink()
    unpack(
        archive, tmp_path / "data" / "set", **LIMITS
    )  # a folder that is there is taken for whole


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "a name that leads out of a tar": lambda folder: tarball(
        folder / "a", {"ok": b"x", "../escaped": b"x"}
    ),
    "an absolute name in a tar": lambda folder: tarball(
        folder / "a", {"ok": b"x"}, link("l", str(folder / "escaped"))
    ),
    "a link out of a tar": lambda folder: tarball(
        folder / "a", {}, link("out", ".."), link("out/escaped", "x")
    ),
    "a hard link out of a tar": lambda folder: tarball(
        folder / "a", {}, link("escaped", "../secret", tarfile.LNKTYPE)
    ),
    "a device in a tar": lambda folder: tarball(
        folder / "a", {}, link("escaped", "", tarfile.CHRTYPE)
    ),
    "a pipe in a tar": lambda folder: tarball(
        folder / "a", {}, link("escaped", "", tarfile.FIFOTYPE)
    ),
    "a name that leads out of a zip": lambda folder: zipped(
        folder / "a", {"ok": b"x", "../escaped": b"x"}
    ),
    "an absolute name in a zip": lambda folder: zipped(
        folder / "a", {str(folder / "escaped"): b"x"}
    ),
    "a backslash in a zip": lambda folder: zipped(folder / "a", {"..\\escaped": b"x"}),
    "a bomb in a tar": lambda folder: tarball(folder / "a", {"bomb": bytes(50_000_000)}),
    "a bomb behind the end of a tar": lambda folder: tarball(
        folder / "a", {"ok": b"x"}, padding=50_000_000
    ),
    "a bomb in a zip": lambda folder: zipped(folder / "a", {"bomb": bytes(50_000_000)}),
    "many bombs in a zip": lambda folder: zipped(
        folder / "a", {f"{i}": bytes(200) for i in range(9)}
    ),
    "too many files in a tar": lambda folder: tarball(
        folder / "a", {f"{i}": b"" for i in range(11)}
    ),
    "too many files in a zip": lambda folder: zipped(
        folder / "a", {f"{i}": b"" for i in range(11)}
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line_and_does_nothing(
    tmp_path: Path, case: str
) -> None:
    (tmp_path / "secret").write_bytes(b"keep")
    archive = HOSTILE[case](tmp_path)
    with pytest.raises(
        ValueError, match=r"a: .*; delete it to have it downloaded again, or do not trust it$"
    ) as refused:
        unpack(archive, tmp_path / "set", **LIMITS)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(archive))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "secret"]


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a", {"bomb": bytes(5_000_000)})
    content = archive.read_bytes().replace(
        (5_000_000).to_bytes(4, "little"), (500).to_bytes(4, "little")
    )
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"Bad CRC-32|Overlapped|bytes"):
        unpack(archive, tmp_path / "set", **LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_an_archive_that_ends_early_is_named(tmp_path: Path, kind: str, part: float) -> None:
    archive = ARCHIVES[kind](tmp_path)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=rf"{archive.name}: .*delete it"):
        unpack(archive, tmp_path / "set", **LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_one_folder_of_an_archive_is_taken_and_the_rest_left_out(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "a.tgz", {"digits/1.txt": b"one", "attributes.txt": b"many"})
    unpack(archive, tmp_path / "digits", **LIMITS, inside="digits")
    assert held(tmp_path / "digits") == {"1.txt": b"one"}
    with pytest.raises(ValueError, match=r"a\.tgz: it holds no folder birds; delete it"):
        unpack(archive, tmp_path / "birds", **LIMITS, inside="birds")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "digits"]


def test_several_processes_unpack_it_once_and_a_kill_leaves_nothing(tmp_path: Path) -> None:
    content = {f"{i}.txt": bytes(random.Random(i).randbytes(500)) for i in range(2000)}
    archive = tarball(tmp_path / "a.tgz", content)
    limits: Any = {"members": 2000, "size": 10**6}
    interrupted = 0
    while not interrupted:
        with started(_unpack, archive, tmp_path / "set", limits, environment={}) as process:
            while not list(tmp_path.glob(".set.*.tmp")):
                time.sleep(0.001)
            process.kill()
            process.join()
        interrupted = len(list(tmp_path.glob(f".set.{MACHINE}.*.tmp")))
    assert not (tmp_path / "set").exists()
    processes = [
        SERVER.Process(target=_unpack, args=(archive, tmp_path / "set", limits)) for _ in range(3)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0, 0]
    assert held(tmp_path / "set") == content
    remove_stale(
        tmp_path
    )  # as unpacking the next does; the killed process may still have been ending
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "set"]


def _unpack(archive: Path, folder: Path, limits: Any) -> None:
    unpack(archive, folder, **limits)
