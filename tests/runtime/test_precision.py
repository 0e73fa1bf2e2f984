"""The precision of a training is what its hardware computes faster, and float32 in doubt."""

import pytest
import torch

from stn_lightning.runtime import precision
from stn_lightning.runtime.precision import BFLOAT16, FLOAT32, choose_precision


@pytest.fixture(autouse=True)
def _fresh() -> None:
    choose_precision.cache_clear()


@pytest.mark.parametrize(("ratio", "chosen"), [(2.0, BFLOAT16), (1.05, FLOAT32), (0.2, FLOAT32)])
def test_bfloat16_is_chosen_only_where_it_is_faster(
    ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "emulates_bf16", lambda: False)
    monkeypatch.setattr(precision, "_time_ratio", lambda _: ratio)
    assert choose_precision("cpu").precision == chosen
    assert f"1/{ratio:.1f}" in choose_precision("cpu").reason


def test_where_bfloat16_is_emulated_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "emulates_bf16", lambda: True)
    monkeypatch.delattr(precision, "_time_ratio")
    assert choose_precision("cpu").precision == FLOAT32


def test_an_unknown_device_gets_float32() -> None:
    assert choose_precision("mps").precision == FLOAT32


def test_timing_gives_a_positive_ratio_and_leaves_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    assert precision._time_ratio("cpu") > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_with_bfloat16_uses_it() -> None:
    wanted = torch.cuda.is_bf16_supported(including_emulation=False)
    assert (choose_precision("cuda").precision == BFLOAT16) or not wanted


def test_several_processes_time_nothing_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "emulates_bf16", lambda: False)
    monkeypatch.delattr(precision, "_time_ratio")
    assert choose_precision("cpu", several=True).precision == FLOAT32
