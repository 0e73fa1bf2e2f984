"""The test sets that every result is measured on must never change: their golden values are in
`tests/golden/frozen.json`.

The drawn parameters have a checksum (SHA-256 of float64 numbers rounded to 1e-5, which no
processor's last bit reaches). The pixels have a fingerprint instead, which one exchanged image or
a shift by a hundredth of a pixel changes, but different rounding does not.

`STN_REWRITE_GOLDEN=1 pytest tests/distortions/test_frozen.py` writes the file anew. Do so only
where a test set is MEANT to change, as that makes all results so far incomparable.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stn_lightning.batch import Batch
from stn_lightning.datamodules import MNISTDataModule, base
from stn_lightning.datasets import MNIST, EmbeddedDigits, ImageTensorSource
from tests.datasets.originals import mnist_folder

from .samples import DISTORTIONS, Recorded

GOLDEN = Path(__file__).parents[1] / "golden" / "frozen.json"
PROJECTIONS = 8


def measured(
    source: ImageTensorSource, name: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """Checksum and fingerprint of the distorted test split, as a test run gets it."""
    draws = hashlib.sha256()

    class Kept(Recorded):
        kept: list["Kept"] = []  # noqa: RUF012  # emptied below, batch by batch

        def __init__(self, seed: int, stream: int, epoch: int, index: torch.Tensor) -> None:
            super().__init__(seed, stream, epoch, index)
            self.kept.append(self)

    monkeypatch.setattr(base, "CounterRandom", Kept)
    module = MNISTDataModule(source, DISTORTIONS[name](), batch_size=500)
    module.setup("test")
    numbers = np.random.RandomState(
        2015
    )  # NumPy promises never to change what this generator gives
    ink, count, fingerprint = 0.0, 0, np.zeros(PROJECTIONS)
    signs = torch.from_numpy(
        numbers.choice([-1.0, 1.0], (module.image_shape[1] * module.image_shape[2], PROJECTIONS))
    )
    for batch in module.test_dataloader():
        out: Batch = module.transform_batch(batch)
        flat = out.image.flatten(1).double()
        weights = torch.from_numpy(numbers.uniform(-1, 1, (len(flat), PROJECTIONS)))
        fingerprint += ((flat @ signs) * weights).sum(0).numpy()
        ink, count = ink + flat.sum().item(), count + flat.numel()
        drawn = torch.cat([draw.double() for draw in Kept.kept.pop().draws], dim=1)
        draws.update(drawn.mul(1e5).round().long().numpy().astype("<i8").tobytes())
    return {
        "draws": draws.hexdigest(),
        "ink": ink / count,
        "fingerprint": (fingerprint / count**0.5).tolist(),
    }


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("data", ["embedded", "mnist"])
def test_the_frozen_test_set_is_the_one_it_has_always_been(
    data: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EmbeddedDigits() if data == "embedded" else MNIST(str(mnist_folder()))
    found = measured(source, name, monkeypatch)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("STN_REWRITE_GOLDEN") == "1":
        GOLDEN.write_text(
            json.dumps(golden | {f"{data} {name}": found}, indent=1, sort_keys=True) + "\n"
        )
        pytest.skip(f"{GOLDEN.name} was written anew")
    expected = golden[f"{data} {name}"]
    assert found["draws"] == expected["draws"]
    assert found["ink"] == pytest.approx(expected["ink"], abs=1e-6)
    assert found["fingerprint"] == pytest.approx(expected["fingerprint"], abs=1e-4)
