"""What transformers cost: a training step of each network for house numbers over one of the plain CNN.

    python benchmarks/house_numbers.py                      # the paper's width, 64 px: a quarter of an hour on a processor
    python benchmarks/house_numbers.py --width 0.25 --batch 32

One step is forward + backward in training mode. Networks take turns in one process, so that a disturbance hits all alike; the ratio is the
median over rounds of this network's time over the CNN's of the same round. Processor time on a CPU, wall-clock on a GPU.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from stn_lightning.backbones import HouseNumberCNN, SharedLayersCNN
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
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
