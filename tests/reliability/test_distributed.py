"""What several processes promise: one result, one end."""

import copy
import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from stn_lightning.backbones import MultiCropClassifier
from stn_lightning.callbacks import Compile
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.runtime.distributed import is_lost_process
from stn_lightning.transformers import (
    HeatmapLocalisation,
    NoisyIdentity,
    ParallelTransformer,
    Translation,
)
from tests.reliability.processes import finish, log, run, running, wait_for
from tests.reliability.training import (
    SIZES,
    Do,
    Draws,
    FewDigits,
    Poison,
    Slowly,
    Statistics,
    backbone,
    die,
    fill_disk,
    key_error,
    looking,
    record,
    stop,
    train,
)
from tests.runtime.test_checkpoint_io import names
from tests.stn_command import CONFIGS

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]


def by_rank(folder: Path) -> list[Any]:
    return sorted(record(folder), key=lambda line: line[1])


def global_losses(folder: Path) -> list[float]:
    """Of each batch, over all processes: each tells its part's mean times its share."""
    parts: dict[tuple[int, int], list[float]] = defaultdict(list)
    for line in record(folder, "train"):
        parts[line[2], line[3]].append(line[5])
    return [sum(values) / len(values) for _, values in sorted(parts.items())]


VIEWS = {"gradient_as_bucket_view": True}
STOPS: list[tuple[dict[str, Any], int, int | None]] = [
    ({}, 10, 2),
    ({"accumulate_grad_batches": 3}, 4, None),
    (
        {
            "ema": True,
            "accumulate_grad_batches": 3,
            "val_check_interval": 4,
            "patience": 2,
            "seconds": 0.0,
        },
        7,
        1,
    ),
    ({}, 10, None),
    ({"max_steps": 22}, 21, 1),
    ({"workers": 2}, 4, None),
    ({"limit_val_batches": 0}, 10, None),
    ({"ddp": VIEWS, "accumulate_grad_batches": 3}, 4, None),
]


@pytest.mark.parametrize(
    ("settings", "batch", "val_batch"),
    [pytest.param(*each, marks=pytest.mark.slow if i else ()) for i, each in enumerate(STOPS)],
)
def test_two_processes_stop_at_the_signal_of_one_and_go_on_exactly(
    tmp_path: Path, settings: dict[str, Any], batch: int, val_batch: int | None
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run(straight, ranks=2, **settings) == [0, 0], log(straight)
    assert run(stopped, Do(stop, batch, val_batch, rank=1), ranks=2, **settings) == [75, 75], log(
        stopped
    )
    assert run(stopped, ranks=2, **settings) == [0, 0], log(stopped)
    assert by_rank(stopped) == by_rank(straight)


@pytest.mark.slow
def test_two_processes_see_every_image_once_an_epoch(tmp_path: Path) -> None:
    assert run(tmp_path, Do(stop, 4, rank=0), ranks=2, epochs=2) == [75, 75], log(tmp_path)
    assert run(tmp_path, ranks=2, epochs=2) == [0, 0], log(tmp_path)
    for epoch in (0, 1):
        seen = [
            index for line in record(tmp_path, "train") if line[2] == epoch for index in line[7]
        ]
        assert sorted(seen) == list(range(SIZES["train"]))


def birds() -> nn.Module:
    """Two transformers and two streams; without batch normalisation, whose statistics each process
    has for itself.
    """
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Tanh())
    transformer = ParallelTransformer(
        HeatmapLocalisation(copy.deepcopy(trunk), 2),
        Translation(0.5),
        2,
        (14, 14),
        start=NoisyIdentity(0.3),
    )
    return nn.Sequential(transformer, MultiCropClassifier(trunk, 2, dropout=0.0, num_classes=10))


SGD = functools.partial(
    torch.optim.SGD, lr=0.1
)  # Adam makes steps of the same size of gradients that are rounding errors


