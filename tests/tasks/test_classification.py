import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.backbones import CNN, FCN, MultiCropClassifier, TorchvisionFeatures
from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules import EpochBatches, MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits, ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import Distortion, Rotated, RotatedScaledTranslated
from stn_lightning.runtime.guards import NonFiniteError
from stn_lightning.tasks import ClassificationTask, ConstantLR, CosineDecay, Schedule, StepDecay
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    Family,
    FeatureLocalisation,
    FullyConnectedLocalisation,
    NoisyIdentity,
    ParallelTransformer,
    SpatialTransformer,
    Start,
    ThinPlateSpline,
    Transformer,
    Translation,
)

SGD = functools.partial(torch.optim.SGD, lr=0.1)


@functools.cache
def all_digits(split: Split) -> ImageTensorDataset:
    return EmbeddedDigits().load(split)


class Few(ImageTensorSource):
    """The first `n` embedded digits of each split."""

    class_names = tuple("0123456789")

    def __init__(self, n: int = 32) -> None:
        self.n = n

    def load(self, split: Split) -> ImageTensorDataset:
        return ImageTensorDataset(*(values[: self.n] for values in all_digits(split)))


def digits(
    n: int = 32, distortion: Distortion | None = None, batch_size: int = 16
) -> MNISTDataModule:
    return MNISTDataModule(Few(n), distortion, batch_size)


def transformer() -> Transformer:
    return SpatialTransformer(FullyConnectedLocalisation([16, 16]), Affine())


def task_of(
    with_transformer: bool = True, backbone: nn.Module | None = None, **options: Any
) -> ClassificationTask:
    options = {"optimizer": SGD} | options
    return ClassificationTask(
        backbone or FCN([16]), transformer=transformer() if with_transformer else None, **options
    )


def trainer_of(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        **(quiet | {"max_epochs": 1, "log_every_n_steps": 1} | options),
    )


def batch_of(module: MNISTDataModule, split: Split = "train") -> Batch:
    """All of a split in one batch, as a task gets it."""
    module.setup("fit" if split == "train" else "test")
    images = module.splits[split]
    return module.transform_batch(
        Batch(images.image, images.label, torch.arange(len(images.label)), 0, 1.0, split)
    )


def test_the_logits_are_the_backbones_of_the_transformers_image() -> None:
    task, image = task_of(), torch.rand(4, 1, 28, 28)
    assert task.transformer is not None
    assert torch.equal(task(image), task.backbone(task.transformer(image)))


def test_without_a_transformer_the_logits_are_the_backbones() -> None:
    task, image = task_of(with_transformer=False), torch.rand(4, 1, 28, 28)
    assert torch.equal(task(image), task.backbone(image))


@pytest.mark.parametrize("with_transformer", [False, True])
def test_a_task_learns_32_digits_by_heart_in_a_few_dozen_steps(with_transformer: bool) -> None:
    task = task_of(
        with_transformer,
        FCN([64]),
        optimizer=functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9),
        localisation_lr_scale=0.1,
    )
    losses: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            losses.append(trainer.callback_metrics["train/loss"].item())

    trainer = trainer_of(Watch(), max_epochs=50, limit_val_batches=0)
    trainer.fit(task, digits(batch_size=32))
    assert len(losses) == 50
    assert losses[0] == pytest.approx(2.3, abs=0.2)  # ln 10: it knows nothing
    assert sum(losses[10:20]) < 0.75 * sum(losses[:10])
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    assert trainer.callback_metrics["train/error"] == 0


