"""Splits that are empty, or smaller than the number of processes; `overfit_batches`."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules import (
    AdditionDataModule,
    BaseDataModule,
    ColocalisationDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    SVHNDataModule,
)
from stn_lightning.datasets import SVHN, EmbeddedDigits, ImageTensorDataset, svhn
from stn_lightning.datasets.sources import SPLITS
from stn_lightning.distortions import Cluttered, Rotated
from stn_lightning.synthetic import SyntheticNumber, SyntheticNumbersDataModule, numbers_datamodule
from tests.cub_miniature import gradient
from tests.svhn_miniature import write_svhn


class Few(EmbeddedDigits):
    """As many digits of each split as asked for."""

    def __init__(self, train: int = 20, val: int = 20, test: int = 20) -> None:
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}

    def load(self, split: Split) -> ImageTensorDataset:
        return ImageTensorDataset(*(part[: self.sizes[split]] for part in super().load(split)))


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_refused_before_the_first_step(split: Split) -> None:
    data = MNISTDataModule(Few(**{split: 0}), Rotated())
    with pytest.raises(ValueError, match=f"the {split} split of Few has no images; check the data"):
        data.setup("test" if split == "test" else "fit")


def test_an_empty_split_of_a_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "birds/wren").mkdir(parents=True)
    Image.fromarray(gradient(30, 30, 0)).save(tmp_path / "birds/wren/0.png")
    data = ImageFolderDataModule(str(tmp_path / "birds"), size=16, side=16)
    with pytest.raises(ValueError, match=r"of ImageFolder has no images; add images to .*birds"):
        data.setup("fit")
    (tmp_path / "table.csv").write_text("file,class,split\nwren/0.png,a,train\n")
    data = ImageFolderDataModule(str(tmp_path / "birds"), str(tmp_path / "table.csv"), 16, 16)
    with pytest.raises(ValueError, match=r"the val split .* in the column `split` of .*table\.csv"):
        data.setup("fit")


def on_rank(data: BaseDataModule, rank: int, world_size: int) -> BaseDataModule:
    trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0.0)
    data.trainer = cast(Trainer, trainer)
    return data


def mnist(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    return MNISTDataModule(Few(val=1, test=2), Cluttered(), batch_size=8)


def addition(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    return AdditionDataModule(Few(val=1, test=2), Rotated(), batch_size=8)


def colocalisation(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    return ColocalisationDataModule(EmbeddedDigits(), Cluttered(), 3, num_images=2, batch_size=8)


def house_numbers(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    patch.setattr(svhn, "VALIDATION", 1)
    write_svhn(tmp_path, 10, 2)
    source = SVHN(extra=False, root=str(tmp_path))
    source.prepare()
    return SVHNDataModule(source, batch_size=8)


def synthetic(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    patch.setattr(numbers_datamodule, "DRAWN", {"train": (9, 0), "val": (1, 1), "test": (2, 2)})
    return SyntheticNumbersDataModule(
        EmbeddedDigits(), SyntheticNumber(32), batch_size=8, annotations=str(tmp_path)
    )


def folder(tmp_path: Path, patch: pytest.MonkeyPatch) -> BaseDataModule:
    from PIL import Image

    lines = ["file,class,split"]
    for i, split in enumerate([*["train"] * 4, "val", "test", "test"]):
        Image.fromarray(gradient(30, 30, i)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return ImageFolderDataModule(str(tmp_path), str(tmp_path / "table.csv"), 16, 16, batch_size=8)


MODULES: list[Callable[[Path, pytest.MonkeyPatch], BaseDataModule]] = [
    mnist,
    addition,
    colocalisation,
    house_numbers,
    synthetic,
    folder,
]


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_process_without_an_image_gets_a_batch_of_none_of_the_right_shape(
    make: Callable[[Path, pytest.MonkeyPatch], BaseDataModule],
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make(tmp_path, monkeypatch)
    data.setup("fit")
    data.setup("test")
    batches: list[Batch] = []
    for rank in range(3):
        (read,) = on_rank(data, rank, 3).loader(split)
        batches.append(data.on_after_batch_transfer(read, 0))
    assert len(batches[2].label) == 0
    for batch in batches:
        assert batch.image.shape == (len(batch.label), *data.image_shape)
        assert batch.image.dtype == batches[0].image.dtype
        data.annotations(batch)
        data.applied_theta(batch)
    whole = next(iter(on_rank(data, 0, 1).loader(split)))
    expected = data.on_after_batch_transfer(whole, 0)
    order = torch.cat([batch.indices for batch in batches]).argsort()
    assert torch.equal(torch.cat([batch.image for batch in batches])[order], expected.image)
    assert sum(batch.share for batch in batches) == 3


@pytest.mark.parametrize("overfit", [False, True])
def test_a_training_batch_without_an_image_for_some_process_is_refused(overfit: bool) -> None:
    data = on_rank(MNISTDataModule(Few(train=2)), 0, 3)
    data.trainer.overfit_batches = 1.0 if overfit else 0.0  # type: ignore[union-attr]
    data.setup("fit")
    with pytest.raises(ValueError, match="batches of 2 images for 3 processes; use 2"):
        data.train_dataloader()


class Seen(LightningModule):
    """Notes which images come in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).extend(batch.indices.tolist())
        return self.weight * batch.image.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`:UserWarning")
def test_overfit_batches_gives_the_same_images_in_each_epoch() -> None:
    trainer = Trainer(
        overfit_batches=2,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    task = Seen()
    trainer.fit(task, datamodule=MNISTDataModule(Few(train=40), batch_size=8))
    assert task.seen == {epoch: list(range(16)) for epoch in range(3)}
