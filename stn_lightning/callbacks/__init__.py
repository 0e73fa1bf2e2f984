"""What is looked at, written down and guarded while it trains."""

from stn_lightning.callbacks.panel import Panel
from stn_lightning.callbacks.progress import EpochLines, Summary
from stn_lightning.callbacks.results import Results
from stn_lightning.callbacks.theta import ThetaHistograms
from stn_lightning.callbacks.throughput import Throughput

__all__ = ["EpochLines", "Panel", "Results", "Summary", "ThetaHistograms", "Throughput"]
