"""Turn image files into the input of the exported network.

Only NumPy and Pillow are needed.

    from preprocess import preprocess          # (1, channels, height, width), float32
    python preprocess.py IMAGE ...             # label of each, by network.onnx (ONNX Runtime)

Resized pixels may differ from PyTorch's by 1/255, as Pillow may round them differently.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

NUMBERS: dict[str, Any] = {}
"""Shape of the network's input, class names, and the settings of the preprocessing."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""


def preprocess(path: str) -> NDArray[np.float32]:
    """Return an image file as the network's input."""
    image = decode(path)
    if NUMBERS["invert_light"] and is_light_background(np.asarray(image)):
        image = ink_on_paper(np.asarray(image))
    how = {"fit": fit, "stretch": stretch, "crop": crop}[NUMBERS["resize"]]
    values = how(image, NUMBERS["image_shape"])
    if NUMBERS["subtract_mean"]:
        values = values - values.mean()
    return values[None].astype(np.float32)


def decode(path: str) -> Image.Image:
    """Open an image: upright, colour, 8 bits, on its background."""
    image: Image.Image = Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"))
    image.load()
    is_16_bits = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    if image.format != "TIFF":  # which Pillow turns by itself
        image = ImageOps.exif_transpose(image)
    if is_16_bits:
        grey = np.round(np.asarray(image).astype(np.float64) / 65535 * 255)
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"{path}: integers and floats have no known range; save 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        below = Image.new("RGBA", image.size, (*NUMBERS["background"], 255))
        return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def is_light_background(pixels: NDArray[np.uint8]) -> bool:
    """Return whether most of the border is lighter than half."""
    sums = np.sort(border(pixels).sum(1))
    return bool(sums[(len(sums) - 1) // 2] > 3 * 127)


def ink_on_paper(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return light ink on black; paper becomes 0, black 255."""
    rim = np.sort(border(pixels), 0)
    last = len(rim) - 1
    paper = np.maximum(rim[last // 10], rim[last // 2] * 7 // 10).clip(1)
    ink = np.maximum(paper - pixels.astype(np.int32), 0)
    return Image.fromarray(((ink * 255 + paper // 2) // paper).astype(np.uint8))


def border(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the pixels of the border: (pixels, 3)."""
    rim = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.concatenate(rim).astype(np.int32)


def fit(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Shrink a larger image, and centre it on black."""
    channels, height, width = shape
    factor = min(1.0, height / image.height, width / image.width)
    rows, columns = (max(1, round(side * factor)) for side in (image.height, image.width))
    values = resized(image, rows, columns)
    if channels == 1:
        values = np.round((values * np.array(GREY, np.float32)).sum(2, keepdims=True))
    top, left = (height - rows) // 2, (width - columns) // 2
    result = np.zeros((channels, height, width), np.float32)
    result[:, top : top + rows, left : left + columns] = values.transpose(2, 0, 1) / 255
    return result


def stretch(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resize the image whatever its proportions."""
    return resized(image, shape[1], shape[2]).transpose(2, 0, 1) / np.float32(255)


def crop(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resize the smaller side to NUMBERS["side"]; crop the middle."""
    side, size, shortest = NUMBERS["side"], shape[1], min(image.size)
    rows, columns = (round(length * side / shortest) for length in (image.height, image.width))
    top, left = (rows - size + 1) // 2, (columns - size + 1) // 2
    middle = resized(image, rows, columns)[top : top + size, left : left + size]
    return middle.transpose(2, 0, 1) / np.float32(255)


def resized(image: Image.Image, rows: int, columns: int) -> NDArray[np.float32]:
    """Resize, antialiased, to (rows, columns, 3)."""
    if image.size != (columns, rows):
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(image).astype(np.float32)


def main() -> None:
    """Print the label of each image."""
    try:
        import onnxruntime
    except ImportError:
        sys.exit("preprocess.py: labels need ONNX Runtime; pip install onnxruntime")

    session = onnxruntime.InferenceSession(Path(__file__).with_name("network.onnx"))
    classes = NUMBERS["classes"]
    for path in sys.argv[1:]:
        (logits,) = session.run(None, {"image": preprocess(path)})
        best = logits[0].argmax(-1)
        if best.ndim:  # of a number's digits; the last class is "no digit here"
            print(path, "".join(classes[i] for i in best if i < len(classes) - 1))
        else:
            print(path, classes[best])


if __name__ == "__main__":
    main()
