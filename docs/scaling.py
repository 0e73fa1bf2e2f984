"""Estimate a step of data-parallel training on many GPUs.

    python docs/scaling.py

Prints the table of docs/scaling.md.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from stn_lightning.backbones import CNN
from stn_lightning.transformers import Affine, ConvolutionalLocalisation, SpatialTransformer

SPEED = 0.08 * 990e12
"""Operations per second of an H100 in bf16: 8 % of its data sheet, some 3,200 images a second
with ResNet-50. Assumed.
"""
LEAST = 2.5e-3
"""Seconds of a step however small the share of the batch: some 500 kernels at 5 us, forward,
backward, optimiser and guards.
"""
WITHIN, BETWEEN = 300e9, 40e9
"""Bytes per second of each GPU: among the 8 of a node (NVLink, measured values are near this), and
out of a node (400 Gb/s, 80 % of it).
"""
HOP = 10e-6
"""Seconds of a message, whatever its size."""
VOTES = 3
"""All-reduces of one number on the processors in every step: may anyone be stopping, is it time to
save, is all finite.
"""


class Training(NamedTuple):
    name: str
    network: nn.Module
    image_shape: tuple[int, ...]
    batch: int


def step(parameters: int, operations: float, batch: int, gpus: int) -> tuple[float, float, float]:
    """Estimate the seconds of one step.

    Returns:
        Arithmetic, the gradients' all-reduce (within each node, then between nodes), and the votes.
    """
    nodes, inside = max(gpus // 8, 1), min(gpus, 8)
    size = 4 * parameters  # gradients are float32
    arithmetic = max(3 * operations * batch / gpus / SPEED, LEAST)  # backward counts twice
    reduced = 2 * (inside - 1) * (size / inside / WITHIN + HOP) + 2 * (nodes - 1) * (
        size / inside / nodes / BETWEEN + HOP
    )
    return arithmetic, reduced, VOTES * 2 * math.log2(gpus) * 2 * HOP


def main() -> None:
    looking = SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(28, 28))
    digits = nn.Sequential(looking, CNN(num_filters=64))
    trainings = [Training("ST-CNN, digits", digits, (1, 42, 42), 256)]
    trainings += [
        Training("ResNet-50, 224 px", resnet50(), (3, 224, 224), batch) for batch in (256, 8192)
    ]
    print(
        "| network | global batch | GPUs | arithmetic | gradients | votes | step | images/s "
        "| efficiency |\n|---|" + "---:|" * 8
    )
    for name, network, image_shape, batch in trainings:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.rand(1, *image_shape))
        parameters, alone = sum(p.numel() for p in network.parameters()), 0.0
        for gpus in (1, 8, 64, 512):
            if batch < gpus:
                continue
            arithmetic, reduced, votes = step(parameters, counter.get_total_flops(), batch, gpus)
            whole = (
                arithmetic + max(reduced - arithmetic / 2, reduced / 4) * (gpus > 1) + votes
            )  # it hides behind three quarters at most
            alone = alone or whole
            times = " | ".join(
                f"{1e3 * seconds:.2f} ms" for seconds in (arithmetic, reduced, votes, whole)
            )
            print(
                f"| {name} | {batch:,} | {gpus} | {times} | {batch / whole:,.0f} "
                f"| {100 * alone / whole / gpus:.0f} % |"
            )


if __name__ == "__main__":
    main()
