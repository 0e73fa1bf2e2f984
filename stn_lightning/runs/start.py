"""Choose the checkpoint that a training starts from."""

from pathlib import Path

from stn_lightning.runs.folder import RunFolder
from stn_lightning.runtime.checkpoint_io import LoadableCheckpoint, newest_loadable


def choose_start(folder: RunFolder, resume: str, given: str | None) -> LoadableCheckpoint:
    """Choose the checkpoint to resume from.

    A run that has checkpoints starts over only with `resume="never"`.

    Args:
        folder: folder of the run.
        resume: "auto", "must" or "never".
        given: value of --ckpt_path, if any.

    Raises:
        ValueError: the checkpoint does not exist, no checkpoint of the run can be read, or
            --ckpt_path names a checkpoint of another run although this run has its own.
    """
    if given is not None:
        return _given(folder, resume, Path(given))
    if resume == "never":
        return LoadableCheckpoint(None)
    found = newest_loadable(folder.checkpoints)
    if found.path is None and found.skipped:
        raise ValueError(
            f"no checkpoint in {folder.checkpoints} can be read ({'; '.join(found.skipped)}); "
            "restore one, or give --resume never to start over (the old run is kept)"
        )
    if found.path is None and resume == "must":
        raise ValueError(
            f"--resume must: {folder.checkpoints} holds no checkpoint; "
            "leave --resume out to start the run"
        )
    return found


def _given(folder: RunFolder, resume: str, checkpoint: Path) -> LoadableCheckpoint:
    own = sorted(folder.checkpoints.glob("*.ckpt"))
    if resume != "never" and own and folder.started_from(checkpoint):
        return newest_loadable(folder.checkpoints)  # the same command again
    if not checkpoint.is_file():
        raise ValueError(f"--ckpt_path {checkpoint}: there is no such checkpoint")
    if resume == "never" and folder.contains(checkpoint):
        raise ValueError(
            f"--resume never moves {folder.path} away, and {checkpoint} with it; "
            "give another --name, or leave one of the two out"
        )
    if resume != "never" and own and not any(checkpoint.samefile(path) for path in own):
        raise ValueError(
            f"{folder.path} has checkpoints of its own, and --ckpt_path {checkpoint} is none of "
            "them; give another --name, or leave --ckpt_path out"
        )
    return LoadableCheckpoint(checkpoint)
