"""Decode image files: upright, in colour, 8 bits.

They are decoded by Pillow. TorchVision's decoder is faster, but it is deprecated, and damaged files
can crash the process in it.
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
from stn_lightning.runtime.lists import first_few

PIXELS = 2**27
"""Largest number of pixels of an image. A JPEG file of a few bytes can decode to 12 GB."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded. Pillow's other decoders start programs, or are little tested."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Suffixes of image files, in lower case."""
READABLE = "JPEG, PNG, WebP, BMP, GIF and TIFF files are read"
RESTORE = "restore them, or leave them out"
"""Advice about images that cannot be read."""
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

    The EXIF orientation is applied. If there are several frames, the first is decoded.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        background: colour behind transparent pixels, as (red, green, blue) from 0 to 255.

    Returns:
        the upright image, (height, width, 3). 16 bits are scaled to 8, and floats must be from 0 to
        1.

    Raises:
        ValueError: the file is damaged, too large, or its values have no known range; the message
            names it.
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
        ValueError: the file cannot be opened, or has more than `PIXELS`; the message names it.
    """
    with _opened(path) as image:
        _refuse_large(image)
        if image.format != "TIFF" and _orientation(image) >= 5:  # Pillow itself rotates TIFF
            return image.width, image.height
        return image.height, image.width


def raise_unreadable(problems: Sequence[str], cure: str = RESTORE) -> None:
    """Raise one error for all unreadable images.

    Args:
        problems: a line for each image.
        cure: what can be done with them.
    """
    if problems:
        images = "1 image" if len(problems) == 1 else f"{len(problems):,} images"
        raise ValueError("\n".join([f"{images} cannot be read; {cure}", *first_few(problems)]))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file; name it in errors."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise ValueError("this is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and odd headers
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            yield image
    except FileNotFoundError as problem:
        raise ValueError(f"{printable(path)}: is missing") from problem
    except Image.DecompressionBombError as problem:
        raise ValueError(f"{printable(path)}: {_too_large()}") from problem
    except Exception as problem:  # a damaged file can cause any error
        lines = str(problem).splitlines() or [type(problem).__name__]
        reason = "it is not an image" if isinstance(problem, UnidentifiedImageError) else lines[0]
        raise ValueError(f"{printable(path)}: {reason}; {READABLE}") from problem


def _too_large() -> str:
    return f"it has more than {PIXELS:,} pixels; make it smaller"


def _refuse_large(image: Image.Image) -> None:
    if image.width * image.height > PIXELS:
        raise ValueError(_too_large())


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is ignored
        return 1


def _upright(source: Image.Image, image: Image.Image | None = None) -> Image.Image:
    """Apply the EXIF orientation of the source to an image."""
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
