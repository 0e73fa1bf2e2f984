"""Count and draw the test images that several networks misclassify.

    python docs/floor.py NAME RUN RUN ...

The runs share a data set. It writes docs/results/floor-NAME.md and .png.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stn_lightning.runs.loading import TrainedNetwork

RESULTS = Path(__file__).parent / "results"
SIDE, TEXT, COLUMNS = 96, 14, 8
"""Of an image and of the line below it, in pixels; images in a row."""


class Answers(NamedTuple):
    """One network's predictions of all test images."""

    label: Tensor
    probability: Tensor
    image: Tensor


def answers(network: TrainedNetwork, distorted: bool = True) -> Answers:
    """Run a network over its test images.

    Args:
        network: a trained one.
        distorted: whether images are distorted as in the test; if not, each distortion has the
            middle of its range: upright, in the centre.
    """
    data = network.data
    data.prepare_data()
    data.setup("test")
    found: list[Answers] = []
    for batch in data.test_dataloader():
        randomness = data.randomness(batch)
        randomness.spread = 1.0 if distorted else 0.0
        image = data.distort(batch.image, batch.split, randomness)
        logits, _ = network.infer(image)
        found.append(Answers(batch.label, logits.float().softmax(-1), image))
    return Answers(*(torch.cat(values) for values in zip(*found, strict=True)))


def draw(image: Tensor, captions: list[str]) -> Image.Image:
    """Draw grey images with a line of text below each."""
    rows = -(-len(image) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * SIDE, rows * (SIDE + TEXT)), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (each, caption) in enumerate(zip(image, captions, strict=True)):
        left, top = i % COLUMNS * SIDE, i // COLUMNS * (SIDE + TEXT)
        digit = Image.fromarray((255 * each[0].clamp(0, 1)).byte().numpy())
        sheet.paste(digit.resize((SIDE - 4, SIDE - 4)), (left + 2, top))
        pen.text((left + 3, top + SIDE - 4), caption, 0, font)
    return sheet


def main(name: str, *runs: str) -> None:
    networks = [TrainedNetwork.load(run) for run in runs]
    each = [answers(network) for network in networks]
    upright = [answers(network, distorted=False) for network in networks]
    label, count = each[0].label, len(each[0].label)
    wrong = torch.stack([one.probability.argmax(-1) != label for one in each])
    wrong_upright = torch.stack([one.probability.argmax(-1) != label for one in upright])
    mean = torch.stack([one.probability for one in each]).mean(0)
    in_all = wrong.all(0).nonzero()[:, 0].tolist()
    lines = [
        f"# {name}: what no network gets right",
        "",
        f"`python docs/floor.py {name} {' '.join(runs)}`",
        "",
        f"| network | commit | epochs | wrong, of {count:,} | upright digits wrong |",
        "|---|---|---|---|---|",
    ]
    for network, bad, bad_upright in zip(networks, wrong, wrong_upright, strict=True):
        record = network.record
        commit, epochs = (record.commit, record.epochs) if record else ("", "")
        lines.append(
            f"| {network.name} | {commit} | {epochs} | {int(bad.sum())} "
            f"| {int(bad_upright.sum())} |"
        )
    lines += [
        "",
        f"Mean of their probabilities: {int((mean.argmax(-1) != label).sum())} wrong. "
        f"Wrong in all networks: {len(in_all)}, of which {int(wrong_upright.all(0)[in_all].sum())} "
        "are wrong in all of them when upright, too. "
        f"Wrong in one network or more: {int(wrong.any(0).sum())}.",
        "",
        f"![test images that all networks get wrong](floor-{name}.png)",
        "",
        "Below each: its label, then what the networks' mean probability says.",
    ]
    captions = [f"{int(label[i])}, said {int(mean[i].argmax())}" for i in in_all]
    draw(each[0].image[in_all], captions).save(RESULTS / f"floor-{name}.png", optimize=True)
    (RESULTS / f"floor-{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
