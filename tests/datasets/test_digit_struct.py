"""digitStruct.mat: broken entries are named, damaged files refused."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stn_lightning.datasets.digit_struct import DigitStruct, read_digit_struct
from tests.svhn_miniature import Writer, box, some_entries, write_digit_struct

Entries = list[tuple[str, list[dict[str, float]]]]


def written(struct: DigitStruct) -> Entries:
    """Back in the form in which a test writes them."""
    numbers = struct.numbers
    entries: Entries = [(name, []) for name in numbers.names]
    for owner, label, (left, top, right, bottom) in zip(
        numbers.owner, numbers.label, numbers.box, strict=True
    ):
        entries[owner][1].append(box(float(label), left, top, right - left, bottom - top))
    return entries


def test_what_was_written_is_read(tmp_path: Path) -> None:
    entries, path = some_entries(50), tmp_path / "digitStruct.mat"
    write_digit_struct(path, entries)
    struct = read_digit_struct(path)
    assert written(struct) == entries
    assert not struct.broken


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "a\nb"])
def test_a_name_that_leads_out_of_the_folder_breaks_its_entry(tmp_path: Path, name: str) -> None:
    good, path = some_entries(2), tmp_path / "digitStruct.mat"
    write_digit_struct(path, [good[0], (name, good[1][1])])
    struct = read_digit_struct(path)
    assert written(struct) == good[:1]
    assert struct.broken == [
        f"entry 2: {name!r} is no path inside the folder; give a relative path"
    ]


def test_a_file_in_another_layout_of_hdf5_is_read_too(tmp_path: Path) -> None:
    path, entries = tmp_path / "digitStruct.mat", some_entries(12)
    writer = Writer(path)
    writer.file.close()
    writer.file = h5py.File(
        path, "w", libver="latest"
    )  # new headers and groups, in no block of the user's
    writer.refs = writer.file.create_group("#refs#")
    for name, boxes in entries:
        writer.add(name, boxes)
    writer.close()
    assert written(read_digit_struct(path)) == entries


def test_broken_entries_are_named_with_the_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    good, path = some_entries(6), tmp_path / "digitStruct.mat"
    broken: dict[str, list[dict[str, float]]] = {
        "no_box.png": [],
        "eleven.png": [box(1, 2, 2, 5, 5), box(11, 8, 2, 5, 5)],
        "half.png": [box(1.5, 2, 2, 5, 5)],
        "flat.png": [box(1, 2, 2, 5, 0)],
        "nan.png": [box(1, float("nan"), 2, 5, 5)],
        "no_label.png": [{k: v for k, v in box(1, 2, 2, 5, 5).items() if k != "label"}],
        "uneven.png": [
            box(1, 2, 2, 5, 5),
            {k: v for k, v in box(1, 2, 2, 5, 5).items() if k != "top"},
        ],
    }
    entries = [good[0], *broken.items(), *good[1:]]
    write_digit_struct(path, entries)
    struct = read_digit_struct(path)
    assert written(struct) == good
    found = {line.split("(")[1].split(")")[0]: line for line in struct.broken}
    assert list(found) != []
    assert set(found) == set(broken)
    assert found["eleven.png"] == (
        "entry 3 (eleven.png): its label is not one of 1 to 10 "
        "(label 11, left 8, top 2, width 5, height 5)"
    )
    assert found["no_box.png"] == "entry 2 (no_box.png): it has no label"
    assert found["no_label.png"] == "entry 7 (no_label.png): it has no label"
    assert "its box has no area" in found["flat.png"]
    assert "it has 2 label, 2 left, 1 top" in found["uneven.png"]


def test_references_that_lead_nowhere_break_their_entries_alone(tmp_path: Path) -> None:
    good, path = some_entries(5), tmp_path / "digitStruct.mat"
    write_digit_struct(path, good)
    with h5py.File(path, "r+") as file:
        for field, row in (("name", 1), ("bbox", 3)):
            refs = file["digitStruct"][field][()]
            refs[row, 0] = h5py.Reference()
            file["digitStruct"][field][()] = refs
    struct = read_digit_struct(path)
    assert written(struct) == [good[0], good[2], good[4]]
    assert [line.split(":")[0] for line in struct.broken] == ["entry 2", "entry 4 (4.png)"]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "another file", "no struct"])
def test_a_file_that_is_none_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "digitStruct.mat"
    write_digit_struct(path, some_entries(3))
    raw = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"<html>", "cut": raw[: len(raw) // 2]}.get(damage, raw)
    )
    if damage in ("another file", "no struct"):
        path.unlink()
        with h5py.File(path, "w") as file:
            file["digitStruct" if damage == "another file" else "other"] = 3.0
    with pytest.raises(ValueError, match=r"is no digitStruct\.mat") as refused:
        read_digit_struct(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    cut=st.booleans(),
)
def test_a_file_with_changed_bytes_is_read_or_named_or_refused(
    changes: list[tuple[float, int]], cut: bool, tmp_path: Path
) -> None:
    path, whole = tmp_path / "digitStruct.mat", tmp_path / "whole.mat"
    if not whole.exists():
        write_digit_struct(whole, some_entries(4))
    raw = bytearray(whole.read_bytes())
    for where, value in changes:
        raw[int(where * len(raw))] = value
    path.write_bytes(raw[: int(changes[0][0] * len(raw))] if cut else raw)
    try:
        struct = read_digit_struct(path)
    except ValueError as problem:
        assert str(problem).startswith(f"{path}: ")
        assert "\n" not in str(problem)
    else:
        assert len(struct.numbers.names) + len(struct.broken) == 4
        assert np.isin(struct.numbers.label, range(1, 11)).all()
        assert (struct.numbers.box[:, 2:] > struct.numbers.box[:, :2]).all()


READ = """
import json, sys, time
from pathlib import Path
from stn_lightning.datasets.digit_struct import read_digit_struct
start = time.process_time()
numbers = read_digit_struct(Path(sys.argv[1])).numbers
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
most = int(status["VmHWM"].split()[0])
print(json.dumps([time.process_time() - start, most, len(numbers.names), len(numbers.label)]))
"""
"""Prints seconds, the most memory in KiB (`ru_maxrss` begins with that of the process which started
this one), and counts."""


@pytest.mark.slow
def test_as_many_entries_as_svhn_has_are_read_in_two_minutes(tmp_path: Path) -> None:
    path, entries = tmp_path / "digitStruct.mat", some_entries(3340)
    write_digit_struct(path, entries, repeat=10)
    read = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
    )
    seconds, kibibytes, names, labels = json.loads(read.stdout)
    assert names == 33_400
    assert labels == 10 * sum(len(boxes) for _, boxes in entries)
    assert seconds < 120
    assert kibibytes < 2 << 20
