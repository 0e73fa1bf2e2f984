"""Own images in, answers out."""

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_lightning.analysis.predict import draw_prediction, predict
from stn_lightning.analysis.predictions import (
    BATCH,
    Prediction,
    Unreadable,
    find_images,
    predictions,
)
from stn_lightning.analysis.run import Run, load_run
from stn_lightning.cli.typed_command import call
from stn_lightning.datasets.decoding import READABLE
from stn_lightning.runtime.provenance import program_name
from tests.stn_command import on_maps


@pytest.fixture(scope="module")
def small(small_run: Path) -> Run:
    return load_run(small_run)


def write_test_images(run: Run, folder: Path, number: int) -> torch.Tensor:
    """The run's own test images as PNG files; their labels."""
    folder.mkdir(parents=True)
    run.data.setup("test")
    batch = run.data.transform_batch(run.data.dataset("test")[_draw(number)])
    for i, image in enumerate(batch.image[:, 0]):
        Image.fromarray((image * 255).round().byte().numpy()).save(folder / f"{i:04d}.png")
    return batch.label


def _draw(number: int) -> object:
    from stn_lightning.datamodules.batches import Draw

    return Draw(torch.arange(number), 0, 1.0)


def test_a_run_says_of_files_what_it_says_of_the_test_images(
    small: Run, small_run: Path, tmp_path: Path
) -> None:
    write_test_images(small, tmp_path / "digits", BATCH + 6)
    out = tmp_path / "answers.jsonl"
    assert call(predict, [str(small_run), str(tmp_path / "digits"), "--out", str(out)]) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    batch = small.data.transform_batch(small.data.dataset("test")[_draw(BATCH + 6)])
    logits, look = small.infer((batch.image * 255).round() / 255)
    assert look is not None
    assert [line["label"] for line in said] == [
        small.class_names[i] for i in logits.argmax(1).tolist()
    ]
    torch.testing.assert_close(
        torch.tensor([line["probability"] for line in said]),
        logits.softmax(1).amax(1),
        rtol=0,
        atol=1e-5,
    )
    theta = torch.tensor([line["crops"][0]["theta"] for line in said])
    torch.testing.assert_close(theta, look.thetas[:, 0].clone(), rtol=0, atol=1e-4)
    # an affine crop's corner pixels lie half an output pixel inside of (-1, -1), (1, -1), ...; the
    # image is 42 px wide
    corner = 1 - 1 / 28
    points = torch.tensor(
        [[-corner, -corner, 1], [corner, -corner, 1], [corner, corner, 1], [-corner, corner, 1]]
    )
    expected = (torch.einsum("bij,nj->bni", theta.view(-1, 2, 3), points) + 1) * 21
    torch.testing.assert_close(
        torch.tensor([line["crops"][0]["corners"] for line in said]), expected, rtol=0, atol=1e-2
    )


