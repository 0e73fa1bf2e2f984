"""Docstrings: examples run, first lines are short and plain, words are the field's."""

import ast
import doctest
import importlib
import inspect
import re
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
from torch import nn

import stn_lightning
from stn_lightning import backbones, datamodules, datasets, distortions, tasks, transformers

PACKAGE = Path(stn_lightning.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(
    file
    for room in ("benchmarks", "docs", "examples")
    for file in (PACKAGE.parent / room).glob("*.py")
)
CONFIGS = sorted((PACKAGE.parent / "configs").rglob("*.yaml"))
SUBPACKAGES = sorted({file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES})

METHOD = ("geometry", "transformers", "distortions", "backbones", "tasks")
"""Subpackages whose public classes have an example each."""

WITHOUT_EXAMPLE = {"WarpOutput", "WarpRecord", "StepOutput"}
"""Public classes of the method without an example: transformers and tasks construct them."""

FIRST_WORDS = {"Of", "What", "Whether", "That", "How", "Where", "When"}

WORDS = re.compile(r"picture|photograph|misread|\bpasses\b|\bmarked\b", re.IGNORECASE)

LITERAL: set[tuple[str, str]] = set()
"""(file, line) where one of these words is meant literally."""

all_subpackages = pytest.mark.parametrize("subpackage", SUBPACKAGES)


def files_of(subpackage: str) -> Iterator[Path]:
    return (f for f in FILES if f.relative_to(PACKAGE).parts[0].removesuffix(".py") == subpackage)


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def first_lines(file: Path) -> Iterator[tuple[str, str]]:
    """(place, first line) of each docstring of a module, class or function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                name = getattr(node, "name", "module")
                yield f"{file.relative_to(PACKAGE.parent)}: {name}", text.split("\n")[0]


def public_names() -> dict[str, object]:
    subpackages = (backbones, datamodules, datasets, distortions, tasks, transformers)
    return {
        name: getattr(subpackage, name) for subpackage in subpackages for name in subpackage.__all__
    }


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user, whose shapes are not checked."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.manual_seed(0)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", [module_of(file) for file in FILES if ">>> " in file.read_text()])
def test_examples_run(name: str) -> None:
    names = {"torch": torch, "nn": nn, **public_names()}
    module: ModuleType = importlib.import_module(name)
    results = doctest.testmod(
        module, extraglobs={k: v for k, v in names.items() if k not in vars(module)}
    )
    assert results.failed == 0  # the difference is on the console


@pytest.mark.parametrize("subpackage", METHOD)
def test_each_public_class_of_the_method_has_an_example(subpackage: str) -> None:
    module = importlib.import_module(f"stn_lightning.{subpackage}")
    classes = [getattr(module, name) for name in module.__all__]
    without = {
        value.__name__
        for value in classes
        if isinstance(value, type)
        and not getattr(value, "__abstractmethods__", None)
        and ">>>" not in (value.__doc__ or "")
    }
    assert without <= WITHOUT_EXAMPLE


FAMILIES = [
    transformers.Affine,
    transformers.Attention,
    transformers.Similarity,
    transformers.Projective,
    transformers.Affine3D,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_help_shows_a_familys_own_signature(family: type) -> None:
    assert str(inspect.signature(family)) == "() -> None"


def check_first_lines(files: Iterable[Path]) -> None:
    lines = [pair for file in files for pair in first_lines(file)]
    long = [f"{place}: {line}" for place, line in lines if len(line.split()) > 10]
    riddles = [f"{place}: {line}" for place, line in lines if line.split()[0] in FIRST_WORDS]
    open_ends = [f"{place}: {line}" for place, line in lines if line[-1] not in ".:?!"]
    assert long == riddles == open_ends == []


@all_subpackages
def test_a_first_line_is_short_plain_and_says_what_it_does(subpackage: str) -> None:
    check_first_lines(files_of(subpackage))


def test_first_lines_of_scripts_are_too() -> None:
    assert SCRIPTS
    check_first_lines(SCRIPTS)


@all_subpackages
def test_an_argument_is_described_by_a_noun(subpackage: str) -> None:
    fragment = re.compile(r"^ +\w+: (of|for|where|how many|which) .*[.,;]$", re.MULTILINE)
    texts = {file.name: fragment.findall(file.read_text()) for file in files_of(subpackage)}
    assert {name: found for name, found in texts.items() if found} == {}


def test_first_lines_have_eight_words_at_the_median() -> None:
    lines = [line for file in FILES for _, line in first_lines(file)]
    assert statistics.median(len(line.split()) for line in lines) <= 8


def strange_words(files: Iterable[Path]) -> list[str]:
    return [
        f"{file.name}: {line}"
        for file in files
        for line in file.read_text().splitlines()
        if WORDS.search(line) and (file.name, line.strip()) not in LITERAL
    ]


@all_subpackages
def test_words_are_the_fields(subpackage: str) -> None:
    assert strange_words(files_of(subpackage)) == []


def test_words_of_configurations_and_scripts_are_the_fields() -> None:
    assert strange_words([*CONFIGS, *SCRIPTS]) == []
