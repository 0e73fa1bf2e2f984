import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stn_lightning.tasks import ConstantLR, CosineDecay, Schedule, StepDecay

progress = st.floats(0, 1)


def test_steps_divide_by_ten_every_50k_of_the_papers_150k_iterations() -> None:
    schedule = StepDecay()
    factors = [
        schedule(step / 150_000)
        for step in (0, 1, 49_999, 50_000, 99_999, 100_000, 149_999, 150_000)
    ]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01], rel=1e-12)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 6, 7, 10])
@pytest.mark.parametrize("steps", [30, 420, 2520])
def test_steps_change_at_the_very_step_that_begins_a_part(parts: int, steps: int) -> None:
    schedule = StepDecay(factor=0.5, num_intervals=parts)
    for part in range(parts):
        begin, end = math.ceil(part * steps / parts), math.ceil((part + 1) * steps / parts)
        assert {schedule(step / steps) for step in range(begin, end)} == {0.5**part}


def test_the_paper_of_house_numbers_divides_by_ten_every_80k_of_400k_iterations() -> None:
    schedule = StepDecay(num_intervals=5)
    assert [round(schedule(step / 400_000), 12) for step in (79_999, 80_000, 320_000, 400_000)] == [
        1,
        0.1,
        1e-4,
        1e-4,
    ]


def test_a_cosine_falls_from_1_to_0_through_a_half() -> None:
    schedule = CosineDecay()
    assert [schedule(p) for p in (0.0, 1 / 3, 0.5, 2 / 3, 1.0)] == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0], abs=1e-15
    )


def test_a_warm_up_rises_in_a_straight_line_and_the_cosine_begins_where_it_ends() -> None:
    schedule = CosineDecay(warmup=0.2)
    assert [schedule(p) for p in (0.0, 0.05, 0.1, 0.15, 0.2, 0.6, 1.0)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 0.5, 0], abs=1e-15
    )
    assert schedule(0.2 - 1e-9) == pytest.approx(schedule(0.2 + 1e-9), abs=1e-7)


@given(progress)
def test_constant_is_constant(at: float) -> None:
    assert ConstantLR()(at) == 1


@given(progress, progress, st.floats(0, 0.99))
def test_a_cosine_stays_between_0_and_1_and_never_rises_after_the_warm_up(
    a: float, b: float, warmup: float
) -> None:
    schedule = CosineDecay(warmup)
    assert 0 <= schedule(a) <= 1
    first, second = sorted((a, b))
    if first >= warmup:
        assert schedule(first) >= schedule(second)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 2.0])
def test_a_warm_up_that_is_no_part_of_the_training_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match="give 0 <= warmup < 1"):
        CosineDecay(warmup)


@pytest.mark.parametrize("schedule", [ConstantLR(), CosineDecay(0.1), StepDecay()])
def test_a_schedule_has_no_memory(schedule: Schedule) -> None:
    forwards = [schedule(i / 50) for i in range(51)]
    backwards = [schedule(i / 50) for i in reversed(range(51))]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("options", [{"num_intervals": 0}, {"factor": 0.0}])
def test_a_step_decay_without_steps_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give a factor above 0 and 1 interval or more"):
        StepDecay(**options)
