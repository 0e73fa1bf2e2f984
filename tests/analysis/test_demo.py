"""The demo, used as a person uses it: with a mouse."""

import base64
import copy
import dataclasses
import io
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from stn_lightning.analysis.demo import about, answer_drawing, demo, make_server
from stn_lightning.analysis.predictions import Prediction, predictions
from stn_lightning.analysis.run import Run, load_run
from stn_lightning.cli.typed_command import call
from tests.browser import CHROMIUM, REASON, Page, browser
from tests.stn_command import on_maps


@pytest.fixture(scope="module")
def small(small_run: Path) -> Run:
    return load_run(small_run)


@pytest.fixture
def address(small: Run) -> Iterator[str]:
    server = make_server(small, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def drag(page: Page, points: list[tuple[float, float]]) -> None:
    """Press, move and release, in pixels of the canvas on the screen."""
    box = page.value(
        "(box => [box.left, box.top, box.width])"
        "(document.getElementById('draw').getBoundingClientRect())"
    )
    where = [(box[0] + x * box[2], box[1] + y * box[2]) for x, y in points]
    page.mouse("mousePressed", *where[0])
    for x, y in where:
        page.mouse("mouseMoved", x, y)
    page.mouse("mouseReleased", *where[-1])
    page.until("!busy && !again")


INK = """(() => {
  const shown = document.getElementById('draw');
  const c = new OffscreenCanvas(shown.width, shown.height), copy = c.getContext('2d');
  copy.drawImage(shown, 0, 0);
  const d = copy.getImageData(0, 0, c.width, c.height).data;
  let n = 0, x = 0, y = 0;
  for (let i = 0; i < d.length; i += 4) {
    if (d[i] > 200 && d[i + 1] > 200) { n++; x += i / 4 % c.width; y += i / 4 / c.width | 0; }
  }
  return [n, x / n, y / n];
})()"""
"""White pixels, and the middle of them."""


def test_transformers_inside_of_the_backbone_are_shown(small: Run) -> None:
    network = on_maps(small)
    assert about(network)["has_transformer"] is True
    assert len(answer_drawing(network, bytes(42 * 42))["outlines"]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_a_digit_is_drawn_moved_turned_and_sized_with_the_mouse_and_the_outline_follows(
    address: str, tmp_path: Path
) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(address, 1000, 800)
        page.until("document.getElementById('time').dataset.answers == 0")
        drag(page, [(0.5, 0.3 + 0.04 * i) for i in range(11)])  # a one
        ink, x, y = page.value(INK)
        assert ink > 1000
        assert (x, y) == pytest.approx((168, 168), abs=4)
        page.screenshot(tmp_path / "demo.png")
        before = page.value("answer.outlines[0]")
        box = page.value(
            "(box => [box.left + 5, box.top + 5])"
            "(document.getElementById('hand').getBoundingClientRect())"
        )
        page.mouse("mousePressed", *box)
        page.mouse("mouseReleased", *box)
        drag(page, [(0.5, 0.5), (0.55, 0.5), (0.65, 0.5)])
        moved, x, _ = page.value(INK)
        assert x == pytest.approx(168 + 0.15 * 336, abs=4)
        assert page.value("answer.outlines[0]") != before
        page.value(
            "document.getElementById('size').value = 60, document.getElementById('size').oninput()"
        )
        page.until("!busy && !again")
        assert page.value(INK)[0] < 0.6 * moved
        assert page.value("document.getElementById('bars').dataset.best") in list("0123456789")
        assert page.value("document.querySelector('#crops img').naturalWidth") == 28
        assert page.complaints == []


def test_an_answer_is_what_the_run_says(address: str, small: Run) -> None:
    grey = torch.randint(0, 256, (42 * 42,), dtype=torch.uint8)
    with urllib.request.urlopen(f"{address}draw", grey.numpy().tobytes()) as reply:
        answer = json.load(reply)
    logits, seen = small.infer(grey.view(1, 1, 42, 42) / 255)
    assert seen is not None
    probabilities = dict(zip("0123456789", logits[0].softmax(0).tolist(), strict=True))
    assert dict(answer["classes"]) == pytest.approx(probabilities, abs=1e-5)
    assert answer["label"] == answer["classes"][0][0] == max(probabilities, key=probabilities.get)  # type: ignore[arg-type]
    assert answer["outlines"][0][0] == pytest.approx(
        ((seen.grids[0, 0, 0, 0] + 1) / 2).tolist(), abs=1e-5
    )
    assert decoded(answer["crops"][0]).size == (28, 28)


def test_a_frame_is_answered_within_50_ms_of_processor_time(small: Run) -> None:
    grey = bytes(42 * 42)
    answer_drawing(small, grey)
    began = time.thread_time()
    for _ in range(10):
        answer_drawing(small, grey)
    assert (time.thread_time() - began) / 10 < 0.05


@pytest.mark.parametrize(
    ("path", "host", "body", "code"),
    [("", "evil.example:80", None, 403), ("etc", None, None, 404), ("draw", None, b"x", 400)],
)
def test_strangers_and_nonsense_are_turned_away(
    path: str, host: str | None, body: bytes | None, code: int, address: str
) -> None:
    request = urllib.request.Request(address + path, body, {"Host": host} if host else {})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == code
    refused.value.close()


@pytest.mark.parametrize(
    "length", [b"abc", b"-1", b"1e9", b"", b"99999999999999999999999"], ids=lambda each: str(each)
)
def test_a_length_that_is_none_is_answered_and_nothing_is_printed(
    length: bytes, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        lines = [b"POST /draw HTTP/1.1", b"Host: " + f"localhost:{port}".encode()]
        lines += [b"Content-Length: " + length, b"", b""]
        connection.sendall(b"\r\n".join(lines))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
        reset = struct.pack("ii", 1, 0)  # leave without a word
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    with urllib.request.urlopen(f"{address}about") as reply:
        assert reply.status == 200
    assert capfd.readouterr().err == ""


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def post(address: str, content: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(address, content) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def write_scan(path: Path) -> Path:
    scan = Image.new("L", (120, 90), 240)
    ImageDraw.Draw(scan).line([(30, 20), (80, 15), (50, 70)], fill=10, width=8)
    scan.save(path)
    return path


def test_a_dropped_file_is_answered_as_stn_predict_answers_it(
    address: str, small: Run, tmp_path: Path
) -> None:
    path = write_scan(tmp_path / "scan.jpg")
    answer = post(f"{address}image", path.read_bytes())
    prediction = next(predictions(small, [path]))
    assert isinstance(prediction, Prediction)
    assert answer["classes"][0] == [prediction.label, pytest.approx(prediction.probability)]
    expected = prediction.crops[0].outline / torch.tensor([120, 90])
    torch.testing.assert_close(torch.tensor(answer["outlines"][0]), expected)
    assert decoded(answer["image"]).size == (120, 90)


def test_a_file_that_is_no_image_is_refused_by_a_line(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{address}image", b"no image")
    assert refused.value.code == 422
    assert refused.value.read().decode().startswith("the file: ")
    refused.value.close()


def test_a_page_of_another_site_is_turned_away(address: str) -> None:
    request = urllib.request.Request(f"{address}about", None, {"Origin": "https://evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403
    refused.value.close()


def test_each_of_four_threads_gets_the_answer_to_its_own_request(address: str, small: Run) -> None:
    drawings = [bytes((i * 7 + k * k) % 256 for k in range(42 * 42)) for i in range(8)]
    expected = [answer_drawing(small, drawing) for drawing in drawings]
    assert len({json.dumps(answer["outlines"]) for answer in expected}) == len(drawings)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda d: post(f"{address}draw", d), drawings * 5))
    for answer, right in zip(answers, expected * 5, strict=True):
        torch.testing.assert_close(
            torch.tensor(answer["outlines"]), torch.tensor(right["outlines"])
        )


def test_a_run_without_transformer_gets_percentages_and_no_outline(small: Run) -> None:
    task = copy.deepcopy(small.task)
    task.transformer = None
    task.backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(28), task.backbone)
    answer = answer_drawing(dataclasses.replace(small, task=task), bytes(42 * 42))
    assert answer["outlines"] == answer["crops"] == []
    assert sum(probability for _, probability in answer["classes"]) == pytest.approx(1)


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_a_chosen_image_is_shown_with_its_outline_and_can_be_turned(
    address: str, tmp_path: Path
) -> None:
    path = write_scan(tmp_path / "scan.png")
    with browser(tmp_path / "profile") as page:
        page.open(address, 1000, 800)
        page.until("document.getElementById('time').dataset.answers == 0")
        document = page.send("DOM.getDocument")["root"]["nodeId"]
        node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        page.until("photo && photo.width == 120 && !busy && !again")
        assert page.value("[draw.width, draw.height]") == [336, 252]
        before = page.value("answer.outlines[0]")
        page.value("document.getElementById('turn').value = 45, turn.oninput()")
        page.until("!busy && !again")
        assert page.value("answer.outlines[0]") != before
        page.screenshot(tmp_path / "dropped.png")
        assert page.complaints == []


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_an_empty_canvas_has_no_answer_also_after_a_file_that_is_no_image(
    address: str, tmp_path: Path
) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no image")
    empty = "[answer, bars.children.length, crops.children.length, hand, photo]"
    with browser(tmp_path / "profile") as page:
        page.open(address, 1000, 800)
        page.until("document.getElementById('time').dataset.answers == 0")
        assert page.value(empty) == [None, 0, 0, False, None]
        document = page.send("DOM.getDocument")["root"]["nodeId"]
        node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        page.until("problem.textContent && !busy && !again")
        assert "the file: it is not an image" in page.value("problem.textContent")
        assert page.value(empty) == [None, 0, 0, False, None]
        drag(page, [(0.5, 0.3 + 0.04 * i) for i in range(11)])
        assert page.value("bars.children.length > 0 && problem.textContent == ''")
        page.value("document.getElementById('clear').onclick()")
        page.until("!busy && !again")
        assert page.value(empty) == [None, 0, 0, False, None]
        assert page.value(INK)[0] == 0


def test_an_unknown_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(demo, ["nowhere"]) == 2
    assert "runs/nowhere/config.yaml does not exist" in capsys.readouterr().err
