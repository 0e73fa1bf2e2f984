"""Many small objects of an HDF5 file at once.

MATLAB keeps each number of a struct array as an object of its own, millions of them; opening one
after the other takes minutes. All of them have the same few forms, so their headers can be read as
arrays of bytes, many thousands at a time. What has any other form is left to h5py, one by one.

Reference:
    The HDF Group, "HDF5 File Format Specification Version 3.0": object headers of version 1
    (IV.A.1.a), symbol tables (III.A and B, III.D).
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DOUBLE = bytes.fromhex("11203f000800000000004000340b0034ff030000")
"""How the format writes the type of little-endian numbers of 64 bits ..."""
SHORT = bytes.fromhex("100000000200000000001000")
"""... of unsigned ones of 16, in which MATLAB keeps letters ..."""
REFERENCE = bytes.fromhex("1700000008000000")
"""... and of references to objects."""
_MESSAGES = 12
"""No object of ours has more in its header."""
_SPACE, _TYPE, _LAYOUT, _CONTINUED, _TABLE = 1, 3, 8, 16, 17


class Arrays(NamedTuple):
    """What the headers of data sets say; 0 where a header has another form."""

    length: Ints
    """how many values each has"""
    at: Ints
    """where in the file they begin"""


class Objects:
    """The objects of a file, by the addresses that references hold.

    Args:
        path: of the file.
        base: where its addresses count from: the length of the block in front, which is the user's.
    """

    def __init__(self, path: Path, base: int) -> None:
        with path.open("rb") as file:
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self.mapping, np.uint8)
        self.base = base

    def forget(self) -> None:
        """Give back the memory that the parts of the file read so far take."""
        self.mapping.madvise(mmap.MADV_DONTNEED)

    def arrays(self, address: Ints, of: bytes) -> Arrays:
        """The data sets at these addresses whose values are of one type and lie in one piece."""
        found = self._messages(address, (_SPACE, _TYPE, _LAYOUT))
        space, kind, layout = (found[what] for what in (_SPACE, _TYPE, _LAYOUT))
        rank = self._number(space + 1, 1)
        plain = (
            (self._number(space, 1) == 1)
            & (rank == 2)
            & self._equal(kind, of)
            & (self._number(layout, 1) == 3)
        )
        length = self._number(space + 8, 8) * self._number(space + 16, 8)
        plain &= (length > 0) & (length < 1 << 20)
        piece, compact = self._number(layout + 1, 1) == 1, self._number(layout + 1, 1) == 0
        at = np.where(piece, self._number(layout + 2, 8) + self.base, layout + 4)
        size = np.where(piece, self._number(layout + 10, 8), self._number(layout + 2, 2))
        width = int.from_bytes(of[4:8], "little")
        plain &= (
            (piece | compact) & (size == length * width) & (at > 0) & (at + size <= len(self.bytes))
        )
        return Arrays(np.where(plain, length, 0), np.where(plain, at, 0))

    def members(self, address: Ints, names: Sequence[str]) -> Ints:
        """Addresses of the members of groups that have exactly these, (groups, members); 0 for a
        group of another form.
        """
        table = self._messages(address, (_TABLE,))[_TABLE]
        tree, heap = self._number(table, 8) + self.base, self._number(table + 8, 8) + self.base
        leaf = self._number(tree + 32, 8) + self.base
        right = (
            (table > 0)
            & self._equal(heap, b"HEAP")
            & self._equal(tree, b"TREE\0\0\1\0")
            & self._equal(leaf, b"SNOD\1\0")
        )
        right &= self._number(leaf + 6, 2) == len(names)
        letters = self._number(heap + 24, 8) + self.base
        found = np.zeros((len(address), len(names)), np.int64)
        for i, name in enumerate(sorted(names)):  # as the format has them
            entry = leaf + 8 + 40 * i
            right &= self._equal(letters + self._number(entry, 8), name.encode() + b"\0")
            found[:, names.index(name)] = self._number(entry + 8, 8)
        return np.where(right[:, None], found, 0)

    def values(self, at: Ints, width: int) -> npt.NDArray[np.uint8]:
        """`width` bytes from each place, (places, width); zeros beyond the end of the file."""
        inside = (at >= 0) & (at <= len(self.bytes) - width)
        taken: npt.NDArray[np.uint8] = self.bytes[
            np.where(inside, at, 0)[:, None] + np.arange(width)
        ]
        taken[~inside] = 0
        return taken

    def _number(self, at: Ints, width: int) -> Ints:
        padded = np.zeros((len(at), 8), np.uint8)
        padded[:, :width] = self.values(at, width)
        number: Ints = padded.view("<i8")[:, 0]
        return np.where((number < 0) | (number > 1 << 48), 0, number)

    def _equal(self, at: Ints, expected: bytes) -> Flags:
        return (self.values(at, len(expected)) == np.frombuffer(expected, np.uint8)).all(1)

    def _messages(self, address: Ints, kinds: Sequence[int]) -> dict[int, Ints]:
        """Where in each header the first message of each kind begins; 0 where there is none."""
        header = address + self.base
        known = (address > 0) & (self._number(header, 2) == 1)
        cursor = header + 16
        end = np.where(known, cursor + self._number(header + 8, 4), 0)
        found = {kind: np.zeros(len(address), np.int64) for kind in (*kinds, _CONTINUED)}
        for _ in range(_MESSAGES):
            more = cursor + 8 <= end
            continued = ~more & (found[_CONTINUED] > 0)  # the rest lies elsewhere
            if continued.any():
                block = found[_CONTINUED]
                cursor = np.where(continued, self._number(block, 8) + self.base, cursor)
                end = np.where(continued, cursor + self._number(block + 8, 8), end)
                found[_CONTINUED] = np.where(continued, 0, block)
                more = cursor + 8 <= end
            kind = self._number(cursor, 2)
            for wanted, place in found.items():
                found[wanted] = np.where(more & (kind == wanted) & (place == 0), cursor + 8, place)
            cursor = np.where(more, cursor + 8 + self._number(cursor + 2, 2), cursor)
        return found


def references(data: h5py.Dataset) -> Ints:
    """The addresses that a data set of references holds, in one reading."""
    addresses = np.empty(data.shape, "<i8")
    data.id.read(h5py.h5s.ALL, h5py.h5s.ALL, addresses, mtype=data.id.get_type())
    return addresses.ravel()
