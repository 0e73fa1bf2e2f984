"""`stn report`: one page about one run or several, in one file."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float, Int64
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from stn_lightning.analysis.page import page
from stn_lightning.callbacks.warp_images import ROW, draw
from stn_lightning.launch.table_format import read_table
from stn_lightning.runs.loading import TrainedNetwork as Run
from stn_lightning.runs.options import Options
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime.atomic_files import atomic_write
from stn_lightning.transformers import WarpOutput

PICTURES = 12
"""In each gallery."""
FRAMES = 30
"""Most of an animation; a longer training is shown in as many, evenly chosen."""
STEPS = 6
"""Most of a strip."""


class Evaluation(NamedTuple):
    """What a run made of the test pictures."""

    label: Int64[Tensor, "pictures *digits"]
    answer: Int64[Tensor, "pictures *digits"]
    theta: Float[Tensor, "pictures n numbers"] | None
    chosen: Any
    """PNG: the first pictures with outlines and crops; None where nothing can be drawn"""
    worst: Any
    """PNG: those of the highest loss"""
    worst_said: list[str]
    """what they are and were taken for, as far as they are errors"""


class RunReport(NamedTuple):
    """All that the page says of a run."""

    name: str
    results: dict[str, Any]
    config: str
    class_names: tuple[str, ...]
    curves: dict[str, list[tuple[int, float]]]
    """by their names in TensorBoard: (step, value)"""
    paper: list[str]
    """the paper's number beside ours, for each table that the run belongs to"""
    evaluation: Evaluation
    animation: bytes | None
    """WebP: the same pictures after each epoch"""
    filmstrip: bytes | None
    """PNG: the first of them, a few steps below each other"""


def report(arguments: list[str]) -> int:
    """Write the page.

    Returns:
        the process's exit code: 0, or 2 where the user got something wrong.
    """
    options = Options(
        "report",
        "A page about runs in one file: curves, the paper's numbers, where they look, what they get wrong.",
    )
    options.add_argument("runs", nargs="+", metavar="RUN", help="names of runs, or their folders")
    options.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="report.html in the folder of the first run when left out",
    )
    options.add_argument(
        "--film",
        type=Path,
        metavar="FILE",
        help="also what the first run looked at after each epoch, as WebP",
    )
    options.add_argument(
        "--strip", type=Path, metavar="FILE", help="also a few steps of it below each other, as PNG"
    )
    options.add_argument(
        "--checkpoint", help="a file in a run's checkpoints; best.ckpt if left out"
    )
    chosen = options.parse_args(arguments)
    try:
        return report_runs(chosen.runs, chosen.out, chosen.film, chosen.strip, chosen.checkpoint)
    except (ValueError, OSError) as problem:
        print(f"stn report: {problem}", file=sys.stderr)
        return 2


def report_runs(
    runs: Sequence[str],
    out: Path | None = None,
    film: Path | None = None,
    strip: Path | None = None,
    checkpoint: str | None = None,
) -> int:
    """Write a page about runs in one file: curves, the paper's numbers, crops, errors.

    Args:
        runs: names of runs, or their folders.
        out: report.html in the folder of the first run when left out.
        film: WebP of the first run's crops, epoch by epoch.
        strip: PNG of a few epochs of it, below each other.
        checkpoint: a file in the runs' folders `checkpoints`; best.ckpt when left out.

    Returns:
        0.

    Raises:
        ValueError: if there is no such run, or it has no images of two epochs or more.
    """
    networks = [Run.load(name, checkpoint=checkpoint) for name in runs]
    file = write_report(networks, out, film, strip)
    print(f"{file}, {file.stat().st_size / 2**20:.1f} MB: open it in any browser")
    return 0


def write_report(
    networks: Sequence[Run],
    path: str | Path | None = None,
    film: str | Path | None = None,
    strip: str | Path | None = None,
) -> Path:
    """Write a page about runs; return its path.

    Args:
        networks: compared side by side where there are several.
        path: report.html in the folder of the first run when left out.
        film: also a WebP of the first run's crops, epoch by epoch.
        strip: also a PNG of a few epochs of it, below each other.

    Raises:
        ValueError: if a film or strip is asked for and there are no images of two epochs.
    """
    reports = [collect(network) for network in networks]
    file = Path(path) if path is not None else networks[0].folder / "report.html"
    _write(file, page(reports).encode())
    for option, target, content in (
        ("film", film, reports[0].animation),
        ("strip", strip, reports[0].filmstrip),
    ):
        if target is None:
            continue
        if content is None:
            raise ValueError(
                f"{networks[0].folder} has no images of two epochs or more; leave --{option} out"
            )
        _write(Path(target), content)
    return file


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        out.write(content)


def collect(run: Run) -> RunReport:
    """Read a run's folder, and look at the test pictures through it."""
    curves, pictures = read_events(run.folder)
    numbers = paper_numbers(run.results, resolve_config(Path("configs/tables")))
    config = yaml.safe_dump(run.config, sort_keys=False)
    return RunReport(
        run.name,
        run.results,
        config,
        run.class_names,
        curves,
        numbers,
        evaluate(run),
        animate(pictures),
        filmstrip(pictures),
    )


