"""Time a training step of `stn fit` beside other ways.

    python -m benchmarks.training [--quick]
    python -m benchmarks.training --error CASE STEPS

ST-CNN Aff on RTS, batches of 256. The second command prints the test error of one case after some
steps. The limit is the same network in a bare PyTorch loop on distorted images that are ready, with
the same precision, memory format, optimiser and allocation of memory as `stn fit`. The other ways
are as their users run them: float32, contiguous, the C library's own memory. Each case is a process
of its own; they alternate. On a machine with a GPU all of them train on it: the limit's images lie
there, kornia distorts there, and bfloat16 and compiled networks are cases of their own.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.alternating import chosen, in_a_process, report, table, times_as_long
from stn_lightning.backbones import CNN
from stn_lightning.cli.training import run
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import MNIST
from stn_lightning.distortions import CounterRandom, RotatedScaledTranslated
from stn_lightning.layers import Conv2d
from stn_lightning.runtime.memory import keep_freed_memory
from stn_lightning.runtime.precision import emulates_bf16
from stn_lightning.transformers import Affine, ConvolutionalLocalisation, SpatialTransformer

BATCH = 256
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM_UP = 5 if DEVICE.type == "cpu" else 50
CONFIGS = Path(__file__).parents[1] / "configs"
CASES = (
    "stn fit",
    "limit",
    "stn fit, bf16",
    "limit, bf16",
    "tutorial",
    "tutorial, 2 workers",
    "kornia",
    "plain Lightning",
)
COMPILED = ("stn fit, bf16, compiled", "limit, bf16, compiled")
"""On a GPU as well, where a small network's step is all starting of kernels."""
QUICK = ("stn fit", "limit", "tutorial", "kornia")
NOTES = """`stn fit` over the limit: {ratios}. The limit: pre-distorted images, bare loop. Tutorial:
torchvision per image in a DataLoader; kornia: its augmentation on the batch in a bare loop; plain
Lightning: a LightningModule on the tutorial's loader. The network is ours in all of them, with
PyTorch's own convolutions in the last three. bfloat16 is left out where the processor has none."""


