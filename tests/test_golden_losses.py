"""Fifty steps of three configurations give the training losses in `tests/golden/losses.json`.

Losses on another processor, or with another number of threads, differ in the last bits, which grow
to 0.1 % of a loss within fifty steps; a change of what is computed shows at once.

`STN_REWRITE_GOLDEN=1 pytest tests/test_golden_losses.py` writes the file anew. Do so only where a
training is MEANT to change.
"""

import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cub_miniature import CLASSES, write_cub
from tests.stn_command import Stn

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
STEPS = 50
TOLERANCE = 0.01
DIGITS = ["--data.init_args.source", "stn_lightning.datasets.EmbeddedDigits"]
FEW = [
    "--data.init_args.batch_size=2",
    f"--model.init_args.backbone.init_args.num_classes={CLASSES}",
]
TRAININGS = {
    "quickstart": ["quickstart"],
    "st_cnn_affine-rts": ["mnist/networks/st_cnn_affine", "mnist/data/rts", *DIGITS],
    "small_st2-20_classes": ["cub/networks/small_st2", "cub/data/20_classes", *FEW],
}
"""Configuration files, and options after them."""
SETTINGS = [
    "--name=golden",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.max_epochs=50",
    f"--trainer.max_steps={STEPS}",
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
]


@pytest.mark.parametrize("name", TRAININGS)
def test_fifty_steps_give_the_golden_losses(name: str, stn: Stn, tmp_path: Path) -> None:
    write_cub(tmp_path / "data/cub")
    arguments = []
    for word in TRAININGS[name]:
        arguments += ["--config", f"configs/{word}.yaml"] if "/" in word or word == name else [word]
    code, _, err = stn("fit", *arguments, *SETTINGS)
    assert (code, err) == (0, "")
    events = EventAccumulator(str(tmp_path / "runs/golden"))
    events.Reload()
    losses = [round(event.value, 4) for event in events.Scalars("train/loss")]
    assert len(losses) == STEPS
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("STN_REWRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, name: losses}, indent=1, sort_keys=True) + "\n")
        golden[name] = losses
    assert losses == pytest.approx(golden[name], rel=TOLERANCE)
