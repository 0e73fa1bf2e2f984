"""Synthetic data sets, each for one experiment."""

from stn_lightning.synthetic.digit_pairs import DigitPairs
from stn_lightning.synthetic.numbers import DigitPool, SyntheticNumber
from stn_lightning.synthetic.numbers_datamodule import SyntheticNumbersDataModule

__all__ = ["DigitPairs", "DigitPool", "SyntheticNumber", "SyntheticNumbersDataModule"]
