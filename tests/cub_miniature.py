"""CUB-200-2011 in miniature: the original files and folders, with images that say where their
pixels are.
"""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 3
EACH = 6
"""Images of a class: four to train on, two for the test."""
PARTS = ("back", "beak", "left eye")


def gradient(height: int, width: int, blue: int) -> np.ndarray:
    """Red grows to the right, green downwards, so that a crop says where it is from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    image[..., 2] = blue
    return image


def write_cub(root: Path, height: int = 48) -> Path:
    """Write `root/CUB_200_2011`; image i (from 1) is 12 i pixels wider than high, or as much
    higher where i is even.
    """
    folder = root / "CUB_200_2011"
    (folder / "parts").mkdir(parents=True)
    rows: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    parts = []
    for i in range(1, CLASSES * EACH + 1):
        label, place = (i - 1) // EACH + 1, (i - 1) % EACH
        name = f"{label:03d}.Bird_{label}/Bird_{label}_{i:04d}.jpg"
        size = (height, height + 12 * i) if i % 2 else (height + 12 * i, height)
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient(*size, 60 * label)).save(folder / "images" / name, quality=95)
        rows["images"].append(f"{i} {name}")
        rows["image_class_labels"].append(f"{i} {label}")
        rows["train_test_split"].append(f"{i} {int(place < 4)}")
        rows["bounding_boxes"].append(
            f"{i} {0.25 * size[1]} {0.5 * size[0]} {0.5 * size[1]} {0.25 * size[0]}"
        )
        for part in range(1, len(PARTS) + 1):  # in the middle; at the left border; not to be seen
            x, y = [(0.5 * size[1], 0.5 * size[0]), (0.0, 0.5 * size[0]), (0.0, 0.0)][part - 1]
            parts.append(f"{i} {part} {x} {y} {int(part < 3)}")
    rows["classes"] = [f"{label} {label:03d}.Bird_{label}" for label in range(1, CLASSES + 1)]
    for file, lines in rows.items():
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")
    (folder / "parts/parts.txt").write_text(
        "".join(f"{n} {name}\n" for n, name in enumerate(PARTS, 1))
    )
    (folder / "parts/part_locs.txt").write_text("\n".join(parts) + "\n")
    return folder
