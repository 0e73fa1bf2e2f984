from pathlib import Path

import pytest

from stn_lightning.runtime.restarts import NoProgressError, count_restart

FIRST = {"SLURM_RESTART_COUNT": ""}
AGAIN = {"SLURM_RESTART_COUNT": "2"}


@pytest.mark.parametrize(
    "again", [{"SLURM_RESTART_COUNT": "1"}, {"TORCHELASTIC_RESTART_COUNT": "3"}]
)
def test_three_restarts_without_a_step_are_an_error(tmp_path: Path, again: dict[str, str]) -> None:
    file = tmp_path / "restarts.json"
    count_restart(file, 0, {})
    count_restart(file, 5, again)
    count_restart(file, 5, again)
    count_restart(file, 5, again)
    with pytest.raises(NoProgressError, match="restarted 3 times without a step beyond batch 5"):
        count_restart(file, 5, again)
    with pytest.raises(NoProgressError):
        count_restart(file, 5, again)


def test_any_progress_begins_the_count_anew(tmp_path: Path) -> None:
    file = tmp_path / "restarts.json"
    for batches in (4, 4, 4, 5, 5, 5, 6, 6, 6, 7):
        count_restart(file, batches, AGAIN)


def test_a_start_by_hand_begins_the_count_anew(tmp_path: Path) -> None:
    file = tmp_path / "restarts.json"
    for _ in range(3):
        for environment in (FIRST, AGAIN, AGAIN):
            count_restart(file, 4, environment)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"batches": "many"}', "\0"])
def test_a_damaged_count_is_one_that_is_not_there(tmp_path: Path, content: str) -> None:
    file = tmp_path / "restarts.json"
    file.write_text(content)
    count_restart(file, 4, AGAIN)
    count_restart(file, 4, AGAIN)


def test_a_count_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count_restart(tmp_path / "no folder" / "restarts.json", 4, AGAIN)
    assert "No such file or directory; training does not need this file" in capsys.readouterr().err
