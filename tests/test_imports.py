"""Imports run one way, and this is the table that says which."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import stn_lightning

PACKAGE = Path(stn_lightning.__file__).parent
EVERYTHING = None
ANYWHERE = {"jaxtyping", "shapes"}
"""Shapes in signatures."""
RUNTIME = {"torch", "numpy", "lightning", "runtime"}
METHOD = {"geometry", "transformers", "tasks", "batch", "backbones", "layers"}

TABLE: dict[str, set[str] | None] = {
    # the method
    "geometry": {"torch"},
    "layers": {"torch"},
    "shapes": {"torch"},
    "batch": {"torch"},
    "transformers": {"torch", "geometry", "layers"},
    "backbones": {"torch", "torchvision", "timm", "safetensors", "layers"},
    "distortions": {"torch", "geometry"},
    "tasks": {"torch", "torchmetrics", "lightning"}
    | {"transformers", "geometry", "distortions", "batch", "backbones", "datamodules", "runtime"},
    # the data
    "datasets": {"torch", "numpy", "PIL", "h5py", "sklearn", "rich", "batch", "runtime"},
    "datamodules": {"torch", "lightning", "datasets", "distortions", "batch", "runtime"},
    "synthetic": {"torch", "lightning", "geometry", "datasets", "datamodules"}
    | {"distortions", "batch"},
    # the runtime
    "runtime": {"torch", "numpy", "lightning", "filelock"},
    # running and using
    "zoo": {"torch", "safetensors", "runtime"},
    "runs": {
        "zoo",
        "torch",
        "lightning",
        "yaml",
        "jsonargparse",
        "safetensors",
        "tasks",
        "batch",
        "transformers",
    }
    | {"datamodules", "runtime"},
    "callbacks": {"torch", "torchmetrics", "tensorboard", "numpy", "PIL", "lightning"}
    | {"geometry", "transformers", "tasks", "batch", "datamodules", "runtime", "runs"},
    "cli": EVERYTHING,
    "analysis": EVERYTHING,
    "launch": EVERYTHING,
    "__main__": EVERYTHING,
}
"""For each subpackage the subpackages and libraries, other than Python's own, that it may import.
Nothing imports the last two.
"""


def subpackages() -> list[str]:
    entries = [
        path
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    return sorted(path.stem for path in entries if path.name != "__init__.py")


def files(subpackage: str) -> list[Path]:
    return (
        [PACKAGE / f"{subpackage}.py"]
        if (PACKAGE / f"{subpackage}.py").exists()
        else sorted((PACKAGE / subpackage).rglob("*.py"))
    )


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Subpackages and libraries that a file imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path}:{node.lineno}: import by the full name, not relative to the file"
            )
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "stn_lightning"
                else [str(node.module)]
            )
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            yield rest[0] if first == "stn_lightning" and rest else first, node.lineno


def test_every_subpackage_is_in_the_table() -> None:
    assert not set(subpackages()) - set(TABLE)


@pytest.mark.parametrize("subpackage", subpackages())
def test_a_subpackage_imports_only_what_the_table_lets_it(subpackage: str) -> None:
    allowed = TABLE[subpackage]
    found = 0
    for path in files(subpackage):
        for name, line in imported(path):
            found += 1
            if name == subpackage or name in ANYWHERE or name in sys.stdlib_module_names:
                continue
            where = f"{path.relative_to(PACKAGE.parent)}:{line}"
            assert name not in ("cli", "__main__") or subpackage in ("__main__", "launch"), (
                f"{where}: nothing imports the command line"
            )
            if allowed is not EVERYTHING:
                assert name in allowed, f"{where}: {subpackage} may not import {name}"
    assert found


def test_the_table_has_no_circle() -> None:
    graph = {subpackage: allowed or set() for subpackage, allowed in TABLE.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert (
        order.index("geometry")
        < order.index("transformers")
        < order.index("tasks")
        < order.index("callbacks")
    )


def test_pure_subpackages_know_nothing_of_lightning() -> None:
    knowing = {
        subpackage
        for subpackage in subpackages()
        for path in files(subpackage)
        for name, _ in imported(path)
        if name in ("lightning", "pytorch_lightning")
    }
    assert {"datamodules", "tasks"} <= knowing
    assert not knowing & {"geometry", "transformers", "distortions", "backbones", "datasets"}


def test_no_subpackage_or_file_is_called_by_a_name_that_means_nothing() -> None:
    names = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
    assert not names & {
        "utils",
        "util",
        "common",
        "helpers",
        "helper",
        "misc",
        "core",
        "models",
        "modules",
        "transforms",
    }


def test_the_package_alone_is_imported_without_pytorch() -> None:
    code = (
        "import sys, stn_lightning; print(stn_lightning.__version__, "
        "'torch' in sys.modules, 'lightning' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == [stn_lightning.__version__, "False", "False"]


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    ]


@pytest.mark.parametrize(
    "name", [name for name in sorted(modules()) if not name.endswith("__main__")]
)
def test_a_module_and_everything_it_makes_public_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} does not say what it is"
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        assert own_docstring(thing), f"{name}.{public} has no docstring"


def own_docstring(thing: object) -> str:
    """What stands in the source: neither inherited nor made up by `NamedTuple`."""
    if isinstance(thing, ModuleType):
        return (thing.__doc__ or "").strip()
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    (node,) = ast.parse(inspect.getsource(thing)).body
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return ast.get_docstring(node) or ""
