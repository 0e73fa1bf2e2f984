"""Spatial transformer networks as a Lightning training pipeline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stn_lightning.analysis.run import load_run as load_run

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import `load_run` and PyTorch at the first use."""
    if name == "load_run":
        from stn_lightning.analysis.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
