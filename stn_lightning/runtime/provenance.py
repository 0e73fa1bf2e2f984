"""Versions, commit and name of this software.

They are used in records, bug reports and messages. Standard library only; packages are not imported
to find their versions.
"""

import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "stn-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "numpy",
)
PACKAGE = Path(__file__).parents[1]
OPTIONAL = ("timm", "onnx", "onnxscript", "onnxruntime", "optuna", "kornia", "monai")


def versions() -> dict[str, str]:
    """Return the versions of Python and packages.

    Optional packages are left out if they are not installed.
    """
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in PACKAGES:
                found[name] = "not installed"
    return found


def commit() -> str | None:
    """Return this source's commit, with + if files changed.

    Outside of this repository it is None.
    """
    if not (PACKAGE.parent / ".git").exists():  # it may be installed within another repository
        return None
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return (
            subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True).stdout.strip()
            or None
        )
    except FileNotFoundError:
        return None


def program_name() -> str:
    """Return the command by which this program was called.

    For example `stn`, `.venv/bin/stn` or `.venv/bin/python -m stn_lightning`.
    """
    called = Path(sys.argv[0])
    if called.name == "stn":
        return _typed(called)
    return (
        f"{_typed(Path(sys.executable))} -m stn_lightning"
        if called == PACKAGE / "__main__.py"
        else "stn"
    )


def _typed(file: Path) -> str:
    """Return the shortest name that a shell here finds."""
    here, file = Path.cwd(), file.absolute()
    if shutil.which(file.name) == str(file):
        return file.name
    return shlex.quote(str(file.relative_to(here) if file.is_relative_to(here) else file))
