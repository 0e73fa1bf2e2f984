"""Choose the precision that the hardware computes fastest.

bfloat16 is several times as fast as float32 on processors with AVX512-BF16 or AMX and on GPUs since
Ampere, and several times slower where it is emulated. The hardware is asked first; where it says
that it has bfloat16, one training step of a small network is timed both ways.
"""

import functools
import time
from typing import NamedTuple

import torch
from torch import nn

FLOAT32, BFLOAT16 = "32-true", "bf16-mixed"
MARGIN = 1.1
"""bfloat16 is chosen from this ratio of times on; below it, its rounding buys nothing."""
_REPEATS = 4


class PrecisionChoice(NamedTuple):
    """A precision for Lightning's `Trainer`, and the reason."""

    precision: str
    reason: str


@functools.cache
def choose_precision(device: str, several: bool = False) -> PrecisionChoice:
    """Choose between float32 and bfloat16 for a device.

    The answer is kept for the life of the process.

    Args:
        device: "cpu" or "cuda"; others get float32.
        several: whether other processes choose for the same training. Nothing is timed then, since
            two of them might measure different things: GPUs that have bfloat16 use it, CPUs do not.

    Returns:
        The precision and why.
    """
    if not _has_bf16(device):
        return PrecisionChoice(FLOAT32, f"this {device} has no bfloat16 instructions")
    if several:
        chosen = BFLOAT16 if device == "cuda" else FLOAT32
        return PrecisionChoice(chosen, f"several processes on {device}")
    ratio = _time_ratio(device)
    chosen = BFLOAT16 if ratio > MARGIN else FLOAT32
    return PrecisionChoice(
        chosen, f"bfloat16 takes 1/{ratio:.1f} of float32's time on this {device}"
    )


def emulates_bf16() -> bool:
    """Return True where bfloat16 is computed in software here.

    Measured: a fifth of float32's speed on an AMD EPYC with AVX2.
    """
    return torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2")


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and not emulates_bf16()


def _time_ratio(device: str) -> float:
    """Return float32's time of a step over bfloat16's."""
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.ReLU())
        image = torch.rand(32, 32, 24, 24)
    network.to(device).to(memory_format=torch.channels_last)
    image = image.to(device, memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        begin = time.perf_counter()
        with torch.enable_grad(), torch.autocast(device, torch.bfloat16, enabled=enabled):
            loss = network(image).float().mean()
        loss.backward()
        loss.item()  # waits for a GPU
        return time.perf_counter() - begin

    seconds(True), seconds(False)  # the first call of each prepares its kernels
    pairs = [(seconds(False), seconds(True)) for _ in range(_REPEATS)]
    return min(single for single, _ in pairs) / min(half for _, half in pairs)
