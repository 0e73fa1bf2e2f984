"""Lightning's private names: in one file, and where that file expects them."""

import ast
import importlib
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch
from lightning import Callback, LightningModule, Trainer
from packaging.requirements import Requirement

import stn_lightning
from stn_lightning.runtime import lightning_internals
from stn_lightning.runtime.distributed import DDP
from tests.reliability.training import train

PACKAGE = Path(stn_lightning.__file__).parent
ONLY = Path(lightning_internals.__file__)
NAMEDTUPLE = {"_replace", "_asdict", "_fields", "_make"}
PRIVATE = re.compile(r"\b_[a-z]\w*")


def lightning_names() -> set[str]:
    """Every private name in Lightning's source."""
    files = Path(lightning.pytorch.__file__).parent.rglob("*.py")
    return {name for file in files for name in PRIVATE.findall(file.read_text())} - NAMEDTUPLE


def own_names(tree: ast.Module) -> set[str]:
    """Private names that a file defines itself."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return defined | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_no_other_file_touches_a_private_name_of_an_object_of_lightning() -> None:
    names, found = lightning_names(), []
    for path in PACKAGE.rglob("*.py"):
        if path == ONLY:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and not is_self(node.value) and node.attr in names:
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lightning"):
                found += [
                    f"{path.name}:{node.lineno} {alias.name}"
                    for alias in node.names
                    if alias.name.startswith("_")
                ]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
                name = ast.unparse(node.args[1]).strip("'")
                found += [f"{path.name}:{node.lineno} {name}"] * (name in names)
    allowed = {"parser._actions"}  # of argparse
    assert [line for line in found if line.rpartition(" ")[2] not in allowed] == []


def test_no_other_class_uses_or_replaces_a_private_name_of_its_lightning_base() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path == ONLY or path.name == "__main__.py" or "lightning" not in path.read_text():
            continue
        module = importlib.import_module(
            ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        )
        for _, cls in inspect.getmembers(module, inspect.isclass):
            bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("lightning.")]
            if cls.__module__ != module.__name__ or not bases:
                continue
            theirs = {
                name
                for base in bases
                for name in [
                    *vars(base),
                    *re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(base)),
                ]
            }
            tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
            used = own_names(tree) | {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and is_self(node.value)
            }
            clash = {name for name in used & theirs if re.match(r"_[a-z]", name)}
            found += [f"{path.name}: {cls.__name__}.{name}" for name in sorted(clash)]
    assert found == []


class Ask(Callback):
    """Asks everything at the end of each batch."""

    def __init__(self) -> None:
        self.answers: list[tuple[bool, bool, bool]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.answers.append(
            (
                lightning_internals.is_accumulating(trainer),
                lightning_internals.validation_follows(trainer),
                lightning_internals.epoch_is_complete(trainer),
            )
        )
        assert lightning_internals.may_stop_early(trainer)
        assert not lightning_internals.validates_by_clock(trainer)


def test_the_loops_tell_where_the_training_is(tmp_path: Path) -> None:
    ask = Ask()
    train(tmp_path, ask, epochs=1, accumulate_grad_batches=2, val_check_interval=4)
    batches = range(1, 12)
    assert ask.answers == [(n % 2 == 1 and n < 11, n % 4 == 0, n == 11) for n in batches]


def test_a_validation_by_the_clock_is_recognised(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, val_check_interval={"hours": 1})
    assert lightning_internals.validates_by_clock(trainer)


def test_what_is_replaced_is_what_lightning_has() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    for owner, name in (
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
        (trainer.fit_loop, "_restarting"),
        (trainer._logger_connector, "_callback_metrics"),
    ):
        assert hasattr(owner, name), f"{type(owner).__name__}.{name} is gone"
    lightning_internals.disable_signal_handlers(trainer)
    trainer._signal_connector.register_signal_handlers()
    assert lightning_internals.ddp_options(DDP(static_graph=True))["static_graph"]
    timeout = lightning_internals.ddp_timeout(DDP(minutes=2.0))
    assert timeout is not None
    assert timeout.total_seconds() == 120


def test_the_installed_lightning_was_tested_and_later_ones_are_not_installed() -> None:
    assert version("lightning") in lightning_internals.TESTED_VERSIONS
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    (bound,) = (
        Requirement(line).specifier
        for line in project["dependencies"]
        if Requirement(line).name == "lightning"
    )
    assert all(bound.contains(each) for each in lightning_internals.TESTED_VERSIONS)
    major, minor, _ = lightning_internals.TESTED_VERSIONS[-1].split(".")
    assert not bound.contains(f"{major}.{int(minor) + 1}.0")
