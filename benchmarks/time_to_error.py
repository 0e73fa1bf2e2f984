"""Measure the seconds of training until given test errors.

    python -m benchmarks.time_to_error
    python -m benchmarks.time_to_error --trainer.precision 32-true --trainer.max_epochs 12

The compact ST-CNN on RTS. It is tested whenever the validation error is at its lowest. The seconds
are those of training alone, as `stn fit` counts them. All arguments are options of `stn fit`.
"""

import sys
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.alternating import report, table
from stn_lightning.callbacks import ThroughputLogger
from stn_lightning.cli.training import run

CONFIGS = Path(__file__).parents[1] / "configs" / "mnist"


class Hurdles(Callback):
    """Note when the test error falls to each hurdle."""

    def __init__(self, hurdles: tuple[float, ...] = (1.0, 0.7, 0.55)) -> None:
        self.hurdles = list(hurdles)
        self.best = float("inf")
        self.rows: list[list[object]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics["val/error"])
        if trainer.sanity_checking or score > self.best:
            return
        self.best = score
        error = _test_error(trainer, pl_module)
        throughput = next(each for each in trainer.callbacks if isinstance(each, ThroughputLogger))  # type: ignore[attr-defined]
        print(
            f"epoch {trainer.current_epoch + 1}: {throughput.seconds:.0f} s, "
            f"test error {error:.2f} %",
            file=sys.stderr,
            flush=True,
        )
        while self.hurdles and error <= self.hurdles[0]:
            self.rows.append(
                [
                    f"{self.hurdles.pop(0):g} %",
                    throughput.seconds,
                    trainer.current_epoch + 1,
                    f"{error:.2f} %",
                ]
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self.rows + [
            [f"{hurdle:g} %", "not reached", trainer.current_epoch, ""] for hurdle in self.hurdles
        ]
        notes = (
            f"`stn fit` with {' '.join(sys.argv[1:]) or 'the configurations alone'}, "
            f"precision {trainer.precision}."
        )
        report(
            "Time to error: the compact ST-CNN on RTS",
            table(["test error", "seconds of training", "epochs", "tested"], rows),
            notes,
            1,
            pl_module.device,
        )


def _test_error(trainer: Trainer, pl_module: LightningModule) -> float:
    data = trainer.datamodule  # type: ignore[attr-defined]
    data.setup("test")
    wrong = count = 0
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for batch in data.test_dataloader():
            batch = data.transform_batch(
                pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
            )
            wrong += int((pl_module(batch.image).argmax(1) != batch.label).sum())
            count += len(batch.label)
    return 100 * wrong / count


def main() -> None:
    files = ("networks/st_compact.yaml", "data/rts.yaml", "recipes/curriculum.yaml")
    hurdles = [
        "--trainer.callbacks+=benchmarks.time_to_error.Hurdles",
        "--name=time_to_error",
        "--resume=never",
    ]
    configs = [f"--config={CONFIGS / file}" for file in files]
    sys.exit(run(["fit", *configs, *hurdles, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