@pytest.mark.parametrize(
    ("network", "options"),
    [(lambda: None, {}), (birds, {"optimizer": SGD})],
    ids=["plain", "birds"],
)
def test_losses_are_those_of_one_process_with_the_same_global_batch(
    tmp_path: Path, network: Callable[[], nn.Module | None], options: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"batch_size": 32, "max_steps": 50, "dropout": 0.0} | options
    train(tmp_path / "one", network=network(), **settings)
    assert run(tmp_path / "two", ranks=2, network=network(), **settings) == [0, 0], log(
        tmp_path / "two"
    )
    one, two = global_losses(tmp_path / "one"), global_losses(tmp_path / "two")
    assert len(one) == len(two) == 50
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-6
    if network is not birds:  # plain SGD takes longer with them
        assert one[0] > 1.3 * one[-1], "it learns"
    validated = [
        [line[4] for line in record(tmp_path / name, "val") if line[1] == 0]
        for name in ("one", "two")
    ]
    assert [line["val/error"] for line in validated[0]] == [
        line["val/error"] for line in validated[1]
    ]


@pytest.mark.parametrize(
    ("ddp", "accumulate"),
    [(VIEWS, 2), pytest.param({**VIEWS, "static_graph": True}, 1, marks=pytest.mark.slow)],
)
def test_buckets_that_are_views_and_a_static_graph_change_nothing(
    tmp_path: Path, ddp: dict[str, Any], accumulate: int
) -> None:
    for name, options in {"plain": {}, "views": ddp}.items():
        done = run(
            tmp_path / name, ranks=2, max_steps=6, accumulate_grad_batches=accumulate, ddp=options
        )
        assert done == [0, 0], log(tmp_path / name)
    assert by_rank(tmp_path / "views") == by_rank(tmp_path / "plain")


def test_a_static_graph_is_refused_where_gradients_are_accumulated(tmp_path: Path) -> None:
    """PyTorch 2.14 fails an assertion of its own at the first step."""
    assert run(tmp_path, ranks=2, accumulate_grad_batches=2, ddp={"static_graph": True}) == [1, 1]
    assert "static_graph true does not go with accumulate_grad_batches 2" in log(tmp_path)


@pytest.mark.slow
def test_two_processes_with_compiled_networks_see_the_losses_of_plain_ones(tmp_path: Path) -> None:
    for name, extra in {"plain": [], "compiled": [Compile(backend="aot_eager")]}.items():
        torch.manual_seed(1)
        assert run(tmp_path / name, *extra, ranks=2, max_steps=6, network=looking()) == [0, 0], log(
            tmp_path / name
        )
    plain, compiled = (global_losses(tmp_path / name) for name in ("plain", "compiled"))
    assert len(plain) == 6
    assert max(abs(a - b) for a, b in zip(plain, compiled, strict=True)) < 1e-6
    assert plain[0] != plain[-1], "it learns"


