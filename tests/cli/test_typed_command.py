"""A function's types and docstring are its command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from stn_lightning.cli.typed_command import call

seen: dict[str, Any] = {}


@dataclass(frozen=True)
class Size:
    """A size.

    Args:
        width: how wide.
    """

    width: int = 3


def draw(
    file: Path,
    *,
    config: Sequence[Path] = (),
    seeds: Sequence[int] = (0,),
    colour: Literal["red", "blue"] = "red",
    name: str | None = None,
    fill: bool = False,
    size: Size = Size(),
    fit_options: Sequence[str] = (),
) -> int:
    """Draw a file.

    Slowly.

    Args:
        file: what is drawn, 100 %.
        config: files.
        fill: fill it.

    Returns:
        the exit code.
    """
    seen.update(locals())
    if name == "bad":
        raise ValueError("a bad name")
    return 3


def greet(*people: str) -> int:
    """Greet people."""
    seen.update(people=people)
    return 0


def search(*, steps: int = 1, other_options: Sequence[str] = ()) -> int:
    """Search."""
    seen.update(locals())
    return 0


def test_options_become_arguments_of_their_types() -> None:
    words = ["a.txt", "--config", "x", "--config", "y", "--seeds", "1", "2", "--colour", "blue"]
    assert call(draw, [*words, "--fill", "--width", "5", "--", "--flag", "--k", "v"]) == 3
    assert seen["file"] == Path("a.txt")
    assert seen["config"] == [Path("x"), Path("y")]
    assert (seen["seeds"], seen["colour"], seen["name"], seen["fill"]) == (
        [1, 2],
        "blue",
        None,
        True,
    )
    assert seen["size"] == Size(5)
    assert seen["fit_options"] == ["--flag", "--k", "v"]


def test_what_is_left_out_has_its_default() -> None:
    call(draw, ["a.txt"])
    assert (seen["config"], seen["seeds"], seen["size"]) == ((), (0,), Size(3))
    call(greet, ["Ann", "Bo"])
    assert seen["people"] == ("Ann", "Bo")
    call(greet, [])
    assert seen["people"] == ()
    call(search, ["--steps", "2", "--other", "1"])
    assert (seen["steps"], seen["other_options"]) == (2, ["--other", "1"])


def test_the_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        call(draw, ["--help"])
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("Draw a file. Slowly.", "what is drawn, 100 %.", "--fill fill it.", "how wide."):
        assert part in text
    assert "Returns" not in text


def test_a_wrong_word_and_a_wrong_value_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(draw, ["a.txt", "--name", "bad"]) == 2
    assert capsys.readouterr().err == "stn draw: a bad name\n"
    for words in (["--seeds", "one", "a.txt"], ["a.txt", "--nmae", "x"], []):
        with pytest.raises(SystemExit) as leaving:
            call(draw, words)
        assert leaving.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_function_of_arguments_parses_them_itself() -> None:
    def raw(arguments: list[str]) -> int:
        seen.update(arguments=arguments)
        return 0

    assert call(raw, ["--help", "--x"]) == 0
    assert seen["arguments"] == ["--help", "--x"]


def test_a_misspelt_option_is_answered_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(draw, ["a.png", "--seed=1"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --seed=1 - did you mean --seeds?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--trainer.max_epochs", "options of stn fit come after --: stn draw ... -- --trainer.max"),
        ("quickstart.yaml", "a file is given by --config: --config quickstart.yaml"),
    ],
)
def test_an_option_of_fit_and_a_file_without_option_are_answered_with_where_they_go(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(draw, ["a.png", word])
    assert f"unrecognized arguments: {word}; {hint}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(greet, ["--trainer.max_epochs"])  # it takes no options of stn fit
    assert "after --:" not in capsys.readouterr().err


def test_an_error_of_the_system_names_the_file_and_no_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(file: Path) -> int:
        return len(file.read_text())

    assert call(read, ["nowhere/a.txt"]) == 2
    assert capsys.readouterr().err == "stn read: nowhere/a.txt: No such file or directory\n"
