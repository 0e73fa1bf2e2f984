"""digitStruct.mat, SVHN's annotations: a struct array of names and boxes, in an HDF5 file as MATLAB
7.3 writes it.

`/digitStruct/name` refers to each picture's name, `/digitStruct/bbox` to a group with `height`,
`label`, `left`, `top` and `width`: a number where the picture shows one digit, else references to
one number a digit.

Reference:
    Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/ (Format 1).
"""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from stn_lightning.datasets.objects import DOUBLE, REFERENCE, SHORT, Ints, Objects, references
from stn_lightning.datasets.svhn_boxes import NumberBoxes

FIELDS = ("label", "left", "top", "width", "height")
PART = 20_000
"""Pictures that are read at a time: it bounds the memory."""
NAME = 64
"""Letters a name may have."""
MOST = 100
"""Digits a picture may have."""

Values = npt.NDArray[np.float64]


class DigitStruct(NamedTuple):
    """Annotations of the pictures whose entries make sense, and what is wrong with the others."""

    numbers: NumberBoxes
    broken: list[str]
    """entry (counted from 1, as in MATLAB), name where there is one, and what is wrong; such
    pictures are not in `numbers`
    """


def read_digit_struct(path: Path) -> DigitStruct:
    """All entries of the file, broken ones apart.

    Raises:
        ValueError: names the file where it is no digitStruct.mat at all.
    """
    try:
        with h5py.File(path) as file:
            struct = file["digitStruct"]
            name, bbox = references(struct["name"]), references(struct["bbox"])
            if len(name) != len(bbox):
                raise ValueError(f"{len(name)} names for {len(bbox)} pictures")
            return _read(file, Objects(path, file.userblock_size), name, bbox)
    except FileNotFoundError:
        raise
    except (
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        ValueError,
        MemoryError,
        OverflowError,
    ) as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise ValueError(
            f"{path}: is no digitStruct.mat ({reason}); delete its folder to have it unpacked again"
        ) from problem


def _read(file: h5py.File, objects: Objects, name: Ints, bbox: Ints) -> DigitStruct:
    names: list[str] = []
    owners, tables, broken = [], [], []
    for first in range(0, len(name), PART):
        part = slice(first, first + PART)
        part_names = _names(objects, name[part])
        count, table = _tables(objects, bbox[part])
        objects.forget()
        for i in np.flatnonzero(
            (count == 0) | np.array([not n for n in part_names])
        ):  # of another form, or broken
            row = first + int(i)
            try:
                part_names[i] = part_names[i] or _slow_name(file, row)
                if not count[i]:
                    values = _slow_table(file, row)
                    before = int(count[:i].sum())
                    table = np.insert(table, before, values, axis=0)
                    count[i] = len(values)
            except (
                OSError,
                KeyError,
                TypeError,
                AttributeError,
                RuntimeError,
                ValueError,
            ) as problem:
                reason = " ".join(str(problem.args[0] if problem.args else problem).split())
                broken.append(
                    f"entry {row + 1}{' (' + part_names[i] + ')' if part_names[i] else ''}: {reason}"
                )
                table = np.delete(
                    table, slice(int(count[:i].sum()), int(count[: i + 1].sum())), axis=0
                )
                count[i] = 0
        owner = np.repeat(np.arange(len(count)), count)
        wrong = _wrong(table, owner)
        broken += [
            f"entry {first + i + 1} ({part_names[i]}): {reason}" for i, reason in wrong.items()
        ]
        good = count > 0
        good[list(wrong)] = False
        number = np.cumsum(good) - 1 + len(names)
        kept = good[owner]
        owners.append(number[owner[kept]])
        tables.append(table[kept])
        names += [n for n, fine in zip(part_names, good, strict=True) if fine]
    values = np.concatenate([np.zeros((0, len(FIELDS))), *tables])
    label, left, top, width, height = values.T
    box = np.stack([left, top, left + width, top + height], 1)
    return DigitStruct(
        NumberBoxes(
            names, np.concatenate([np.zeros(0, np.int64), *owners]), label.astype(np.int64), box
        ),
        broken,
    )


