import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from stn_lightning.tasks import ErrorRate, MeanCrossEntropy, Samples

METRICS: list[type[Metric]] = [ErrorRate, MeanCrossEntropy, Samples]
uneven = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)


def data(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 10) * 3, torch.randint(0, 10, (n,))


def naive(metric: type[Metric], logits: Tensor, label: Tensor) -> float:
    """In NumPy, over all samples at once."""
    scores, right = logits.double().numpy(), label.numpy()
    if metric is ErrorRate:
        return 100 * float(np.mean(scores.argmax(1) != right))
    if metric is MeanCrossEntropy:
        return float(np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(right)), right]))
    return len(right)


@pytest.mark.parametrize("metric", METRICS)
@given(sizes=uneven)
def test_a_metric_is_exact_for_batches_of_any_size(metric: type[Metric], sizes: list[int]) -> None:
    logits, label = data(sum(sizes))
    measured = metric()
    for part, right in zip(logits.split(sizes), label.split(sizes), strict=True):
        measured.update(part, right)
    assert measured.compute().item() == pytest.approx(naive(metric, logits, label), rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@given(sizes=uneven)
def test_processes_with_uneven_shares_come_to_the_metric_over_all_samples(
    metric: type[Metric], sizes: list[int]
) -> None:
    logits, label = data(sum(sizes))
    processes = [metric() for _ in sizes]
    for process, part, right in zip(
        processes, logits.split(sizes), label.split(sizes), strict=True
    ):
        process.update(part, right)
    # what torchmetrics does with the states of all processes
    total = metric()
    for name, reduce in total._reductions.items():
        assert callable(reduce)
        setattr(total, name, reduce(torch.stack([getattr(process, name) for process in processes])))
    total._update_count = 1
    assert total.compute().item() == pytest.approx(naive(metric, logits, label), rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_fresh_after_a_reset(metric: type[Metric]) -> None:
    measured = metric()
    measured.update(*data(7))
    measured.reset()
    logits, label = data(5)
    measured.update(logits, label)
    assert measured.compute().item() == pytest.approx(naive(metric, logits, label), rel=1e-6)


def test_a_million_samples_are_counted_without_rounding() -> None:
    """float32 holds whole numbers to 2^24 only; the sum of percentages is six times that."""
    error, logits = ErrorRate(), torch.zeros(4096, 2)
    label = torch.ones(4096, dtype=torch.int64)
    label[0] = 0
    for _ in range(250):
        error.update(logits, label)
    assert error.total.item() == 100 * 4095 * 250
    assert error.samples.item() == 4096 * 250


def test_half_precision_logits_are_measured_in_single_precision() -> None:
    logits, label = data(50)
    half = MeanCrossEntropy()
    half.update(logits.bfloat16(), label)
    assert half.compute().item() == pytest.approx(
        naive(MeanCrossEntropy, logits.bfloat16(), label), rel=1e-5
    )


@pytest.mark.parametrize("metric", [ErrorRate, MeanCrossEntropy])
def test_less_is_better(metric: type[Metric]) -> None:
    assert metric.higher_is_better is False
