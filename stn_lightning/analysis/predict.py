"""`stn predict`: label images in files, and say where their crops lie."""

import contextlib
import csv
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from stn_lightning.analysis.predictions import (
    CORNERS,
    CropOutline,
    Prediction,
    Unreadable,
    find_images,
    predictions,
)
from stn_lightning.callbacks.warp_images import COLOURS
from stn_lightning.datasets.decoding import decode
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runs.options import Options

UNREADABLE = 1
"""Exit code where some images have no answer."""
SIDE = 256
"""Longest side of a drawn image, in pixels."""


def predict(arguments: list[str]) -> int:
    """Print label, probability, theta and crop of each image.

    Returns:
        0 each image has its answer, 1 some could not be read, 2 wrong arguments.
    """
    chosen = _options().parse_args(arguments)
    try:
        return predict_files(chosen.run, chosen.images, chosen.out, chosen.draw, chosen.checkpoint)
    except (ValueError, OSError) as problem:
        print(f"stn predict: {problem}", file=sys.stderr)
        return 2


def _options() -> Options:
    options = Options("predict", "Print label, probability, theta and crop of images in files.")
    options.add_argument("run", metavar="RUN", help="name of a run, or its folder")
    options.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders with all that is in them, patterns such as 'a/*.png'",
    )
    options.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="FILE.csv, or FILE.jsonl with a JSON object a line; CSV on the screen when left out",
    )
    options.add_argument(
        "--draw",
        type=Path,
        metavar="FOLDER",
        help="write a PNG of each image with the outlines of its crops, and the crops, into FOLDER",
    )
    options.add_argument("--checkpoint", help="a file in RUN's checkpoints; best.ckpt if left out")
    return options


def predict_files(
    run: str,
    images: list[str],
    out: Path | None = None,
    draw: Path | None = None,
    checkpoint: str | None = None,
) -> int:
    """Write label, probability, theta and crop of each image to a file or the screen.

    Args:
        run: name of a run, or its folder.
        images: files, folders with all that is in them, patterns such as `a/*.png`.
        out: a .csv file, or a .jsonl file with a JSON object a line; CSV on the screen when left
            out.
        draw: folder for a PNG of each image with the outlines of its crops.
        checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

    Returns:
        0 each image has its answer, 1 some could not be read.

    Raises:
        ValueError: if the run, the images or the file's ending make no sense.
    """
    if out and out.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--out {out}: give a file that ends in .csv or .jsonl")
    files = find_images(images)
    first = next(files, None)
    if first is None:
        raise ValueError(f"no images in {', '.join(images)}; JPEG, PNG and WebP files are read")
    network = TrainedNetwork.load(run, checkpoint=checkpoint)
    number, unreadable, start = 0, 0, time.perf_counter()
    with _opened(out) as file:
        write = (
            _json_writer(file, network)
            if out and out.suffix == ".jsonl"
            else _csv_writer(file, network)
        )
        for answer in predictions(network, itertools.chain([first], files)):
            if isinstance(answer, Unreadable):
                unreadable += 1
                print(f"not read: {answer.reason}", file=sys.stderr)
                continue
            write(answer)
            number += 1
            if draw:
                _save(draw_prediction(answer), draw, answer.file, number)
    _summarise(network, number, time.perf_counter() - start)
    if unreadable:
        total = number + unreadable
        print(f"stn predict: {unreadable:,} of {total:,} files could not be read", file=sys.stderr)
    return UNREADABLE if unreadable else 0


def _summarise(network: TrainedNetwork, number: int, seconds: float) -> None:
    channels, height, width = network.image_shape
    print(
        f"{number:,} images, {number / seconds:,.0f} a second, by {network.checkpoint}; each "
        f"became {width} x {height} px in {'grey' if channels == 1 else 'colour'}, "
        f"{network.data.preprocessing}",
        file=sys.stderr,
    )


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[Any]:
    """Open the output; file names that are not UTF-8 are written with their own bytes."""
    if out:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield file
        return
    before = getattr(sys.stdout, "errors", None)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")
    yield sys.stdout
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=before)


def _json_writer(file: Any, network: TrainedNetwork) -> Callable[[Prediction], Any]:
    def write(answer: Prediction) -> None:
        crops = [{"theta": crop.theta, "corners": crop.corners} for crop in answer.crops]
        line = {
            "file": str(answer.file),
            "label": answer.label,
            "probability": answer.probability,
            "crops": crops,
            "checkpoint": str(network.checkpoint),
        }
        file.write(json.dumps(line, allow_nan=False) + "\n")

    return write


def _csv_writer(file: Any, network: TrainedNetwork) -> Callable[[Prediction], Any]:
    table = csv.writer(file, lineterminator="\n")
    header_written = False

    def write(answer: Prediction) -> None:
        nonlocal header_written
        if not header_written:
            header_written = True
            table.writerow(["file", "label", "probability", *_columns(answer.crops), "checkpoint"])
        numbers = (
            f"{number:.6g}"
            for crop in answer.crops
            for number in (*crop.theta, *itertools.chain(*crop.corners))
        )
        head = [answer.file, answer.label, f"{answer.probability:.6f}"]
        table.writerow([*head, *numbers, network.checkpoint])

    return write


def _columns(crops: Iterable[CropOutline]) -> Iterator[str]:
    """Name the columns of crops; with several transformers each has its number in front."""
    crops = list(crops)
    for n, crop in enumerate(crops):
        prefix = "" if len(crops) == 1 else f"{n}."
        yield from (f"{prefix}theta.{i:02d}" for i in range(len(crop.theta)))
        yield from (f"{prefix}{corner}.{axis}" for corner in CORNERS for axis in "xy")


def draw_prediction(answer: Prediction) -> Image.Image:
    """Draw the upright image with the outlines of its crops, and the crops beside it."""
    image = Image.fromarray(np.asarray(decode(answer.file)))
    factor = SIDE / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    sheet = Image.new(
        "RGB", (width + len(answer.crops) * (SIDE + 4), SIDE if answer.crops else height), "white"
    )
    enlarged = image.resize(
        (width, height), Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(enlarged)
    for n, crop in enumerate(answer.crops):
        rim = (crop.outline * factor - 0.5).clamp(-SIDE, 2 * SIDE)
        line = [(x, y) for x, y in [*rim.tolist(), rim[0].tolist()]]
        pen.line(line, fill=COLOURS[n % len(COLOURS)], width=2)
        sheet.paste(_draw_crop(crop), (width + 4 + n * (SIDE + 4), 0))
    sheet.paste(enlarged, (0, 0))
    return sheet


def _draw_crop(crop: CropOutline) -> Image.Image:
    """Draw a crop as a square; values beyond 0 to 1 are stretched into it."""
    values = crop.crop.clamp(min=0) if crop.crop.min() >= 0 else crop.crop - crop.crop.min()
    levels = (values / max(1.0, float(values.max())) * 255).round().byte().expand(3, -1, -1)
    drawn = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    return drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _save(image: Image.Image, folder: Path, file: Path, number: int) -> None:
    """Save under a number and the file's name: several folders may have files of one name."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number:06d}-{file.stem}.png")
