import functools
import math

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor, nn

from stn_lightning.backbones import FCN
from stn_lightning.batch import Batch
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import CounterRandom
from stn_lightning.geometry import affine, moments
from stn_lightning.tasks import ClassificationTask, Equivariance
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    FullyConnectedLocalisation,
    ParallelTransformer,
    SpatialTransformer,
    Transformer,
    Translation,
)
from stn_lightning.transformers.transformer import WarpOutput


def numbers(n: int = 5) -> CounterRandom:
    return CounterRandom(seed=0, stream=0, epoch=0, index=torch.arange(n))


class AroundTheInk(Transformer):
    """A crop of fixed size at the mean of the ink, which moves with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.family = Affine()

    def warp(self, image: Tensor, localisation_input: Tensor | None = None) -> WarpOutput:
        mean = moments.moments(image)[:, :2]
        zero, half = torch.zeros(len(image)), torch.full((len(image),), 0.5)
        theta = torch.stack([half, zero, mean[:, 0], zero, half, mean[:, 1]], 1)
        grid = affine.grid(theta, (8, 8))
        return WarpOutput(image, theta, grid)


def blobs() -> Tensor:
    """A spot at a different position of each image, far from the border."""
    image = torch.zeros(5, 1, 40, 40)
    for i in range(5):
        image[i, :, 15 + i : 19 + i, 18 - i : 22 - i] = 1
    return image


def test_a_transformer_that_follows_its_object_has_no_penalty() -> None:
    still = Equivariance(rotation=0.0, scale=1.0, shift=0.15)
    follows, image = AroundTheInk(), blobs()
    grid = follows.warp(image).grid[:, None]
    assert still(follows, image, grid, numbers()).item() < 0.02
    stays = SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), (8, 8))
    stays(image)
    kept = stays.warp(image).grid[:, None]
    assert still(stays, image, kept, numbers()).item() > 0.05


def test_moves_are_similarities_of_pixels_within_their_range() -> None:
    size = (30, 60)
    move = Equivariance(rotation=30.0, scale=1.5, shift=0.2).moves(numbers(2000), size)
    a, b, t_x, c, d, t_y = move.double().unbind(1)
    b, c = b * (size[1] / size[0]), c * (size[0] / size[1])  # in pixels
    torch.testing.assert_close(a, d)
    torch.testing.assert_close(b, -c)
    scale, angle = torch.hypot(a, c), torch.rad2deg(torch.atan2(c, a))
    assert 1 / 1.5 < scale.min() < 0.68
    assert 1.47 < scale.max() < 1.5
    assert -30 < angle.min() < -29
    assert 29 < angle.max() < 30
    for shift in (t_x, t_y):
        assert -0.2 < shift.min() < -0.19
        assert 0.19 < shift.max() < 0.2


def test_parallel_transformers_are_penalised_on_average() -> None:
    image = torch.rand(5, 1, 28, 28)
    both = ParallelTransformer(FullyConnectedLocalisation([8]), Translation(0.5), 2, (8, 8))
    both(image)
    grids = both.warp(image).grid
    move = Equivariance(rotation=0.0, scale=1.0, shift=0.3)
    apart = [move(OneOf(both, i), image, grids[:, i : i + 1], numbers()) for i in range(2)]
    assert move(both, image, grids, numbers()).item() == pytest.approx(
        (apart[0] + apart[1]).item() / 2, rel=1e-5
    )


class OneOf(Transformer):
    def __init__(self, both: ParallelTransformer, index: int) -> None:
        super().__init__()
        self.both, self.index = both, index

    def warp(self, image: Tensor, localisation_input: Tensor | None = None) -> WarpOutput:
        return WarpOutput(*(values[:, self.index] for values in self.both.warp(image)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0.0},
        {"weight": math.nan},
        {"rotation": -1.0},
        {"rotation": 181.0},
        {"scale": 0.5},
        {"shift": 1.0},
    ],
)
def test_a_number_out_of_its_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give weight > 0, rotation 0 to 180, scale 1 to 10"):
        Equivariance(**wrong)


def task_of(equivariance: Equivariance | None, transformer: nn.Module | None) -> ClassificationTask:
    optimizer = functools.partial(torch.optim.Adam, lr=2e-3)
    return ClassificationTask(FCN([32]), optimizer, transformer, equivariance=equivariance)  # type: ignore[arg-type]  # None, too


def fit(task: ClassificationTask, epochs: int = 1, data: LightningDataModule | None = None) -> None:
    data = data or MNISTDataModule(EmbeddedDigits(), batch_size=64)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=epochs, limit_val_batches=0, accelerator="cpu",
        enable_model_summary=False, **quiet,  # type: ignore[arg-type]  # they are all bool
    )  # fmt: skip
    trainer.fit(task, data)


def test_equivariance_without_a_transformer_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="equivariance needs a transformer of images in front"):
        fit(task_of(Equivariance(), None))


def test_moves_have_their_full_size_while_distortions_still_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_moves, of_distortions = set(), set()
    draw, transform = Equivariance.moves, MNISTDataModule.transform_batch

    def moves(self: Equivariance, randomness: CounterRandom, size: tuple[int, int]) -> Tensor:
        of_moves.add(randomness.spread)
        return draw(self, randomness, size)

    def transform_batch(self: MNISTDataModule, batch: Batch) -> Batch:
        of_distortions.add(self.randomness(batch).spread)
        return transform(self, batch)

    monkeypatch.setattr(Equivariance, "moves", moves)
    monkeypatch.setattr(MNISTDataModule, "transform_batch", transform_batch)
    transformer = SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), (8, 8))
    data = MNISTDataModule(EmbeddedDigits(), curriculum=1.0, batch_size=500)
    fit(task_of(Equivariance(), transformer), epochs=2, data=data)
    assert min(of_distortions) < 1
    assert of_moves == {1.0}


def test_crops_follow_rotations_after_training_with_it() -> None:
    """Digits are upright in the data, so that only the penalty teaches to follow rotations."""

    def turns(equivariance: Equivariance | None) -> float:
        torch.manual_seed(0)
        localisation = ConvolutionalLocalisation()
        task = task_of(equivariance, SpatialTransformer(localisation, Affine()))
        fit(task, epochs=6)
        data = MNISTDataModule(EmbeddedDigits(), batch_size=200)
        data.setup("validate")
        batch = data.transform_batch(next(iter(data.val_dataloader())))
        move = Equivariance(rotation=40.0, scale=1.0, shift=0.0).moves(
            CounterRandom(7, 0, 0, batch.indices), (28, 28)
        )
        moved = nn.functional.grid_sample(
            batch.image, affine.grid(move, (28, 28)), align_corners=False
        )
        with torch.no_grad():
            assert task.transformer is not None
            before, after = (task.transformer.warp(each).theta for each in (batch.image, moved))
        turn = torch.atan2(after[:, 3], after[:, 0]) - torch.atan2(before[:, 3], before[:, 0])
        pair = torch.stack([torch.atan2(-move[:, 3], move[:, 0]), turn])
        return torch.corrcoef(pair)[0, 1].item()

    without, with_it = turns(None), turns(Equivariance())
    assert with_it > 0.9
    assert without < 0.3
