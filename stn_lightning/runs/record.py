"""The record of a run: results and their origin.

`runs/NAME/results.json` holds one record, `runs/tables/TABLE.jsonl` one line for each run of a
table.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from stn_lightning.runtime.atomic_files import atomic_write

RECORD = "results.json"
"""Name of the file in a run's folder."""

RARE = ("monitor", "best_validation", "lengths", "checkpoint", "initialised_from")
"""Fields that are not written if they are empty."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Results of a run and how they were obtained.

    Args:
        name: name of the run.
        configs: configuration files it was started with.
        seed: seed of all random numbers.
        commit: commit of the source, with a + if files had changed.
        versions: versions of Python and the packages.
        device: name of the GPU or processor.
        devices: number of processes.
        precision: numerical precision, as Lightning names it.
        parameters: number of trained and fixed parameters.
        epochs: number of epochs trained.
        samples_seen: number of training images seen.
        train_seconds: duration of the training, without validation and test.
        images_per_second: training images per second.
        monitor: metric that chose the best checkpoint.
        best_validation: best value of that metric.
        samples_tested: number of test images.
        metrics: metrics on the test images; errors in percent.
        date: day of the test, as YYYY-MM-DD.
        settings: resolved configuration, by which runs are compared.
        lengths: successive lengths of the training, if it was continued after its end.
        checkpoint: file name of the checkpoint that was tested.
        initialised_from: run or file whose weights the training started with.

    Examples:
        >>> record = RunRecord(name="one", seed=0, metrics={"test/error": 1.5})
        >>> RunRecord.from_json(record.to_json()) == record
        True
    """

    name: str
    configs: list[str] = field(default_factory=list)
    seed: int
    commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    devices: int = 1
    precision: str = ""
    parameters: int = 0
    epochs: int | None = None
    samples_seen: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    monitor: str | None = None
    best_validation: float | None = None
    samples_tested: int = 0
    metrics: dict[str, float]
    date: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    lengths: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    initialised_from: str | None = None

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read a record from a JSON object.

        Raises:
            ValueError: it is no record.
        """
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
            known = {each.name for each in dataclasses.fields(cls)}
            record = cls(**{key: value for key, value in content.items() if key in known})
            _check_types(record)
        except (ValueError, TypeError, AttributeError) as problem:
            raise ValueError(f"this is no record of a run ({problem})") from problem
        return record

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as a JSON object.

        Raises:
            ValueError: a number is infinite or NaN.
        """
        content = dataclasses.asdict(self)
        for name in RARE:
            if content[name] in (None, []):
                del content[name]
        try:
            return json.dumps(content, indent=indent, allow_nan=False)
        except ValueError as problem:
            raise ValueError(f"{self.name}: {_not_finite(content)} is not finite") from problem

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read `results.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no record.
        """
        try:
            return cls.from_json(path.read_text())
        except ValueError as problem:  # UnicodeDecodeError is a ValueError, too
            raise ValueError(f"{path}: {problem}") from problem

    def write(self, path: Path) -> None:
        """Write `results.json` atomically.

        Raises:
            ValueError: a number is infinite or NaN.
        """
        text = self.to_json(indent=2) + "\n"
        with atomic_write(path) as file:
            file.write(text.encode())


def read_records(path: Path) -> dict[str, RunRecord]:
    """Read the records of a table, by run name.

    Returns:
        records by name; empty if there is no such file.

    Raises:
        ValueError: a line is no record; the message names file and line.
    """
    records = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = RunRecord.from_json(line)
        except ValueError as problem:
            raise ValueError(f"{path}:{number}: {problem}") from problem
        records[record.name] = record
    return records


def write_records(path: Path, records: Iterable[RunRecord]) -> None:
    """Write the records of a table, sorted by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record.to_json() + "\n" for record in sorted(records, key=lambda each: each.name)]
    with atomic_write(path) as file:
        file.write("".join(lines).encode())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it contains {name}, which is no number")


def _check_types(record: RunRecord) -> None:
    """Check the types of all fields.

    Raises:
        TypeError: names a field of another type.
    """
    for name, kind in get_type_hints(RunRecord).items():
        if not _is_of(getattr(record, name), kind):
            raise TypeError(f"{name} is no {getattr(kind, '__name__', kind)}")


def _is_of(value: Any, kind: Any) -> bool:
    """Return True if a value has a field's type."""
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(each, arguments[0]) for each in value)
    if get_origin(kind) is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_is_of(key, arguments[0]) and _is_of(each, arguments[1]) for key, each in pairs)
    if arguments:  # a union
        return any(_is_of(value, each) for each in arguments)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


def _not_finite(content: Any, path: str = "") -> str:
    """Return the key of the first non-finite number."""
    if isinstance(content, dict):
        keys = (_not_finite(value, f"{path}.{key}".strip(".")) for key, value in content.items())
        return next(filter(None, keys), "")
    return path if isinstance(content, float) and not abs(content) < float("inf") else ""
