"""Train on your own images and predict, in Python.

    python examples/own_data.py FOLDER --epochs 30

A folder for each class: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg, ... A fifth of the images is kept for
testing, a tenth for validation.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything

from stn_lightning.backbones import MultiCropClassifier, SmallConvNet
from stn_lightning.datamodules import ImageFolderDataModule
from stn_lightning.tasks import ClassificationTask, CosineDecay
from stn_lightning.transformers import (
    Antialiased,
    FeatureLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    seed_everything(0)
    data = ImageFolderDataModule(str(options.folder), size=112, side=128, skip_unreadable=True)
    transformer = ParallelTransformer(  # two crops of half the side, wherever they are worth it
        FeatureLocalisation(SmallConvNet()),
        Translation(scale=0.5),
        num_transformers=2,
        size=(56, 56),
        start=Tiling(),
        sampler=Antialiased(),
    )
    task = ClassificationTask(
        MultiCropClassifier(SmallConvNet(), 2, num_classes=len(data.class_names)),
        partial(torch.optim.AdamW, lr=2e-3),
        transformer,
        CosineDecay(warmup=0.05),
    )
    trainer = Trainer(
        max_epochs=options.epochs, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(task, datamodule=data)
    (result,) = trainer.test(task, datamodule=data, verbose=False)
    print(f"test error {result['test/error']:.1f} %")

    file = next(path for path in sorted(options.folder.rglob("*")) if path.is_file())
    pixels = torch.from_numpy(data.source.read(file)).permute(2, 0, 1)
    image = data.preprocess(pixels, data.image_shape).image
    probability, label = task.eval()(image[None])[0].softmax(0).max(0)
    print(f"{file}: {data.class_names[label]}, {probability:.0%}")


if __name__ == "__main__":
    main()
