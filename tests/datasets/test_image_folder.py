"""Folders of classes and tables as people have them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn_lightning.batch import Split
from stn_lightning.datasets import ImageFolder
from stn_lightning.datasets.image_folder import files_below
from stn_lightning.datasets.sources import SPLITS


def write(path: Path, value: int = 100, size: tuple[int, int] = (30, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def names_of(source: ImageFolder) -> set[str]:
    return {name for split in SPLITS for name in source.load(split).names}


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    root = tmp_path / "birds"
    for name in ("finch", "wren"):
        for i in range(30):
            write(root / name / f"{i}.png")
    return root


def test_hidden_entries_are_no_classes_and_no_images(birds: Path) -> None:
    write(birds / ".ipynb_checkpoints/0.png")
    write(birds / "finch/.ipynb_checkpoints/0.png")
    write(birds / "finch/.hidden.png")
    source = ImageFolder(str(birds))
    assert source.class_names == ("finch", "wren")
    assert len(names_of(source)) == 60
    assert "skipped" not in source.check()


def test_links_to_folders_and_images_are_followed(birds: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.png")
    write(tmp_path / "elsewhere/deep/b.png")
    (birds / "linked").symlink_to(tmp_path / "elsewhere")
    (birds / "finch/linked.png").symlink_to(tmp_path / "elsewhere/a.png")
    source = ImageFolder(str(birds))
    assert source.class_names == ("finch", "linked", "wren")
    assert {"linked/a.png", "linked/deep/b.png", "finch/linked.png"} <= names_of(source)


def test_links_that_go_round_in_a_circle_end(birds: Path) -> None:
    (birds / "finch/again").symlink_to(birds)
    (birds / "wren/self").symlink_to(birds / "wren")
    assert len(names_of(ImageFolder(str(birds)))) == len(files_below(birds)) == 60


def test_many_missing_or_unreadable_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "file,class\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(600))
    )
    source = ImageFolder(str(tmp_path), str(tmp_path / "table.csv"))
    with pytest.raises(FileNotFoundError, match=r"^600 of 600 images are missing") as refused:
        source.prepare()
    assert str(refused.value).endswith(
        f"{tmp_path}/4.png, and 595 more; paths in {tmp_path}/table.csv are relative to `folder`, "
        f"{tmp_path}"
    )
    for i in range(600):
        (tmp_path / f"{i}.png").touch()
    with pytest.raises(ValueError, match=r"^600 images cannot be read; restore them") as found:
        source.prepare()
    _, *lines, rest = str(found.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{tmp_path}/{i}.png" for i in range(5)]
    assert rest == "and 595 more"


def test_a_link_to_nothing_is_a_missing_image_and_named(birds: Path) -> None:
    (birds / "finch/gone.png").symlink_to(birds / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"^1 of 61 images are missing: \S+gone\.png$"):
        ImageFolder(str(birds)).prepare()


@pytest.mark.parametrize("ending", ["JPG", "jpeg", "webp", "bmp", "gif", "tif", "TIFF"])
def test_images_of_each_promised_format_are_taken(birds: Path, ending: str) -> None:
    write(birds / f"heron/image.{ending}")
    source = ImageFolder(str(birds))
    assert source.class_names == ("finch", "heron", "wren")
    assert f"heron/image.{ending}" in names_of(source)


def test_what_is_no_image_is_counted_and_named_in_one_line(
    birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("finch/notes.txt", "finch/a.raw", "wren/b.raw", "README"):
        (birds / name).write_bytes(b"")
    write(birds / "loose.png")
    source = ImageFolder(str(birds))
    source.prepare()
    said = capsys.readouterr().err
    assert said == (
        f"{birds}: skipped 4 files that are no images (2 .raw, 1 without suffix, 1 .txt; the "
        "first is README) and 1 images in no class's folder (the first is loose.png)\n"
    )
    assert source.check().endswith(said.strip())


@pytest.mark.parametrize("content", [None, "notes.txt", ".hidden.png"])
def test_a_class_without_images_is_an_error_that_names_it(birds: Path, content: str | None) -> None:
    (birds / "empty").mkdir()
    if content:
        (birds / "empty" / content).write_bytes(b"")
    with pytest.raises(ValueError, match=r"birds/empty: no images, so its class would be empty"):
        ImageFolder(str(birds)).prepare()


def test_file_and_class_names_that_are_no_utf_8_are_read(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / "birds" / os.fsdecode(b"caf\xe9") / os.fsdecode(b"%d\xff.png" % i))
    source = ImageFolder(str(tmp_path / "birds"), cache=str(tmp_path / "cache"), side=8)
    source.prepare()
    assert source.class_names == (r"caf\xe9",)
    assert len(names_of(source)) == 30
    source.check().encode()


FROZEN: dict[Split, list[str]] = {
    "val": ["finch/22.png"],
    "test": [
        "finch/0.png",
        "finch/1.png",
        "finch/14.png",
        "finch/21.png",
        "finch/25.png",
        "finch/4.png",
        "finch/8.png",
        "wren/1.png",
        "wren/13.png",
        "wren/17.png",
        "wren/21.png",
        "wren/29.png",
        "wren/3.png",
    ],
}


def test_an_images_split_stays_where_it_is(birds: Path) -> None:
    """Frozen: each share is that of the first release."""
    chosen = {split: ImageFolder(str(birds)).load(split).names for split in SPLITS}
    assert chosen["val"] == FROZEN["val"]
    assert chosen["test"] == FROZEN["test"]


TABLE = "file,class,split\nfinch/0.png,a,train\nfinch/1.png,b,val\nfinch/2.png,a,test\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\n\n").encode() + b"\n,,\n  \n",
        TABLE.replace("class,split", " class , split ").encode(),
        b"\n\n" + TABLE.encode().rstrip(),
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "spaces in the header", "blank lines first"],
)
def test_tables_that_spreadsheets_write_are_read(
    birds: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    source = ImageFolder(str(birds), str(tmp_path / "table.csv"))
    assert [source.load(split).names for split in SPLITS] == [
        ["finch/0.png"],
        ["finch/1.png"],
        ["finch/2.png"],
    ]
    assert source.class_names == ("a", "b")


def test_a_mistake_behind_blank_lines_is_named_by_its_line(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("file,class\n\n\nfinch/0.png\n")
    with pytest.raises(ValueError, match=r"table\.csv: row 4: 1 columns, expected 2"):
        ImageFolder(str(birds), str(tmp_path / "table.csv")).prepare()


def test_an_image_with_two_rows_is_refused(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE + "finch/0.png,a,test\n")
    with pytest.raises(ValueError, match=r"row 5: finch/0\.png has two rows"):
        ImageFolder(str(birds), str(tmp_path / "table.csv")).prepare()


def test_transparent_pixels_show_the_background_that_was_asked_for(tmp_path: Path) -> None:
    for i in range(20):
        path = tmp_path / f"ink/x/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(path)
    for colour in ((255, 255, 255), (9, 8, 7)):
        for cache in (None, str(tmp_path / "cache")):
            source = ImageFolder(str(tmp_path / "ink"), side=8, cache=cache, background=colour)
            source.prepare()
            assert (source.load("train").image[0] == colour).all()
    with pytest.raises(ValueError, match=r"background \(0, 0, 256\); give red, green and blue"):
        ImageFolder(str(tmp_path), background=(0, 0, 256))


def test_an_image_that_would_become_gigabytes_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "birds/finch/long.png", size=(20_000, 1))
    (tmp_path / "table.csv").write_text("file,class,split\nfinch/long.png,a,train\n")
    for cache in (None, str(tmp_path / "cache")):
        source = ImageFolder(
            str(tmp_path / "birds"), str(tmp_path / "table.csv"), side=256, cache=cache
        )
        said = r"long\.png: 20000 x 1 pixels would become 5,120,000 x 256, more than"
        with pytest.raises(ValueError, match=said):
            source.prepare() if cache else source.load("train").image[0]


def test_a_long_image_of_a_fitting_size_is_read(tmp_path: Path) -> None:
    write(tmp_path / "birds/finch/long.png", size=(2_000, 4))
    (tmp_path / "table.csv").write_text("file,class,split\nfinch/long.png,a,train\n")
    source = ImageFolder(str(tmp_path / "birds"), str(tmp_path / "table.csv"), side=8)
    assert np.asarray(source.load("train").image[0]).shape == (8, 4000, 3)


@pytest.mark.parametrize(
    ("path", "reason"), [("none", "No such file"), ("wren/0.png", "Not a directory")]
)
def test_what_is_no_folder_is_named(path: str, reason: str, birds: Path) -> None:
    with pytest.raises(ValueError, match=f"{path}: {reason}.*; give a folder with one folder"):
        ImageFolder(str(birds / path)).prepare()


def test_one_image_by_two_spellings_of_its_path_is_one(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE + ".//finch/0.png,a,test\n")
    with pytest.raises(ValueError, match=r"row 5: finch/0\.png has two rows"):
        ImageFolder(str(birds), str(tmp_path / "table.csv")).prepare()
