"""SVHN in miniature through `prepare`: crops, splits, images left out, resuming."""

import errno
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_lightning.batch import Batch
from stn_lightning.datamodules import SVHNDataModule
from stn_lightning.datasets import SVHN, svhn, svhn_crops
from stn_lightning.datasets.files.download import File
from stn_lightning.datasets.svhn_boxes import (
    NO_DIGIT,
    around,
    digits_of,
    drawn_layouts,
    layouts,
    read_json,
)
from stn_lightning.datasets.svhn_crops import cut
from tests.svhn_miniature import box, some_entries, write_digit_struct, write_images, write_svhn

from .originals import svhn_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 training, 20 test and 30 extra images, 10 of the first for validation."""
    monkeypatch.setattr(svhn, "VALIDATION", 10)
    write_svhn(tmp_path / "svhn", 60, 20, 30)
    return tmp_path / "svhn"


def labels_of(entries: list[tuple[str, list[dict[str, float]]]]) -> list[list[int]]:
    return [
        [*(int(b["label"]) % 10 for b in boxes), *[NO_DIGIT] * (5 - len(boxes))]
        for _, boxes in entries
    ]


@pytest.mark.parametrize("extra", [True, False])
def test_the_splits_hold_every_number_once(root: Path, extra: bool) -> None:
    source = SVHN(extra=extra, root=str(root))
    source.prepare()
    train, val, test = (source.load(split).label.tolist() for split in ("train", "val", "test"))
    expected = labels_of(some_entries(60, 0)) + (labels_of(some_entries(30, 2)) if extra else [])
    assert val + train == expected
    assert len(val) == 10
    assert test == labels_of(some_entries(20, 1))
    assert source.check() == f"train {len(expected) - 10}, val 10, test 20"


@pytest.mark.parametrize("size", [64, 128])
def test_a_batch_read_from_the_map_is_the_crops_of_its_images(root: Path, size: int) -> None:
    source = SVHN(size, root=str(root))
    source.prepare()
    train = source.load("train")
    images = train.read(
        torch.tensor([0, 49, 50, 3])
    )  # images 10 and 59 of train, 0 of extra, 13 of train
    side = size + 2 * source.margin
    assert images.shape == (4, 3, side, side)
    for image, (part, seed, i) in zip(
        images,
        [("train", 0, 10), ("train", 0, 59), ("extra", 2, 0), ("train", 0, 13)],
        strict=True,
    ):
        boxes = some_entries(60 if part == "train" else 30, seed)[i][1]
        left, top = boxes[0]["left"], boxes[0]["top"]
        outer = np.array([left, top, left + len(boxes) * boxes[0]["width"], top + 25.0])
        expected = cut(
            root / part / f"{i + 1}.png", outer, size, source.margin, svhn.LOOSENESS[size]
        )
        assert np.array_equal(image.numpy(), expected)


def test_a_crop_is_the_box_enlarged_by_a_third_and_its_margin_lies_around(tmp_path: Path) -> None:
    ramp = np.zeros((200, 300, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(300)[None] * 0.8, np.arange(200)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    pixels = cut(tmp_path / "ramp.png", np.array([100.0, 60, 200, 100]), 64, 4, 1.0)
    inner = pixels[:, 4:-4, 4:-4].astype(float)
    # 30 % more of 100 x 40 is 85 ... 215 and 54 ... 106; the first of 64 pixels is centred half of
    # a 64th inside
    np.testing.assert_allclose(
        inner[0, 0, [0, -1]] / 0.8, [85 + 130 / 128 - 0.5, 215 - 130 / 128 - 0.5], atol=1.5
    )
    np.testing.assert_allclose(
        inner[1, [0, -1], 0], [54 + 52 / 128 - 0.5, 106 - 52 / 128 - 0.5], atol=1
    )
    assert pixels[0, 0, 0] < inner[0, 0, 0]  # the margin shows more of the image
    clipped = cut(tmp_path / "ramp.png", np.array([0.0, 0, 300, 200]), 64, 4, 1.0)
    assert (clipped[:, :, :4] == clipped[:, :, :1]).all()  # beyond its border, its outermost pixels
    assert clipped[1, 4, 4] < 4
    assert clipped[1, -5, 4] > 195


def test_the_middle_of_the_looser_crop_is_the_narrower_one(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:400, :400]
    smooth = np.stack([xx / 2, yy / 2, (xx + yy) / 4], 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    outer = np.array([150.0, 170, 250, 230])
    narrow, loose = (
        cut(tmp_path / "smooth.png", outer, size, 0, looseness)
        for size, looseness in ((64, 1.0), (128, 2.0))
    )
    np.testing.assert_allclose(loose[:, 32:96, 32:96].astype(float), narrow, atol=1)


def test_what_is_broken_is_named_and_counted_and_the_rest_goes_on(root: Path) -> None:
    entries = some_entries(8)
    entries[1] = ("2.png", [*entries[1][1][:1], box(11, 3, 3, 5, 5)])
    entries[2] = ("3.png", [])
    entries[3] = ("4.png", [box(1, 3 + i, 3, 5, 5) for i in range(6)])
    entries[4] = ("5.png", [box(1, 300, 3, 5, 5)])
    write_digit_struct(root / "test/digitStruct.mat", entries)
    (root / "test/6.png").unlink()
    (root / "test/7.png").write_bytes((root / "test/7.png").read_bytes()[:1000])
    (root / "test/8.png").write_bytes(b"GIF89a")
    source = SVHN(extra=False, root=str(root))
    source.prepare()
    test = source.load("test")
    assert test.label.tolist() == labels_of(entries[:1])
    lines = (root / "test-64.left_out.txt").read_text().splitlines()
    assert len(lines) == 7
    for name, reason in {
        "2.png": "label 11", "3.png": "no label", "4.png": "6 digits, more than 5",
        "5.png": "outside of its 100 x 50 pixels", "6.png": "is missing",
        "7.png": "are read", "8.png": "are read",
    }.items():  # fmt: skip
        assert any(name in line and reason in line for line in lines), name
    assert source.check().endswith(f"test 1; left out 7 ({root}/test-64.left_out.txt)")


def test_a_prepare_that_was_stopped_goes_on_where_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svhn_crops, "BLOCK", 4)
    whole = SVHN(extra=False, root=str(root)).crops("train")
    whole.build()
    expected = whole.path.read_bytes()
    whole.path.unlink()
    done: list[str] = []

    def stopping(path: Path, *rest: object) -> object:
        if len(done) == 21:
            raise KeyboardInterrupt
        done.append(path.name)
        return cut(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(svhn_crops, "cut", stopping)
    with pytest.raises(KeyboardInterrupt):
        whole.build()
    (partial,) = root.glob("train-64.*.partial")
    assert not whole.path.exists()
    kept = int((np.load(partial)["label"][:, 0] != svhn_crops.MISSING).sum())
    assert 16 <= kept <= 20
    done.clear()

    def counting(path: Path, *rest: object) -> object:
        done.append(path.name)
        return cut(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(svhn_crops, "cut", counting)
    whole.build()
    assert sorted(done) == sorted(f"{i + 1}.png" for i in range(kept, 60))
    assert whole.path.read_bytes() == expected
    assert not partial.exists()


def test_other_annotations_begin_anew(root: Path) -> None:
    source = SVHN(extra=False, root=str(root)).crops("test")
    old = source._begin("of others", 20)
    np.lib.format.open_memmap(old, "r+")["label"] = 7
    source.build()
    assert source.open()[1].tolist() == labels_of(some_entries(20, 1))
    assert not list(root.glob("*.partial*"))


def test_numpy_alone_reads_the_crops(root: Path) -> None:
    source = SVHN(extra=False, root=str(root))
    source.prepare()
    records = np.load(root / "test-64.npy")
    image, label = source.crops("test").open()
    assert np.array_equal(records["image"], image)
    assert np.array_equal(records["label"], label)


def test_a_name_that_leads_out_of_the_folder_is_left_out(root: Path) -> None:
    entries = some_entries(20, 1)
    write_digit_struct(
        root / "test/digitStruct.mat", [("../secret.png", entries[0][1]), *entries[1:]]
    )
    (root / "test/1.png").rename(root / "secret.png")
    SVHN(extra=False, root=str(root)).prepare()
    (line,) = (root / "test-64.left_out.txt").read_text().splitlines()
    assert line.startswith("entry 1: '../secret.png' is no path inside the folder")


def test_archives_are_unpacked_where_the_folders_are_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        (root / part).rename(root / "aside")
        with tarfile.open(root / f"{part}.tar.gz", "w:gz") as tar:
            tar.add(root / "aside", part)
        (root / "aside").rename(root / f"was-{part}")
        size = (root / f"{part}.tar.gz").stat().st_size
        monkeypatch.setitem(svhn.ARCHIVES, part, File(f"{part}.tar.gz", None, size))
        monkeypatch.setattr(svhn, "UNPACKED", 100)
    source = SVHN(extra=False, root=str(root))
    source.prepare()
    assert source.check() == "train 50, val 10, test 20"
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [
        "extra",
        "test",
        "train",
        "was-test",
        "was-train",
    ]


def test_an_archive_of_another_size_is_refused(root: Path) -> None:
    (root / "test").rename(root / "aside")
    (root / "test.tar.gz").write_bytes(b"a web page")
    with pytest.raises(ValueError, match=r"test\.tar\.gz: it has 10 bytes, expected 276,555,967"):
        SVHN(extra=False, root=str(root)).prepare()


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "another size", "objects"])
def test_a_damaged_file_of_crops_is_refused_by_name(root: Path, damage: str) -> None:
    source = SVHN(extra=False, root=str(root))
    source.prepare()
    path = root / "test-64.npy"
    raw = path.read_bytes()
    changed = {
        "cut": raw[:-1],
        "longer": raw + b"x",
        "header": b"{" + raw,
        "another size": (root / "train-64.npy")
        .read_bytes()
        .replace(b"(3, 72, 72)", b"(3, 72, 71)"),
        "objects": raw.replace(b"'|u1'", b"'|O' "),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=r"is no complete file of crops of 64 px") as refused:
        source.load("test")
    assert str(refused.value).startswith(f"{path}: ")


def test_without_prepare_a_file_is_missed_by_name(root: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"test-64\.npy is missing; `stn prepare svhn` makes it"
    ):
        SVHN(root=str(root)).load("test")


def test_a_size_that_the_paper_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="house numbers of 96 px; give 64 or 128"):
        SVHN(96)


@pytest.mark.parametrize(
    ("part", "images", "digits"), [("train", 33_402, 73_257), ("test", 13_068, 26_032)]
)
def test_all_real_annotations_parse_and_their_digits_are_as_many_as_published(
    part: str, images: int, digits: int
) -> None:
    numbers = read_json(svhn_folder() / f"svhn_format1_{part}_labels.json")
    assert len(numbers.names) == images
    assert len(numbers.label) == digits
    by_class = {
        "train": [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
        "test": [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595],
    }  # of 0 to 9, as published with Format 2
    assert np.bincount(numbers.label % 10).tolist() == by_class[part]
    label, count = digits_of(numbers)
    assert (label != NO_DIGIT).sum().item() == np.minimum(count, 5).sum()
    places = layouts(numbers)
    assert len(places.label) == (count <= 5).sum()
    low, high = (
        places.box[..., :2].nan_to_num(9).amin(1),
        places.box[..., 2:].nan_to_num(-9).amax(1),
    )
    torch.testing.assert_close(high, torch.full_like(high, 1 / 1.3))  # the box around all digits
    torch.testing.assert_close(low, -high)


def test_two_real_images_load_with_their_real_boxes(tmp_path: Path) -> None:
    numbers = read_json(svhn_folder() / "svhn_format1_train_labels.json")
    label, _ = digits_of(numbers)
    assert label[:2].tolist() == [[1, 9, 10, 10, 10], [2, 3, 10, 10, 10]]
    for i, size in enumerate([(741, 350), (199, 83)]):
        path = svhn_folder() / "samples/train" / numbers.names[i]
        with Image.open(path) as image:
            assert image.size == size
        pixels = cut(path, around(numbers)[i], 64, 4, 1.0)
        assert pixels.shape == (3, 72, 72)
        assert pixels.std() > 5


def test_drawn_layouts_have_the_statistics_of_the_real_ones() -> None:
    drawn = drawn_layouts(5000)
    real = layouts(read_json(svhn_folder() / "svhn_format1_train_labels.json"))
    for name, statistic in {
        "length": lambda places: (places.label != NO_DIGIT).float().sum(1).mean(),
        "aspect": lambda places: places.aspect.log().mean(),
        "width of a digit": lambda places: (places.box[..., 2] - places.box[..., 0]).nanmean(),
        "height": lambda places: (places.box[..., 3] - places.box[..., 1]).nanmean(),
    }.items():
        torch.testing.assert_close(
            statistic(drawn),  # type: ignore[no-untyped-call]
            statistic(real),  # type: ignore[no-untyped-call]
            rtol=0.1,
            atol=0.08,
            msg=lambda text, name=name: f"{name}: {text}",  # type: ignore[misc]
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("{}", "is no list"),
        ('[{"name": "1.png", "boxes": [[11, 1, 1, 2, 2]]}]', "entry 0"),
        ("[1]", "entry 0"),
    ],
)
def test_annotations_that_are_none_are_refused_by_entry(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as refused:
        read_json(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_the_images_of_the_miniature_can_be_told_apart(tmp_path: Path) -> None:
    entries = some_entries(3)
    write_images(tmp_path, entries)
    for name, boxes in entries:
        with Image.open(tmp_path / name) as image:
            for b in boxes:
                assert (
                    image.getpixel((int(b["left"]) + 1, int(b["top"]) + 1))
                    == (50 + 20 * int(b["label"]),) * 3
                )


def test_a_full_disk_is_an_error_before_the_first_crop(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    crops = SVHN(extra=False, root=str(root)).crops("train")
    with pytest.raises(OSError, match="No space left on device"):
        crops.build()
    monkeypatch.undo()
    crops.build()
    assert crops.path.exists()
    assert not [*root.glob("*.partial*")]


def test_training_crops_reach_all_positions_of_the_margin_and_others_are_in_its_middle(
    root: Path,
) -> None:
    module = SVHNDataModule(SVHN(extra=False, root=str(root)))
    margin, side = module.source.margin, module.source.size
    rows = torch.arange(side + 2 * margin, dtype=torch.uint8)
    image = torch.stack(
        [rows[:, None].expand(-1, len(rows)), rows[None].expand(len(rows), -1), rows.diag()]
    )
    indices = torch.arange(600)
    batch = Batch(image.expand(600, -1, -1, -1), indices, indices, 0, 1.0, "train")
    for channel in (0, 1):
        corner = (module.colour_images(batch)[:, channel, 0, 0] * 255).round().int()
        assert set(corner.tolist()) == set(range(2 * margin + 1))
    middle = module.colour_images(batch._replace(split="test"))[:, :2, 0, 0] * 255
    assert (middle.round() == margin).all()