@pytest.mark.parametrize("accumulate", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_training_stopped_on_two_processes_goes_on_on_one(
    tmp_path: Path, accumulate: int
) -> None:
    settings: dict[str, Any] = {"dropout": 0.0, "accumulate_grad_batches": accumulate}
    train(tmp_path / "one", **settings)
    elastic = tmp_path / "elastic"
    assert run(elastic, Do(stop, 15), ranks=2, **settings) == [75, 75], log(elastic)
    assert run(elastic, ranks=1, **settings) == [0], log(elastic)
    one, mixed = global_losses(tmp_path / "one"), global_losses(elastic)
    assert max(abs(a - b) for a, b in zip(one, mixed, strict=True)) < 1e-6
    seen = [index for line in record(elastic, "train") if line[2] == 1 for index in line[7]]
    assert sorted(seen) == list(range(SIZES["train"]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_error_on_a_set_that_does_not_divide_is_exact(tmp_path: Path, ranks: int) -> None:
    torch.manual_seed(1)
    network = backbone(0.0).eval()
    images = FewDigits().load("test")
    with torch.no_grad():
        logits = network(images.image.float() / 255)
    error = 100 * (logits.argmax(1) != images.label).double().mean()
    assert run(tmp_path, function="evaluate", ranks=ranks) == [0] * ranks, log(tmp_path)
    for rank in range(ranks):
        results = json.loads((tmp_path / f"results.{rank}").read_text())
        assert results["test/samples"] == 31
        assert results["test/error"] == pytest.approx(float(error), abs=1e-5)
        assert results["test/loss"] == pytest.approx(
            float(functional.cross_entropy(logits, images.label)), abs=1e-6
        )


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_one_process_is_killed_the_others_end_within_ten_seconds(
    tmp_path: Path, killed: int
) -> None:
    with running(tmp_path, Slowly(), ranks=3, seconds=0.0) as processes:
        wait_for(15, tmp_path)
        processes[killed].kill()
        begin = time.monotonic()
        codes = finish(processes, 20)
        assert time.monotonic() - begin < 10
    assert codes[killed] == -9
    assert [code for rank, code in enumerate(codes) if rank != killed] == [1, 1], log(tmp_path)
    load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")


ANTIALIASED = "--model.init_args.transformer.init_args.sampler"


@pytest.mark.parametrize(
    ("ranks", "size"),
    [(3, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 1), (3, 2)])],
)
def test_processes_without_an_image_validate_and_test_with_the_others(
    tmp_path: Path, ranks: int, size: int
) -> None:
    arguments = [
        "fit",
        f"--config={CONFIGS / 'quickstart.yaml'}",
        "--trainer.max_epochs=2",
        "--data.init_args.batch_size=16",
        "--data.init_args.source=tests.reliability.training.TinyDigits",
        f"--data.init_args.source.init_args.size={size}",
        f"{ANTIALIASED}=stn_lightning.transformers.Antialiased",
    ]
    codes = run(tmp_path, *arguments, ranks=ranks, function="stn")
    assert codes == [0] * ranks, log(tmp_path)
    record = json.loads((tmp_path / "runs/quickstart/results.json").read_text())
    assert record["samples_tested"] == size
    assert record["metrics"]["test/error"] in [100 * n / size for n in range(size + 1)]
    assert record["epochs"] == 2


def last_line(folder: Path, rank: int) -> str:
    return (folder / f"log.{rank}").read_text().strip().rpartition("\n")[2]


@pytest.mark.parametrize(("ranks", "culprit"), [(2, 0), (2, 1), (3, 2)])
def test_a_bug_in_one_process_is_a_failure_of_all_and_its_cause_is_their_last_line(
    tmp_path: Path, ranks: int, culprit: int
) -> None:
    """Exit code 69 would have the job started again, for ever."""
    bug = Do(key_error, 5, rank=culprit)
    begin = time.monotonic()
    assert run(tmp_path, bug, ranks=ranks, function="command") == [1] * ranks, log(tmp_path)
    assert time.monotonic() - begin < 120
    assert last_line(tmp_path, culprit) == 'KeyError: "of the user\'s own"'
    for rank in set(range(ranks)) - {culprit}:
        said = last_line(tmp_path, rank)
        assert said.startswith(f"stn fit: process {culprit} failed: KeyError: ")
    assert run(tmp_path, ranks=ranks, epochs=1, function="command") == [0] * ranks, log(tmp_path)
    assert not [file for file in names(tmp_path) if file.startswith(".failure")]


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_others_with_exit_code_69(
    tmp_path: Path, killed: int
) -> None:
    codes = run(tmp_path, Do(die, 5, rank=killed), ranks=2, seconds=0.0, function="command")
    assert codes == [-9 if rank == killed else 69 for rank in (0, 1)], log(tmp_path)
    assert "has lost another or the way to it" in last_line(tmp_path, 1 - killed)
    assert "resumes it from last.ckpt" in last_line(tmp_path, 1 - killed)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5", True),
        ("[gloo/transport/tcp/pair.cc] Read error: Connection reset by peer", True),
        ("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv", True),
        ("[gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4", False),
        ("Connection closed by peer, said the database of the user", False),
    ],
)
def test_an_error_is_that_of_a_lost_process_where_a_connection_has_ended(
    message: str, lost: bool
) -> None:
    assert is_lost_process(RuntimeError(message)) is lost


