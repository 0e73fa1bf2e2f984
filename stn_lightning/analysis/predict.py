"""`stn predict`: what a run says of pictures in files, and where it looks in them."""

import contextlib
import csv
import glob
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.callbacks.warp_images import COLOURS
from stn_lightning.datamodules.preprocessing import PreprocessedImage
from stn_lightning.datasets.image_files import decode, image_size
from stn_lightning.datasets.image_folder import ENDINGS
from stn_lightning.runs.loading import Run, load_run
from stn_lightning.runs.options import Options
from stn_lightning.transformers import WarpRecord

BATCH = 64
UNREADABLE = 1
"""The exit code where some pictures have no answer."""
CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
"""Of what the transformer hands to the classifier: of a crop that is upside down, top_left lies at
the bottom right.
"""
SIDE = 256
"""Longest side of a drawn picture, in pixels."""


class CropOutline(NamedTuple):
    """Where one transformer looks in a picture."""

    theta: list[float]
    outline: Tensor
    """(points, 2), the rim of the grid in the picture's pixels"""
    corners: list[list[float]]
    """(x, y) in the picture's pixels"""
    crop: Tensor
    """(channels, height, width)"""


class Prediction(NamedTuple):
    """What is said of a picture."""

    file: Path
    label: str
    probability: float
    gazes: list[CropOutline]


def predict(arguments: list[str]) -> int:
    """Print label, probability, theta and outline of each picture.

    Returns:
        the process's exit code: 0 each picture has its answer, 1 some files could not be read, 2
        the user got something wrong.
    """
    chosen = _options().parse_args(arguments)
    try:
        if chosen.out and chosen.out.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"--out {chosen.out}: give a file that ends in .csv or .jsonl")
        files = find_images(chosen.pictures)
        first = next(files, None)
        if first is None:
            raise ValueError(
                f"no pictures in {', '.join(chosen.pictures)}; JPEG, PNG and WebP files are read"
            )
        return _answer(
            load_run(chosen.run), itertools.chain([first], files), chosen.out, chosen.draw
        )
    except (ValueError, OSError) as problem:
        print(f"stn predict: {problem}", file=sys.stderr)
        return 2


def _options() -> Options:
    options = Options(
        "predict", "What a run says of pictures in files: label, probability, theta, outline."
    )
    options.add_argument("run", metavar="RUN", help="its name, or its folder")
    options.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURES",
        help="files, folders with all that is in them, patterns as 'a/*.png'",
    )
    options.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="FILE.csv or FILE.jsonl, a JSON object a line; else CSV on the screen",
    )
    options.add_argument(
        "--draw",
        type=Path,
        metavar="FOLDER",
        help="for a PNG of each picture with the outline, and the warped crop beside",
    )
    return options


def find_images(patterns: Iterable[str]) -> Iterator[Path]:
    """Files one by one: those named, whatever their ending, and in folders all JPEG, PNG and WebP
    files in the order of their names.

    Raises:
        ValueError: where a name stands for nothing.
    """
    for pattern in patterns:
        paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # Path's takes no absolute pattern
        if not paths:
            raise ValueError(f"{pattern}: there is no such file, folder or pattern")
        for path in paths:
            yield from _below(path) if Path(path).is_dir() else [Path(path)]


def _below(folder: str) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (
            Path(root, name) for name in sorted(names) if Path(name).suffix.lower() in ENDINGS
        )


def predictions(run: Run, files: Iterable[Path], unreadable: list[str]) -> Iterator[Prediction]:
    """Of each file that can be read, in order; a line for each other one goes to `unreadable`.

    A batch is read while the one before is looked at, and there are never more than two of them.
    """
    read: Callable[[Path], PreprocessedImage | str] = lambda file: _read(run, file)  # noqa: E731
    with ThreadPoolExecutor(2) as threads:
        chunks = iter(lambda: list(itertools.islice(files, BATCH)), [])
        files = iter(files)
        ahead = [(chunk, threads.map(read, chunk)) for chunk in itertools.islice(chunks, 1)]
        while ahead:
            chunk, pending = ahead.pop()
            fits = list(pending)
            ahead = [(later, threads.map(read, later)) for later in itertools.islice(chunks, 1)]
            unreadable += [fit for fit in fits if isinstance(fit, str)]
            good = [
                (file, fit)
                for file, fit in zip(chunk, fits, strict=True)
                if not isinstance(fit, str)
            ]
            if good:
                yield from _looked_at(run, good)


def _read(run: Run, file: Path) -> PreprocessedImage | str:
    try:
        image_size(file)  # refuses what would unfold into gigabytes
        return run.data.preprocess(
            torch.from_numpy(decode(file).copy()).permute(2, 0, 1), run.image_shape
        )
    except (ValueError, OSError) as problem:
        return str(problem)


def _looked_at(run: Run, pictures: list[tuple[Path, PreprocessedImage]]) -> Iterator[Prediction]:
    logits, look = run.see(torch.stack([fit.image for _, fit in pictures]))
    said = run.task.predictions(logits, run.class_names)
    gazes = _gazes(look, [fit for _, fit in pictures]) if look is not None else itertools.repeat([])
    for (file, _), (label, probability), seen in zip(pictures, said, gazes):  # noqa: B905  # gazes may be endless
        yield Prediction(file, label, probability, seen)


