"""Recognise transformers that do not train, and give advice."""

import math
from collections.abc import Callable
from typing import NamedTuple

BATCHES = 3
"""Number of batches in a row that must meet a condition before it is reported."""


class WarpStatistics(NamedTuple):
    """Measures of one transformer on one batch, NaN if unknown."""

    out_of_bounds: float = math.nan
    """share of the sampled points that are out of bounds, 0 to 1; mean over the images"""
    largest_scale: float = math.nan
    """largest singular value of the grid's Jacobian; median over images and cells of the grid"""
    smallest_scale: float = math.nan
    """smallest singular value of the grid's Jacobian; likewise"""
    displacement: float = math.nan
    """mean distance of points from those of the identity, in pixels of the input; median over the
    images
    """
    spread: float = math.nan
    """standard deviation of a point over the images, in pixels of the input"""
    gradient: float = math.nan
    """norm of the gradient of an image's loss with respect to its theta; mean over the images"""
    mirrored: float = math.nan
    """share of the crops that are mirrored, 0 to 1"""


class Trouble(NamedTuple):
    """A condition that is warned of."""

    name: str
    shows: Callable[[WarpStatistics], bool]
    figures: Callable[[WarpStatistics], str]
    advice: str
    steps: int = 0
    """number of steps that it must last before it is reported"""


LEFT = Trouble(
    "has left the image",
    lambda s: s.out_of_bounds > 0.75,
    lambda s: f"{s.out_of_bounds:.0%} of its samples are out of bounds, gradient {s.gradient:.1g}",
    "bring it back with out_of_bounds_penalty: 1 or the sampler WideGradient; lower the learning "
    "rate or localisation_lr_scale; check its start",
)
COLLAPSED = Trouble(
    "has collapsed to a point",
    lambda s: s.largest_scale < 0.05,
    lambda s: f"its crop has {s.largest_scale:.1%} of the image's side",
    "bound its scale with BoundedFamily; lower the learning rate or localisation_lr_scale; check "
    "its start",
)
FROZEN = Trouble(
    "is frozen",
    lambda s: s.gradient == 0,
    lambda s: (
        f"the gradient of theta is exactly zero, {s.out_of_bounds:.0%} of its samples are out of "
        "bounds"
    ),
    "if its crop is all background, start it elsewhere or take the sampler WideGradient; else "
    "check that its output reaches the loss and that the sampler is not Nearest",
)
CONSTANT = Trouble(
    "has gone constant",
    lambda s: s.spread < 0.01,
    lambda s: f"its crops of all images are in the same place, to {s.spread:.1g} pixels",
    "its localisation may be dead (ReLUs that are zero for all images: lower the learning rate, "
    "start again) or learn too slowly (raise localisation_lr_scale)",
    steps=500,
)
TROUBLES = (LEFT, COLLAPSED, FROZEN, CONSTANT)
"""In this order, as the first often causes the second: a transformer that has left the image has no
gradient, and one without a gradient stays constant.
"""


class TransformerHealth:
    """Follow the statistics of one transformer, and report changes.

    Args:
        name: name of the transformer, for messages.

    Examples:
        >>> health = TransformerHealth("transformer")
        >>> for step in range(3):
        ...     message = health.update(WarpStatistics(gradient=0.0, out_of_bounds=0.5), step)
        >>> message[:44]
        'warning, step 2: transformer is frozen (the '
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.current: Trouble | None = None
        self.since, self.batches = 0, 0
        self.reported: Trouble | None = None

    def update(self, statistics: WarpStatistics, step: int) -> str | None:
        """Return a message if the condition has changed."""
        trouble = next((each for each in TROUBLES if each.shows(statistics)), None)
        if trouble is not self.current:
            self.current, self.since, self.batches = trouble, step, 0
        self.batches += 1
        lasting = step - self.since >= (trouble.steps if trouble else 0)
        if trouble is self.reported or self.batches < BATCHES or not lasting:
            return None
        self.reported = trouble
        if trouble is None:
            but = ", but its crops are mirrored" if statistics.mirrored > 0.5 else ""
            return f"step {step}: {self.name} has recovered{but}"
        figures = trouble.figures(statistics)
        return f"warning, step {step}: {self.name} {trouble.name} ({figures}); {trouble.advice}"


class AlignmentHealth:
    """Reports a transformer that does not rotate with its images.

    It is reported after the first half of the training, and again if it begins to rotate later.
    """

    threshold = 0.5
    """Smallest correlation with the applied angle at which a transformer counts as rotating. It is
    exactly 0 for families that cannot rotate, which are not reported.
    """
    steps = 500
    """Number of steps at the start in which nothing is reported."""

    def __init__(self) -> None:
        self.follows = True

    def update(self, correlation: float, progress: float, step: int) -> str | None:
        """Return a message if the condition has changed.

        Args:
            correlation: correlation of the crop's angle with the applied angle.
            progress: progress of the training, 0 to 1.
            step: step of the training.
        """
        follows = correlation >= self.threshold
        early = step < self.steps or progress < 0.5
        if early or correlation == 0 or follows == self.follows:
            return None
        self.follows = follows
        if follows:
            return f"step {step}: transformer turns with its images (correlation {correlation:.2f})"
        return (
            f"warning, step {step}: transformer does not turn with its images (correlation "
            f"{correlation:.2f} with the applied angle, 1 is upright); let distortions grow "
            "(data.init_args.curriculum: 0.5), smooth the labels (label_smoothing: 0.1), give it "
            "the ink's moments (MomentLocalisation, MomentCrop) or take a smaller backbone"
        )
