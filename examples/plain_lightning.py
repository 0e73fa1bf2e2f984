"""Use the parts of this package with Lightning's own Trainer.

    python examples/plain_lightning.py --epochs 10

No command line, no run folder. Any callback, logger or strategy of Lightning goes into the Trainer.
"""

import argparse
from functools import partial

import torch
from lightning import Trainer, seed_everything

from stn_lightning.backbones import CNN
from stn_lightning.callbacks import AlignmentLogger, TransformerMonitor, WarpImages
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import Rotated
from stn_lightning.tasks import ClassificationTask, CosineDecay
from stn_lightning.transformers import Affine, ConvolutionalLocalisation, SpatialTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    seed_everything(0)
    data = MNISTDataModule(EmbeddedDigits(), Rotated(), batch_size=32, curriculum=0.5)
    task = ClassificationTask(
        backbone=CNN(num_filters=32),
        transformer=SpatialTransformer(ConvolutionalLocalisation(), Affine()),
        optimizer=partial(torch.optim.AdamW, lr=2e-3),
        schedule=CosineDecay(warmup=0.05),
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        # panel.png shows where it looks; a warning says when a transformer is in trouble
        callbacks=[WarpImages(), TransformerMonitor(), AlignmentLogger()],
    )
    trainer.fit(task, datamodule=data)
    (result,) = trainer.test(task, datamodule=data, verbose=False)
    for name, value in sorted(result.items()):
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    main()