def _gazes(look: WarpRecord, fits: list[PreprocessedImage]) -> Iterator[list[CropOutline]]:
    """Of each picture, what each transformer looks at; all that can be is done for the batch at
    once.
    """
    grids = look.grids.float().cpu()  # (B, n, H, W, 2)
    height, width = grids.shape[2:4]
    sides = [
        grids[:, :, 0],
        grids[:, :, 1:, -1],
        grids[:, :, -1].flip(2)[:, :, 1:],
        grids[:, :, 1:-1, 0].flip(2),
    ]
    rims = torch.cat(sides, 2)  # (B, n, points, 2), clockwise from the top left
    corners = [0, width - 1, width + height - 2, 2 * width + height - 3]
    crops = (
        look.output.image.float().cpu().unflatten(0, (-1, 1))
        if look.output.image.dim() == 4
        else look.output.image.float().cpu()
    )
    for fit, thetas, rim, crop in zip(fits, look.thetas.tolist(), rims, crops, strict=True):
        outlines = fit.in_picture(rim)  # (n, points, 2)
        places = outlines[:, corners].tolist()
        yield [CropOutline(*parts) for parts in zip(thetas, outlines, places, crop, strict=True)]


def _answer(run: Run, files: Iterable[Path], out: Path | None, folder: Path | None) -> int:
    if len(run.image_shape) != 3 or run.image_shape[0] not in (1, 3):
        raise ValueError(
            f"{run.run.path} takes images of shape {run.image_shape}; pictures in files are flat, grey or in colour"
        )
    unreadable: list[str] = []
    number, start = 0, time.perf_counter()
    with out.open("w", newline="") if out else contextlib.nullcontext(sys.stdout) as file:
        write = _as_json(file) if out and out.suffix == ".jsonl" else _as_csv(file)
        for answer in predictions(run, files, unreadable):
            write(answer)
            number += 1
            if folder:
                _save(draw_prediction(answer), folder, answer.file, number)
    rate = number / (time.perf_counter() - start)
    channels, height, width = run.image_shape
    made = f"{width} x {height} px in {'grey' if channels == 1 else 'colour'}, {run.data.preprocess_summary}"
    print(f"{number:,} pictures, {rate:,.0f} a second; each became {made}", file=sys.stderr)
    for line in unreadable:
        print(f"not read: {line}", file=sys.stderr)
    if unreadable:
        print(
            f"stn predict: {len(unreadable):,} of {number + len(unreadable):,} files could not be read",
            file=sys.stderr,
        )
    return UNREADABLE if unreadable else 0


def _as_json(file: Any) -> Callable[[Prediction], Any]:
    def write(answer: Prediction) -> None:
        looks = [{"theta": gaze.theta, "corners": gaze.corners} for gaze in answer.gazes]
        line = {
            "file": str(answer.file),
            "label": answer.label,
            "probability": answer.probability,
            "looks": looks,
        }
        file.write(json.dumps(line) + "\n")

    return write


def _as_csv(file: Any) -> Callable[[Prediction], Any]:
    table = csv.writer(file, lineterminator="\n")
    begun = False

    def write(answer: Prediction) -> None:
        nonlocal begun
        if not begun:
            begun = True
            table.writerow(["file", "label", "probability", *_columns(answer)])
        numbers = [
            n for gaze in answer.gazes for n in (*gaze.theta, *itertools.chain(*gaze.corners))
        ]
        table.writerow(
            [answer.file, answer.label, f"{answer.probability:.6f}", *(f"{n:.6g}" for n in numbers)]
        )

    return write


def _columns(answer: Prediction) -> Iterator[str]:
    """Of parallel transformers, each has its number in front."""
    for n, gaze in enumerate(answer.gazes):
        prefix = "" if len(answer.gazes) == 1 else f"{n}."
        yield from (f"{prefix}theta.{i:02d}" for i in range(len(gaze.theta)))
        yield from (f"{prefix}{corner}.{axis}" for corner in CORNERS for axis in "xy")


def draw_prediction(answer: Prediction) -> Image.Image:
    """The picture with the outline of where each transformer looks, and beside it what each hands
    on.
    """
    with Image.open(answer.file) as opened:
        picture = opened.convert("RGB")
    factor = SIDE / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    sheet = Image.new(
        "RGB", (width + len(answer.gazes) * (SIDE + 4), SIDE if answer.gazes else height), "white"
    )
    enlarged = picture.resize(
        (width, height), Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(enlarged)
    for n, gaze in enumerate(answer.gazes):
        rim = (gaze.outline * factor - 0.5).clamp(-SIDE, 2 * SIDE)
        pen.line(
            [(x, y) for x, y in [*rim.tolist(), rim[0].tolist()]],
            fill=COLOURS[n % len(COLOURS)],
            width=2,
        )
        crop = gaze.crop.clamp(0, 1) if gaze.crop.min() >= 0 else gaze.crop - gaze.crop.min()
        values = (crop / max(1.0, float(crop.max())) * 255).round().byte().expand(3, -1, -1)
        shown = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy()).resize(
            (SIDE, SIDE), Image.Resampling.NEAREST
        )
        sheet.paste(shown, (width + 4 + n * (SIDE + 4), 0))
    sheet.paste(enlarged, (0, 0))
    return sheet


def _save(picture: Image.Image, folder: Path, file: Path, number: int) -> None:
    """Under a number and the file's name: files of one name may come from several folders."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{number:06d}-{file.stem}.png")
