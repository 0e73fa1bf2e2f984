"""Compare the crops of the same digit under several distortions.

    python docs/same_digit.py NAME RUN RUN ...

The runs share a data set of affine distortions (R, RTS). It writes docs/results/same-digit-NAME.md
and .png. The name rts also writes docs/same_digit.png, the readme's figure of the last network.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.geometry import alignment
from stn_lightning.geometry.alignment import Pose
from stn_lightning.runs.loading import TrainedNetwork

RESULTS = Path(__file__).parent / "results"
DIGITS, DISTORTIONS = 2000, 6
"""The first test images, and the distortions of each."""
DRAWN, SIDE = (3, 2, 1, 4), 84
"""Test images to draw, and the side of each drawing in pixels."""
HEADLINE, GAP = (2, 3), 24
"""Places among the drawn digits of those in the readme, and pixels between them."""


class Crops(NamedTuple):
    """A network's crops.

    The first two axes of all are digits and distortions.
    """

    image: Tensor
    crop: Tensor
    applied: Pose
    found: Pose


def crops(network: TrainedNetwork) -> Crops:
    """Crop several distortions of the first test images."""
    data = network.data
    assert isinstance(data, MNISTDataModule)
    assert data.distortion is not None
    data.prepare_data()
    data.setup("test")
    found: list[tuple[Tensor, ...]] = []
    for batch in data.test_dataloader():
        if int(batch.indices[0]) >= DIGITS:
            break
        for part in range(DISTORTIONS):
            image = data.distort(batch.image, "test", data.randomness(batch, part))
            applied = data.distortion.theta(data.randomness(batch, part))  # the same numbers
            _, record = network.infer(image)
            assert record is not None
            size = image.shape[2:]
            poses = (
                alignment.applied_pose(applied, size),
                alignment.pose(alignment.nearest_affine(record.grids[:, 0]), size),
            )
            found.append((batch.indices, image, record.crops[:, 0], *poses[0], *poses[1]))
    index, image, crop, *values = (torch.cat(each) for each in zip(*found, strict=True))
    order = index.argsort(stable=True)[: DIGITS * DISTORTIONS]

    def by_digit(value: Tensor) -> Tensor:
        return value[order].unflatten(0, (-1, DISTORTIONS))

    numbers = [by_digit(value) for value in values]
    return Crops(by_digit(image), by_digit(crop), Pose(*numbers[:3]), Pose(*numbers[3:]))


def without_mean(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Split angles into digits' circular means and the rest."""
    mean = torch.atan2(angle.sin().mean(1, keepdim=True), angle.cos().mean(1, keepdim=True))
    return mean, torch.remainder(angle - mean + math.pi, 2 * math.pi) - math.pi


def correlation(x: Tensor, y: Tensor) -> float:
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()


def row(network: TrainedNetwork, found: Crops) -> str:
    """Return a network's line of the table."""
    applied, angle = found.applied.angle[..., 0], found.found.angle[..., 0]
    upright, rest = without_mean(angle - applied)
    turned = applied - applied.mean(1, keepdim=True)
    centred = without_mean(upright.T)[1]  # between digits
    scales = [each.scale[..., 0] for each in (found.applied, found.found)]
    parts = [scale - scale.mean(1, keepdim=True) for scale in scales]
    grows = bool(scales[0].std() > 1e-6)
    degrees = [math.degrees(v) for v in (centred.std().item(), rest.abs().median().item())]
    record = network.record
    error = f"{record.metrics['test/error']:.2f}" if record else ""
    everywhere = alignment.compare(flat(found.applied), flat(found.found))["angle"].correlation
    return (
        f"| {network.name} | {record.commit if record else ''} | {error} | {everywhere:.3f} "
        f"| **{correlation(turned, turned + rest):.3f}** | {degrees[0]:.1f} | {degrees[1]:.1f} "
        f"| {correlation(*parts) if grows else math.nan:.3f} |"
    )


def flat(pose: Pose) -> Pose:
    return Pose(*(value.flatten(0, 1) for value in pose))


def draw(each: list[Crops]) -> Image.Image:
    """Draw distorted images, and below them each network's crops."""
    rows = len(DRAWN) * (1 + len(each))
    sheet = Image.new("L", (DISTORTIONS * SIDE, rows * SIDE + (len(DRAWN) - 1) * SIDE // 6), 255)
    pen, top = ImageDraw.Draw(sheet), 0
    for digit in DRAWN:
        for line in (each[0].image[digit], *(found.crop[digit] for found in each)):
            for column, image in enumerate(line):
                pixels = (255 * image[0].clamp(0, 1)).round().byte().numpy()
                tile = Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4))
                sheet.paste(tile, (column * SIDE + 2, top + 2))
            top += SIDE
        pen.line([(0, top + SIDE // 12), (sheet.width, top + SIDE // 12)], fill=160)
        top += SIDE // 6
    return sheet


def headline(sheet: Image.Image, networks: int) -> Image.Image:
    """Cut out two digits, with the last network's crops."""
    width, step = sheet.width, (1 + networks) * SIDE + SIDE // 6
    figure = Image.new("L", (2 * width + GAP, 2 * SIDE), 255)
    for column, digit in enumerate(HEADLINE):
        for lower, line in enumerate((0, networks)):
            top = digit * step + line * SIDE
            cut = sheet.crop((0, top, width, top + SIDE))
            figure.paste(cut, (column * (width + GAP), lower * SIDE))
    return figure


def main(name: str, *runs: str) -> None:
    networks = [TrainedNetwork.load(run) for run in runs]
    each = [crops(network) for network in networks]
    lines = [
        f"# {name}: the same digit, distorted several times",
        "",
        f"`python docs/same_digit.py {name} {' '.join(runs)}`: the first {DIGITS:,} test images, "
        f"each with {DISTORTIONS} distortions.",
        "",
        "A transformer that undoes a distortion gives the same crop of a digit, however it was "
        "distorted. What counts as upright may still differ from digit to digit, as handwriting "
        "is slanted. So the angle is correlated over all images, and within the distortions of "
        "each digit. Then come the standard deviation, between digits, of the angle to which they "
        "are turned, and the median deviation of a crop's angle from the mean of its digit.",
        "",
        "| network | commit | test error, % | angle: all images | **the same digit** "
        "| between digits, degrees | within a digit, degrees | scale: the same digit |",
        "|---|---|---|---|---|---|---|---|",
        *(row(network, found) for network, found in zip(networks, each, strict=True)),
        "",
        f"![the same digits under {DISTORTIONS} distortions, and their crops]"
        f"(same-digit-{name}.png)",
        "",
        "*Each digit: its distortions, then the crops of "
        + " and of ".join(network.name for network in networks)
        + ".*",
    ]
    sheet = draw(each)
    sheet.save(RESULTS / f"same-digit-{name}.png", optimize=True)
    if name == "rts":
        headline(sheet, len(each)).save(RESULTS.parent / "same_digit.png", optimize=True)
    (RESULTS / f"same-digit-{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
