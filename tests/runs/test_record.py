"""A record is read as it was written, and a damaged one is named."""

import dataclasses
from pathlib import Path

import pytest

from stn_lightning.runs.record import RunRecord, read_records, write_records

RECORD = RunRecord(
    name="one",
    configs=["a.yaml"],
    seed=3,
    versions={"torch": "2"},
    metrics={"test/error": 1.5},
    date="2026-11-28",
    settings={"model": {"lr": 0.001}},
    lengths=["1 epochs", "2 epochs"],
    checkpoint="best.ckpt",
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "results.json")
    assert RunRecord.read(tmp_path / "results.json") == RECORD
    two = dataclasses.replace(RECORD, name="two")
    write_records(tmp_path / "new/table.jsonl", [two, RECORD])
    assert list(read_records(tmp_path / "new/table.jsonl").items()) == [
        ("one", RECORD),
        ("two", two),
    ]
    assert read_records(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "a"}',
        '{"name": 1, "seed": 0, "metrics": {}}',
        "\x00",
        '{"name": "a", "seed": true, "metrics": {}}',
        '{"name": "a", "seed": 0, "metrics": {"test/error": "low"}}',
        '{"name": "a", "seed": 0, "metrics": {"test/error": NaN}}',
        '{"name": "a", "seed": 0, "metrics": {}, "configs": 5}',
        '{"name": "a", "seed": 0, "metrics": {}, "versions": [1]}',
        '{"name": "a", "seed": 0, "metrics": {}, "epochs": "ten"}',
        '{"name": "a", "seed": 0, "metrics": {}, "settings": [{}]}',
    ],
)
def test_what_is_no_record_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"results.json: this is no record of a run"):
        RunRecord.read(file)
    (tmp_path / "table.jsonl").write_text(RECORD.to_json() + f"\n{text or '0'}\n")
    with pytest.raises(ValueError, match=r"table.jsonl:2: this is no record"):
        read_records(tmp_path / "table.jsonl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_not_written(value: float, tmp_path: Path) -> None:
    bad = dataclasses.replace(RECORD, metrics={"test/error": 1.0, "test/loss": value})
    with pytest.raises(ValueError, match=r"one: metrics.test/loss is not finite"):
        bad.write(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())
