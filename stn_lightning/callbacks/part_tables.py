"""Tables of which annotated parts crops contain."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

FILE = "parts.json"
"""The name of the file in a run's folder."""


class PartShares(NamedTuple):
    """Shares of images, or of parts, from 0 to 1.

    For a group of parts, only images with a visible part of the group count.
    """

    contained: Float[Tensor, "transformers parts"]
    """share of the images with this part visible whose crop contains it"""
    overlap: Float[Tensor, "transformers transformers"]
    """mean intersection over union of two crops"""
    held: Float[Tensor, "transformers groups"]
    """share of the images whose crop contains at least half of the group's visible parts"""
    any_part: Float[Tensor, "transformers groups"]
    """share of the images whose crop contains at least one of the group's visible parts"""
    mean_share: Float[Tensor, "transformers groups"]
    """mean share of the group's visible parts that a crop contains"""
    held_of: Float[Tensor, "kinds transformers groups"]
    """`held` for each kind of image"""
    images_of: Float[Tensor, " kinds"]
    """number of images of each kind"""


class TextTable(NamedTuple):
    """A table of formatted cells."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class PartTables:
    """Scores of parts with their names.

    Args:
        parts: names of the parts.
        groups: names of the groups of parts.
        kinds: names of the kinds of images; empty if there are no kinds.
        shares: the scores.
    """

    parts: list[str]
    groups: list[str]
    kinds: list[str]
    shares: PartShares

    @classmethod
    def read(cls, path: Path) -> "PartTables | None":
        """Read a run's scores; None if there are none."""
        try:
            content = json.loads(path.read_text())
            values = [
                torch.tensor(content[name], dtype=torch.float64) for name in PartShares._fields
            ]
            return cls(content["parts"], content["groups"], content["kinds"], PartShares(*values))
        except (OSError, ValueError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Write the scores as JSON."""
        names = {"parts": self.parts, "groups": self.groups, "kinds": self.kinds}
        shares = {name: values.tolist() for name, values in self.shares._asdict().items()}
        images = {"images": int(self.shares.images_of.sum())}
        path.write_text(json.dumps({**names, **shares, **images}, indent=2) + "\n")

    def metrics(self) -> dict[str, float]:
        """Return scores of groups, in %, and the mean overlap."""
        n, shares = len(self.shares.contained), self.shares
        values = {
            f"{group}{name}_crop_{i + 1}": 100 * float(share[i, k])
            for k, group in enumerate(self.groups)
            for name, share in (("", shares.held), ("_any", shares.any_part))
            for i in range(n)
        }
        above = torch.ones(n, n).triu(1) > 0
        return {**values, "crop_overlap": float(shares.overlap[above].mean())} if n > 1 else values

    def tables(self) -> Iterator[TextTable]:
        """Yield tables of groups, kinds and parts, in %."""
        shares, n = self.shares, len(self.shares.contained)
        crops = [f"crop {i + 1}" for i in range(n)]
        if self.groups:
            of_groups = {
                "at least half of its visible parts": shares.held,
                "at least one visible part": shares.any_part,
                "mean share of the visible parts": shares.mean_share,
            }
            rows = [
                [f"{group}: {name}", *percent(share[:, k])]
                for k, group in enumerate(self.groups)
                for name, share in of_groups.items()
            ]
            yield TextTable(["group of parts", *crops], rows)
        if self.groups and self.kinds:
            head = [f"{group}, {crop}" for group in self.groups for crop in crops]
            order = shares.images_of.argsort(descending=True, stable=True).tolist()
            rows = [
                [self.kinds[i], f"{shares.images_of[i]:,.0f}", *percent(shares.held_of[i].T)]
                for i in order
            ]
            yield TextTable(["at least half of the visible parts", "images", *head], rows)
        rows = [[name, *percent(shares.contained[:, k])] for k, name in enumerate(self.parts)]
        yield TextTable(["part", *crops], rows)

    def overlaps(self) -> str:
        """Return the overlap of each two crops in words."""
        overlap, n = self.shares.overlap, len(self.shares.overlap)
        pairs = [
            f"crops {i + 1} and {j + 1}: {overlap[i, j]:.2f}"
            for i in range(n)
            for j in range(i + 1, n)
        ]
        return f"Intersection over union: {', '.join(pairs) or 'one crop'}."

    def markdown(self) -> str:
        """Format all tables as Markdown."""
        lines = []
        for table in self.tables():
            lines += [_line(table.head), "|---" * len(table.head) + "|"]
            lines += [*map(_line, table.rows), ""]
        return "\n".join([*lines, self.overlaps(), ""])

    def draw(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draw scores of parts as squares, darker if higher."""
        side, left, top = 48, 90, 20
        crops = self.shares.contained.tolist()
        size = left + side * len(crops) + 4, top + side * len(self.parts) + 4
        canvas = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(canvas)
        for i, row in enumerate(crops):
            pen.text((left + side * i + 4, 4), f"crop {i + 1}", fill="black")
            for k, value in enumerate(row):
                x, y, shade = left + side * i, top + side * k, round(255 * (1 - value))
                pen.rectangle((x, y, x + side - 2, y + side - 2), fill=(shade, shade, 255))
                colour = "white" if value > 0.5 else "black"
                pen.text((x + 12, y + 18), f"{100 * value:.0f} %", fill=colour)
        for k, name in enumerate(self.parts):
            pen.text((4, top + side * k + 18), name, fill="black")
        return np.asarray(canvas)


def percent(shares: Float[Tensor, "*shape"]) -> list[str]:
    """Format shares in %."""
    return [f"{100 * value:.1f}" for value in shares.flatten().tolist()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
