"""Choose the precision that the hardware computes fastest.

bfloat16 is several times as fast as float32 on processors with AVX512-BF16 or AMX and on GPUs since
Ampere, and several times slower if it is emulated. If the hardware has bfloat16 instructions, a
training step of a small network is timed with both.
"""

import functools
import time
from typing import NamedTuple

import torch
from torch import nn

FLOAT32, BFLOAT16 = "32-true", "bf16-mixed"
MARGIN = 1.1
"""Smallest ratio of the times of float32 and bfloat16 at which bfloat16 is chosen."""
_REPEATS = 4


class PrecisionChoice(NamedTuple):
    """A precision for Lightning's `Trainer`, and the reason for it."""

    precision: str
    reason: str


@functools.cache
def choose_precision(device: str, several: bool = False) -> PrecisionChoice:
    """Choose between float32 and bfloat16 for a device.

    The result is stored for the life of the process.

    Args:
        device: "cpu" or "cuda"; for other devices the result is float32.
        several: whether the training has several processes. Their measurements might disagree, so
            nothing is timed: the result is bfloat16 on GPUs that have it, and float32 on CPUs.
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
    """Return True if this processor has no bfloat16 instructions.

    bfloat16 then has a fifth of the speed of float32 (measured on an AMD EPYC with AVX2).
    """
    return torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2")


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and not emulates_bf16()


def _time_ratio(device: str) -> float:
    """Return a step's time in float32 / in bfloat16."""
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
