import os
import pickle
import random
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stn_lightning.runtime.atomic_files import remove_stale
from stn_lightning.runtime.checkpoint_io import (
    AtomicCheckpointIO,
    BadCheckpointError,
    load_checkpoint,
    newest_loadable,
)
from tests.reliability.processes import save_without_end, started, until

CHECKPOINT = {
    "state_dict": {"weight": torch.arange(6.0).reshape(2, 3)},
    "callbacks": {"a": (1, None, "x")},
    "epoch": 3,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full after so many bytes of a file, as far as a process can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_loaded(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert torch.equal(loaded["state_dict"].pop("weight"), CHECKPOINT["state_dict"]["weight"])  # type: ignore[index]
    assert loaded == {"state_dict": {}, "callbacks": {"a": (1, None, "x")}, "epoch": 3}


def test_killed_forty_times_while_saving_a_checkpoint_is_always_whole(tmp_path: Path) -> None:
    elsewhere = {
        "TMPDIR": "/dev/shm"
    }  # Lightning's own way is safe only where this is on the same file system
    interrupted = 0
    for _ in range(40):
        with started(save_without_end, tmp_path, environment=elsewhere) as process:
            until((tmp_path / "last.ckpt").exists, lambda: "no checkpoint", pause=0.001)
            time.sleep(random.uniform(0.02, 0.08))
            process.kill()
        checkpoint = load_checkpoint(tmp_path / "last.ckpt")
        assert (checkpoint["state_dict"]["weight"] == checkpoint["count"]).all()
        interrupted += len(remove_stale(tmp_path))
        assert names(tmp_path) == ["last.ckpt"]
    assert interrupted >= 4, "most kills did not hit the writing, so this proves nothing"


def test_a_full_disk_is_an_error_and_leaves_the_checkpoint_of_before(saved: Path) -> None:
    before = saved.read_bytes()
    large = {"state_dict": {"weight": torch.zeros(100_000)}}
    with (
        files_no_larger_than(100_000),
        pytest.raises(OSError, match=r"File too large: .*last.ckpt"),
    ):
        AtomicCheckpointIO().save_checkpoint(large, saved)
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["last.ckpt"]


@pytest.mark.parametrize(
    "url",
    [
        "http://a.b/c.ckpt",
        "HTTPS://a.b/c.ckpt",
        "s3://a/b",
        "file:///c.ckpt",
        "simplecache::http://a.b/c",
    ],
)
def test_a_url_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ValueError, match=r"checkpoints are local files; .* trust") as refusal:
        AtomicCheckpointIO().load_checkpoint(url, weights_only=False)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="local files"):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, url)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_checkpoint_is_not_run_even_where_the_caller_would_allow_it(
    tmp_path: Path,
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "bad.ckpt"
    torch.save({"state_dict": Malicious(trace)}, path)
    torch.load(path, weights_only=False)
    assert trace.exists(), "it would work"
    trace.rmdir()
    with pytest.raises(
        BadCheckpointError, match=r"bad.ckpt: .*unsupported GLOBAL posix.mkdir"
    ) as refusal:
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not trace.exists()
    assert "\n" not in str(refusal.value)
    path.write_bytes(pickle.dumps(Malicious(trace)))  # the format of before PyTorch 1.6
    with pytest.raises(BadCheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path)
    assert not trace.exists()


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, position: float, flip: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.ckpt"
    torch.save(CHECKPOINT, path)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= flip
    path.write_bytes(content)
    try:
        loaded = load_checkpoint(path)
    except BadCheckpointError as problem:
        named = re.fullmatch(r".*flipped.ckpt: .*", str(problem))
        assert named, "or it is refused in one line"
    else:
        assert torch.equal(loaded["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"])  # type: ignore[index]
        assert loaded["callbacks"] == CHECKPOINT["callbacks"]
        assert loaded["epoch"] == 3


@given(part=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early_is_named(
    tmp_path_factory: pytest.TempPathFactory, part: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "short.ckpt"
    torch.save(CHECKPOINT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadCheckpointError, match=r"short.ckpt"):
        load_checkpoint(path)


def test_something_else_than_a_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(BadCheckpointError, match=r"tensor.ckpt: contains a Tensor"):
        load_checkpoint(tmp_path / "tensor.ckpt")
    with pytest.raises(FileNotFoundError, match=r"missing.ckpt"):
        load_checkpoint(tmp_path / "missing.ckpt")


def test_resuming_falls_back_to_the_newest_checkpoint_that_loads(tmp_path: Path) -> None:
    assert newest_loadable(tmp_path)[:2] == (None, ())
    for age, name in enumerate(("last.ckpt", "step=00000007.ckpt", "best.ckpt")):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / name)
        os.utime(
            tmp_path / name, (1000 + age, 1000 + age)
        )  # last.ckpt is the oldest: copying a folder changes times
    assert newest_loadable(tmp_path)[:2] == (tmp_path / "last.ckpt", ())
    (tmp_path / "last.ckpt").write_bytes(b"")
    path, skipped, _ = newest_loadable(tmp_path)
    assert path == tmp_path / "best.ckpt"
    assert [str(tmp_path / "last.ckpt") in line for line in skipped] == [True]
    for file in tmp_path.glob("*.ckpt"):
        file.write_bytes(file.read_bytes()[:100])
    path, skipped, _ = newest_loadable(tmp_path)
    assert path is None
    assert len(skipped) == 3


def test_a_pipe_and_a_folder_are_named_and_nothing_waits_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    for name in ("pipe.ckpt", "folder.ckpt"):
        with pytest.raises(BadCheckpointError, match=f"{name}: this is no regular file"):
            load_checkpoint(tmp_path / name)
