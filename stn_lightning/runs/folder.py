"""Run folders: `runs/NAME` has everything that a run writes."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stn_lightning.runs.config_errors import did_you_mean, read_mapping
from stn_lightning.runtime.atomic_files import atomic_write, temporary_path
from stn_lightning.runtime.lists import first_few
from stn_lightning.runtime.provenance import program_name
from stn_lightning.runtime.restarts import RESTARTS

RUNS = Path("runs")

TAKEN = ("tables", "sweeps", "bench")
"""Names of folders in `runs` that hold no run."""

NAME = re.compile(r"\w[\w.+=-]{0,199}")
"""Valid names of runs, which are also names of folders and jobs, and words of shell commands."""

MAY_CHANGE = re.compile(
    r"trainer\.(accelerator|devices|num_nodes|strategy|enable_\w+|log_every_n_steps|profiler"
    r"|max_time|logger)(\..*)?"
    r"|data\.(.*\.)?(num_workers|root|folder|table|cache)"
)
"""Settings that do not change what is computed: hardware, output, locations of data."""

_SAME_DATA = re.compile(r".*\.(num_workers|cache|batch_size|seed)")
"""Options of a data module that change neither its images nor their labels."""

ORIGIN = "started_from.txt"
"""File with the path of another run's checkpoint that a run started from."""

_EARLY = (
    "config.yaml",
    ORIGIN,
    RESTARTS,
    "state.json",
    "hparams.yaml",
    "events.out.tfevents.*",
)
"""Files that a run writes before its first step."""

LENGTH = ("trainer.max_epochs", "trainer.max_steps")


class Difference(NamedTuple):
    """A setting whose value has changed."""

    key: str
    before: Any
    now: Any


