"""What transformers cost: a training step of each network for house numbers over one of the plain CNN.

    python -m benchmarks.house_numbers                      # the paper's width, 64 px: a quarter of an hour on a processor
    python -m benchmarks.house_numbers --width 0.25 --batch 32
    python -m benchmarks.house_numbers --parts --batch 16   # each part of Multi's transformers by itself; on a processor

One step is forward + backward in training mode. Networks take turns in one process, so that a disturbance hits all alike; the ratio is the
median over rounds of this network's time over the CNN's of the same round. Processor time on a CPU, wall-clock on a GPU.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from benchmarks.alternating import alternate
from stn_lightning.backbones import HouseNumberCNN, SharedLayersCNN
from stn_lightning.cli.memory import keep_freed_memory
from stn_lightning.geometry import affine, sampling
from stn_lightning.transformers import Affine, FullyConnectedLocalisation, HouseNumberLocalisation, SpatialTransformer


def on_features() -> SpatialTransformer:
    return SpatialTransformer(FullyConnectedLocalisation([32, 32]), Affine())


def networks(width: float) -> dict[str, nn.Module]:
    single = SpatialTransformer(HouseNumberLocalisation(), Affine())
    return {
        "CNN": HouseNumberCNN(width),
        "ST-CNN Single": nn.Sequential(single, HouseNumberCNN(width)),
        "ST-CNN Multi": HouseNumberCNN(width, [on_features() for _ in range(4)]),
        "ST-CNN shared": SharedLayersCNN(on_features(), width=width),
    }


def step(network: nn.Module, image: torch.Tensor, label: torch.Tensor) -> float:
    network.zero_grad()
    clock = time.perf_counter if image.is_cuda else time.process_time
    if image.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    functional.cross_entropy(network(image).transpose(1, 2), label).backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def parts(batch: int, rounds: int) -> None:
    """Processor time, forward and backward, of each part of Multi's transformers at the paper's width, and of PyTorch itself."""
    print("channels, side, ms of: localisation, grid, bilinear, its forward, grid_sample on contiguous maps")
    for channels, side in ((3, 64), (48, 32), (64, 32), (128, 16)):
        image = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last).requires_grad_(channels > 3)
        plain, slope = image.detach().contiguous().requires_grad_(channels > 3), torch.randn(batch, channels, side, side)
        theta = torch.tensor([1.01, 0.02, 0.01, -0.02, 0.99, 0.01]).expand(batch, -1).clone().requires_grad_()
        grid = affine.grid(theta.detach(), (side, side)).requires_grad_()
        localisation = FullyConnectedLocalisation([32, 32])
        cases = {
            "localisation": lambda: localisation(image).sum().backward(),  # noqa: B023  # called in this round of the loop
            "grid": lambda: affine.grid(theta, (side, side)).sum().backward(),  # noqa: B023
            "bilinear": lambda: sampling.bilinear(image, grid).backward(slope.to(memory_format=torch.channels_last)),  # noqa: B023
            "forward": lambda: sampling.bilinear(image.detach(), grid.detach()),  # noqa: B023
            "plain": lambda: functional.grid_sample(plain, grid, align_corners=False).backward(slope),  # noqa: B023
        }
        taken = alternate(cases, rounds, time.process_time)
        print(channels, side, *(f"{1000 * statistics.median(seconds):.1f}" for seconds in taken.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as `stn fit` has it
    if chosen.parts:
        parts(chosen.batch, chosen.rounds)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = torch.randn(chosen.batch, 3, chosen.size, chosen.size, device=device).to(memory_format=torch.channels_last)
    label = torch.randint(0, 11, (chosen.batch, 5), device=device)
    compared = {name: network.to(device) for name, network in networks(chosen.width).items()}
    times: dict[str, list[float]] = {name: [] for name in compared}
    for network in compared.values():
        step(network, image, label)  # sizes the lazy layers, warms up
        network.to(memory_format=torch.channels_last)
    for _ in range(chosen.rounds):
        for name, network in compared.items():
            times[name].append(step(network, image, label))
    print(f"{chosen.batch} pictures of {chosen.size} px, width {chosen.width:g}, {device}, median of {chosen.rounds} rounds")
    for name, taken in times.items():
        ratio = statistics.median(mine / cnn for mine, cnn in zip(taken, times["CNN"], strict=True))
        print(f"{name:16}{1000 * statistics.median(taken):9.0f} ms{ratio:8.3f} of the CNN's")


if __name__ == "__main__":
    main()