class Clock(Callback):
    """Time all steps but the first few.

    It prints them as JSON. Loops call `tick` after each step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.done = 0
        self.since = (0.0, 0.0)
        self.network: nn.Module | None = None

    def tick(self) -> None:
        self.done += 1
        if DEVICE.type == "cuda" and self.done in (WARM_UP, WARM_UP + self.steps):
            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        if self.done == WARM_UP:
            self.since = now
        if self.done == WARM_UP + self.steps:
            wall, processor = (
                1000 * (b - a) / self.steps for a, b in zip(self.since, now, strict=True)
            )
            print(json.dumps({"wall": wall, "processor": processor}), flush=True)
            os._exit(0)  # what follows, a test, is not timed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tick()


class Examination(Clock):
    """Print the test error after a number of steps.

    It takes the place of `Clock`, and prints JSON.
    """

    def tick(self) -> None:
        self.done += 1
        if self.done == self.steps:
            assert self.network is not None
            data = MNISTDataModule(MNIST(), RotatedScaledTranslated(), BATCH)
            data.setup("test")
            wrong = count = 0
            with torch.no_grad():
                for batch in data.test_dataloader():
                    batch = data.transform_batch(data.transfer_batch_to_device(batch, DEVICE, 0))
                    wrong += int((self.network(batch.image).argmax(1) != batch.label).sum())
                    count += len(batch.label)
            print(json.dumps({"error": 100 * wrong / count}), flush=True)
            os._exit(0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.network = pl_module.network if isinstance(pl_module, _Task) else pl_module
        self.tick()


class Network(nn.Sequential):
    """ST-CNN Aff of configs/mnist/networks/st_cnn_affine.yaml.

    `plain` uses PyTorch's own convolutions, as others have them.
    """

    def __init__(self, plain: bool) -> None:
        super().__init__(
            SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(28, 28)), CNN(64)
        )
        self(torch.zeros(1, 1, 42, 42))
        for module in self.modules():
            if plain and isinstance(module, Conv2d):
                module.__class__ = nn.Conv2d  # type: ignore[assignment]


class _Task(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network(plain=True)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 2e-3)


class _PerImage(Dataset[tuple[Tensor, int]]):
    def __init__(self) -> None:
        from benchmarks.distortions import Distorted, rts

        images = MNIST().load("train")
        self.images, self.labels = Distorted(images.image, rts()), images.label.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def fit(clock: Clock, precision: str, compiled: bool = False) -> None:
    hardware = [
        *(["hardware/compile"] if compiled else []),
        "hardware/gpu" if DEVICE.type == "cuda" else "hardware/cpu",
    ]
    files = [
        f"--config={CONFIGS}/{file}.yaml"
        for file in ("mnist/networks/st_cnn_affine", "mnist/data/rts", *hardware)
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        given = [
            "--data.init_args.batch_size",
            str(BATCH),
            "--trainer.precision",
            precision,
            "--name",
            "bench",
        ]
        given += ["--model.init_args.schedule", "stn_lightning.tasks.ConstantLR"]  # as the others
        clocked = [
            f"--trainer.callbacks+=benchmarks.training.{type(clock).__name__}",
            f"--trainer.callbacks.steps={clock.steps}",
        ]
        sys.exit(run(["fit", *files, *given, *clocked]))


def loop(
    clock: Clock,
    batches: Iterable[Any],
    bf16: bool = False,
    as_in_fit: bool = False,
    compiled: bool = False,
) -> None:
    network = clock.network = Network(plain=not as_in_fit).to(DEVICE)
    if as_in_fit:
        network = network.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for image, label in batches:
        image, label = image.to(DEVICE), label.to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            logits = network(image)
        loss = functional.cross_entropy(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.tick()


def limit(clock: Clock, bf16: bool, compiled: bool = False) -> None:
    keep_freed_memory()
    images = MNIST().load("train")
    index = torch.arange(20 * BATCH)
    ready = RotatedScaledTranslated()(
        images.image[index].float() / 255, CounterRandom(0, 0, 0, index), images.image
    )
    batches = list(
        zip(
            ready.to(DEVICE).split(BATCH),
            images.label[index].to(DEVICE).split(BATCH),
            strict=True,
        )
    )
    loop(clock, _forever(batches), bf16, as_in_fit=True, compiled=compiled)


def kornia(clock: Clock) -> None:
    from benchmarks.distortions import by_kornia

    images, distort = MNIST().load("train"), by_kornia()["RTS"]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for index in torch.randperm(len(images.label)).split(BATCH):
                yield distort(images.image[index].to(DEVICE).float() / 255), images.label[index]

    loop(clock, batches())


def plain_lightning(clock: Clock) -> None:
    loader = DataLoader(_PerImage(), BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator=DEVICE.type,
            devices=1,
            max_epochs=-1,
            default_root_dir=folder,
            callbacks=[clock],
            enable_checkpointing=False,
        ).fit(_Task(), loader)


def tutorial(clock: Clock, workers: int) -> None:
    loop(clock, _forever(DataLoader(_PerImage(), BATCH, shuffle=True, num_workers=workers)))


def _forever(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


RUN: dict[str, Callable[[Clock], None]] = {
    "stn fit": lambda clock: fit(clock, "32-true"),
    "limit": lambda clock: limit(clock, False),
    "stn fit, bf16": lambda clock: fit(clock, "bf16-mixed"),
    "limit, bf16": lambda clock: limit(clock, True),
    "stn fit, bf16, compiled": lambda clock: fit(clock, "bf16-mixed", compiled=True),
    "limit, bf16, compiled": lambda clock: limit(clock, True, compiled=True),
    "tutorial": lambda clock: tutorial(clock, 0),
    "tutorial, 2 workers": lambda clock: tutorial(clock, 2),
    "kornia": kornia,
    "plain Lightning": plain_lightning,
}


def main() -> None:
    if sys.argv[1:2] in (["--case"], ["--error"]):
        RUN[sys.argv[2]]((Clock if sys.argv[1] == "--case" else Examination)(int(sys.argv[3])))
        return
    options = chosen(__doc__, 3)
    gpu = DEVICE.type == "cuda"
    rounds, steps = (1, 5) if options.quick else (options.rounds, 200 if gpu else 25)
    every = CASES + COMPILED if gpu else CASES
    cases = [
        name
        for name in (QUICK if options.quick else every)
        if "bf16" not in name or gpu or not emulates_bf16()
    ]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name, measured in taken.items():
            measured.append(in_a_process(["-m", "benchmarks.training", "--case", name, str(steps)]))
            print(
                f"round {turn + 1}, {name}: {measured[-1]['wall']:.0f} ms a step",
                file=sys.stderr,
                flush=True,
            )
    wall = {name: [each["wall"] for each in measured] for name, measured in taken.items()}
    first = next(iter(wall))
    rows = []
    for name, measured in taken.items():
        processor = statistics.median(each["processor"] for each in measured)
        rows.append(
            [
                name,
                1000 * BATCH / statistics.median(wall[name]),
                processor,
                times_as_long(wall[first], wall[name]),
            ]
        )
    pairs = [name for name in wall if name.startswith("stn fit")]
    ratios = ", ".join(
        f"{times_as_long(wall[name], wall[name.replace('stn fit', 'limit')]):.2f} ({name})"
        for name in pairs
    )
    body = table(
        ["", "images/s", "processor ms a step (without workers')", f"time over that of {first}"],
        rows,
    )
    report(
        "Training steps: ST-CNN Aff on RTS, batch 256",
        body,
        NOTES.format(ratios=ratios),
        rounds,
        DEVICE,
    )


if __name__ == "__main__":
    main()
