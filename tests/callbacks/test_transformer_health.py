"""Warnings: of which statistics, and how often."""

import pytest

from stn_lightning.callbacks.transformer_health import BATCHES, TransformerHealth, WarpStatistics

HEALTHY = WarpStatistics(
    out_of_bounds=0.05,
    largest_scale=0.9,
    smallest_scale=0.7,
    displacement=4.0,
    spread=2.0,
    gradient=0.3,
)
SICK = {
    "has left the image": HEALTHY._replace(out_of_bounds=0.9, gradient=0.0),
    "has collapsed to a point": HEALTHY._replace(largest_scale=0.01, smallest_scale=0.005),
    "is frozen": HEALTHY._replace(gradient=0.0),
    "has gone constant": HEALTHY._replace(spread=1e-4),
}
LONG = 1000


def said(
    health: TransformerHealth, *readings: WarpStatistics, start: int = 0, every: int = 10
) -> list[str]:
    answers = [health.update(reading, start + every * i) for i, reading in enumerate(readings)]
    return [answer for answer in answers if answer is not None]


@pytest.mark.parametrize("what", SICK)
def test_each_trouble_is_named_once_with_its_step_its_figures_and_advice(what: str) -> None:
    (words,) = said(TransformerHealth("transformer"), *[SICK[what]] * 20, every=100)
    assert words.startswith("warning, step ")
    assert f": transformer {what} (" in words
    figures, advice = words.split(" (", 1)[1].split("); ", 1)
    assert any(character.isdigit() for character in figures) or "zero" in figures
    assert len(advice) > 40


def test_the_cause_is_named_and_not_its_consequences() -> None:
    """What has left the image has no gradient either, and the same crop of every image."""
    dead = WarpStatistics(
        out_of_bounds=1.0, largest_scale=0.01, smallest_scale=0.01, spread=0.0, gradient=0.0
    )
    (words,) = said(TransformerHealth("transformer"), *[dead] * 20, every=100)
    assert "has left the image (100% of its samples are out of bounds, gradient 0)" in words


def test_a_healthy_transformer_gets_no_message() -> None:
    assert said(TransformerHealth("transformer"), *[HEALTHY] * 50, every=100) == []


def test_one_odd_batch_is_no_trouble() -> None:
    readings = [HEALTHY, *[SICK["has left the image"]] * (BATCHES - 1)] * 10
    assert said(TransformerHealth("transformer"), *readings) == []


def test_what_could_not_be_measured_shows_nothing() -> None:
    assert said(TransformerHealth("transformer"), *[WarpStatistics()] * 10, every=LONG) == []


@pytest.mark.parametrize("what", SICK)
def test_a_warning_comes_again_after_a_recovery_and_not_before(what: str) -> None:
    health, step, words = TransformerHealth("backbone.transformers.0"), 0, []
    for reading in (SICK[what], HEALTHY, SICK[what]):
        words += said(health, *[reading] * 10, start=step, every=LONG)
        step += 10 * LONG
    assert [line.split(": ", 1)[1].split(" (")[0] for line in words] == [
        f"backbone.transformers.0 {what}",
        "backbone.transformers.0 has recovered",
        f"backbone.transformers.0 {what}",
    ]


def test_a_crop_that_came_back_mirrored_is_called_so() -> None:
    """As after a scale that has passed through 0."""
    health, mirrored = TransformerHealth("transformer"), HEALTHY._replace(mirrored=0.98)
    collapsed = [SICK["has collapsed to a point"]] * BATCHES
    assert said(health, *collapsed, *[mirrored] * BATCHES)[1:] == [
        "step 50: transformer has recovered, but its crops are mirrored"
    ]


def test_a_transformer_that_has_not_begun_to_learn_is_not_yet_called_constant() -> None:
    """All of them start from one theta for all images."""
    health = TransformerHealth("transformer")
    assert said(health, *[SICK["has gone constant"]] * 50, every=10) == []  # steps 0 to 490
    assert len(said(health, SICK["has gone constant"], start=500)) == 1


@pytest.mark.parametrize(
    "statistics",
    [
        HEALTHY._replace(out_of_bounds=0.75),  # shrinks the image to half its height and width
        HEALTHY._replace(largest_scale=0.06, smallest_scale=0.06),  # a crop of 4 pixels in 64
        HEALTHY._replace(gradient=1e-30),  # of an image that is known by heart
        HEALTHY._replace(spread=0.02),
    ],
)
def test_the_thresholds_are_beyond_what_is_of_use(statistics: WarpStatistics) -> None:
    assert said(TransformerHealth("transformer"), *[statistics] * 20, every=LONG) == []
