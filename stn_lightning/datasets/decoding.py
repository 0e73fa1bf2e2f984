"""Decode image files: upright, in colour, 8 bits.

By Pillow: TorchVision's decoder is faster, but it is deprecated, and damaged files can take the
whole process down with it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from stn_lightning.datasets.files.paths import printable

PIXELS = 2**27
"""Largest number of pixels: a few bytes of JPEG can unfold into 12 GB."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats whose decoders may run: Pillow's others start programs, or are little tested."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Endings of files that are taken for images, in lower case."""
WHITE = (255, 255, 255)

_ORIENTATION, _BITS, _PHOTOMETRIC = 274, 258, 262
"""Tags of TIFF and EXIF."""
_TO_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

RGBImage = UInt8[np.ndarray, "_ _ 3"]
"""(height, width, 3)"""


def decode(path: Path, background: tuple[int, int, int] = WHITE) -> RGBImage:
    """Decode an image file.

    The orientation that a camera noted is applied. Of several frames the first is taken.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        background: red, green and blue of what shows through transparent pixels, 0 to 255.

    Returns:
        the upright image, (height, width, 3). 16 bits are scaled to 8, and floats from 0 to 1.

    Raises:
        ValueError: with the file's name, if it is damaged, too large, or of unknown range.
    """
    with _opened(path) as image:
        _refuse_large(image)
        image.load()
        integers = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
        if not integers and image.mode not in ("I", "F"):
            return np.asarray(_on_background(_upright(image), background))
        grey = _scaled_16_bits(image) if integers else _scaled_floats(image)
        pixels = np.asarray(_upright(image, Image.fromarray(grey)).convert("RGB"))
        if isinstance(key := image.info.get("transparency"), int):
            transparent = np.asarray(_upright(image)) == key
            pixels = np.where(transparent[..., None], np.array(background, np.uint8), pixels)
        return pixels


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an upright image.

    Raises:
        ValueError: with the file's name, if it has no header, or more than `PIXELS`.
    """
    with _opened(path) as image:
        _refuse_large(image)
        if image.format != "TIFF" and _orientation(image) >= 5:  # Pillow turns TIFF by itself
            return image.width, image.height
        return image.height, image.width


def raise_unreadable(problems: Sequence[str]) -> None:
    """Raise one error for all unreadable images."""
    if problems:
        cure = f"{len(problems):,} images cannot be read; restore them, or leave them out"
        raise ValueError("\n".join([*problems, cure]))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file, and name it in all errors."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for its other end
            raise ValueError("this is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and odd headers
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            yield image
    except FileNotFoundError as problem:
        raise ValueError(f"{printable(path)}: is missing") from problem
    except Image.DecompressionBombError as problem:
        raise ValueError(f"{printable(path)}: {_too_large()}") from problem
    except Exception as problem:  # of many kinds, all about the file
        lines = str(problem).splitlines() or [type(problem).__name__]
        reason = "it is not an image" if isinstance(problem, UnidentifiedImageError) else lines[0]
        raise ValueError(
            f"{printable(path)}: {reason}; JPEG, PNG, WebP, BMP, GIF and TIFF files are read"
        ) from problem


def _too_large() -> str:
    return f"it says it has more than {PIXELS:,} pixels, which is refused; make it smaller"


def _refuse_large(image: Image.Image) -> None:
    if image.width * image.height > PIXELS:
        raise ValueError(_too_large())


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF that makes no sense is none
        return 1


def _upright(source: Image.Image, image: Image.Image | None = None) -> Image.Image:
    """Turn an image as its source's EXIF says."""
    method = _TO_UPRIGHT.get(_orientation(source))
    image = source if image is None else image
    return image if method is None else image.transpose(method)


def _on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        below = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_16_bits(image: Image.Image) -> UInt8[np.ndarray, "height width"]:
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    largest = 4095 if tags.get(_BITS) == (12,) else 65535
    values = np.asarray(image).astype(np.float64) / largest
    return _to_bytes(1 - values if tags.get(_PHOTOMETRIC) == 0 else values)


def _scaled_floats(image: Image.Image) -> UInt8[np.ndarray, "height width"]:
    if image.mode == "I":
        raise ValueError("its integers have no known range; save it with 8 or 16 bits, unsigned")
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # nor NaN
        raise ValueError("its floats are not all between 0 and 1; scale them, or save 8 bits")
    return _to_bytes(values)


def _to_bytes(values: Num[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    return np.round(values * 255).clip(0, 255).astype(np.uint8)