def _names(objects: Objects, address: Ints) -> list[str]:
    """Empty where the quick way does not understand one."""
    arrays = objects.arrays(address, SHORT)
    length = np.where(arrays.length <= NAME, arrays.length, 0)
    letters = objects.values(arrays.at, 2 * NAME).view(
        "<u2"
    )  # beyond the end of the file come zeros
    short = (letters < 128).astype(bool) | (np.arange(NAME) >= length[:, None])
    text = np.where(np.arange(NAME) < length[:, None], letters, 0).astype(np.uint8)
    found = text.view(f"S{NAME}")[:, 0]
    return [
        n.decode() if fine else ""
        for n, fine in zip(found, short.all(1) & (length > 0), strict=True)
    ]


def _tables(objects: Objects, address: Ints) -> tuple[Ints, Values]:
    """How many boxes each entry has, 0 where the quick way does not understand it, and all boxes
    below each other.
    """
    members = objects.members(address, FIELDS)
    single = [objects.arrays(field, DOUBLE) for field in members.T]
    several = [objects.arrays(field, REFERENCE) for field in members.T]
    of_one = np.all([field.length == 1 for field in single], 0)
    lengths = np.stack([field.length for field in several])
    of_many = (lengths > 0).all(0) & (lengths == lengths[0]).all(0) & (lengths[0] <= MOST)
    count = np.where(of_many, lengths[0], of_one)
    owner = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    columns, fine = [], np.ones(len(owner), bool)
    for one, many in zip(single, several, strict=True):
        referred = objects.values(np.where(of_many[owner], many.at[owner] + 8 * place, -1), 8).view(
            "<i8"
        )[:, 0]
        target = objects.arrays(np.where(of_many[owner], referred, 0), DOUBLE)
        at = np.where(of_many[owner], np.where(target.length == 1, target.at, 0), one.at[owner])
        fine &= at > 0
        columns.append(objects.values(at, 8).view("<f8")[:, 0])
    unclear = np.zeros(len(count), bool)
    unclear[owner[~fine]] = True
    return np.where(unclear, 0, count), np.stack(columns, 1)[~unclear[owner]]


def _wrong(table: Values, owner: Ints) -> dict[int, str]:
    """What is wrong with the boxes, by entry; the first thing of each."""
    label, _, _, width, height = table.T
    checks = {
        "its box is not a number": ~(np.abs(table) < 1e6).all(1),
        "its label is not one of 1 to 10": ~np.isin(label, np.arange(1, 11)),
        "its box has no area": ~((width > 0) & (height > 0)),
    }
    found: dict[int, str] = {}
    for reason, bad in checks.items():
        for box in np.flatnonzero(bad):
            values = ", ".join(
                f"{field} {value:g}" for field, value in zip(FIELDS, table[box], strict=True)
            )
            found.setdefault(int(owner[box]), f"{reason} ({values})")
    return found


def _referred(file: h5py.File, field: str, row: int) -> Any:
    data = file["digitStruct"][field]
    return file[data[np.unravel_index(row, data.shape)]]


def _slow_name(file: h5py.File, row: int) -> str:
    letters = np.asarray(_referred(file, "name", row)).ravel()
    if not 0 < len(letters) <= NAME or not all(0 < letter < 128 for letter in letters.tolist()):
        raise ValueError("its name is no text")
    return "".join(chr(int(letter)) for letter in letters)


def _slow_table(file: h5py.File, row: int) -> Values:
    group = _referred(file, "bbox", row)
    columns = []
    for field in FIELDS:
        if field not in group:
            raise ValueError(f"it has no {field}")
        values = np.asarray(group[field]).ravel()[: MOST + 1]
        columns.append(
            [float(np.asarray(file[v]).ravel()[0]) for v in values]
            if values.dtype == object
            else values.astype(float).tolist()
        )
    if len({len(column) for column in columns}) > 1 or not 0 < len(columns[0]) <= MOST:
        raise ValueError(
            "it has "
            + ", ".join(
                f"{len(column)} {field}" for field, column in zip(FIELDS, columns, strict=True)
            )
        )
    return np.array(columns).T
