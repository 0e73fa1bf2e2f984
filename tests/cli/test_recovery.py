"""ST-CNN Aff on the quickstart's data from a crop that lies outside of the image: noticed, and
brought back; and from its usual start, nothing to notice.
"""

import json
from pathlib import Path

import pytest

from tests.stn_command import Stn

pytestmark = pytest.mark.slow

FILES = (
    "--config=configs/quickstart_cnn.yaml",
    "--config=configs/mnist/networks/st_cnn_affine.yaml",
)
PLAIN = (
    "--monitor=val/loss",
    "--data.init_args.curriculum=0.0",
    "--model.init_args.label_smoothing=0.0",
)
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


def train(stn: Stn, *options: str) -> tuple[list[str], float]:
    """Return what was said of the transformer, and the test error, after 20 epochs."""
    code, out, err = stn("fit", *FILES, *PLAIN, "--trainer.max_epochs=20", "--name=plain", *options)
    assert (code, err) == (0, "")
    said = [
        line for line in out.splitlines() if "transformer has" in line or "transformer is" in line
    ]
    return said, json.loads(Path("runs/plain/results.json").read_text())["metrics"]["test/error"]


def test_the_usual_start_gives_no_false_alarm(stn: Stn) -> None:
    said, error = train(stn)
    assert said == []
    assert error < 10


def test_a_start_outside_of_the_image_is_told_and_lost(stn: Stn) -> None:
    (said,), error = train(stn, *BAD)
    assert said.startswith(
        "warning, step 30: transformer has left the image "
        "(100% of its samples are out of bounds, gradient 0)"
    )
    assert error > 80


def test_a_start_outside_of_the_image_is_brought_back(stn: Stn) -> None:
    (left, back), error = train(stn, *BAD, *BACK)
    assert left.startswith("warning, step 30: transformer has left the image")
    assert back.endswith("transformer has recovered")
    assert error < 25
