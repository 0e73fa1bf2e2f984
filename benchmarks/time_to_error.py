"""Seconds of training until the checkpoint that validation has chosen first tests at 1.0, 0.7 and
0.5 %: ST-CNN Aff on RTS.

    python -m benchmarks.time_to_error                                       # 40 epochs, as
    configured: half an hour on two cores python -m benchmarks.time_to_error --trainer.precision
    bf16-mixed        # options of stn fit; a quarter of an hour

Whenever the validation error falls, the network is tested. The seconds are those of training alone,
as `stn fit` counts them.
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
    """Notes when the test error of the best checkpoint falls to each hurdle; prints them at the
    end.
    """

    def __init__(self, hurdles: tuple[float, ...] = (1.0, 0.7, 0.5)) -> None:
        self.hurdles = list(hurdles)
        self.best = float("inf")
        self.rows: list[list[object]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics["val/error"])
        if trainer.sanity_checking or score >= self.best:
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
                    f"{self.hurdles.pop(0):.1f} %",
                    throughput.seconds,
                    trainer.current_epoch + 1,
                    f"{error:.2f} %",
                ]
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self.rows + [
            [f"{hurdle:.1f} %", "not reached", trainer.current_epoch, ""] for hurdle in self.hurdles
        ]
        notes = (
            f"`stn fit` with {' '.join(sys.argv[1:]) or 'the configurations alone'}, "
            f"precision {trainer.precision}."
        )
        report(
            "Time to error: ST-CNN Aff on RTS",
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
    files = [
        f"--config={CONFIGS / file}" for file in ("networks/st_cnn_affine.yaml", "data/rts.yaml")
    ]
    hurdles = [
        "--trainer.callbacks+=benchmarks.time_to_error.Hurdles",
        "--name=time_to_error",
        "--resume=never",
    ]
    sys.exit(run(["fit", *files, *hurdles, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
