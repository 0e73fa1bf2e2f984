import gzip
import io
import random
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_lightning.datasets.files.archives import unpack
from stn_lightning.runtime.atomic_files import MACHINE, remove_stale
from tests.reliability.processes import SERVER, started, until

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


def test_an_archive_becomes_a_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "a.tgz", CONTENT)
    unpack(archive, tmp_path / "data" / "set", **LIMITS)
    assert held(tmp_path / "data") == {f"set/{name}": data for name, data in CONTENT.items()}
    archive.unlink()
    unpack(archive, tmp_path / "data" / "set", **LIMITS)  # a folder that is there is complete


def raw(path: Path, *blocks: bytes) -> Path:
    """A tar.gz of blocks as they are."""
    path.write_bytes(gzip.compress(b"".join(blocks) + bytes(1024), 1))
    return path


def header(kind: bytes, size: int, name: str = "h") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf()


def sparse(blocks: int) -> bytes:
    """A sparse file of the old GNU form whose list of pieces goes on and on."""
    first = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
    first[156:157], first[482] = tarfile.GNUTYPE_SPARSE, 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    more = (b"00000000001\0" * 2 * 21).ljust(504, b"\0") + b"\1" + bytes(7)
    return bytes(first) + more * blocks


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "a name that leads out": lambda folder: tarball(folder / "a", {"ok": b"x", "../escaped": b"x"}),
    "an absolute name": lambda folder: tarball(folder / "a", {str(folder / "escaped"): b"x"}),
    "a backslash": lambda folder: tarball(folder / "a", {"..\\escaped": b"x"}),
    "a control character": lambda folder: tarball(folder / "a", {"a\nb": b"x"}),
    "a link out": lambda folder: tarball(folder / "a", {}, link("out", ".."), link("out/x", "x")),
    "a link that stays inside": lambda folder: tarball(folder / "a", {"ok": b"x"}, link("l", "ok")),
    "a link to a link": lambda folder: tarball(
        folder / "a", {}, link("a", "b/" * 100 + "x"), link("b", "a/../.."), link("b/escaped", "x")
    ),
    "a hard link out": lambda folder: tarball(
        folder / "a", {}, link("escaped", "../secret", tarfile.LNKTYPE)
    ),
    "a hard link inside": lambda folder: tarball(
        folder / "a", {"ok": b"x"}, link("l", "ok", tarfile.LNKTYPE)
    ),
    "a device": lambda folder: tarball(folder / "a", {}, link("escaped", "", tarfile.CHRTYPE)),
    "a pipe": lambda folder: tarball(folder / "a", {}, link("escaped", "", tarfile.FIFOTYPE)),
    "a file that comes twice": lambda folder: raw(
        folder / "a", header(tarfile.REGTYPE, 0), header(tarfile.REGTYPE, 0)
    ),
    "a folder in a file's place": lambda folder: raw(
        folder / "a", header(tarfile.REGTYPE, 0), header(tarfile.REGTYPE, 0, "h/x")
    ),
    "a bomb": lambda folder: tarball(folder / "a", {"bomb": bytes(50_000_000)}),
    "a bomb behind the end": lambda folder: tarball(folder / "a", {"ok": b"x"}, padding=50_000_000),
    "too many files": lambda folder: tarball(folder / "a", {f"{i}": b"" for i in range(11)}),
    "a huge header": lambda folder: raw(
        folder / "a", header(tarfile.XHDTYPE, 50_000_000), bytes(50_000_000)
    ),
    "a huge name": lambda folder: raw(
        folder / "a", header(tarfile.GNUTYPE_LONGNAME, 50_000_000), b"a" * 50_000_000
    ),
    "endless headers": lambda folder: raw(
        folder / "a", *[header(tarfile.XGLTYPE, 512) + b"11 a=bbbbb\n".ljust(512, b"\0")] * 9000
    ),
    "an endless sparse file": lambda folder: raw(folder / "a", sparse(100_000)),
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


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_an_archive_that_ends_early_is_named(tmp_path: Path, part: float) -> None:
    archive = tarball(tmp_path / "a.tgz", CONTENT)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=rf"{archive.name}: .*delete it"):
        unpack(archive, tmp_path / "set", **LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_headers_of_any_length_take_little_memory(tmp_path: Path) -> None:
    """200 kB of archive that say they have a header of 200 MB."""
    archive = raw(tmp_path / "a", header(tarfile.XHDTYPE, 200_000_000), bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="a header of more than 1,048,576 bytes"):
        unpack(archive, tmp_path / "set", **LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


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
    for _ in range(100):
        with started(_unpack, archive, tmp_path / "set", limits, environment={}) as process:
            until(
                lambda: list(tmp_path.glob(".set.*.tmp")),
                lambda: "nothing was unpacked",
                pause=0.001,
            )
            process.kill()
            process.join()
        if list(tmp_path.glob(f".set.{MACHINE}.*.tmp")):
            break
        shutil.rmtree(tmp_path / "set")  # it was unpacked before the kill
    else:
        pytest.fail("no kill left a temporary folder")
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
