"""`stn predict`: label images in files, and outline their crops."""

import contextlib
import csv
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from stn_lightning.analysis.outputs import require_writable_file, require_writable_folder
from stn_lightning.analysis.predictions import (
    CORNERS,
    CropOutline,
    Prediction,
    Unreadable,
    find_images,
    predictions,
)
from stn_lightning.callbacks.drawings import COLOURS, draw_outline
from stn_lightning.datasets.decoding import READABLE, WHITE, decode
from stn_lightning.runs.loading import TrainedNetwork

UNREADABLE = 1
"""Exit code if some images have no prediction."""
SIDE = 256
"""Longest side of a drawn image, in pixels."""


def predict(
    run: str,
    images: Sequence[str],
    *,
    out: Path | None = None,
    draw: Path | None = None,
    checkpoint: str | None = None,
) -> int:
    """Print label, probability, theta and crop of each image.

    Args:
        run: name of a run, its folder, or zoo:NAME.
        images: files, folders (with all image files below them), patterns such as `a/*.png`.
        out: FILE.csv, or FILE.jsonl with a JSON object in each line; printed as CSV when left out.
        draw: folder for a PNG of each image with the outlines of its crops, and the crops.
        checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

    Returns:
        0, or 1 if some files could not be read.

    Raises:
        ValueError: there is no such run, there are no images, `out` has another suffix, or nothing
            can be written there.
    """
    if out and out.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--out {out}: give a file that ends in .csv or .jsonl")
    require_writable_file("--out", out)
    require_writable_folder("--draw", draw)
    files = find_images(images)
    first = next(files, None)
    if first is None:
        raise ValueError(f"no images in {', '.join(images)}; {READABLE}")
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
                _save(draw_prediction(answer, network.data.background), draw, answer.file, number)
    if number:
        _summarise(network, number, time.perf_counter() - start)
    if unreadable:
        total = number + unreadable
        print(f"stn predict: {unreadable:,} of {total:,} files could not be read", file=sys.stderr)
    return UNREADABLE if unreadable else 0


def _summarise(network: TrainedNetwork, number: int, seconds: float) -> None:
    channels, height, width = network.image_shape
    images = "image" if number == 1 else "images"
    print(
        f"{number:,} {images}, {number / seconds:,.0f} a second, by {network.checkpoint}; each "
        f"became {width} x {height} px in {'grey' if channels == 1 else 'colour'}, "
        f"{network.data.preprocessing}",
        file=sys.stderr,
    )


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[Any]:
    """Open the output, and keep invalid bytes of file names."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
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
    """Yield the names of the columns for crops.

    With several transformers they begin with the number of the transformer.
    """
    crops = list(crops)
    for n, crop in enumerate(crops):
        prefix = "" if len(crops) == 1 else f"{n}."
        yield from (f"{prefix}theta.{i:02d}" for i in range(len(crop.theta)))
        yield from (f"{prefix}{corner}.{axis}" for corner in CORNERS for axis in "xy")


def draw_prediction(answer: Prediction, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Draw the upright image with outlines, and crops beside it.

    The upper edge of a crop has a thicker line.
    """
    image = Image.fromarray(decode(answer.file, background))
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
        draw_outline(pen, line, crop.crop.shape[-1], COLOURS[n % len(COLOURS)])
        square = crop.draw().resize((SIDE, SIDE), Image.Resampling.NEAREST)
        sheet.paste(square, (width + 4 + n * (SIDE + 4), 0))
    sheet.paste(enlarged, (0, 0))
    return sheet


def _save(image: Image.Image, folder: Path, file: Path, number: int) -> None:
    """Save a drawing under a number and the file's name.

    The number is needed, as files in several folders may have the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = os.fsencode(file.stem)[:200].decode(errors="ignore")  # a name may have 255 bytes
    image.save(folder / f"{number:06d}-{stem}.png")
