"""Checkpoint files: complete or not there, read as plain values.

Usable by itself: `Trainer(plugins=[AtomicCheckpointIO()])`. Stock Lightning writes through the
system's temporary folder, which is atomic only where that lies on the same file system (PyTorch
Lightning's issue 19970), and reads a URL by running what it holds.
"""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.plugins import CheckpointIO

from stn_lightning.runtime.atomic_files import atomic_write

LAST = "last.ckpt"


class BadCheckpointError(ValueError):
    """No complete checkpoint of tensors and plain values."""


class AtomicCheckpointIO(CheckpointIO):
    """Write checkpoints atomically, and read plain values only.

    A process that is killed at any moment leaves the checkpoint of before or the new one. A full
    disk leaves the one of before and raises an `OSError`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise ValueError(
                "storage_options are for checkpoints on a network; these are local files"
            )
        target = _local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch.save into a file hides a full disk behind a RuntimeError
        torch.save(checkpoint, content)
        with atomic_write(target) as file:
            file.write(content.getbuffer())

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a local checkpoint, and check its checksums."""
        return load_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        _local(path).unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a local checkpoint, and check its checksums.

    Args:
        path: path of the file.
        map_location: device for the tensors, as for `torch.load`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `path` is a URL.
        BadCheckpointError: names the file and what is wrong with it.
    """
    file = _local(path)
    if file.exists() and not file.is_file():  # to open a pipe would wait for its other end
        raise BadCheckpointError(f"{file}: this is no regular file")
    try:
        # the format of torch.save; torch.load does not look at its checksums
        with zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise BadCheckpointError(
                    f"{file}: {damaged} in it is damaged (wrong checksum); "
                    "go on from another checkpoint"
                )
        checkpoint = torch.load(file, map_location, weights_only=True)
    except (FileNotFoundError, PermissionError, BadCheckpointError):
        raise
    except Exception as problem:  # whatever a damaged file makes of the two readers
        raise BadCheckpointError(
            f"{file}: not a whole checkpoint of tensors and plain values ({_reason(problem)})"
        ) from problem
    if not isinstance(checkpoint, dict):
        raise BadCheckpointError(
            f"{file}: holds a {type(checkpoint).__name__}, a checkpoint is a dict"
        )
    return checkpoint


class LoadableCheckpoint(NamedTuple):
    """The checkpoint to resume from, and the damaged ones."""

    path: Path | None
    skipped: tuple[str, ...]
    """One line for each checkpoint that does not load."""
    batches: int = 0
    """Training batches that the checkpoint holds."""


def newest_loadable(folder: Path) -> LoadableCheckpoint:
    """Find `last.ckpt`, or else the newest that loads."""
    candidates = sorted(
        folder.glob("*.ckpt"),
        key=lambda path: (path.name == LAST, path.lstat().st_mtime_ns),
        reverse=True,
    )
    skipped = []
    for path in candidates:
        try:
            batches = batches_of(load_checkpoint(path))
        except (ValueError, OSError) as problem:
            skipped.append(str(problem))
        else:
            return LoadableCheckpoint(path, tuple(skipped), batches)
    return LoadableCheckpoint(None, tuple(skipped))


def batches_of(checkpoint: dict[str, Any]) -> int:
    """Return a checkpoint's training batches; 0 where unknown."""
    try:
        loop = checkpoint["loops"]["fit_loop"]
        return int(loop["epoch_loop.batch_progress"]["total"]["ready"])
    except (KeyError, TypeError, ValueError):
        return 0


def _local(path: str | os.PathLike[str]) -> Path:
    """Refuse URLs.

    Raises:
        ValueError: if it is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|:)", str(path)):
        raise ValueError(
            f"{path}: checkpoints are local files; "
            "download it, and load it only if you trust where it comes from"
        )
    return Path(path)


def _reason(problem: BaseException) -> str:
    """Return the line of an error that names the offender.

    PyTorch surrounds it with advice to switch the check off.
    """
    lines = [
        line.strip().removeprefix("WeightsUnpickler error: ") for line in str(problem).splitlines()
    ]
    telling = [
        line for line in lines if line and not line.startswith("Weights only load failed")
    ] or [type(problem).__name__]
    telling.sort(key=lambda line: "unsupported" not in line.lower())
    return re.split(r" was not an allowed global|\. This is an internal", telling[0])[0]
