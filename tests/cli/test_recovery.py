"""The quickstart from a crop that lies outside of the image: noticed, and brought back; and from
its usual start, nothing to notice.
"""

import json
from pathlib import Path

import pytest

from tests.stn_command import Stn

pytestmark = pytest.mark.slow

TRANSFORMER = "--model.init_args.transformer.init_args"
BAD = (
    f"{TRANSFORMER}.start=stn_lightning.transformers.NoisyIdentity",
    f"{TRANSFORMER}.start.init_args.std=1.0",
    f"{TRANSFORMER}.start.init_args.seed=21",
)
BACK = (
    "--model.init_args.out_of_bounds_penalty=1.0",
    "--model.init_args.localisation_lr_scale=0.3",
    f"{TRANSFORMER}.sampler=stn_lightning.transformers.WideGradient",
)


def quickstart(stn: Stn, *options: str) -> tuple[list[str], float]:
    """What was said of the transformer, and the test error, after 20 of the quickstart's 60 passes."""
    code, out, err = stn(
        "fit", "--config", "configs/quickstart.yaml", "--trainer.max_epochs=20", *options
    )
    assert (code, err) == (0, "")
    said = [
        line for line in out.splitlines() if "transformer has" in line or "transformer is" in line
    ]
    return said, json.loads(Path("runs/quickstart/results.json").read_text())["metrics"][
        "test/error"
    ]


def test_the_usual_start_gives_no_false_alarm(stn: Stn) -> None:
    said, error = quickstart(stn)
    assert said == []
    assert error < 10


def test_a_start_outside_of_the_image_is_told_and_lost(stn: Stn) -> None:
    (said,), error = quickstart(stn, *BAD)
    assert said.startswith(
        "warning, step 30: transformer has left the image (100% of what it reads lies outside, gradient 0)"
    )
    assert error > 80


def test_a_start_outside_of_the_image_is_brought_back(stn: Stn) -> None:
    (left, back), error = quickstart(stn, *BAD, *BACK)
    assert left.startswith("warning, step 30: transformer has left the image")
    assert back.endswith("transformer has recovered")
    assert error < 25
