"""Time training steps with and without their monitoring.

    python benchmarks/monitoring.py

Processor time; steps with and without alternate.
"""

import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from stn_lightning.backbones import CNN
from stn_lightning.callbacks.transformer_monitor import warp_statistics
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    Family,
    SpatialTransformer,
    ThinPlateSpline,
    record_warps,
)

EVERY = 10
"""Steps between readings: the command line's default."""


def step(network: nn.Module, image: torch.Tensor, label: torch.Tensor, read: bool) -> float:
    """Return the processor time of one training step, in seconds."""
    begun = time.thread_time()
    if read:
        with record_warps(network) as looks:
            loss = functional.cross_entropy(network(image), label)
            looks[0].output.theta.retain_grad()
            loss.backward()
        warp_statistics(looks[0])
    else:
        functional.cross_entropy(network(image), label).backward()
    return time.thread_time() - begun


def main() -> None:
    torch.set_num_threads(1)
    print("family            batch  step [ms]  reading [ms]  cost, one step in", EVERY)
    families: list[tuple[str, Family]] = [
        ("Affine", Affine()),
        ("ThinPlateSpline", ThinPlateSpline()),
    ]
    for name, family in families:
        for batch in (32, 128):
            network = nn.Sequential(
                SpatialTransformer(ConvolutionalLocalisation(), family, (28, 28)), CNN(64)
            )
            image, label = torch.rand(batch, 1, 42, 42), torch.randint(0, 10, (batch,))
            pairs = [
                (step(network, image, label, False), step(network, image, label, True))
                for _ in range(25)
            ][5:]
            plain = statistics.median(a for a, _ in pairs)
            extra = statistics.median(b - a for a, b in pairs)
            print(
                f"{name:16} {batch:6} {1e3 * plain:10.1f} {1e3 * extra:13.2f} "
                f"{extra / plain / EVERY:10.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
