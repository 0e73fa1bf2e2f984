import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_lightning.batch import Split
from stn_lightning.datasets import CUB, cub
from stn_lightning.datasets.decoding import decode, image_size
from stn_lightning.datasets.files.download import File
from tests.cub_miniature import PARTS, write_cub

from .originals import cub_folder

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def source_of(root: Path, cached: bool = True, **options: object) -> CUB:
    write_cub(root)
    return again(root, cached, **options)


def again(root: Path, cached: bool = True, **options: object) -> CUB:
    return CUB(
        str(root),
        32,
        str(root / "cache") if cached else None,
        **({"first_classes": 200, "validation": 1} | options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("cached", [True, False])
def test_splits_labels_and_names_are_those_of_the_files(tmp_path: Path, cached: bool) -> None:
    source = source_of(tmp_path, cached)
    source.prepare()
    assert source.class_names == ("Bird 1", "Bird 2", "Bird 3")
    assert source.class_groups == ("1", "2", "3")  # the last word: Warbler, Sparrow, ...
    assert source.part_names == PARTS
    numbers = {"train": [1, 2, 3], "val": [4], "test": [5, 6]}  # of the first class
    for split in SPLITS:
        images = source.load(split)
        expected = [label * 6 + i for label in range(3) for i in numbers[split]]
        assert [int(name[-8:-4]) for name in images.names] == expected
        assert images.label.tolist() == [(i - 1) // 6 for i in expected]
        for image, i in zip(images.image, expected, strict=True):
            longer = round((48 + 12 * i) * 32 / 48)
            assert image.shape == ((32, longer, 3) if i % 2 else (longer, 32, 3))
            assert image.dtype == np.uint8
            assert abs(int(np.median(image[..., 2])) - 60 * ((i - 1) // 6 + 1)) <= 3


def test_the_cache_gives_the_decoded_images_bit_for_bit(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    source.prepare()
    for split in SPLITS:
        cached, decoded = source.load(split).image, again(tmp_path, cached=False).load(split).image
        assert len(cached) == len(decoded)
        assert all(np.array_equal(a, b) for a, b in zip(cached, decoded, strict=True))


def test_the_resized_image_agrees_with_pillow(tmp_path: Path) -> None:
    image = again(write_cub(tmp_path).parent, cached=False).load("test").image
    with Image.open(tmp_path / "CUB_200_2011/images/001.Bird_1/Bird_1_0005.jpg") as original:
        expected = np.asarray(original.resize((72, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(image[0].astype(int) - expected).max() <= 1


def test_a_greyscale_image_becomes_a_coloured_one(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    image = decode(tmp_path / "grey.png")
    assert image.shape == (8, 8, 3)
    assert (image == image[..., :1]).all()


def test_places_are_normalised_to_the_image(tmp_path: Path) -> None:
    places = source_of(tmp_path).annotations("test")
    assert places.parts.shape == (6, 3, 3)
    expected = torch.tensor([[0.0, 0, 1], [-1, 0, 1], [-1, -1, 0]])
    torch.testing.assert_close(places.parts, expected.expand(6, -1, -1))
    torch.testing.assert_close(places.boxes, torch.tensor([-0.5, 0, 0.5, 0.5]).expand(6, -1))
    assert places.size[:2].tolist() == [[32, 72], [80, 32]]


def test_first_classes_are_taken_and_share_the_cache(tmp_path: Path) -> None:
    source_of(tmp_path).prepare()
    files = sorted((tmp_path / "cache").rglob("*.images"))
    assert len(files) == 3  # a class each
    two = again(tmp_path, first_classes=2)
    two.prepare()
    assert two.class_names == ("Bird 1", "Bird 2")
    assert two.load("test").label.unique().tolist() == [0, 1]
    assert sorted((tmp_path / "cache").rglob("*.images")) == files


def test_excluded_images_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("5\n12\n")
    source = source_of(tmp_path, cached=False, exclude=str(tmp_path / "known.txt"))
    assert [len(source.load(split).label) for split in SPLITS] == [9, 3, 4]
    (tmp_path / "known.txt").write_text("5\n99\n")
    with pytest.raises(ValueError, match=r"known\.txt: 99 is no image of"):
        source.load("test")


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    source.prepare()
    first, second, third = sorted((tmp_path / "cache").rglob("*.images"))
    times = {path: path.stat().st_mtime_ns for path in (first, third)}
    content = second.read_bytes()
    second.unlink()
    source.prepare()
    assert second.read_bytes() == content
    assert times == {path: path.stat().st_mtime_ns for path in (first, third)}


def test_a_replaced_image_makes_its_class_anew(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    source.prepare()
    Image.new("RGB", (90, 60), (9, 99, 199)).save(
        tmp_path / "CUB_200_2011/images/001.Bird_1/Bird_1_0001.jpg"
    )
    with pytest.raises(FileNotFoundError, match="is missing; `stn prepare` makes it"):
        source.load("train")
    source.prepare()
    assert source.load("train").image[0].shape == (32, 48, 3)


def test_all_damaged_images_are_named_at_once_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    folder = tmp_path / "CUB_200_2011/images"
    damage = {
        "001.Bird_1/Bird_1_0002.jpg": b"",
        "001.Bird_1/Bird_1_0003.jpg": b"no image",
        "003.Bird_3/Bird_3_0018.jpg": None,
    }
    for name, content in damage.items():
        (folder / name).write_bytes(
            (folder / name).read_bytes()[:-40] if content is None else content
        )
    with pytest.raises(
        ValueError, match="3 images cannot be read; restore them, or leave them out"
    ) as refused:
        source.prepare()
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in lines[1:]] == [
        str(folder / name) for name in damage
    ]
    assert len(list((tmp_path / "cache").rglob("*.images"))) == 1
    with pytest.raises(ValueError, match="3 images cannot be read"):
        again(tmp_path, cached=False).check()
    left_out = tmp_path / "bad.txt"
    left_out.write_text("2\n3\n18\n")
    again(tmp_path, exclude=str(left_out)).prepare()


def test_a_header_that_promises_gigabytes_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jpg"
    Image.new("RGB", (16, 16)).save(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = (60000).to_bytes(2, "big") * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bomb\.jpg: it has more than 134,217,728 pixels"):
        image_size(path)


@pytest.mark.parametrize(
    ("file", "row", "said"),
    [
        (
            "images.txt",
            "1 ../../secret.jpg",
            r"row 2: '../../secret.jpg' is no path inside the folder",
        ),
        ("images.txt", "1 /etc/passwd", "row 2: '/etc/passwd' is no path"),
        ("images.txt", "2", "row 2: 1 columns, expected 2"),
        ("images.txt", "1 a.jpg", "row 2: 1 has two rows"),
        ("image_class_labels.txt", "2 x", "row 2: 'x' is no whole number"),
        ("image_class_labels.txt", "2 9", "image 2 has class 9, of 3"),
        ("train_test_split.txt", "2 2", "row 2: '2' is neither 0 nor 1"),
        ("train_test_split.txt", "77 1", "1 numbers of the other files are missing"),
        ("classes.txt", "7 Bird", "rows are not numbered 1 to 3"),
        ("bounding_boxes.txt", "2 1 2 nan 4", "row 2: 'nan' is no finite number"),
        ("bounding_boxes.txt", "77 1 2 3 4", "image 2 has no row in bounding_boxes.txt"),
        (
            "parts/part_locs.txt",
            "1 7 0 0 1",
            r"row 2: part 7 of image 1; each image has 1 to 3, in order",
        ),
        ("parts/part_locs.txt", "1 2 0 1e999 1", "row 2: '1e999' is no finite number"),
    ],
)
def test_a_mistake_in_a_table_is_named_by_file_and_row(
    tmp_path: Path, file: str, row: str, said: str
) -> None:
    source = source_of(tmp_path, cached=False)
    path = tmp_path / "CUB_200_2011" / file
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], row, *lines[2:]]))
    with pytest.raises(ValueError, match=said) as refused:
        source.check()
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "CUB_200_2011") in str(refused.value)


def test_missing_images_are_named(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    for name in ("001.Bird_1/Bird_1_0002.jpg", "002.Bird_2/Bird_2_0008.jpg"):
        (tmp_path / "CUB_200_2011/images" / name).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"^2 of 18 images are missing: \S+Bird_1_0002.jpg, \S+Bird_2_0008.jpg$",
    ):
        source.prepare()


@pytest.mark.parametrize("spoil", ["pixel", "header", "end"])
def test_a_damaged_cache_is_named(tmp_path: Path, spoil: str) -> None:
    source = source_of(tmp_path)
    source.prepare()
    path = next((tmp_path / "cache").rglob("001*.images"))
    content = path.read_bytes()
    path.write_bytes(
        {
            "pixel": content[:-1] + bytes([content[-1] ^ 1]),
            "header": b"?" + content,
            "end": content[:-1],
        }[spoil]
    )
    with pytest.raises(ValueError, match=r"001.*\.images: .*delete it, and it is written anew"):
        source.check()
    if spoil != "pixel":  # found without reading all pixels
        with pytest.raises(ValueError, match="delete it, and it is written anew"):
            source.load("train")


def test_the_archive_is_unpacked_into_the_original_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub(tmp_path / "made")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "made/CUB_200_2011", "CUB_200_2011")
        tar.addfile(tarfile.TarInfo("attributes.txt"))
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub/CUB_200_2011.tgz").write_bytes(buffer.getvalue())
    monkeypatch.setattr(
        cub,
        "ARCHIVE",
        File("CUB_200_2011.tgz", hashlib.sha256(buffer.getvalue()).hexdigest(), 10**6),
    )
    source = again(tmp_path / "cub")
    source.prepare()
    assert len(source.load("train").label) == 9
    assert {path.name for path in (tmp_path / "cub").iterdir()} == {
        "CUB_200_2011",
        "CUB_200_2011.tgz",
        "cache",
    }
    shutil.rmtree(tmp_path / "made")
    source.prepare()


@pytest.mark.parametrize(
    "options", [{"side": 0}, {"first_classes": 0}, {"first_classes": 201}, {"validation": 0}]
)
def test_a_number_that_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"give 1 or more for the first two, and 1 to 200"):
        CUB(str(tmp_path), **options)  # type: ignore[arg-type]


def test_the_real_set_has_its_official_counts() -> None:
    source = CUB(str(cub_folder()), cache=None)
    images = {split: source.load(split) for split in SPLITS}
    assert {split: len(images[split].label) for split in SPLITS} == {
        "train": 5394,
        "val": 600,
        "test": 5794,
    }
    assert len(source.class_names) == 200
    assert (source.class_names[0], source.class_names[-1]) == (
        "Black footed Albatross",
        "Common Yellowthroat",
    )
    assert all(len(part.label.unique()) == 200 for part in images.values())


@pytest.mark.slow  # reads 176,820 rows with every call type-checked
def test_the_real_sets_parts_lie_in_its_boxes() -> None:
    few = CUB(str(cub_folder()), cache=None, first_classes=2)
    places, image = few.annotations("test"), few.load("test").image
    assert [list(each.shape[:2]) for each in image] == places.size.tolist()
    visible = places.parts[..., 2] == 1
    assert places.parts[..., :2][visible].abs().max() <= 1
    left, top, right, bottom = places.boxes.unbind(1)
    x, y = places.parts[..., 0], places.parts[..., 1]
    within = (
        (x >= left[:, None]) & (x <= right[:, None]) & (y >= top[:, None]) & (y <= bottom[:, None])
    )
    assert within[visible].float().mean() > 0.97
