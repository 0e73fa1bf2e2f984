"""Read digitStruct.mat, SVHN's annotations in MATLAB's format.

`/digitStruct/name` has a reference to the name of each image, `/digitStruct/bbox` a reference to a
group with `height`, `label`, `left`, `top` and `width`. Each of these is a number if the image has
one digit, otherwise a list of references to numbers, one for each digit.

Reference:
    Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/ (Format 1).
"""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from stn_lightning.datasets.files.paths import contained_path
from stn_lightning.datasets.svhn_boxes import NumberBoxes

FIELDS = ("label", "left", "top", "width", "height")
MAX_NAME = 64
"""Largest number of letters of a name."""
MAX_DIGITS = 100
"""Largest number of digits of an image."""

Boxes = npt.NDArray[np.float64]
PROBLEMS = (OSError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError)
"""Errors that h5py raises for damaged files."""


class DigitStruct(NamedTuple):
    """Annotations of all images, and a list of broken entries."""

    numbers: NumberBoxes
    broken: list[str]
    """a line for each broken entry: its number, from 1 as in MATLAB, its name and the problem"""


def read_digit_struct(path: Path) -> DigitStruct:
    """Read all entries; list broken ones separately.

    SVHN's 33,402 training entries take half a minute.

    Raises:
        ValueError: the file is no digitStruct.mat; the message names it.
    """
    try:
        with h5py.File(path) as file:
            struct = file["digitStruct"]
            names, groups = (struct[field][()].ravel() for field in ("name", "bbox"))
            if len(names) != len(groups):
                raise ValueError(f"{len(names)} names for {len(groups)} images")
            return _read_entries(file, names, groups)
    except FileNotFoundError:
        raise
    except (*PROBLEMS, MemoryError, OverflowError) as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise ValueError(
            f"{path}: is no digitStruct.mat ({reason}); delete its folder to have it unpacked again"
        ) from problem


def _read_entries(
    file: h5py.File, names: npt.NDArray[np.object_], groups: npt.NDArray[np.object_]
) -> DigitStruct:
    good: list[str] = []
    tables: list[Boxes] = []
    broken: list[str] = []
    for entry, (name_reference, group_reference) in enumerate(zip(names, groups, strict=True), 1):
        name = ""
        try:
            name = _name(_target(file, name_reference))
            tables.append(_boxes(file, _target(file, group_reference)))
            good.append(name)
        except PROBLEMS as problem:
            reason = " ".join(str(problem.args[0] if problem.args else problem).split())
            broken.append(f"entry {entry}{f' ({name})' if name else ''}: {reason}")
    owner = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    label, left, top, width, height = np.concatenate([np.zeros((0, len(FIELDS))), *tables]).T
    box = np.stack([left, top, left + width, top + height], 1)
    return DigitStruct(NumberBoxes(good, owner, label.astype(np.int64), box), broken)


# The functions below use h5py's low-level interface. The file has a million objects, and creating
# an `h5py.Dataset` for each would take four times as long.


def _target(file: h5py.File, reference: h5py.Reference) -> Any:
    target = h5py.h5r.dereference(reference, file.id)
    if target is None:
        raise ValueError("a reference leads nowhere")
    return target


def _read(dataset: h5py.h5d.DatasetID, kind: npt.DTypeLike, most: int) -> npt.NDArray[Any]:
    size = dataset.get_space().get_simple_extent_npoints()
    if size > most:
        raise ValueError(f"it has {size:,} values, more than {most}")
    values = np.empty(dataset.shape, kind)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values.ravel()


def _name(letters: h5py.h5d.DatasetID) -> str:
    codes = _read(letters, np.uint16, MAX_NAME).tolist()
    if not codes or not all(0 < code < 128 for code in codes):
        raise ValueError("its name is not text")
    return contained_path("".join(chr(code) for code in codes))


def _boxes(file: h5py.File, group: h5py.h5g.GroupID) -> Boxes:
    """Read and check the boxes of an image, (digits, fields)."""
    columns = []
    for field in FIELDS:
        try:
            dataset = h5py.h5d.open(group, field.encode())
        except KeyError as problem:
            raise ValueError(f"it has no {field}") from problem
        if dataset.get_type().get_class() == h5py.h5t.REFERENCE:
            references = _read(dataset, h5py.ref_dtype, MAX_DIGITS)
            numbers = [_read(_target(file, each), float, 1)[0] for each in references]
            columns.append(np.array(numbers))
        else:
            columns.append(_read(dataset, float, MAX_DIGITS))
    if len({len(column) for column in columns}) > 1 or not len(columns[0]):
        counts = zip(columns, FIELDS, strict=True)
        raise ValueError("it has " + ", ".join(f"{len(c)} {field}" for c, field in counts))
    table = np.stack(columns, 1)
    _check(table)
    return table


def _check(table: Boxes) -> None:
    label, _, _, width, height = table.T
    checks = {
        "its box is not a number": ~(np.abs(table) < 1e6).all(1),
        "its label is not one of 1 to 10": ~np.isin(label, np.arange(1, 11)),
        "its box has no area": ~((width > 0) & (height > 0)),
    }
    for reason, bad in checks.items():
        if bad.any():
            box = zip(FIELDS, table[bad.argmax()], strict=True)
            raise ValueError(f"{reason} ({', '.join(f'{field} {v:g}' for field, v in box)})")