def check_name(name: str) -> str:
    """Return `name` if it is valid.

    Raises:
        ValueError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"--name {name!r}: give up to 200 letters, digits and any of _ . + = -, "
            "beginning with a letter, a digit or _"
        )
    if name in TAKEN:
        raise ValueError(f"--name {name}: {RUNS / name} is for other files; give another name")
    return name


def default_name(configs: Sequence[Path]) -> str:
    """Join the stems of the configuration files by `-`.

    Raises:
        ValueError: there are no files, or the result is not a valid name.
    """
    if not configs:
        raise ValueError(
            "which run? give --name NAME, or the --config files that it was started with"
        )
    return check_name("-".join(path.stem for path in configs))


class RunFolder:
    """`runs/NAME`: configuration, checkpoints, TensorBoard events, images, record.

    Raises:
        ValueError: `name` is not valid.
    """

    def __init__(self, name: str, below: Path = RUNS) -> None:
        self.name = check_name(name) if below == RUNS else name
        self.path = below / name
        self.checkpoints = self.path / "checkpoints"
        self.config = self.path / "config.yaml"

    @classmethod
    def found(cls, name: str | Path) -> "RunFolder":
        """Find a run by its name or folder.

        Raises:
            ValueError: there is no such run.
        """
        folder = Path(name)
        run = cls(folder.name, RUNS if len(folder.parts) == 1 else folder.parent)
        if not run.config.exists():
            _refuse_parts(folder)
            known = sorted(path.parent.name for path in RUNS.glob("[!.]*/checkpoints"))
            raise ValueError(
                f"{run.config} does not exist, so there is no such run"
                f"{did_you_mean(folder.name, known)}; "
                f"runs here: {', '.join(first_few(known, 10)) or 'none yet'}; "
                f"{program_name()} zoo lists the networks that come with the package"
            )
        return run

    def best(self) -> Path:
        """Return the best checkpoint, else the last.

        Raises:
            ValueError: the run has no checkpoint.
        """
        for name in ("best.ckpt", "last.ckpt"):
            if (self.checkpoints / name).exists():
                return self.checkpoints / name
        raise ValueError(
            f"{self.checkpoints} holds no checkpoint; train first "
            f"({program_name()} fit ... --name {self.name})"
        )

    def contains(self, path: Path) -> bool:
        """Return True if a path lies in the run's folder."""
        return path.resolve().is_relative_to(self.path.resolve())

    def read_config(self) -> dict[str, Any]:
        """Read `config.yaml`; return {} if there is none."""
        return read_mapping(self.config) if self.config.exists() else {}

    def save_config(self, config: dict[str, Any]) -> Path | None:
        """Write `config.yaml`; keep an older, different one.

        Returns:
            the copy of the older one, if there was one.
        """
        older = None
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config, sort_keys=False)
        if self.config.exists():
            if self.config.read_text() == text:
                return None
            older = _free(self.path / "config.{}.yaml")
            shutil.copy2(self.config, older)
        with atomic_write(self.config) as file:  # other processes may be reading it
            file.write(text.encode())
        return older

    def save_origin(self, checkpoint: Path) -> None:
        """Record the checkpoint that the run starts from."""
        with atomic_write(self.path / ORIGIN) as file:
            file.write(os.fsencode(checkpoint.resolve()))

    def started_from(self, checkpoint: Path) -> bool:
        """Return True if the run started from this checkpoint."""
        origin = self.path / ORIGIN
        return origin.exists() and origin.read_bytes() == os.fsencode(checkpoint.resolve())

    def refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
        """Raise an error if a setting changes the computation.

        Args:
            before: resolved configuration that the run was started with.
            now: resolved configuration of this command.

        Returns:
            settings that only make the training longer.

        Raises:
            ValueError: names the first setting that changes what is computed.
        """
        changes = list(differences(before, now))
        longer = [each for each in changes if each.key in LENGTH and _is_longer(each)]
        for key, old, new in changes:
            if Difference(key, old, new) not in longer:
                raise ValueError(
                    f"{self.path} was started with {key} = {old}, now it is {new}; "
                    "give the old value, another --name, or --resume never to start over "
                    "(the old run is kept)"
                )
        return longer

    def set_aside(self) -> Path | None:
        """Rename the folder, so that its name is free.

        Returns:
            the new path; None if there was no folder.
        """
        if not self.path.exists():
            return None
        return self.path.rename(_free(self.path.with_name(f"{self.name}.{{}}")))

    def put_back(self, moved: Path) -> None:
        """Undo `set_aside`, and delete the new run's folder."""
        if self.path.exists():
            # on NFS a folder with open files cannot be emptied
            failed = self.path.rename(temporary_path(self.path))
            shutil.rmtree(failed, ignore_errors=True)
        moved.rename(self.path)

    def discard(self) -> None:
        """Delete the files of a failed start.

        They are those that a run writes before its first step. Other files are kept, and with them
        the folder.
        """
        with contextlib.suppress(OSError):
            for pattern in _EARLY:
                for file in self.path.glob(pattern):
                    file.unlink()
            for folder in (self.checkpoints, self.path):
                if folder.exists():
                    folder.rmdir()


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Difference]:
    """Yield differing settings that change what is computed.

    Args:
        before: a resolved configuration.
        now: another one, resolved by the same parser.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    for key in {**old, **new}:
        if key == "trainer.precision" and new.get(key) is None:  # chosen by the hardware
            continue
        if old.get(key) != new.get(key) and not MAY_CHANGE.fullmatch(key):
            yield Difference(key, old.get(key), new.get(key))


def data_difference(before: dict[str, Any], now: dict[str, Any]) -> Difference | None:
    """Return the first setting by which data differ.

    Data in another place count as different, and options that only one has do not.
    """
    old, new = (dict(_flat(each.get("data", {}), "data")) for each in (before, now))
    for key in old:
        if key in new and old[key] != new[key] and not _SAME_DATA.fullmatch(key):
            return Difference(key, old[key], new[key])
    return None


def _refuse_parts(path: Path) -> None:
    """Refuse a file, or a part of a run."""
    if inside := [above for above in path.parents if above.name and _is_run(above)]:
        run = inside[0].name if inside[0].parent == RUNS else inside[0]
        raise ValueError(f"{path} is part of a run; give the run's name or folder: {run}")
    if path.is_file():
        raise ValueError(f"{path} is a file; give the name or the folder of a run")


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() and (folder / "checkpoints").is_dir()


def _is_longer(change: Difference) -> bool:
    numbers = isinstance(change.before, int) and isinstance(change.now, int)
    return numbers and (0 <= change.before < change.now or change.now == -1)


def _free(pattern: Path) -> Path:
    """Return the first unused path of a numbered pattern."""
    n = 1
    while (path := Path(str(pattern).format(n))).exists():
        n += 1
    return path


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested mappings and lists."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