def read_events(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[tuple[int, bytes]]]:
    """Curves, and the panel's picture of each epoch with its step, from TensorBoard's files;
    nothing where a run logged nothing.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # seconds

    events = EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 1}
    )
    events.Reload()
    tags = events.Tags()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]
    }
    shown = "where it looks"
    return curves, [
        (event.step, event.encoded_image_string) for event in events.Images(shown)
    ] if shown in tags["images"] else []


def animate(pictures: list[tuple[int, bytes]]) -> bytes | None:
    """The panels one after the other, a seventh of a second each, as WebP: the paper's video."""
    if len(pictures) < 2:
        return None
    indices = sorted({round(i * (len(pictures) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    frames = [Image.open(io.BytesIO(pictures[i][1])).convert("RGB") for i in indices]
    file = io.BytesIO()
    durations = [150] * (len(frames) - 1) + [2000]
    frames[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=40,
        method=6,
    )
    return file.getvalue()


def filmstrip(pictures: list[tuple[int, bytes]]) -> bytes | None:
    """The panels' first row at a few steps, each a constant factor after the one before, as PNG:
    the paper's crops over steps.
    """
    if len(pictures) < 2:
        return None
    last = len(pictures) - 1
    indices = sorted({round((last + 1) ** (i / (STEPS - 1))) - 1 for i in range(STEPS)})
    panels = [
        (pictures[i][0], Image.open(io.BytesIO(pictures[i][1])).convert("RGB")) for i in indices
    ]
    words, width = 64, panels[0][1].width
    high = min(ROW, panels[0][1].height)
    sheet = Image.new("RGB", (words + width, len(panels) * high), "white")
    for i, (step, panel) in enumerate(panels):
        ImageDraw.Draw(sheet).text((4, i * high + high // 2 - 6), f"step {step}", fill="black")
        sheet.paste(panel.crop((0, 0, width, high)), (words, i * high))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def paper_numbers(results: dict[str, Any], tables: Path) -> list[str]:
    """For each of the paper's tables that has a cell of the run's configuration files."""
    said = []
    for path in sorted(tables.glob("*.yaml")):
        table = read_table(path)
        files = {Path(file) for file in results.get("configs", [])}
        for row, column in (
            (r, c)
            for r, f in table.rows.items()
            for c, g in table.columns.items()
            if {f, g} <= files
        ):
            number, ours = (
                table.paper.get(row, {}).get(column),
                results["metrics"].get(table.metric),
            )
            if number is not None and ours is not None:
                said.append(f"{table.title}, {row} on {column}: {ours:.2f}, the paper {number:g}")
    return said


def evaluate(run: Run) -> Evaluation:
    """Go through the test pictures once; of the pictures themselves, the first and the worst are
    kept.
    """
    run.data.prepare_data()
    run.data.setup("test")
    labels, best, thetas = [], [], []
    chosen: list[Any] = []
    worst: list[Any] = []
    for batch in run.data.test_dataloader():
        batch = run.data.on_after_batch_transfer(batch, 0)
        logits, look = run.infer(batch.image)
        logits = logits.float().cpu()
        loss = (
            functional.cross_entropy(logits.movedim(-1, 1), batch.label, reduction="none")
            .reshape(len(logits), -1)
            .sum(1)
        )
        if look is not None:
            thetas.append(look.thetas.float().cpu())
        answers = logits.argmax(-1)
        places = [look and _row(look.output, i) for i in range(len(loss))]
        rows = list(zip(loss.tolist(), batch.image, places, batch.label, answers, strict=True))
        chosen += rows[: PICTURES - len(chosen)]
        worst = sorted([*worst, *rows], key=lambda row: -row[0])[:PICTURES]
        labels.append(batch.label)
        best.append(answers)
    names = [
        f"{_read(run, label)} taken for {_read(run, answer)}"
        for *_, label, answer in worst
        if (label != answer).any()
    ]
    return Evaluation(
        torch.cat(labels),
        torch.cat(best),
        torch.cat(thetas) if thetas else None,
        _gallery(chosen),
        _gallery(worst),
        names,
    )


def _row(warp: WarpOutput, i: int) -> WarpOutput:
    """Of one picture, with memory of its own."""
    return WarpOutput(*(value[i].float().cpu().clone() for value in warp))


def _gallery(rows: list[Any]) -> bytes | None:
    image = torch.stack([row[1] for row in rows]).cpu()
    if image.dim() != 4 or image.shape[1] not in (1, 3) or rows[0][2] is None:
        return None
    low = image.amin((1, 2, 3), keepdim=True).clamp(max=0)  # of pictures less their mean
    warps = [row[2] for row in rows]
    warp = WarpOutput(
        *(torch.stack([getattr(w, name) for w in warps]) for name in WarpOutput._fields)
    )
    crops = warp.image - low.view(-1, *[1] * (warp.image.dim() - 1))
    file = io.BytesIO()
    Image.fromarray(draw(image - low, warp._replace(image=crops), columns=2)).save(file, "PNG")
    return file.getvalue()


def _read(run: Run, label: Tensor) -> str:
    return "".join(run.class_names[i] for i in label.reshape(-1).tolist())
