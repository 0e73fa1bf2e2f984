"""The page about runs: what it says, and how a browser shows it."""

import dataclasses
import io
import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from stn_lightning import load_run
from stn_lightning.analysis import evaluation
from stn_lightning.analysis.evaluation import confusion_table, evaluate, most_confused
from stn_lightning.analysis.film import FRAMES, STEPS, animate, filmstrip
from stn_lightning.analysis.page import render
from stn_lightning.analysis.report import report, write_report
from stn_lightning.analysis.run_report import collect, paper_numbers
from stn_lightning.callbacks.drawings import Caption, cut, draw
from stn_lightning.callbacks.part_tables import PartShares, PartTables
from stn_lightning.cli.typed_command import call
from stn_lightning.geometry import affine
from stn_lightning.runs.record import RunRecord
from stn_lightning.tasks.metrics import cross_entropies
from stn_lightning.transformers import WarpOutput
from tests.browser import CHROMIUM, REASON, browser
from tests.stn_command import CONFIGS, on_maps


@pytest.fixture(scope="module")
def written(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    assert call(report, [str(small_run), str(small_run), "--out", str(file)]) == 0
    return file


def test_the_page_asks_the_network_for_nothing(written: Path) -> None:
    text = written.read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)
    assert "<script" not in text
    assert "url(" not in text


def test_the_page_tells_what_the_run_came_to(written: Path, small_run: Path) -> None:
    text, run = written.read_text(), collect(load_run(small_run))
    assert run.record is not None
    assert f"<td>{run.record.metrics['test/error']:.4g}</td>" in text
    for part in (
        "Validation error",
        "epoch by epoch",
        "Images with the highest losses",
        "The most confused pairs",
        "theta.05",
        "which class is taken for which",
        "class_path",
        "torch",
    ):
        assert part in text
    wrong = (run.evaluation.label != run.evaluation.answer).float().mean() * 100
    assert float(wrong) == pytest.approx(run.record.metrics["test/error"], abs=1e-3)
    assert run.evaluation.theta is not None
    assert run.evaluation.theta.shape == (500, 1, 6)


def test_crops_of_feature_maps_are_drawn_and_their_theta_counted(small_run: Path) -> None:
    found = evaluate(on_maps(load_run(small_run)))
    assert found.theta is not None
    assert found.theta.shape == (500, 2, 2)
    assert found.examples is not None
    assert found.confused is not None
    with Image.open(io.BytesIO(found.examples)) as image:
        assert image.width == 2 * (3 * 116 + 8)


def panel(i: int, images: int = 8) -> tuple[int, bytes]:
    """An image file as `WarpImages` draws it after epoch i: images with one crop each, four a row,
    in the colour of the epoch."""
    file = io.BytesIO()
    size = (4 * (2 * 116 + 8), images // 4 * 120)
    Image.new("RGB", size, (97 * i % 256, 53 * i % 256, 255 * (i % 2))).save(file, "PNG")
    return 10 * i, file.getvalue()


def test_the_animation_has_a_frame_for_each_epoch_and_never_too_many() -> None:
    assert animate([panel(0)]) is None
    for epochs, frames in ((2, 2), (7, 7), (150, FRAMES)):
        content = animate([panel(i) for i in range(epochs)])
        assert content is not None
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, getattr(image, "n_frames", 1)) == ("WEBP", frames)


def test_a_strip_shows_twelve_images_at_the_first_step_the_last_and_a_few_between() -> None:
    assert filmstrip([panel(0)]) is None
    for epochs, columns in ((2, 2), (4, 4), (40, STEPS)):
        for images, rows in ((8, 8), (16, 12)):
            content = filmstrip([panel(i, images) for i in range(epochs)])
            assert content is not None
            with Image.open(io.BytesIO(content)) as image:
                assert image.size == (columns * 240, 16 + rows * 120)
                assert image.getpixel((239, 20)) == (0, 0, 0)
                last = epochs - 1
                colour = (97 * last % 256, 53 * last % 256, 255 * (last % 2))
                assert image.getpixel((image.width - 1, image.height - 1)) == colour


def test_a_drawing_is_cut_into_its_images() -> None:
    image, theta = torch.rand(5, 1, 28, 28), torch.tensor([[0.5, 0, 0, 0, 0.5, 0]]).expand(5, -1)
    warp = WarpOutput(image, theta, affine.grid(theta, (28, 28)))
    captions = [Caption(f"{i}", True) for i in range(5)]
    for given in (None, captions):
        cells = cut(Image.fromarray(draw(image, warp, captions=given)))
        alone = [
            draw(image[i : i + 1], select_one(warp, i), captions=given and given[i : i + 1])
            for i in range(5)
        ]
        assert all((np.asarray(c) == a).all() for c, a in zip(cells, alone, strict=False))


def select_one(warp: WarpOutput, i: int) -> WarpOutput:
    return WarpOutput(*(values[i : i + 1] for values in warp))


def test_long_names_fit_below_an_image_two_lines_high() -> None:
    names = ("American Three toed Woodpecker", "Wren")
    right, wrong = (
        evaluation._caption(
            evaluation._Example(0.0, torch.zeros(1), None, torch.tensor(0), answer, 0.36), names
        )
        for answer in (torch.tensor(0), torch.tensor(1))
    )
    assert right == Caption("American Three t..\n36%: American T..", True)
    assert wrong == Caption("American Three t..\n36%: Wren", False)


