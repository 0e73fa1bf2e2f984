"""When a transformer is in trouble, and what to say about it."""

import math
from collections.abc import Callable
from typing import NamedTuple

READINGS = 3
"""In a row that show the same before it is believed: one batch may be odd."""


class Reading(NamedTuple):
    """What was measured of one transformer on one batch. A number that could not be measured is NaN
    and shows nothing.
    """

    outside: float = math.nan
    """part of the samples that lies outside of the image, 0 to 1; the mean over the pictures"""
    largest_scale: float = math.nan
    """singular value of the grid's Jacobian; the median over pictures and places"""
    smallest_scale: float = math.nan
    """likewise"""
    pixels_from_identity: float = math.nan
    """of the input, that a sample has been moved by; the median over the pictures"""
    pixels_of_spread: float = math.nan
    """of the input, by which a sample's place differs from picture to picture: a standard deviation
    """
    gradient: float = math.nan
    """norm of the gradient of a picture's loss with respect to its theta; the mean over the
    pictures
    """


class Symptom(NamedTuple):
    """A trouble by which a reading is known."""

    what: str
    shows: Callable[[Reading], bool]
    figures: Callable[[Reading], str]
    advice: str
    steps: int = 0
    """for which it must have lasted"""


LEFT = Symptom(
    "has left the image",
    lambda r: r.outside > 0.75,
    lambda r: f"{r.outside:.0%} of what it reads lies outside, gradient {r.gradient:.1g}",
    "bring it back with out_of_bounds_penalty: 1 or the sampler WideGradient; lower the learning rate or localisation_lr_scale; check its start",
)
COLLAPSED = Symptom(
    "has collapsed to a point",
    lambda r: r.largest_scale < 0.05,
    lambda r: f"it looks at {r.largest_scale:.1%} of the image's side",
    "keep its scale in bounds (Bounded); lower the learning rate or localisation_lr_scale; check its start",
)
FROZEN = Symptom(
    "is frozen",
    lambda r: r.gradient == 0,
    lambda r: (
        f"the gradient at theta is exactly zero, {r.outside:.0%} of what it reads lies outside"
    ),
    "if it sees nothing but background, start it elsewhere or take the sampler WideGradient; else check that its output reaches the loss "
    "and that the sampler is not Nearest",
)
CONSTANT = Symptom(
    "has gone constant",
    lambda r: r.pixels_of_spread < 0.01,
    lambda r: f"it looks at the same place of every picture, to {r.pixels_of_spread:.1g} pixels",
    "its localisation may be dead (ReLUs that are zero for all pictures: lower the learning rate, start anew) or learn too slowly (raise "
    "localisation_lr_scale)",
    steps=500,
)
SYMPTOMS = (LEFT, COLLAPSED, FROZEN, CONSTANT)
"""The cause before its consequences: one that has left the image is usually frozen, and one that is
frozen stays constant.
"""


class TransformerHealth:
    """Remembers what one transformer has shown, and speaks only when that changes.

    Args:
        name: of the transformer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: Symptom | None = None
        self.since, self.readings = 0, 0
        self.told: Symptom | None = None

    def examine(self, reading: Reading, step: int) -> str | None:
        """What is to be said of `reading`: a warning, that it has recovered, or nothing that has
        not been said.
        """
        shows = next((symptom for symptom in SYMPTOMS if symptom.shows(reading)), None)
        if shows is not self.shown:
            self.shown, self.since, self.readings = shows, step, 0
        self.readings += 1
        lasting = step - self.since >= (shows.steps if shows else 0)
        if shows is self.told or self.readings < READINGS or not lasting:
            return None
        self.told = shows
        if shows is None:
            return f"step {step}: {self.name} has recovered"
        return f"warning, step {step}: {self.name} {shows.what} ({shows.figures(reading)}); {shows.advice}"
