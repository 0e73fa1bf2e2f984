"""Spatial transformer networks as a Lightning training pipeline."""

__version__ = "0.1.0"
