"""Draw the figure of every page in docs/operations.

    make figures

Takes ten seconds and needs no data. Where an image has an outline with lines inside, these are rows
and columns of the sampling grid: what the output looks at.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stn_lightning.geometry import affine, antialiasing, lattice, sampling, volume, wide
from stn_lightning.transformers import (
    Affine,
    Attention,
    Diffeomorphic,
    Family,
    LearntTargetGrid,
    Projective,
    Similarity,
    ThinPlateSpline,
    Translation,
)

FOLDER = Path(__file__).parent / "operations"
SIDE, GAP, TEXT = 168, 10, 18
"""Of a panel, between panels, and of the line above one; pixels."""

WarpImages = tuple[str, Image.Image]


def example(side: int = 64) -> Tensor:
    """Return a checkerboard with an F, (1, 3, side, side).

    No turn or flip leaves it as it is.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = (
        torch.where(((x * 8 // side + y * 8 // side) % 2 == 0)[None], 0.82, 0.95)
        .expand(3, -1, -1)
        .clone()
    )
    u, v = x / side, y / side
    letter = (
        (u > 0.28)
        & (v > 0.16)
        & (v < 0.84)
        & ((u < 0.42) | ((u < 0.74) & (v < 0.29)) | ((u < 0.64) & (v > 0.43) & (v < 0.56)))
    )
    image[:, letter] = torch.tensor([0.10, 0.25, 0.50])[:, None]
    image[:, (u - 0.85).square() + (v - 0.8).square() < 0.006] = torch.tensor([0.90, 0.45, 0.10])[
        :, None
    ]
    return image[None]


def panel(image: Tensor) -> Image.Image:
    """Enlarge an image to a panel's size without interpolation.

    Args:
        image: (3 or 1, height, width), 0 to 1.
    """
    values = (
        (image.expand(3, -1, -1).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .permute(1, 2, 0)
        .contiguous()
    )
    return Image.fromarray(values.numpy()).resize((SIDE, SIDE), Image.Resampling.BOX)


def outlined(image: Tensor, grid: Tensor, reach: float = 1.0) -> Image.Image:
    """Draw a grid's lines on an image.

    Args:
        grid: (height, width, 2).
        reach: above 1, the surroundings are shown, too.
    """
    inner = round(SIDE / reach)
    drawn = Image.new("RGB", (SIDE, SIDE), "white")
    corner = (SIDE - inner) // 2
    drawn.paste(panel(image).resize((inner, inner), Image.Resampling.NEAREST), (corner, corner))
    draw = ImageDraw.Draw(drawn)
    places = ((grid / reach + 1) * SIDE / 2).tolist()
    for lines in (places, list(zip(*places, strict=True))):
        for i in range(0, len(lines), max(1, (len(lines) - 1) // 8)):
            draw.line(
                [tuple(p) for p in lines[i]],
                fill="#d02020",
                width=2 if i in (0, len(lines) - 1) else 1,
            )
    return drawn


def seen(
    family: Family,
    theta: Sequence[float],
    title: str,
    padding: sampling.Padding = (1.0,),
    reach: float = 1.4,
) -> list[WarpImages]:
    """Return an image with a family's outline, and its output."""
    image, at = example(), torch.tensor([theta])
    with torch.no_grad():
        lines, output = (
            family(at, (33, 33))[0],
            sampling.bilinear(image, family(at, (64, 64)), padding)[0],
        )
    return [(title, outlined(image[0], lines, reach)), ("what it sees", panel(output))]


def columns(*pairs: list[WarpImages]) -> list[list[WarpImages]]:
    return [list(row) for row in zip(*pairs, strict=True)]


def noise(n: int, std: float, seed: int) -> list[float]:
    return (std * torch.randn(n, generator=torch.Generator().manual_seed(seed))).tolist()


def affine_figure() -> list[list[WarpImages]]:
    cos, sin = 0.8 * math.cos(0.5), 0.8 * math.sin(0.5)
    return columns(
        seen(Translation(0.5), [0.3, -0.2], "translation"),
        seen(Attention(), [0.6, -0.2, 0.1], "attention"),
        seen(Similarity(), [cos, sin, 0.1, 0.0], "similarity"),
        seen(Affine(), [0.9, 0.4, 0.0, -0.1, 0.7, 0.1], "affine"),
    )


def projective_figure() -> list[list[WarpImages]]:
    level = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return columns(
        seen(Projective(), [*level, 0.0, 0.25], "tilted"),
        seen(Projective(), [0.9, 0.2, 0.0, -0.1, 0.9, 0.0, 0.3, -0.2], "tilted and sheared"),
        seen(Projective(), [*level, 0.0, 0.9], "near the horizon", reach=2.0),
    )


def spline_figure() -> list[list[WarpImages]]:
    return columns(
        *(
            seen(ThinPlateSpline(), noise(32, std, 2), f"displaced by {std}")
            for std in (0.05, 0.1, 0.2)
        )
    )


def diffeomorphic_figure() -> list[list[WarpImages]]:
    theta, family, image = torch.tensor([noise(32, 0.25, 14)]), Diffeomorphic(), example()
    there = sampling.bilinear(image, family(theta, (64, 64)), [1.0])
    back = family(family.inverse(theta), (64, 64))
    returned = [
        ("inverse of that grid", outlined(there[0], back[0][::2, ::2], 1.4)),
        ("and back", panel(sampling.bilinear(there, back, [1.0])[0])),
    ]
    return columns(
        seen(ThinPlateSpline(), theta[0].tolist(), "spline: folds"),
        seen(family, theta[0].tolist(), "diffeomorphic"),
        returned,
    )


def learnt_target_figure() -> list[list[WarpImages]]:
    family = LearntTargetGrid()
    with torch.no_grad():
        family.target.copy_(torch.tensor([noise(32, 0.09, 7)]))
    return columns(
        seen(family, family.identity, "a learnt B"),
        seen(family, [0.7, -0.3, 0.1, 0.3, 0.7, 0.0], "one image's M B"),
        seen(family, [0.6, 0.0, -0.2, 0.2, 0.9, 0.1], "another's"),
    )


def volume_figure() -> list[list[WarpImages]]:
    letter = (example(40)[:, :1] < 0.3).float()  # (1, 1, 40, 40)
    solid = torch.nn.functional.pad(
        letter[:, :, None].expand(-1, -1, 14, -1, -1), (0, 0, 0, 0, 13, 13)
    )  # 40 deep
    a, b = 0.7, 0.5  # turned about y, then about x
    about_y = torch.tensor(
        [[math.cos(a), 0, math.sin(a), 0, 0, 1, 0, 0, -math.sin(a), 0, math.cos(a), 0]]
    )
    about_x = torch.tensor(
        [[1.0, 0, 0, 0, 0, math.cos(b), -math.sin(b), 0, 0, math.sin(b), math.cos(b), 0]]
    )
    theta = volume.compose(about_x, about_y) * 1.1
    turned = sampling.trilinear(solid, volume.grid(theta, (40, 40, 40)))
    restored = sampling.trilinear(turned, volume.grid(volume.inverse(theta), (40, 40, 40)))
    flat = [("a letter with depth", solid), ("turned in space", turned), ("warped back", restored)]
    return [[(title, panel(1 - content.mean(2)[0] * 2.5)) for title, content in flat]]


def sampling_figure() -> list[list[WarpImages]]:
    small, near = (
        example(16),
        affine.grid(torch.tensor([[0.45, 0.2, 0, -0.2, 0.45, -0.1]]), (84, 84)),
    )
    far = affine.grid(torch.tensor([[1.6, 0.3, 0.3, -0.3, 1.6, 0]]), (84, 84))
    kernels: list[tuple[str, Callable[..., Tensor]]] = [
        ("nearest", sampling.nearest),
        ("bilinear", sampling.bilinear),
        ("bicubic", sampling.bicubic),
    ]
    paddings: list[tuple[str, sampling.Padding]] = [
        ("zeros", "zeros"),
        ("border", "border"),
        ("reflection", "reflection"),
        ("a colour", [0.7, 0.8, 0.6]),
    ]
    return [
        [
            ("the image, 16 x 16", outlined(small[0], near[0])),
            *((name, panel(kernel(small, near)[0])) for name, kernel in kernels),
        ],
        [
            (name, panel(sampling.bilinear(example(), far, padding)[0]))
            for name, padding in paddings
        ],
    ]


def antialiasing_figure() -> list[list[WarpImages]]:
    x, y = lattice.points((336, 336), torch.empty(0)).unbind(-1)
    rings = (0.5 + 0.5 * torch.cos(110 * (x.square() + y.square())))[None, None]
    theta, rows = torch.tensor([[0.95, -0.25, 0, 0.25, 0.95, 0]]), []
    for name, size in (("by 4", (84, 84)), ("one way by 8", (336, 42))):
        grid = affine.grid(theta, size)
        fine = affine.grid(theta, (336 * 2, 336 * 2))
        exact = torch.nn.functional.adaptive_avg_pool2d(sampling.bilinear(rings, fine), size)
        shown = [
            ("bilinear", sampling.bilinear(rings, grid)),
            ("antialiased", antialiasing.sample_antialiased(rings, grid)),
            ("exact integral", exact),
        ]
        rows.append(
            [(f"shrunk {name}", panel(rings[0]))]
            + [(title, panel(image[0])) for title, image in shown]
        )
    return rows


def wide_figure() -> list[list[WarpImages]]:
    x, y = lattice.points((64, 64), torch.empty(0)).unbind(-1)
    image = ((x - 0.35).square() + (y + 0.3).square() < 0.05).float()[None, None]
    spots = [(u / 5, v / 5) for u in range(-6, 7) for v in range(-6, 7)]
    found = []
    for title, widened in (("bilinear", False), ("wide gradient", True)):
        theta = torch.tensor(spots).requires_grad_()
        many = image.expand(len(spots), -1, -1, -1)
        grid = affine.grid(affine.from_translation(theta, 0.25), (12, 12))
        read = sampling.bilinear(many, grid)
        (wide.widen_gradient(read, many, grid) if widened else read).mean(
            (1, 2, 3)
        ).sum().backward()
        assert theta.grad is not None
        drawn = outlined(1 - 0.5 * image[0], torch.zeros(1, 1, 2), 1.4).resize((2 * SIDE, 2 * SIDE))
        draw = ImageDraw.Draw(drawn)
        for (u, v), pull in zip(spots, theta.grad, strict=True):
            length = pull.norm().item()
            at = tuple((c / 1.4 + 1) * SIDE for c in (u, v))
            if length < 1e-6:
                draw.ellipse([at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1], fill="#909090")
                continue
            end = tuple(c + 15 * p.item() / length for c, p in zip(at, pull, strict=True))
            draw.line([at, end], fill="#d02020", width=2)
            draw.ellipse([end[0] - 2, end[1] - 2, end[0] + 2, end[1] + 2], fill="#d02020")
        found.append((f"{title}: where a crop is pulled", drawn))
    return [found]


def deterministic_figure() -> list[list[WarpImages]]:
    """Draw how the order of sums changes a gradient.

    One pixel is read by 4,096 points; their contributions are added in 2,000 orders, as atomic
    additions would.
    """
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(4096, generator=generator)
    orders = torch.stack([torch.randperm(4096, generator=generator) for _ in range(2000)], dim=1)
    sums = torch.zeros(2000)
    for i in range(4096):  # one after the other; a cumsum would hold its total in more than float32
        sums += parts[orders[i]]
    off = (sums.double() - parts.double().sum()) * 1e5
    drawn = Image.new("RGB", (3 * SIDE, SIDE), "white")
    draw = ImageDraw.Draw(drawn)
    bars = torch.histc(off, 42, -24, 24)
    for i, height in enumerate((bars / bars.max() * (SIDE - 30)).tolist()):
        draw.rectangle([i * 12 + 1, SIDE - 18 - height, i * 12 + 10, SIDE - 18], fill="#4060a0")
    for value in (-20, -10, 0, 10, 20):
        draw.text(
            ((value + 24) * 3 * SIDE / 48, SIDE - 15),
            f"{value}e-5" if value else "0",
            fill="black",
            anchor="ma",
            font=font(),
        )
    return [
        [
            (
                "error of one sum of 4,096 numbers in 2,000 orders: "
                f"{len(sums.unique())} different results",
                drawn,
            )
        ]
    ]


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def sheet(rows: list[list[WarpImages]]) -> Image.Image:
    """Put panels in rows, each below a line of text."""
    heights = [max(image.height for _, image in row) + TEXT + GAP for row in rows]
    width = max(sum(image.width + GAP for _, image in row) for row in rows) - GAP
    drawn = Image.new("RGB", (width, sum(heights) - GAP), "white")
    draw, top = ImageDraw.Draw(drawn), 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for title, image in row:
            draw.text((left, top), title, fill="black", font=font())
            drawn.paste(image, (left, top + TEXT))
            left += image.width + GAP
        top += height
    return drawn


FIGURES = {
    "affine": affine_figure,
    "projective": projective_figure,
    "thin_plate_spline": spline_figure,
    "diffeomorphic": diffeomorphic_figure,
    "learnt_target": learnt_target_figure,
    "volume": volume_figure,
    "sampling": sampling_figure,
    "antialiasing": antialiasing_figure,
    "wide": wide_figure,
    "deterministic": deterministic_figure,
}


def main() -> None:
    torch.set_num_threads(1)  # the same image, byte for byte, every time
    for name, figure in FIGURES.items():
        sheet(figure()).quantize(24 if name == "antialiasing" else 64).save(
            FOLDER / f"{name}.png", optimize=True
        )


if __name__ == "__main__":
    main()
