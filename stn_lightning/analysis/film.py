"""Show how crops changed during training."""

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from stn_lightning.callbacks.drawings import cut
from stn_lightning.callbacks.warp_images import PANEL

FRAMES = 30
"""Largest number of frames of a film; they are evenly spread over a longer training."""
STEPS = 6
"""Largest number of columns of a filmstrip."""
ROWS = 12
"""Largest number of rows of a filmstrip."""
HEAD = 16
"""Height of the first line of a filmstrip, in pixels."""


class Events(NamedTuple):
    """Curves and images that a training logged."""

    curves: dict[str, list[tuple[int, float]]]
    """for each tag in TensorBoard its points (step, value)"""
    panels: list[tuple[int, bytes]]
    """step, and image file with validation images and their crops; always the same images"""


def read_events(folder: Path) -> Events:
    """Read TensorBoard's files in a folder, if there are any."""
    # takes seconds to import
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    """Return an animated WebP; None of fewer than two panels."""
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
    )
    return file.getvalue()


def filmstrip(panels: list[tuple[int, bytes]]) -> bytes | None:
    """Return a PNG: images in rows, steps in columns.

    Steps grow by a constant factor. It is None if there are fewer than two panels.
    """
    if len(panels) < 2:
        return None
    last = len(panels) - 1
    indices = sorted({round((last + 1) ** (i / (STEPS - 1))) - 1 for i in range(STEPS)})
    columns = [cut(Image.open(io.BytesIO(panels[i][1])).convert("RGB"))[:ROWS] for i in indices]
    width, height = columns[0][0].size
    sheet = Image.new("RGB", (len(columns) * width, HEAD + len(columns[0]) * height), "white")
    for x, (index, cells) in enumerate(zip(indices, columns, strict=True)):
        ImageDraw.Draw(sheet).text((x * width + 4, 4), f"step {panels[index][0]}", fill="black")
        for y, cell in enumerate(cells):
            sheet.paste(cell, (x * width, HEAD + y * height))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
