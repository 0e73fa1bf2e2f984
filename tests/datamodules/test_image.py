from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules import ImageDataModule, ImageFolderDataModule
from stn_lightning.datamodules.base import BatchAnnotations
from stn_lightning.datasets import CUB
from stn_lightning.datasets.decoding import decode
from tests.cub_miniature import PARTS, gradient, write_cub

SIZE = 24
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cub")
    write_cub(root)
    CUB(str(root), 32, str(root / "cache"), validation=1).prepare()
    return root


def module_of(
    root: Path, cached: bool = True, rank: int = 0, ranks: int = 1, **options: int
) -> ImageDataModule:
    source = CUB(str(root), 32, str(root / "cache") if cached else None, validation=1)
    module = ImageDataModule(source, **({"size": SIZE, "batch_size": 4} | options))
    module.trainer = cast(
        Trainer, SimpleNamespace(global_rank=rank, world_size=ranks, overfit_batches=0.0)
    )
    module.setup("fit")
    module.setup("test")
    return module


def batches_of(module: ImageDataModule, split: Split, epoch: int = 0) -> list[Batch]:
    loader = {
        "train": module.train_dataloader,
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }[split]()
    loader.sampler.set_epoch(epoch)
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def by_index(batches: list[Batch]) -> Tensor:
    indices = torch.cat([batch.indices for batch in batches])
    return torch.cat([batch.image for batch in batches])[indices.argsort()]


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_and_the_cache_give_the_same_batches(birds: Path, split: Split) -> None:
    cached, decoded = (batches_of(module_of(birds, cached), split) for cached in (True, False))
    for a, b in zip(cached, decoded, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
        assert a.image.shape[1:] == (3, SIZE, SIZE)
        assert a.image.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= a.image.min() < a.image.max() <= 1


def test_workers_give_the_same_batches(birds: Path) -> None:
    alone, two = (
        batches_of(module_of(birds, cached=False, num_workers=num_workers), "train", 1)
        for num_workers in (0, 2)
    )
    assert all(torch.equal(a.image, b.image) for a, b in zip(alone, two, strict=True))


def test_a_crop_depends_on_seed_epoch_and_image_alone(birds: Path) -> None:
    first = by_index(batches_of(module_of(birds, seed=1), "train", 2))
    assert torch.equal(
        by_index(batches_of(module_of(birds, seed=1, batch_size=5), "train", 2)), first
    )
    parts = [
        batch
        for rank in range(2)
        for batch in batches_of(module_of(birds, seed=1, rank=rank, ranks=2), "train", 2)
    ]
    assert torch.equal(by_index(parts), first)
    for seed, epoch in ((1, 3), (2, 2)):
        other = by_index(batches_of(module_of(birds, seed=seed), "train", epoch))
        assert (other - first).abs().amax((1, 2, 3)).gt(0.02).float().mean() > 0.8


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_looks_at_the_middle(birds: Path, split: Split) -> None:
    module = module_of(birds)
    for seed, epoch in ((0, 0), (7, 3)):
        image = by_index(batches_of(module_of(birds, seed=seed), split, epoch))
        for crop, original in zip(image, module.splits[split].image, strict=True):
            top, left = (original.shape[0] - SIZE + 1) // 2, (original.shape[1] - SIZE + 1) // 2
            expected = (
                torch.from_numpy(original[top : top + SIZE, left : left + SIZE].copy())
                .permute(2, 0, 1)
                .float()
                / 255
            )
            assert torch.equal(crop, expected)


def test_random_crops_reach_all_borders_and_half_are_mirrored(birds: Path) -> None:
    """Red grows to the right of an image, green downwards."""
    module, mirrored, reds, greens = module_of(birds), [], [], []
    for epoch in range(60):
        image = by_index(batches_of(module, "train", epoch))
        mirrored.append(image[:, 0, :, 0].mean(1) > image[:, 0, :, -1].mean(1))
        reds.append(image[:, 0])
        greens.append(image[:, 1])
    assert 0.45 < torch.cat(mirrored).float().mean() < 0.55
    for channel in (torch.cat(reds), torch.cat(greens)):
        assert channel.min() < 0.02
        assert channel.max() > 0.98


def annotations_of(module: ImageDataModule, batch: Batch) -> BatchAnnotations:
    known = module.annotations(batch)
    assert known is not None
    assert known.part_names == PARTS
    return known


@pytest.mark.parametrize("split", SPLITS)
def test_parts_follow_crop_and_mirroring(birds: Path, split: Split) -> None:
    """The first part is in the middle of the image, where red and green are a half."""
    module, seen = module_of(birds), 0
    for epoch in range(4):
        for batch in batches_of(module, split, epoch):
            parts = annotations_of(module, batch).parts
            assert parts.shape == (len(batch.label), 3, 3)
            assert not parts[:, 2, 2].any()  # the third is not to be seen
            for image, (x, y, visible) in zip(batch.image, parts[:, 0], strict=True):
                assert bool(visible) == (abs(x) <= 1 and abs(y) <= 1)
                if visible:
                    column, row = ((at + 1) / 2 * SIZE - 0.5 for at in (float(x), float(y)))
                    colour = image[
                        :2, min(max(round(row), 0), SIZE - 1), min(max(round(column), 0), SIZE - 1)
                    ]
                    torch.testing.assert_close(colour, torch.full((2,), 0.5), rtol=0, atol=0.06)
                    seen += 1
    assert seen > 5


def test_boxes_follow_too(birds: Path) -> None:
    module = module_of(birds)
    (batch, *_) = batches_of(module, "test")
    source = module.source.annotations("test")
    assert source is not None
    width = source.size[batch.indices][:, 1]
    left = torch.floor((width - SIZE + 1) / 2)  # a crop begins with a whole pixel
    pixels = torch.stack([0.25 * width - left, 0.75 * width - left], 1)
    torch.testing.assert_close(
        annotations_of(module, batch).boxes[:, [0, 2]], pixels * 2 / SIZE - 1, rtol=0, atol=1e-5
    )
    for epoch in range(3):
        for trained in batches_of(module, "train", epoch):
            left, top, right, bottom = annotations_of(module, trained).boxes.unbind(1)
            assert (left < right).all()
            assert (top < bottom).all()


def test_an_impossible_size_is_refused(birds: Path) -> None:
    with pytest.raises(
        ValueError, match=r"size 33; give 1 to 32, the smallest side of the source's images"
    ):
        module_of(birds, size=33)


def write_folder(root: Path) -> None:
    for name in ("finch", "wren"):
        (root / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(gradient(40 + i, 50, 200 if name == "wren" else 20)).save(
                root / name / f"{i}.png"
            )


def test_a_folder_for_each_class_is_a_data_set(tmp_path: Path) -> None:
    write_folder(tmp_path / "birds")
    module = ImageFolderDataModule(str(tmp_path / "birds"), size=16, side=20, batch_size=8)
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    assert module.class_names == ("finch", "wren")
    names = {split: set(module.splits[split].names) for split in SPLITS}
    assert sum(map(len, names.values())) == 60 == len(set.union(*names.values()))
    assert len(names["train"]) > len(names["test"]) > 0 < len(names["val"])
    for batch in module.train_dataloader():
        assert torch.equal(batch.label, (batch.image[:, 2].float().mean((1, 2)) > 100).long())
    Image.new("RGB", (50, 50)).save(tmp_path / "birds/finch/new.png")
    module.splits.clear()
    module.setup("fit")
    assert names["train"] <= set(module.splits["train"].names)  # the others stay where they are


def test_a_table_says_class_and_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "birds")
    rows = [
        f"finch/{i}.png,Fringilla,{'train' if i < 6 else 'val' if i < 8 else 'test'}"
        for i in range(10)
    ]
    (tmp_path / "table.csv").write_text(
        "\n".join(["file,class,split", *rows, "wren/1.png,Troglodytes,train"])
    )
    module = ImageFolderDataModule(
        str(tmp_path / "birds"),
        str(tmp_path / "table.csv"),
        size=16,
        side=20,
        cache=str(tmp_path / "cache"),
    )
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    assert [len(module.splits[split].label) for split in SPLITS] == [7, 2, 2]
    assert module.class_names == ("Fringilla", "Troglodytes")
    assert module.splits["train"].label.tolist() == [0] * 6 + [1]
    assert module.source.check() == (
        f"train 7, val 2, test 2; 2 classes; smallest side 20, cached in {tmp_path}/cache/birds-20"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,kind\na.png,x", "row 1: columns are file, kind; file and class are needed"),
        ("", "row 1: columns are missing"),
        ("file,class\na.png", "row 2: 1 columns, expected 2"),
        ("file,class\n../a.png,x", "row 2: '../a.png' is no path inside the folder"),
        (
            "file,class,split\na.png,x,tset",
            "row 2: a class, and a split of train, val, test or nothing",
        ),
        ('file,class\n"a.png,x', "cannot be read as CSV"),
        ("file,class\n", "no images; give a folder with one folder for each class"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    module = ImageFolderDataModule(str(tmp_path), str(tmp_path / "table.csv"))
    with pytest.raises(ValueError, match=rf"table\.csv: .*{said}"):
        module.prepare_data()


def test_an_image_from_elsewhere_becomes_what_the_test_makes_of_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "birds")
    module = ImageFolderDataModule(str(tmp_path / "birds"), size=16, side=20)
    module.setup("test")
    batch = module.transform_batch(next(iter(module.test_dataloader())))
    for image, name in zip(batch.image, module.splits["test"].names, strict=True):
        fit = module.preprocess(
            torch.from_numpy(decode(tmp_path / "birds" / name).copy()).permute(2, 0, 1),
            module.image_shape,
        )
        torch.testing.assert_close(fit.image, image, rtol=0, atol=0)


def test_other_names_are_other_data(birds: Path) -> None:
    one, same, renamed = (module_of(birds) for _ in range(3))
    images = renamed.splits["val"]
    renamed.splits["val"] = images._replace(names=["other.jpg", *list(images.names)[1:]])
    assert one.fingerprint() == same.fingerprint() != renamed.fingerprint()
