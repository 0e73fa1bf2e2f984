"""Which software this is: for results, and for the report of a bug.

Standard library only, and nothing is imported to be asked for its version.
"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("stn-lightning", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
OPTIONAL = ("timm", "onnx", "onnxscript", "onnxruntime", "optuna", "kornia", "monai")


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on; of the optional ones, those that are there."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in PACKAGES:
                found[name] = "not installed"
    return found


def commit() -> str | None:
    """Of the source this runs from, with a + where files differ from it; None outside of a repository."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():  # a package installed below some other repository
        return None
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None