def test_the_most_confused_classes_come_first() -> None:
    label, answer = torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 2, 1, 2, 0])
    table = confusion_table(label, answer, 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 2], [1, 0, 1]]
    assert most_confused(table, 2) == [(1, 2, 2), (0, 1, 1)]


def test_the_film_is_written_by_itself_where_it_is_asked_for(
    small_run: Path, tmp_path: Path
) -> None:
    film, sheet = tmp_path / "films" / "film.webp", tmp_path / "strips" / "strip.png"
    assert (
        call(
            report,
            [
                str(small_run),
                "--out",
                str(tmp_path / "page.html"),
                "--film",
                str(film),
                "--strip",
                str(sheet),
            ],
        )
        == 0
    )
    with Image.open(sheet) as image:
        assert image.size == (2 * 240, 16 + 12 * (120 + 28))  # with captions
    with Image.open(film) as image:
        assert getattr(image, "n_frames", 1) == 2


def test_scores_of_parts_stand_on_the_page(small_run: Path, tmp_path: Path) -> None:
    run = collect(load_run(small_run))
    assert run.parts is None
    one = torch.ones(1, 1, dtype=torch.float64)
    shares = PartShares(one / 4, one, one / 2, one, one / 2, one[None], one[0] * 30)
    tables = PartTables(["beak"], ["head"], ["Warbler"], shares)
    tables.write(tmp_path / "parts.json")
    read = PartTables.read(tmp_path / "parts.json")
    assert read is not None
    assert read.markdown() == tables.markdown()
    text = render([run._replace(parts=read)])
    assert "<td>beak</td><td>25.0</td>" in text
    assert "<td>Warbler</td><td>30</td><td>100.0</td>" in text


def test_the_page_begins_with_results_and_crops_and_ends_with_how_runs_were_made(
    written: Path, small_run: Path
) -> None:
    text = written.read_text()
    titles = ["Results", "What the transformer crops", "Training, by step"]
    titles += ["Highest losses and confusions", "Configuration and provenance"]
    assert re.findall("<h2>(.*?)</h2>", text) == titles
    results, crops, _, misclassified, made = re.split("<h2>", text)[1:]
    record = collect(load_run(small_run)).record
    assert record is not None
    assert f"<td>test error, %</td><td>{record.metrics['test/error']:.4g}</td>" in results
    assert "alignment of the angle" in results
    assert "Alignment compares" in results
    assert "Table 1" not in results  # no cell of a table: nothing of the paper's to say
    assert "epoch by epoch" in crops
    assert "Images with the highest losses" in misclassified
    assert "<td>torch</td>" in made
    assert "<td>torch</td>" not in results


def test_a_run_without_crops_is_said_to_have_none(small_run: Path) -> None:
    run = collect(load_run(small_run))
    blind = run.evaluation._replace(examples=None, worst=None, confused=None, theta=None)
    text = render([run._replace(evaluation=blind)])
    assert f"{run.name} has no crops that can be drawn" in text
    assert "Images with the highest losses" not in text


def test_the_papers_number_stands_beside_ours() -> None:
    files = [
        "configs/mnist/networks/st_cnn_affine.yaml",
        "configs/mnist/data/rts.yaml",
        "configs/mnist/recipes/short.yaml",
    ]
    record = RunRecord(name="one", seed=0, configs=files, metrics={"test/error": 0.61})
    said = paper_numbers(record, CONFIGS / "tables")
    assert said == ["Table 1: distorted MNIST, % error, ST-CNN Aff on RTS: 0.61, the paper 0.5"]


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_a_complaint_and_as_wide_as_the_screen(
    width: int, written: Path, tmp_path: Path
) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(written.as_uri(), width)
        assert page.value(
            "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        )
        assert page.value("document.images.length") == 8
        assert page.value("document.documentElement.scrollWidth") <= width
        page.screenshot(tmp_path / "page.png")
        assert page.complaints == []
    with Image.open(tmp_path / "page.png") as image:
        assert torch.tensor(image.convert("L").getextrema()).diff() > 200


def test_a_page_of_several_runs_replaces_no_runs_own_page(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stn_lightning.analysis.report.collect", Mock())
    monkeypatch.setattr("stn_lightning.analysis.report.render", lambda _: "a page")
    networks = [
        dataclasses.replace(load_run(small_run), name=name, folder=tmp_path / name[:9])
        for name in ("first", "second", "x" * 199)
    ]
    assert write_report(networks[:1]) == tmp_path / "first/report.html"
    assert write_report(networks[:2]) == tmp_path / "first/report-first-second.html"
    assert write_report(networks).is_file()


def test_the_gallery_of_the_worst_has_the_highest_losses(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(evaluation, "_gallery", lambda examples, _: drawn.append(examples))
    run = load_run(small_run)
    evaluate(run)
    losses = []
    for batch in run.data.test_dataloader():
        batch = run.data.on_after_batch_transfer(batch, 0)
        losses.append(cross_entropies(run.infer(batch.image)[0], batch.label))
    highest = torch.cat(losses).sort(descending=True).values[: evaluation.GALLERY]
    worst = torch.tensor([example.loss for example in drawn[1]])
    torch.testing.assert_close(worst, highest)


def test_a_confused_image_stands_beside_one_of_the_other_class_that_was_recognised() -> None:
    label, answer = torch.tensor([1, 1, 0, 0, 1, 0]), torch.tensor([2, 0, 1, 0, 1, 1])
    # 0 was taken for 1 twice, first in image 2; image 0 of class 1 was misclassified, image 4 not
    assert evaluation._confused_images(label, answer, 3).tolist()[:2] == [2, 4]
