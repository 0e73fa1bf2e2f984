"""Time parallel transformers beside the backbone alone.

    python -m benchmarks.crops [--quick]

Both process the same number of crops of 224 x 224. The localisation is small (two convolutions on
the image averaged down to 28 x 28), so what is measured is N grids, N crops and their backward. A
localisation as large as a backbone, as the paper's for birds, adds the time of that backbone.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.alternating import alternate, chosen, report, table, times_as_long
from stn_lightning.transformers import (
    ConvolutionalLocalisation,
    ParallelTransformer,
    Tiling,
    Transformer,
    Translation,
)

CROP, IMAGES = 224, 2
NOTES = """Milliseconds of a training step, ResNet-18 on all crops, 2 images, channels_last.
Whatever moves the crops needs the gradient of the backbone's input, which a backbone alone does not
compute: the middle column does. The goal is a factor of at most 1.05 over the backbone alone at
N = 4."""


def step(
    backbone: nn.Module, transformer: Transformer | None, image: Tensor, crops: Tensor
) -> None:
    """Run forward and backward of a backbone.

    Its input is the transformer's crops, or crops that are ready.
    """
    crops.grad = None
    seen = crops if transformer is None else transformer(image).flatten(0, 1)
    backbone(seen.contiguous(memory_format=torch.channels_last)).square().mean().backward()


def main() -> None:
    options = chosen(__doc__, 5)
    rows = []
    for side in (CROP,) if options.quick else (CROP, 2 * CROP):
        for n in (2,) if options.quick else (1, 2, 4):
            image, crops = (
                torch.rand(IMAGES, 3, side, side),
                torch.rand(IMAGES * n, 3, CROP, CROP),
            )
            localisation = nn.Sequential(nn.AdaptiveAvgPool2d(28), ConvolutionalLocalisation())
            start = Tiling() if n > 1 else None
            transformer = ParallelTransformer(
                localisation, Translation(0.5), n, (CROP, CROP), start=start
            )
            transformer(image)
            backbone = resnet18(num_classes=200).to(memory_format=torch.channels_last)
            cases: dict[str, Callable[[], object]] = {
                "alone": partial(step, backbone, None, image, crops),
                "input": partial(step, backbone, None, image, crops.clone().requires_grad_()),
                "with": partial(step, backbone, transformer, image, crops),
            }
            taken = alternate(cases, options.rounds, options.clock)
            times = [1000 * statistics.median(taken[name]) for name in cases]
            factors = [
                f"{times_as_long(taken[name], taken['with']):.3f}" for name in ("alone", "input")
            ]
            rows.append([side, n, *times, *factors])
    head = [
        "image's side",
        "N",
        "backbone alone, N crops an image",
        "and their gradient",
        "N transformers",
        "over the first",
        "over the second",
    ]
    report("Parallel transformers", table(head, rows), NOTES, options.rounds)


if __name__ == "__main__":
    main()
