"""Parallel transformers against the backbone alone, at the same number of 224 x 224 crops.

    python -m benchmarks.crops [--quick]

The localisation is small (two convolutions on the picture averaged down to 28 x 28): measured are N grids, N crops and their backward. A
localisation as large as a backbone, as the paper's for birds, costs a pass of that backbone more.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.alternating import alternate, chosen, report, table, times_as_long
from stn_lightning.transformers import ConvolutionalLocalisation, ParallelTransformer, Tiling, Transformer, Translation

CROP, PICTURES = 224, 2
NOTES = """Milliseconds of a training step, ResNet-18 on all crops, 2 pictures, channels_last. The goal is a factor of at most
1.05 at N = 4. SVHN's Multi against its CNN is still to be added."""


def step(backbone: nn.Module, transformer: Transformer | None, image: Tensor, crops: Tensor) -> None:
    """Forward and backward of `backbone` on the transformer's crops, or on crops that are ready."""
    seen = crops if transformer is None else transformer(image).flatten(0, 1)
    backbone(seen.contiguous(memory_format=torch.channels_last)).square().mean().backward()


def main() -> None:
    options = chosen(__doc__, 5)
    rows = []
    for side in (CROP,) if options.quick else (CROP, 2 * CROP):
        for n in (2,) if options.quick else (1, 2, 4):
            image, crops = torch.rand(PICTURES, 3, side, side), torch.rand(PICTURES * n, 3, CROP, CROP)
            localisation = nn.Sequential(nn.AdaptiveAvgPool2d(28), ConvolutionalLocalisation())
            start = Tiling() if n > 1 else None
            transformer = ParallelTransformer(localisation, Translation(0.5), n, (CROP, CROP), start=start)
            transformer(image)
            backbone = resnet18(num_classes=200).to(memory_format=torch.channels_last)
            cases: dict[str, Callable[[], object]] = {
                "alone": partial(step, backbone, None, image, crops),
                "with": partial(step, backbone, transformer, image, crops),
            }
            taken = alternate(cases, options.rounds, options.clock)
            alone, both = (1000 * statistics.median(taken[name]) for name in ("alone", "with"))
            rows.append([side, n, alone, both, f"{times_as_long(taken['alone'], taken['with']):.3f}"])
    head = ["picture's side", "N", "backbone alone, N crops a picture", "with N transformers", "factor"]
    report("Parallel transformers", table(head, rows), NOTES, options.rounds)


if __name__ == "__main__":
    main()
