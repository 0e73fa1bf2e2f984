"""Show how crops changed during training."""

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from stn_lightning.callbacks.warp_images import ROW

PANEL = "where it looks"
"""Tag of `WarpImages` in TensorBoard."""
FRAMES = 30
"""Largest number of frames of a film; of a longer training as many, evenly chosen."""
STEPS = 6
"""Largest number of rows of a filmstrip."""


class Events(NamedTuple):
    """Curves and images that a training logged."""

    curves: dict[str, list[tuple[int, float]]]
    """by their tags in TensorBoard: (step, value)"""
    panels: list[tuple[int, bytes]]
    """step, and an image file of the same validation images with their crops"""


def read_events(folder: Path) -> Events:
    """Read TensorBoard's files in a folder, if there are any."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # seconds

    limits = {"scalars": 0, "images": 0, "histograms": 1}
    events = EventAccumulator(str(folder), size_guidance=limits)
    events.Reload()
    tags = events.Tags()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]
    }
    images = events.Images(PANEL) if PANEL in tags["images"] else []
    return Events(curves, [(event.step, event.encoded_image_string) for event in images])


def animate(panels: list[tuple[int, bytes]]) -> bytes | None:
    """Return the panels one after the other as WebP.

    None of fewer than two.
    """
    if len(panels) < 2:
        return None
    indices = sorted({round(i * (len(panels) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    frames = [Image.open(io.BytesIO(panels[i][1])).convert("RGB") for i in indices]
    file = io.BytesIO()
    frames[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[150] * (len(frames) - 1) + [2000],  # milliseconds
        loop=0,
        quality=40,
        method=6,
    )
    return file.getvalue()


def filmstrip(panels: list[tuple[int, bytes]]) -> bytes | None:
    """Return the panels' first rows at a few steps.

    A PNG, below each other; None of fewer than two panels. Each step is a constant factor after
    the one before.
    """
    if len(panels) < 2:
        return None
    last = len(panels) - 1
    indices = sorted({round((last + 1) ** (i / (STEPS - 1))) - 1 for i in range(STEPS)})
    rows = [(panels[i][0], Image.open(io.BytesIO(panels[i][1])).convert("RGB")) for i in indices]
    margin, width = 64, rows[0][1].width
    height = min(ROW, rows[0][1].height)
    sheet = Image.new("RGB", (margin + width, len(rows) * height), "white")
    for i, (step, panel) in enumerate(rows):
        place = (4, i * height + height // 2 - 6)
        ImageDraw.Draw(sheet).text(place, f"step {step}", fill="black")
        sheet.paste(panel.crop((0, 0, width, height)), (margin, i * height))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