def test_a_loss_of_one_process_that_is_not_finite_stops_all(tmp_path: Path) -> None:
    straight, poisoned = tmp_path / "straight", tmp_path / "poisoned"
    assert run(straight, ranks=2, epochs=2) == [0, 0], log(straight)
    assert run(poisoned, Poison(5, torch.nan, rank=1), ranks=2, seconds=0.0, epochs=2) == [1, 1], (
        log(poisoned)
    )
    for rank in (0, 1):
        said = (poisoned / f"log.{rank}").read_text()
        assert (
            "NonFiniteError: the loss is not finite in step 5 (the first is 0) of process 1; "
            "the last finite loss was" in said
        )
    last = load_checkpoint(poisoned / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 5
    assert all(bool(tensor.isfinite().all()) for tensor in last["state_dict"].values())
    assert run(poisoned, ranks=2, epochs=2) == [0, 0], log(poisoned)
    assert by_rank(poisoned) == by_rank(straight)


def test_a_checkpoint_that_cannot_be_written_is_an_error_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    begin = time.monotonic()
    assert run(tmp_path, ranks=2) == [1, 1], log(tmp_path)
    assert time.monotonic() - begin < 120
    for rank in (0, 1):
        assert "checkpoints: cannot hold checkpoints" in (tmp_path / f"log.{rank}").read_text()


def test_a_disk_that_is_full_for_the_process_that_writes_stops_all(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert run(tmp_path, Do(fill_disk, 5, rank=0), ranks=2, seconds=0.0) == [1, 1], log(tmp_path)
    assert time.monotonic() - begin < 120
    for rank in (0, 1):
        assert "OSError: [Errno 27] File too large" in (tmp_path / f"log.{rank}").read_text()
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_running_statistics_are_the_same_in_all_processes_when_they_validate_and_in_what_they_save(
    tmp_path: Path,
) -> None:
    file = tmp_path / "statistics.jsonl"
    assert run(tmp_path, Statistics(file), ranks=2, norm=True, epochs=1) == [0, 0], log(tmp_path)
    _, own, together = zip(
        *sorted(json.loads(line) for line in file.read_text().splitlines()), strict=True
    )
    assert own[0] != own[1], "each process has seen other images"
    assert together[0] == together[1]
    means, variances = torch.tensor(own).unbind(1)
    mean = means.mean(0)
    variance = (variances + (means - mean) ** 2).mean(0)  # of all images together
    torch.testing.assert_close(torch.tensor(together[0]), torch.stack([mean, variance]))
    saved = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["state_dict"]
    assert saved["backbone.2.running_mean"].tolist() == together[0][0]
    assert saved["backbone.2.running_var"].tolist() == together[0][1]


def test_each_process_draws_its_own_random_numbers(tmp_path: Path) -> None:
    file = tmp_path / "draws.jsonl"
    assert run(tmp_path, Draws(file), ranks=2, epochs=1) == [0, 0], log(tmp_path)
    drawn: dict[int, list[float]] = {0: [], 1: []}
    for rank, _, number in sorted(json.loads(line) for line in file.read_text().splitlines()):
        drawn[rank].append(number)
    assert len(drawn[0]) == len(drawn[1]) > 3
    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.slow
def test_a_process_that_dies_leaves_what_was_saved(tmp_path: Path) -> None:
    codes = run(tmp_path, Do(die, 7, rank=0), ranks=2, seconds=0.0)
    assert codes == [-9, 1], log(tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 7
