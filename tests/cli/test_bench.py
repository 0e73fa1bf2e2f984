"""The benchmarks run, each on a case so small that it measures nothing."""

import ast
import importlib
import os

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import alternating, crops, growth, training, warps
from stn_lightning.transformers import (
    ConvolutionalLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)
from tests.stn_command import CONFIGS

FOLDER = CONFIGS.parent / "benchmarks"


def test_cases_take_turns_and_the_first_round_is_left_out() -> None:
    turns: list[str] = []
    taken = alternating.alternate(
        {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 2
    )
    assert turns == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_middle_of_the_ratios_of_each_turn() -> None:
    assert alternating.times_as_long([1.0, 10.0, 100.0], [2.0, 30.0, 200.0]) == 2.0


def test_every_benchmark_that_is_listed_is_there() -> None:
    for name in bench.BENCHMARKS:
        assert "def main()" in (FOLDER / f"{name}.py").read_text()
        assert (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip()


def test_what_is_compared_computes_the_same() -> None:
    size = (9, 9)
    image = torch.rand(2, 1, *size)
    for family, start in warps.START.items():
        theta = torch.tensor(start) + 0.05 * torch.randn(2, len(start))
        expected = warps.ours(size)[family](image, theta)
        torch.testing.assert_close(
            warps.plain(size)[family](image, theta), expected, atol=1e-4, rtol=0
        )
        if family != "TPS":  # kornia's spline is corner-aligned
            torch.testing.assert_close(
                warps.by_kornia(size)[family](image, theta), expected, atol=1e-4, rtol=0
            )


def test_growth_is_measured() -> None:
    found = growth.measure(images=64, side=28, batch=4, n=2)
    assert found["ms"] > 0
    assert 0.1 < found["peak"] < 20


def test_a_step_with_crops_gives_the_transformer_a_gradient() -> None:
    weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 2))
    localisation = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(28), ConvolutionalLocalisation())
    transformer = ParallelTransformer(localisation, Translation(0.5), 2, (28, 28), start=Tiling())
    image = torch.rand(1, 3, 56, 56)
    transformer(image)
    crops.step(weights, transformer, image, image)
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in transformer.regressions.parameters()
    )


def test_the_training_loop_ends_by_its_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        training.loop(
            training.Clock(1), training._forever([(torch.rand(2, 1, 42, 42), torch.tensor([1, 2]))])
        )
    assert ast.literal_eval(capsys.readouterr().out)["wall"] > 0


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        bench.main(["speed"])
    assert left.value.code == 2
    assert "there is no benchmark speed" in capsys.readouterr().err
