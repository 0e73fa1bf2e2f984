"""Time the transformers of networks for house numbers.

    python -m benchmarks.svhn [--quick]

A training step of each network over one of the plain CNN, and each part of Multi. Forward and
backward at the paper's width, 64 px. On one thread in processor time; on a GPU by the clock.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.alternating import alternate, chosen, report, table, times_as_long
from stn_lightning.backbones import MultiDigitCNN, SharedLayersCNN
from stn_lightning.geometry import affine, sampling
from stn_lightning.transformers import (
    Affine,
    FullyConnectedLocalisation,
    SpatialTransformer,
    SVHNLocalisation,
)

SIDE = 64
MAPS = ((3, 64), (48, 32), (64, 32), (128, 16))
"""Channels and side of what each of Multi's transformers sees at the paper's width."""
NOTES = """Milliseconds of forward and backward at the paper's width, {side} px, {device}; in
brackets over the CNN's (the paper: 1.06 for Multi). Below, Multi's transformers by themselves,
{batch} images; `grid_sample` is PyTorch's own on the same maps in planes, with the conversion
into and out of them."""


def on_features() -> SpatialTransformer:
    return SpatialTransformer(FullyConnectedLocalisation([32, 32]), Affine())


def networks(width: float) -> dict[str, nn.Module]:
    single = SpatialTransformer(SVHNLocalisation(), Affine())
    return {
        "CNN": MultiDigitCNN(width),
        "ST-CNN Single": nn.Sequential(single, MultiDigitCNN(width)),
        "ST-CNN Multi": MultiDigitCNN(width, [on_features() for _ in range(4)]),
        "ST-CNN shared": SharedLayersCNN(on_features(), width=width),
    }


def step(network: nn.Module, image: Tensor, label: Tensor) -> None:
    network.zero_grad()
    functional.cross_entropy(network(image).transpose(1, 2), label).backward()
    if image.is_cuda:
        torch.cuda.synchronize()


def cells(width: float, batch: int, rounds: int, device: str) -> dict[str, str]:
    """Return each network's milliseconds and their ratio to the CNN's."""
    image = torch.randn(batch, 3, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)
    label = torch.randint(0, 11, (batch, 5), device=device)
    cases: dict[str, Callable[[], object]] = {}
    for name, network in networks(width).items():
        network.to(device)(image[:1])  # sizes the lazy layers
        cases[name] = partial(step, network.to(memory_format=torch.channels_last), image, label)
    taken = alternate(cases, rounds, time.perf_counter if device == "cuda" else time.process_time)
    return {
        name: f"{1000 * statistics.median(seconds):,.0f} "
        f"({times_as_long(taken['CNN'], seconds):.3f})"
        for name, seconds in taken.items()
    }


def parts(batch: int, rounds: int) -> list[list[object]]:
    """Time each part of each of Multi's transformers.

    Returns:
        Milliseconds of forward and backward.
    """
    rows: list[list[object]] = []
    for channels, side in MAPS:
        maps = (
            torch.randn(batch, channels, side, side)
            .to(memory_format=torch.channels_last)
            .requires_grad_(channels > 3)
        )
        slope = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
        theta = (
            torch.tensor([1.01, 0.02, 0.01, -0.02, 0.99, 0.01])
            .expand(batch, -1)
            .clone()
            .requires_grad_()
        )
        grid = affine.grid(theta.detach(), (side, side)).requires_grad_()
        localisation = FullyConnectedLocalisation([32, 32])
        cases: dict[str, Callable[[], object]] = {
            "localisation": partial(_localise, localisation, maps),
            "grid": partial(_make_grid, theta, (side, side)),
            "bilinear": partial(_read, sampling.bilinear, maps, grid, slope),
            "grid_sample": partial(_read, _planes, maps, grid, slope),
        }
        taken = alternate(cases, rounds, time.process_time)
        rows.append(
            [
                f"{channels} x {side} x {side}",
                *(1000 * statistics.median(seconds) for seconds in taken.values()),
            ]
        )
    return rows


def _localise(localisation: nn.Module, maps: Tensor) -> None:
    localisation(maps).sum().backward()


def _make_grid(theta: Tensor, size: tuple[int, int]) -> None:
    affine.grid(theta, size).sum().backward()


def _read(
    read: Callable[[Tensor, Tensor], Tensor], maps: Tensor, grid: Tensor, slope: Tensor
) -> None:
    read(maps, grid).backward(slope)


def _planes(maps: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(maps.contiguous(), grid, align_corners=False).contiguous(
        memory_format=torch.channels_last
    )


def main() -> None:
    options = chosen(__doc__, 7)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width, batches = (0.125, (2,)) if options.quick else (1.0, (16, 64))
    found = {
        batch: cells(
            width, batch, options.rounds if batch == batches[0] else -(-options.rounds // 2), device
        )
        for batch in batches
    }
    rows = [[name, *(found[batch][name] for batch in batches)] for name in found[batches[0]]]
    body = table(["", *(f"{batch} images" for batch in batches)], rows)
    if device == "cpu":
        body += "\n\n" + table(
            ["maps", "localisation", "grid", "bilinear", "grid_sample"],
            parts(batches[0], options.rounds),
        )
    said = NOTES.format(
        side=SIDE,
        batch=batches[0],
        device="the wall's time" if device == "cuda" else "processor time, one thread",
    )
    report("House numbers: what transformers cost", body, said, options.rounds, device)


if __name__ == "__main__":
    main()
