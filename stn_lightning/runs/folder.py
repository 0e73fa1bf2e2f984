"""Run folders: one name, one folder, whose contents say what the run was and how far it came."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime.atomic_files import atomic_write
from stn_lightning.runtime.provenance import program_name

RUNS = Path("runs")
MAY_CHANGE = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.max_time",
    "trainer.logger",
)
"""What a resumed run may do differently, since it does not change what is computed: where it runs
and what it shows.
"""


def default_name(configs: list[Path]) -> str:
    """The stems of the configuration files, joined by `-`.

    Raises:
        ValueError: where there are none.
    """
    if not configs:
        raise ValueError(
            "which run? give --name NAME, or the --config files that it was started with"
        )
    return "-".join(path.stem for path in configs)


class RunFolder:
    """`runs/<name>`: configuration, checkpoints, TensorBoard events, pictures, results."""

    def __init__(self, name: str, below: Path = RUNS) -> None:
        if not name or Path(name).name != name:
            raise ValueError(f"--name {name!r} is a folder's name below {RUNS}/, without slashes")
        self.name = name
        self.path = below / name
        self.checkpoints = self.path / "checkpoints"
        self.config = self.path / "config.yaml"

    @classmethod
    def found(cls, name: str | Path) -> "RunFolder":
        """The run of a name, or in a folder.

        Raises:
            ValueError: where there is none.
        """
        folder = Path(name)
        run = cls(folder.name, RUNS if len(folder.parts) == 1 else folder.parent)
        if not run.config.exists():
            known = (
                ", ".join(sorted(path.parent.name for path in RUNS.glob("*/config.yaml")))
                or "none yet"
            )
            raise ValueError(
                f"{run.config} does not exist, so there is no such run; runs here: {known}"
            )
        return run

    def best(self) -> Path:
        """The checkpoint to evaluate: the best, or the last where there is no best.

        Raises:
            ValueError: where the run has none.
        """
        for name in ("best.ckpt", "last.ckpt"):
            if (self.checkpoints / name).exists():
                return self.checkpoints / name
        raise ValueError(
            f"{self.checkpoints} holds no checkpoint; train first ({program_name()} fit ... --name {self.name}) or give --ckpt_path FILE"
        )

    def save_config(self, config: dict[str, Any]) -> None:
        """Write `config.yaml`; one that said something else is kept beside it."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config, sort_keys=False)
        if self.config.exists():
            if self.config.read_text() == text:
                return
            self.config.rename(_free(self.path / "config.{}.yaml"))
        with atomic_write(self.config) as file:  # which the other processes may be reading
            file.write(text.encode())

    def refuse_changes(self, config: dict[str, Any]) -> None:
        """Compare with the configuration that the run was started with.

        Raises:
            ValueError: names the first value that changes what is computed.
        """
        if not self.config.exists():
            return
        before, now = dict(_flat(yaml.safe_load(self.config.read_text()))), dict(_flat(config))
        for key in [*before, *now]:
            old, new = before.get(key), now.get(key)
            if old != new and not key.startswith(MAY_CHANGE):
                raise ValueError(
                    f"{self.path} was started with {key} = {old}, now it is {new}; "
                    "give the old value, another --name, or --resume never to start over (the old run is kept)"
                )

    def set_aside(self) -> None:
        """Rename the folder, so that a run of its name can start over and nothing is lost."""
        if self.path.exists():
            self.path.rename(_free(RUNS / f"{self.name}.{{}}"))


def matches(settings: Any, configs: list[Path], options: list[str]) -> bool:
    """Whether a run with these settings, as its config.yaml has them, is what the files and options
    (`--key value`) ask for now.
    """
    given: Any = {}
    for content in [
        *(yaml.safe_load(resolve_config(path).read_text()) for path in configs),
        *nest_options(options),
    ]:
        given = _merged(given, content)
    return _within(given, settings)


def nest_options(options: list[str]) -> Iterator[dict[str, Any]]:
    """Options of the command line as the mappings that they stand for in a file."""
    words = [
        word
        for option in options
        for word in (option.split("=", 1) if option.startswith("--") else [option])
    ]
    for key, value in zip(words[::2], words[1::2], strict=True):
        content = yaml.safe_load(value)
        for part in reversed(key.removeprefix("--").split(".")):
            content = {part: content}
        yield content


def _merged(below: Any, above: Any) -> Any:
    """Two files' contents as the command line merges them; another class does not keep the
    arguments of the one before.
    """
    if (
        not isinstance(below, dict)
        or not isinstance(above, dict)
        or below.get("class_path") != above.get("class_path", below.get("class_path"))
    ):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _within(given: Any, settings: Any) -> bool:
    """Whether all that is given stands in the settings; a class may be given by its path alone."""
    if isinstance(given, dict):
        return isinstance(settings, dict) and all(
            _within(value, settings.get(key)) for key, value in given.items()
        )
    if isinstance(given, list):
        return (
            isinstance(settings, list)
            and len(given) == len(settings)
            and all(map(_within, given, settings))
        )
    if isinstance(settings, dict):
        return bool(given == settings.get("class_path"))
    return bool(given == settings)


def _free(pattern: Path) -> Path:
    """The first path of a numbered pattern that does not exist."""
    n = 1
    while (path := Path(str(pattern).format(n))).exists():
        n += 1
    return path


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