@pytest.mark.parametrize(
    ("options", "logged"),
    [
        (
            {"max_epochs": 2, "log_every_n_steps": 3},
            [3, 4, 6, 8],
        ),  # every third, and where an epoch ends
        ({"max_steps": 3, "log_every_n_steps": 0}, [3]),
        ({"max_epochs": 1, "log_every_n_steps": 1, "accumulate_grad_batches": 2}, [1, 1, 2, 2]),
    ],
    ids=str,
)
def test_a_step_logs_where_it_is_written_and_where_an_epoch_or_the_training_ends(
    options: dict[str, Any], logged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, steps = task_of(), []
    monkeypatch.setattr(task, "log_dict", lambda *_, **__: steps.append(task.global_step + 1))
    trainer_of(limit_val_batches=0, **options).fit(task, digits(16, batch_size=4))
    assert steps == logged


def test_what_is_logged_in_training_is_the_batches_loss_and_error() -> None:
    task = task_of(optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    trainer = trainer_of(max_steps=1, limit_val_batches=0)
    module = digits(20, batch_size=20)
    trainer.fit(task, module)
    batch = batch_of(module)
    logits = task(batch.image)
    expected = functional.cross_entropy(logits, batch.label).item()
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected, rel=1e-5)
    assert trainer.callback_metrics["train/error"].item() == pytest.approx(
        100 * (logits.argmax(1) != batch.label).float().mean().item()
    )


@pytest.mark.parametrize("batch_size", [7, 50, 500])
def test_a_test_counts_each_sample_once_and_its_numbers_do_not_depend_on_the_batches(
    batch_size: int,
) -> None:
    torch.manual_seed(3)
    task = task_of()
    module = digits(101, RotatedScaledTranslated(), batch_size)
    (found,) = trainer_of().test(task, module, verbose=False)
    batch = batch_of(module, "test")
    logits = task.eval()(batch.image)
    assert found["test/samples"] == 101
    assert found["test/error"] == pytest.approx(
        100 * (logits.argmax(1) != batch.label).double().mean().item(), rel=1e-6
    )
    assert found["test/loss"] == pytest.approx(
        functional.cross_entropy(logits, batch.label).item(), rel=1e-5
    )


def test_validation_in_training_counts_each_sample_once_in_every_epoch() -> None:
    counted = []

    class Count(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                counted.append(trainer.callback_metrics["val/samples"].item())

    trainer_of(Count(), max_epochs=3).fit(task_of(), digits(45, batch_size=10))
    assert counted == [45, 45, 45]


def test_predictions_are_probabilities_in_the_order_of_the_test_images() -> None:
    task, module = task_of(), digits(45, batch_size=10)
    found = torch.cat(cast(list[Tensor], trainer_of().predict(task, module)))
    torch.testing.assert_close(
        found, task(batch_of(module, "test").image).softmax(1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 2])
def test_looking_outside_costs_what_its_weight_says_and_inside_nothing(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = torch.tensor(
        [[[0.5, 0, 0, 0, 0.5, 0]], [[0.5, 0, 0, 0, 0.5, 2.1]]]
    )  # within the image, and beyond its lower border

    class Beyond(Start):
        def __init__(self, theta: Tensor) -> None:
            self.where = theta

        def theta(self, family: Family, n: int) -> Tensor:
            return self.where.expand(n, -1)

    batch, losses = batch_of(digits(8)), []
    for theta in shift:
        for weight in (0.0, 0.25):
            torch.manual_seed(1)
            looking = ParallelTransformer(
                FullyConnectedLocalisation([8]), Affine(), n, start=Beyond(theta)
            )
            task = ClassificationTask(FCN([8]), SGD, looking, out_of_bounds_penalty=weight)
            task(batch.image)
            monkeypatch.setattr(ClassificationTask, "is_logged", False)
            losses.append(task.training_step(batch, 0).item())
    rows = (
        0.5 * (torch.arange(28) * 2 - 27) / 28 + 2.1 - 1
    )  # how far each row lies beyond the border: 0.62 to 1.58
    cost = torch.where(rows > 1, rows - 0.5, rows.square() / 2).mean().item()
    assert losses[1] == losses[0]
    assert losses[3] - losses[2] == pytest.approx(0.25 * cost, rel=1e-4)


def global_gradient(task: ClassificationTask, batch: Batch, ranks: int) -> dict[str, Tensor]:
    """What averaging the processes' gradients gives."""
    task.zero_grad()
    parts = [
        next(
            iter(
                EpochBatches(
                    batch.label, len(batch.label), shuffle=False, rank=rank, world_size=ranks
                )
            )
        )
        for rank in range(ranks)
    ]
    for part in parts:
        own = batch._replace(
            image=batch.image[part.indices],
            label=batch.label[part.indices],
            indices=part.indices,
            share=part.share,
        )
        (task.training_step(own, 0) / ranks).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in task.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("ranks", [2, 3])
def test_uneven_processes_gradients_average_to_that_of_the_global_batch(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = task_of(), batch_of(digits(31))
    monkeypatch.setattr(ClassificationTask, "is_logged", False)
    task(batch.image)  # sizes the lazy layers
    alone, shared = global_gradient(task, batch, 1), global_gradient(task, batch, ranks)
    functional.cross_entropy(task(batch.image), batch.label)
    assert alone.keys() == shared.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-7)
    assert any(gradient.any() for gradient in alone.values())


def configured(
    task: ClassificationTask, steps: float = 100, shape: tuple[int, int, int] = (1, 42, 42)
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimiser and schedule of a training of so many steps, on images of a shape."""
    task(torch.rand(2, *shape))
    limits = (
        {"max_epochs": -1, "max_steps": -1}
        if math.isinf(steps)
        else {"max_epochs": 1, "max_steps": -1}
    )
    task._trainer = cast(Trainer, SimpleNamespace(estimated_stepping_batches=steps, **limits))
    configuration = task.configure_optimizers()
    assert configuration["lr_scheduler"]["interval"] == "step"
    return configuration["optimizer"], configuration["lr_scheduler"]["scheduler"]


class WithTransformersInside(nn.Module):
    """A network with a transformer in front of each of its two layers, given from outside."""

    def __init__(self, transformers: list[Transformer]) -> None:
        super().__init__()
        self.transformers = nn.ModuleList(transformers)
        self.convolution = nn.Conv2d(1, 3, 3)
        self.classifier = nn.LazyLinear(10)

    def forward(self, image: Tensor) -> Tensor:
        features = functional.relu(self.convolution(self.transformers[0](image)))
        logits: Tensor = self.classifier(self.transformers[1](features).flatten(1))
        return logits


@pytest.mark.filterwarnings(
    "ignore:Lazy modules are a new feature"
)  # PyTorch's own layer, on purpose
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("in_front", [False, True])
def test_every_parameter_is_in_exactly_one_group_and_all_transformers_localise(
    inside: bool, in_front: bool
) -> None:
    task = task_of(
        in_front,
        WithTransformersInside([transformer(), transformer()]) if inside else FCN([8]),
        localisation_lr_scale=0.1,
    )
    optimizer, _ = configured(task)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert list(groups) == (["backbone", "localisation"] if inside or in_front else ["backbone"])
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    found = {name: sorted(names[id(p)] for p in group["params"]) for name, group in groups.items()}
    assert sorted(name for members in found.values() for name in members) == sorted(names.values())
    for name in found["backbone"]:
        assert "transformer" not in name
    for name in found.get("localisation", []):
        assert "transformer" in name


@pytest.mark.parametrize(
    "optimizer", [SGD, functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05)]
)
@pytest.mark.parametrize("schedule", [ConstantLR(), StepDecay(), CosineDecay(0.1)])
def test_the_localisation_learns_at_its_own_rate_in_every_step(
    optimizer: Callable[..., torch.optim.Optimizer], schedule: Schedule
) -> None:
    made, scheduler = configured(
        task_of(optimizer=optimizer, schedule=schedule, localisation_lr_scale=0.01), steps=30
    )
    for step in range(30):
        rates = {group["name"]: group["lr"] for group in made.param_groups}
        assert rates["backbone"] == pytest.approx(0.1 * schedule(step / 30), rel=1e-12)
        assert rates["localisation"] == pytest.approx(0.01 * rates["backbone"], rel=1e-12)
        made.step()
        scheduler.step()


def test_layers_of_a_trained_network_learn_at_rates_that_rise_from_the_first_to_the_last() -> None:
    extractor = TorchvisionFeatures("resnet18", "layer4", lr_scales=(0.01, 0.1))
    where = ParallelTransformer(
        FeatureLocalisation(TorchvisionFeatures("resnet18", "layer4", lr_scales=(0.01, 0.1))),
        Translation(0.5),
        2,
        (32, 32),
    )
    task = ClassificationTask(
        MultiCropClassifier(extractor, 2, num_classes=3), SGD, where, localisation_lr_scale=0.5
    )
    made, _ = configured(task, shape=(3, 64, 64))
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert sorted(rates) == sorted(id(p) for p in task.parameters())
    learnt = {name: rates[id(p)] / 0.1 for name, p in task.named_parameters()}
    assert learnt["backbone.classifier.weight"] == pytest.approx(1)
    assert (
        learnt["transformer.regressions.0.linear.weight"]
        == learnt["transformer.localisations.0.conv.weight"]
        == pytest.approx(0.5)
    )
    for part, factor in (
        ("backbone.feature_extractors.0", 1),
        ("backbone.feature_extractors.1", 1),
        ("transformer.localisations.0.feature_extractor", 0.5),
    ):
        own = [rate / factor for name, rate in learnt.items() if name.startswith(f"{part}.")]
        assert own == sorted(own)
        assert sorted(set(own)) == pytest.approx([0.01 * 10 ** (step / 7) for step in range(8)])
        assert own[0] == pytest.approx(learnt[f"{part}.network.conv1.weight"] / factor)
        assert own[-1] == pytest.approx(learnt[f"{part}.network.layer4.1.bn2.bias"] / factor)


def test_without_rates_a_trained_network_is_one_group() -> None:
    made, _ = configured(
        ClassificationTask(
            MultiCropClassifier(TorchvisionFeatures("resnet18", "layer4"), num_classes=3), SGD
        ),
        shape=(3, 64, 64),
    )
    assert [group["name"] for group in made.param_groups] == ["backbone"]


def test_rates_that_teach_nothing_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="lr_scales 0 and 1 must be above 0; to train nothing, give frozen: true",
    ):
        TorchvisionFeatures("resnet18", "layer4", lr_scales=(0.0, 1.0))


class Rates(Callback):
    """The learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


class SavedAfter(Callback):
    """A checkpoint after this many steps."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("schedule", [StepDecay(), CosineDecay(0.25)])
@pytest.mark.parametrize("steps", [3, 4, 9])
def test_a_resumed_training_goes_on_with_the_rates_of_the_uninterrupted_one(
    tmp_path: Path, schedule: Schedule, steps: int
) -> None:
    whole, rest = Rates(), Rates()
    saved = SavedAfter(tmp_path / "saved.ckpt", steps)
    trainer_of(whole, saved, max_epochs=3, limit_val_batches=0).fit(
        task_of(schedule=schedule), digits(32, batch_size=8)
    )
    trainer = trainer_of(rest, max_epochs=3, limit_val_batches=0)
    trainer.fit(
        task_of(schedule=schedule),
        digits(32, batch_size=8),
        ckpt_path=saved.path,
        weights_only=True,
    )
    assert whole.seen == pytest.approx([0.1 * schedule(step / 12) for step in range(12)], rel=1e-12)
    assert rest.seen == whole.seen[steps:]


def test_a_resumed_training_ends_with_the_weights_of_the_uninterrupted_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "schedule": CosineDecay(),
    }
    saved = SavedAfter(tmp_path / "saved.ckpt", 5)
    whole = task_of(**options)
    trainer_of(saved, max_epochs=3).fit(whole, digits(32, Rotated(), 8))
    torch.manual_seed(99)
    rest = task_of(**options)
    trainer_of(max_epochs=3).fit(
        rest, digits(32, Rotated(), 8), ckpt_path=saved.path, weights_only=True
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], value), name


def test_a_schedule_over_an_endless_training_is_refused_and_a_constant_rate_is_not() -> None:
    with pytest.raises(
        ValueError,
        match="depends on the length of the training; give max_epochs or max_steps",
    ):
        configured(task_of(schedule=CosineDecay()), steps=float("inf"))
    optimizer, scheduler = configured(task_of(), steps=float("inf"))
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("classes", [9, 11])
def test_a_backbone_with_the_wrong_number_of_classes_is_refused_before_the_first_step(
    classes: int,
) -> None:
    trainer = trainer_of()
    with pytest.raises(
        ValueError,
        match=f"the backbone has {classes} classes, the data has 10; leave the backbone's num_",
    ):
        trainer.fit(task_of(backbone=FCN([8], num_classes=classes)), digits())
    assert trainer.global_step == 0


TASKS: dict[str, Callable[[], ClassificationTask]] = {
    "FCN": lambda: task_of(False),
    "CNN": lambda: task_of(False, CNN(4)),
    "ST-FCN": lambda: task_of(True, FCN([16, 16])),
    "ST-CNN TPS": lambda: ClassificationTask(
        CNN(4), SGD, SpatialTransformer(ConvolutionalLocalisation(4, 5, 8), ThinPlateSpline())
    ),
    "2 x ST-FCN": lambda: ClassificationTask(
        FCN([16]), SGD, ParallelTransformer(FullyConnectedLocalisation([8]), Affine(), 2)
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_checkpoint_brings_a_task_back_whose_layers_have_never_seen_an_image(
    name: str, tmp_path: Path
) -> None:
    task, module = TASKS[name](), digits(32, Rotated(), 8)
    trainer = trainer_of(max_epochs=2, limit_val_batches=0)
    trainer.fit(task, module)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    image = batch_of(module, "test").image
    expected = task.eval()(image)
    fresh = TASKS[name]().eval()
    fresh.load_state_dict(saved["state_dict"])
    fresh.to(memory_format=torch.channels_last)  # the last bit of a convolution depends on it
    assert torch.equal(fresh(image), expected)
    (before,) = trainer.test(task, module, verbose=False)
    (after,) = trainer_of().test(
        TASKS[name](), module, ckpt_path=tmp_path / "saved.ckpt", weights_only=True, verbose=False
    )
    assert after == before


def test_a_checkpoint_holds_parameters_and_nothing_that_can_be_derived() -> None:
    task = task_of()
    task(torch.rand(2, 1, 28, 28))
    assert set(task.state_dict()) == {name for name, _ in task.named_parameters()}


class Normalised(nn.Module):
    """A backbone that keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.fcn = FCN([8])

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fcn(self.norm(image))
        return logits


def test_sizing_the_layers_leaves_running_statistics_alone() -> None:
    task = task_of(False, Normalised())
    trainer_of(max_steps=0).fit(task, digits())
    assert not any(
        isinstance(parameter, nn.UninitializedParameter) for parameter in task.parameters()
    )
    norm = task.backbone.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked == 0


def test_a_training_is_in_training_mode_and_a_test_is_not() -> None:
    modes: dict[str, set[bool]] = {"train": set(), "test": set()}

    class Modes(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, *_: object
        ) -> None:
            modes["train"] |= {module.training for module in pl_module.modules()}

        def on_test_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, *_: object
        ) -> None:
            modes["test"] |= {module.training for module in pl_module.modules()}

    task, trainer = task_of(backbone=Normalised()), trainer_of(Modes())
    trainer.fit(task, digits())
    trainer.test(task, digits(), verbose=False)
    assert modes == {"train": {True}, "test": {False}}


@pytest.mark.parametrize("channels_last", [True, False])
def test_convolutions_lie_in_the_memory_format_that_was_asked_for(channels_last: bool) -> None:
    task = task_of(False, CNN(4), channels_last=channels_last)
    trainer_of(max_steps=0).fit(task, digits())
    weight = task.backbone.get_parameter("conv2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_an_error_is_a_whole_number_of_images_in_every_precision(precision: Any) -> None:
    """In bfloat16, 499 images have given 89.5 %, which is no n / 499."""
    module = MNISTDataModule(Few(499), batch_size=50)
    for method in ("validate", "test"):
        trainer = trainer_of(precision=precision)
        (values,) = getattr(trainer, method)(task_of(), module, verbose=False)
        split = "val" if method == "validate" else "test"
        images = values[f"{split}/error"] / 100 * values[f"{split}/samples"]
        assert images == pytest.approx(round(images), abs=1e-4)
        assert values[f"{split}/loss"] == pytest.approx(2.3, abs=0.2)


def test_label_smoothing_spreads_a_part_of_the_label_in_training_alone() -> None:
    batch = batch_of(digits(20))
    logits = torch.randn(20, 10)
    expected = 0.8 * functional.cross_entropy(logits, batch.label)
    expected -= 0.2 * logits.log_softmax(1).mean()
    task = task_of(False, label_smoothing=0.2)
    torch.testing.assert_close(task.loss(logits, batch), expected)
    (smoothed,) = trainer_of().test(task, digits(20), verbose=False)
    plain = task_of(False, task.backbone)
    (expected_loss,) = trainer_of().test(plain, digits(20), verbose=False)
    assert smoothed == expected_loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_probabilities_that_are_not_numbers_are_an_error(value: float) -> None:
    task = task_of()
    logits = torch.rand(3, 10)
    logits[1, 4] = value
    with pytest.raises(NonFiniteError, match="not finite for 1 of 3 images"):
        task.predictions(logits, tuple("0123456789"))
    task(torch.rand(1, 1, 28, 28))
    task.backbone.get_parameter("layers.0.weight").data[0, 0] = value
    with pytest.raises(NonFiniteError, match="not finite for 16 of 16 images; check its weights"):
        trainer_of().predict(task, digits(16))
    assert task_of().predictions(torch.zeros(0, 10), tuple("0123456789")) == []


def test_biases_and_norms_are_spared_weight_decay_where_that_is_asked_for() -> None:
    adam = functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05)
    task = task_of(
        True, Normalised(), optimizer=adam, decay_biases_and_norms=False, localisation_lr_scale=0.5
    )
    optimizer, _ = configured(task)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in task.named_parameters():
        spared = name.endswith("bias") or name.startswith("backbone.norm")
        assert decay[id(parameter)] == (0.0 if spared else 0.05), name
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        "backbone": 0.1,
        "backbone/no_decay": 0.1,
        "localisation": 0.05,
        "localisation/no_decay": 0.05,
    }


def test_every_layers_learning_rate_can_be_monitored(tmp_path: Path) -> None:
    """Lightning's LearningRateMonitor refuses parameter groups of one name."""

    class Features(TorchvisionFeatures):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image.expand(-1, 3, -1, -1))

    extractor = Features("resnet18", "layer1", lr_scales=(0.01, 0.1))
    network = MultiCropClassifier(extractor, num_classes=10)
    task = task_of(False, network, decay_biases_and_norms=False)
    board = TensorBoardLogger(tmp_path, "", "")
    trainer_of(
        LearningRateMonitor("step"), logger=board, max_steps=1, max_epochs=-1, limit_val_batches=0
    ).fit(task, digits(16))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    rates = [tag for tag in events.Tags()["scalars"] if tag.startswith("lr-SGD/")]
    assert {"lr-SGD/backbone", "lr-SGD/backbone/lr_scale_0.01/no_decay"} <= set(rates)
    assert len(rates) == len(trainer_groups(task)) > 8


def trainer_groups(task: ClassificationTask) -> list[Any]:
    optimizer = task.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    return optimizer.param_groups


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_a_task_trains_and_tests_in_other_precisions(precision: str) -> None:
    task, trainer = task_of(), trainer_of(precision=precision, max_epochs=2)
    trainer.fit(task, digits(distortion=Rotated()))
    (found,) = trainer.test(task, digits(distortion=Rotated()), verbose=False)
    assert trainer.callback_metrics["test/loss"].isfinite()
    assert found["test/samples"] == 32
    assert all(parameter.isfinite().all() for parameter in task.parameters())
    assert (
        next(task.parameters()).dtype
        == {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[
            precision
        ]
    )


def test_a_process_without_an_image_in_the_last_batch_changes_no_metric() -> None:
    """Test batches are shared out even where there are fewer images than processes."""
    task, module = task_of(), digits(32)
    batch = batch_of(module, "test")
    task(batch.image)
    empty = batch._replace(
        image=batch.image[:0], label=batch.label[:0], indices=batch.indices[:0], share=0.0
    )
    metrics: Any = task.metrics["test_metrics"]
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    task.test_step(batch, 0)
    before = {name: value.item() for name, value in metrics.compute().items()}
    task.test_step(empty, 1)
    for metric in metrics.values():
        metric._computed = None
    assert {name: value.item() for name, value in metrics.compute().items()} == before


def test_the_overlap_penalty_pushes_parallel_transformers_apart() -> None:
    def gap(weight: float) -> float:
        torch.manual_seed(0)
        start = NoisyIdentity(0.05, seed=1)
        both = ParallelTransformer(
            FullyConnectedLocalisation([8]), Translation(0.5), 2, (14, 14), start=start
        )
        optimizer = functools.partial(torch.optim.SGD, lr=0.05)
        task = ClassificationTask(FCN([16]), optimizer, both, overlap_penalty=weight)
        trainer_of(max_epochs=10, limit_val_batches=0).fit(task, digits(batch_size=32))
        theta = both.warp(batch_of(digits()).image).theta
        return (theta[:, 0] - theta[:, 1]).abs().amax(1).mean().item()

    assert gap(3.0) > 2 * gap(0.0)


def scaled_task(lr_scales: dict[str, float]) -> ClassificationTask:
    return task_of(True, CNN(4, batch_norm=True), lr_scales=lr_scales)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # what is frozen
def test_parts_have_rates_of_their_own_and_the_longer_name_goes_first() -> None:
    task = scaled_task({"backbone": 0.5, "backbone.conv1": 0.0, "backbone.norms.0": 0.0})
    before: dict[str, Tensor] = {}
    rates: dict[str, float] = {}

    class Before(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            before.update({name: v.clone() for name, v in pl_module.state_dict().items()})
            rates.update((g["name"], g["lr"]) for g in trainer.optimizers[0].param_groups)

    trainer_of(Before()).fit(task, digits())
    assert rates == {
        "backbone/lr_scale_0": 0,
        "backbone/lr_scale_0.5": pytest.approx(0.05),
        "localisation": pytest.approx(0.1),
    }
    moved = {
        name.rpartition(".")[0]
        for name, value in task.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert {"backbone.conv2", "backbone.norms.1", "transformer.regression.linear"} <= moved
    assert not {"backbone.conv1", "backbone.norms.0"} & moved, "what it measured stays, too"


def test_a_rate_for_a_part_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part 'backbone.conv'; parts are \['backbone.classif"):
        trainer_of().fit(scaled_task({"backbone.conv": 0.0}), digits())


def test_error_and_loss_stay_apart_whatever_the_first_batch_is() -> None:
    task = task_of(False)
    metrics: Any = task.metrics["test_metrics"]
    label = torch.zeros(1, dtype=torch.long)
    metrics.update(torch.tensor([[40.0, *[0.0] * 9]]), label)  # error 0 and loss 0
    metrics.update(torch.zeros(1, 10), label + 3)
    assert metrics["error"].compute() == 50
    assert metrics["loss"].compute() == pytest.approx(math.log(10) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_of_bounds_penalty": 1.0}, "out_of_bounds_penalty 1 needs a transformer"),
        ({"overlap_penalty": 0.5}, "overlap_penalty 0.5 needs parallel transformers"),
    ],
)
def test_a_penalty_that_nothing_can_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of().fit(task_of(False, **options), digits())


def test_layers_are_sized_where_they_are_before_lightning_moves_them_to_the_gpu() -> None:
    """Lightning names the GPU as device before it moves the parameters."""
    module = digits(8)
    module.setup("fit")
    transformer = SpatialTransformer(FullyConnectedLocalisation([8]), Affine())
    task = ClassificationTask(CNN(4), SGD, transformer)
    task._trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    task._trainer.datamodule = module  # type: ignore[attr-defined]
    task._device = torch.device("meta")
    task.configure_model()
    assert task.logits_shape == (10,)
    assert {p.device.type for p in task.parameters()} == {"cpu"}
