"""What is said of which readings, and how often."""

import pytest

from stn_lightning.callbacks.transformer_health import READINGS, Reading, TransformerHealth

HEALTHY = Reading(
    outside=0.05,
    largest_scale=0.9,
    smallest_scale=0.7,
    pixels_from_identity=4.0,
    pixels_of_spread=2.0,
    gradient=0.3,
)
SICK = {
    "has left the image": HEALTHY._replace(outside=0.9, gradient=0.0),
    "has collapsed to a point": HEALTHY._replace(largest_scale=0.01, smallest_scale=0.005),
    "is frozen": HEALTHY._replace(gradient=0.0),
    "has gone constant": HEALTHY._replace(pixels_of_spread=1e-4),
}
LONG = 1000


def said(
    patient: TransformerHealth, *readings: Reading, start: int = 0, every: int = 10
) -> list[str]:
    answers = [patient.examine(reading, start + every * i) for i, reading in enumerate(readings)]
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
    """What has left the image has no gradient either, and looks at the same nothing in every
    picture.
    """
    dead = Reading(
        outside=1.0, largest_scale=0.01, smallest_scale=0.01, pixels_of_spread=0.0, gradient=0.0
    )
    (words,) = said(TransformerHealth("transformer"), *[dead] * 20, every=100)
    assert "has left the image (100% of what it reads lies outside, gradient 0)" in words


def test_a_healthy_transformer_is_not_spoken_of() -> None:
    assert said(TransformerHealth("transformer"), *[HEALTHY] * 50, every=100) == []


def test_one_odd_batch_is_no_trouble() -> None:
    readings = [HEALTHY, *[SICK["has left the image"]] * (READINGS - 1)] * 10
    assert said(TransformerHealth("transformer"), *readings) == []


def test_what_could_not_be_measured_shows_nothing() -> None:
    assert said(TransformerHealth("transformer"), *[Reading()] * 10, every=LONG) == []


@pytest.mark.parametrize("what", SICK)
def test_a_warning_comes_again_after_a_recovery_and_not_before(what: str) -> None:
    patient, step, words = TransformerHealth("backbone.transformers.0"), 0, []
    for reading in (SICK[what], HEALTHY, SICK[what]):
        words += said(patient, *[reading] * 10, start=step, every=LONG)
        step += 10 * LONG
    assert [line.split(": ", 1)[1].split(" (")[0] for line in words] == [
        f"backbone.transformers.0 {what}",
        "backbone.transformers.0 has recovered",
        f"backbone.transformers.0 {what}",
    ]


def test_a_transformer_that_has_not_begun_to_learn_is_not_yet_called_constant() -> None:
    """All of them start from one theta for all pictures."""
    patient = TransformerHealth("transformer")
    assert said(patient, *[SICK["has gone constant"]] * 50, every=10) == []  # steps 0 to 490
    assert len(said(patient, SICK["has gone constant"], start=500)) == 1


@pytest.mark.parametrize(
    "reading",
    [
        HEALTHY._replace(outside=0.75),  # shrinks the image to half its height and width
        HEALTHY._replace(largest_scale=0.06, smallest_scale=0.06),  # a crop of 4 pixels in 64
        HEALTHY._replace(gradient=1e-30),  # of a picture that is known by heart
        HEALTHY._replace(pixels_of_spread=0.02),
    ],
)
def test_the_thresholds_are_beyond_what_is_of_use(reading: Reading) -> None:
    assert said(TransformerHealth("transformer"), *[reading] * 20, every=LONG) == []