def test_of_100_files_with_5_bad_ones_95_are_answered_and_5_named(
    small: Run, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_test_images(small, tmp_path / "digits", 100)
    whole = (tmp_path / "digits/0003.png").read_bytes()
    bad = {
        "0003.png": whole[:60],
        "0020.png": b"",
        "0064.png": b"no image",
        "0080.png": whole[:-30],
        "0099.png": b"\x89PNG" + bytes(40),
    }
    for name, content in bad.items():
        (tmp_path / "digits" / name).write_bytes(content)
    assert call(predict, [str(small_run), str(tmp_path / "digits")]) == 1
    said = capsys.readouterr()
    rows = list(csv.DictReader(said.out.splitlines()))
    assert len(rows) == 95
    assert not {Path(row["file"]).name for row in rows} & set(bad)
    named = [line for line in said.err.splitlines() if line.startswith("not read: ")]
    assert [next(name for name in bad if name in line) for line in named] == sorted(bad)
    assert said.err.splitlines()[-1] == "stn predict: 5 of 100 files could not be read"
    assert list(rows[0])[:4] == ["file", "label", "probability", "theta.00"]
    assert list(rows[0])[-2:] == ["bottom_left.y", "checkpoint"]


def test_nothing_is_said_of_the_speed_if_no_image_could_be_read(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("hello")
    assert call(predict, [str(small_run), str(tmp_path)]) == 1
    not_read, count = capsys.readouterr().err.splitlines()
    assert not_read.endswith("text.png: it is not an image; " + READABLE)
    assert count == "stn predict: 1 of 1 files could not be read"


def test_drawn_images_show_outline_and_crop(small: Run, small_run: Path, tmp_path: Path) -> None:
    write_test_images(small, tmp_path / "digits", 3)
    assert (
        call(
            predict,
            [
                str(small_run),
                f"{tmp_path}/digits/000[12].png",
                "--out",
                f"{tmp_path}/a.csv",
                "--draw",
                f"{tmp_path}/drawn",
            ],
        )
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "000001-0001.png",
        "000002-0002.png",
    ]
    with Image.open(tmp_path / "drawn/000001-0001.png") as image:
        values = np.asarray(image)
    assert values.shape == (256, 256 + 4 + 256, 3)
    red = (values == (255, 65, 54)).all(-1)
    assert red[:, :256].sum() > 300  # pixels of the outline
    assert not red[:, 256:].any()
    assert values[:, 260:].max() > 200  # the crop has ink in it


def test_images_stream(small: Run, tmp_path: Path) -> None:
    """Answers come while files are still being asked for, and memory does not grow with their
    number.
    """
    write_test_images(small, tmp_path / "digits", 2)
    asked = 0

    def endless(number: int) -> object:
        nonlocal asked
        for asked in range(number):
            yield tmp_path / f"digits/000{asked % 2}.png"

    stream = predictions(small, endless(100 * BATCH))  # type: ignore[arg-type]
    next(stream)
    assert asked < 3 * BATCH
    for _ in range(2 * BATCH):
        next(stream)
    tracemalloc.start()
    for _ in range(4 * BATCH):
        next(stream)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(8 * BATCH):
        next(stream)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 200_000


def test_folders_are_gone_through_in_the_order_of_names_and_only_images_are_taken(
    tmp_path: Path,
) -> None:
    for name in ("b/2.png", "a.JPG", "b/1.webp", "b/notes.txt", "named.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [
        str(path.relative_to(tmp_path))
        for path in find_images([str(tmp_path), f"{tmp_path}/*.txt"])
    ]
    assert names == ["a.JPG", "b/1.webp", "b/2.png", "named.txt"]


def test_a_missing_folder_of_the_output_is_made(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (30, 30)).save("a.png")
    assert call(predict, [str(small_run), "a.png", "--out", "new/deep/a.csv"]) == 0
    assert Path("new/deep/a.csv").read_text().startswith("file,label")


MISTAKES = {
    "no such run": (
        ["nope", "x.png"],
        "stn predict: runs/nope/config.yaml does not exist, so there is no such run; "
        f"runs here: none yet; {program_name()} zoo lists the networks that come with the package",
    ),
    "no such file": (
        ["RUN", "x.png"],
        "stn predict: x.png: there is no such file, folder or pattern",
    ),
    "an empty folder": (
        ["RUN", "."],
        "stn predict: no images in .; JPEG, PNG, WebP, BMP, GIF and TIFF files are read",
    ),
    "no format": (
        ["RUN", ".", "--out", "a.txt"],
        "stn predict: --out a.txt: give a file that ends in .csv or .jsonl",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str,
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    if mistake == "no such run":
        Path("x.png").touch()
    assert (
        call(predict, [str(small_run) if argument == "RUN" else argument for argument in arguments])
        == 2
    )
    assert capsys.readouterr().err.strip() == expected


def test_an_image_is_drawn_where_there_is_no_transformer(small: Run, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    answer = next(predictions(small, [tmp_path / "a.png"]))
    assert isinstance(answer, Prediction)
    assert draw_prediction(answer._replace(crops=[])).size == (256, 171)


@pytest.mark.parametrize("out", ["answers.csv", "answers.jsonl", None])
def test_file_names_that_are_no_utf8_are_written_with_their_own_bytes(
    out: str | None, small_run: Path, tmp_path: Path
) -> None:
    for name in (b"a.png", b"b\xff.png", b"c.png"):
        Image.new("L", (30, 30)).save(tmp_path / os.fsdecode(name), "PNG")
    script = (
        "import sys; from stn_lightning.analysis.predict import predict\n"
        "from stn_lightning.cli.typed_command import call; sys.exit(call(predict, sys.argv[1:]))"
    )
    options = ["--out", out] if out else []
    command = [sys.executable, "-c", script, str(small_run), ".", *options]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert answer.returncode == 0, answer.stderr
    content = (tmp_path / out).read_bytes() if out else answer.stdout
    lines = content.splitlines()
    if out and out.endswith("l"):
        names = [os.fsencode(json.loads(line)["file"]) for line in lines]
    else:
        names = [line.split(b",")[0] for line in lines[1:]]
    assert names == [b"a.png", b"b\xff.png", b"c.png"]


def test_the_outline_is_drawn_in_the_upright_image(small: Run, tmp_path: Path) -> None:
    image, exif = Image.new("L", (90, 60)), Image.Exif()
    exif[274] = 6  # lies on its side
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.rotate(-90, expand=True).save(tmp_path / "upright.png")
    turned, upright = predictions(small, [tmp_path / "turned.jpg", tmp_path / "upright.png"])
    assert isinstance(turned, Prediction)
    assert isinstance(upright, Prediction)
    torch.testing.assert_close(turned.crops[0].outline, upright.crops[0].outline)
    assert draw_prediction(turned).size == draw_prediction(upright).size == (171 + 4 + 256, 256)


def test_crops_of_feature_maps_are_drawn_in_the_image(small: Run, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (42, 42), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    (answer,) = predictions(on_maps(small), [tmp_path / "a.png"])
    assert isinstance(answer, Prediction)
    left, right = answer.crops
    assert left.crop.shape == right.crop.shape == (1, 20, 20)
    assert left.outline[:, 0].max() < 21 < right.outline[:, 0].min()
    ((x0, y0), _, (x1, y1), _) = left.corners
    assert (x1 - x0, y1 - y0) == pytest.approx((20, 20), abs=1.1)
    assert draw_prediction(answer).size == (256 + 2 * (256 + 4), 256)


def test_an_answer_that_is_not_finite_is_no_answer(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    logits, record = small.infer(torch.zeros(1, 1, 42, 42))
    broken = logits.clone()
    broken[0, 3] = torch.nan
    monkeypatch.setattr(Run, "infer", lambda *_: (broken, record))
    (answer,) = predictions(small, [tmp_path / "a.png"])
    assert isinstance(answer, Unreadable)
    assert answer.reason.endswith("a.png: the network's logits are NaN or infinite")


def test_a_name_as_long_as_a_file_system_allows_is_drawn(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (30, 30)).save("a" + "ü" * 125 + ".png")
    Image.new("L", (30, 30)).save("b.png")
    assert call(predict, [str(small_run), ".", "--out", "answers.csv", "--draw", "drawn"]) == 0
    drawn = sorted(path.name for path in Path("drawn").iterdir())
    assert drawn == ["000001-a" + "ü" * 99 + ".png", "000002-b.png"]
