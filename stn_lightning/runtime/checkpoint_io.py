"""Write checkpoints atomically, and read them without running code.

`Trainer(plugins=[AtomicCheckpointIO()])` works in any Lightning project. Lightning itself writes to
the system's temporary folder first, which is atomic only on the same file system (PyTorch
Lightning's issue 19970), and it runs code in checkpoints that it downloads.
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
    """The file is no complete checkpoint of plain values."""


class AtomicCheckpointIO(CheckpointIO):
    """Write checkpoints atomically, and read plain values only.

    If the process is killed while it writes, the previous checkpoint remains. If the disk is full,
    the previous checkpoint remains and an `OSError` is raised.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise ValueError(
                "storage_options are for remote files, and checkpoints are local; leave them out"
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
        FileNotFoundError: there is no such file.
        ValueError: `path` is a URL.
        BadCheckpointError: the file is damaged or no checkpoint; the message names it.
    """
    file = _local(path)
    if file.exists() and not file.is_file():  # opening a pipe would wait for its writer
        raise BadCheckpointError(f"{file}: this is no regular file")
    try:
        # torch.save writes a zip archive, but torch.load does not compare its checksums
        with zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise BadCheckpointError(
                    f"{file}: {damaged} in it is damaged (wrong checksum); "
                    "resume from another checkpoint"
                )
        checkpoint = torch.load(file, map_location, weights_only=True)
    except (FileNotFoundError, PermissionError, BadCheckpointError):
        raise
    except Exception as problem:  # a damaged file can cause any error
        raise BadCheckpointError(
            f"{file}: not a whole checkpoint of tensors and plain values ({_reason(problem)})"
        ) from problem
    if not isinstance(checkpoint, dict):
        raise BadCheckpointError(
            f"{file}: contains a {type(checkpoint).__name__}, and a checkpoint is a dict"
        )
    return checkpoint


class LoadableCheckpoint(NamedTuple):
    """The checkpoint to resume from, and the damaged ones."""

    path: Path | None
    """None to train from the beginning"""
    skipped: tuple[str, ...] = ()
    """a line for each checkpoint that cannot be read"""
    batches: int = 0
    """number of training batches before the checkpoint was written; 0 if unknown"""


def newest_loadable(folder: Path) -> LoadableCheckpoint:
    """Find `last.ckpt`, or else the newest undamaged checkpoint."""
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
    """Return a checkpoint's number of training batches; 0 if unknown."""
    try:
        loop = checkpoint["loops"]["fit_loop"]
        return int(loop["epoch_loop.batch_progress"]["total"]["ready"])
    except (KeyError, TypeError, ValueError):
        return 0


def _local(path: str | os.PathLike[str]) -> Path:
    """Return a local path.

    Raises:
        ValueError: it is a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|:)", str(path)):
        raise ValueError(
            f"{path}: checkpoints are local files; download it first, if you trust its source"
        )
    return Path(path)


def _reason(problem: BaseException) -> str:
    """Return the essential line of an error message.

    PyTorch's message also advises to disable `weights_only`.
    """
    lines = [
        line.strip().removeprefix("WeightsUnpickler error: ") for line in str(problem).splitlines()
    ]
    telling = [
        line for line in lines if line and not line.startswith("Weights only load failed")
    ] or [type(problem).__name__]
    telling.sort(key=lambda line: "unsupported" not in line.lower())
    return re.split(r" was not an allowed global|\. This is an internal", telling[0])[0]
