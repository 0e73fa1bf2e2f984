"""Where a training starts: from nothing, from its own last checkpoint, or from a given one."""

from pathlib import Path
from typing import NamedTuple

from stn_lightning.runs.folder import RunFolder
from stn_lightning.runtime.checkpoint_io import newest_loadable


class Start(NamedTuple):
    """The checkpoint that a training resumes from."""

    checkpoint: Path | None
    """None for a training from the beginning."""
    batches: int
    """Training batches that it holds."""
    skipped: tuple[str, ...]
    """One line for each checkpoint of the run that does not load."""


def choose_start(folder: RunFolder, resume: str, given: str | None) -> Start:
    """Choose the checkpoint to resume from.

    A training never starts over where something was saved, unless it is asked to.

    Args:
        folder: of the run.
        resume: "auto", "must" or "never".
        given: the checkpoint that the user names, if any.

    Raises:
        ValueError: where there is no such checkpoint, none of the run's loads, or both the run and
            the user have one.
    """
    if given is not None:
        return _given(folder, resume, Path(given))
    if resume == "never":
        return Start(None, 0, ())
    found = newest_loadable(folder.checkpoints)
    if found.path is None and found.skipped:
        raise ValueError(
            f"no checkpoint of {folder.checkpoints} loads ({'; '.join(found.skipped)}); bring one "
            "back, or give --resume never to start over (the old run is kept)"
        )
    if found.path is None and resume == "must":
        raise ValueError(
            f"--resume must: {folder.checkpoints} holds no checkpoint; "
            "leave --resume out to start the run"
        )
    return Start(found.path, found.batches, found.skipped)


def _given(folder: RunFolder, resume: str, checkpoint: Path) -> Start:
    if not checkpoint.is_file():
        raise ValueError(f"--ckpt_path {checkpoint}: there is no such checkpoint")
    own = sorted(folder.checkpoints.glob("*.ckpt"))
    in_folder = checkpoint.resolve().is_relative_to(folder.path.resolve())
    if resume == "never" and in_folder:
        raise ValueError(
            f"--resume never moves {folder.path} away, and {checkpoint} with it; "
            "give another --name, or leave one of the two out"
        )
    if resume != "never" and own and not any(checkpoint.samefile(path) for path in own):
        raise ValueError(
            f"{folder.path} has checkpoints of its own, and --ckpt_path {checkpoint} is none of "
            "them; give another --name, or leave --ckpt_path out"
        )
    return Start(checkpoint, 0, ())
