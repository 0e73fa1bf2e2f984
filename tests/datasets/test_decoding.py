"""What an image file means, whatever its format, mode, orientation and transparency."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from PIL.Image import Transpose

from stn_lightning.datasets.decoding import _TO_UPRIGHT, decode, image_size

HEIGHT, WIDTH = 12, 20
ORIENTATION = 274
INVERSE = {Transpose.ROTATE_90: Transpose.ROTATE_270, Transpose.ROTATE_270: Transpose.ROTATE_90}


def gradient() -> np.ndarray:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 250, WIDTH).round()
    pixels[..., 1] = np.linspace(0, 250, HEIGHT).round()[:, None]
    return pixels


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_notes_is_applied(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    stored = Image.fromarray(gradient())
    if orientation > 1:
        method = _TO_UPRIGHT[orientation]
        stored = stored.transpose(INVERSE.get(method, method))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"image.{ending}"
    options = {"lossless": True} if ending == "webp" else {"quality": 98, "subsampling": 0}
    stored.save(path, exif=exif, **(options if ending in ("jpg", "webp") else {}))
    assert image_size(path) == (HEIGHT, WIDTH)
    difference = decode(path).astype(int) - gradient()
    assert np.abs(difference).max() <= (6 if ending == "jpg" else 0)


def test_an_orientation_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    Image.fromarray(gradient()).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "image.png"), gradient())
    Image.fromarray(gradient()).save(tmp_path / "image.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode(tmp_path / "image.png"), gradient())


def ink(mode: str) -> Image.Image:
    """Black ink on transparent ground: the left half is ink."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 255
    black = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0))
    black.putalpha(Image.fromarray(alpha))
    return black if mode == "RGBA" else black.convert(mode)


def keyed_grey(path: Path) -> None:
    grey = np.full((HEIGHT, WIDTH), 7, np.uint8)
    grey[:, : WIDTH // 2] = 0
    Image.fromarray(grey).save(path, transparency=7)


def keyed_16_bits(path: Path) -> None:
    grey = np.full((HEIGHT, WIDTH), 700, np.uint16)
    grey[:, : WIDTH // 2] = 0
    Image.fromarray(grey).save(path, transparency=700)


def keyed_colour(path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, WIDTH // 2 :] = (1, 2, 3)
    Image.fromarray(pixels).save(path, transparency=(1, 2, 3))


def palette(path: Path) -> None:
    ink("RGBA").quantize(4).save(path)


def gif(path: Path) -> None:
    ink("RGBA").save(path, format="GIF")


def saved_as(mode: str) -> Callable[[Path], None]:
    return lambda path: ink(mode).save(path)


TRANSPARENT: dict[str, Callable[[Path], None]] = {
    "rgba.png": saved_as("RGBA"),
    "la.png": saved_as("LA"),
    "palette.png": palette,
    "grey.png": keyed_grey,
    "sixteen.png": keyed_16_bits,
    "colour.png": keyed_colour,
    "image.gif": gif,
    "image.tif": saved_as("RGBA"),
}


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, name: str, background: tuple[int, int, int]
) -> None:
    path = tmp_path / name
    TRANSPARENT[name](path)
    image = decode(path, background) if background != (255, 255, 255) else decode(path)
    assert np.array_equal(image[:, : WIDTH // 2], np.zeros((HEIGHT, WIDTH // 2, 3)))
    assert (image[:, WIDTH // 2 :] == background).all()


def test_half_transparent_ink_is_mixed_with_the_background(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert np.abs(decode(tmp_path / "half.png").astype(int) - 127).max() <= 1


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, ending: str) -> None:
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(ramp).save(tmp_path / f"ramp.{ending}")
    image = decode(tmp_path / f"ramp.{ending}")
    assert np.abs(image[..., 0] - ramp / 257).max() <= 0.51
    assert len(np.unique(image)) > 200


def test_16_bits_where_zero_is_white_are_inverted(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    content = (tmp_path / "ramp.tif").read_bytes()
    tag = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(tag + b"\1") == 1
    (tmp_path / "ramp.tif").write_bytes(content.replace(tag + b"\1", tag + b"\0"))
    assert np.abs(decode(tmp_path / "ramp.tif")[..., 0] - (255 - ramp / 257)).max() <= 0.51


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    path = tmp_path / "ramp.tif"
    Image.fromarray(ramp).save(path)
    assert np.abs(decode(path)[..., 0] - ramp * 255).max() <= 0.51
    for wrong in (ramp * 255, ramp - 0.1, np.full_like(ramp, np.nan)):
        Image.fromarray(wrong).save(path)
        with pytest.raises(ValueError, match=r"ramp\.tif: its floats are not all between 0 and 1"):
            decode(path)


def test_integers_of_no_known_range_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "integers.tif"
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(path)
    with pytest.raises(ValueError, match=r"integers\.tif: its integers have no known range"):
        decode(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_other_modes_become_the_colours_that_pillow_gives_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    image.save(tmp_path / "image.tif")
    assert np.array_equal(decode(tmp_path / "image.tif"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "gif", "tiff"])
def test_each_promised_format_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50)).save(path)
    assert image_size(path) == (HEIGHT, WIDTH)
    assert np.abs(decode(path).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "PCX", "ICO"])
def test_only_the_decoders_of_promised_formats_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(path, format=kind)
    Image.init()
    _, accept = Image.OPEN[kind]

    def run(*_: object) -> None:
        raise AssertionError(f"the decoder of {kind} was started")

    monkeypatch.setitem(Image.OPEN, kind, (run, accept))
    for read in (decode, image_size):
        with pytest.raises(
            ValueError, match=r"image\.png: it is not an image; JPEG, PNG, .* are read"
        ):
            read(path)


def test_a_damaged_file_is_named_and_so_is_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(gradient()).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"image\.png: .*; JPEG, PNG, .* are read"):
        decode(path)
    with pytest.raises(ValueError, match=r"other\.png: is missing"):
        decode(tmp_path / "other.png")


@pytest.mark.parametrize("read", [decode, image_size])
def test_a_pipe_and_a_folder_are_no_images_and_nothing_waits_for_them(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ValueError, match=f"{name}: this is no regular file"):
            read(tmp_path / name)


def test_a_file_whose_name_is_no_utf_8_is_read_and_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.png"
    Image.fromarray(gradient()).save(path)
    assert np.array_equal(decode(path), gradient())
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png") as refused:
        decode(path)
    str(refused.value).encode()


def test_tiff_of_12_bits_is_scaled_by_12(tmp_path: Path) -> None:
    """Pillow writes none: two pixels are packed in three bytes by hand."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 279: 3}
    for tag, value in tags.items():
        info[tag] = value
    info[273] = 0  # bytes from the end of the directory
    pixels = (4095 << 12 | 2048).to_bytes(3, "big")
    header = b"II*\0" + (8).to_bytes(4, "little")
    path = tmp_path / "twelve.tif"
    path.write_bytes(header + info.tobytes(8) + pixels)
    assert decode(path)[0, :, 0].tolist() == [255, 128]
