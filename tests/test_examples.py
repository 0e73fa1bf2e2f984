"""The examples are short, run as they stand, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pages import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(REPOSITORY / "examples" / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 80
    assert any(line.startswith(f"    python examples/{path.name}") for line in lines[:8])


@pytest.mark.slow
def test_a_plain_loop_learns(tmp_path: Path) -> None:
    said = run("plain_pytorch.py", tmp_path, "--epochs", "2")
    first, second = map(float, re.findall(r"loss ([\d.]+)", said))
    assert second < first < 2.4
    assert "test error" in said


@pytest.mark.slow
def test_a_lightning_trainer_of_ones_own_trains_and_draws(tmp_path: Path) -> None:
    said = run("plain_lightning.py", tmp_path, "--epochs", "2")
    assert re.search(r"^test/error \d+\.\d{3}$", said, re.MULTILINE)
    assert "test/alignment_angle " in said
    assert (tmp_path / "panel.png").exists()


def test_a_family_of_ones_own_learns_to_turn_bars_upright(tmp_path: Path) -> None:
    said = run("own_family.py", tmp_path, "--steps", "60")
    left = [float(value) for value in re.findall(r"([\d.]+) degrees left", said)]
    assert left[0] > 20
    assert left[-1] < 8


@pytest.mark.slow
def test_own_images_are_trained_on_and_asked(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for n in range(60):
        kind = ("disc", "square")[n % 2]
        image = Image.fromarray(random.integers(0, 90, (128, 140, 3), np.uint8))
        draw = ImageDraw.Draw(image).ellipse if n % 2 == 0 else ImageDraw.Draw(image).rectangle
        draw((40, 40, 80, 80), fill="yellow")
        (tmp_path / "images" / kind).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / f"images/{kind}/{n}.png")
    said = run("own_data.py", tmp_path, "images", "--epochs", "1")
    assert re.search(r"^test error [\d.]+ %$", said, re.MULTILINE)
    assert re.search(r"^images/disc/0\.png: (disc|square), \d+%$", said, re.MULTILINE)
