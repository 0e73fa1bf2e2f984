"""Evaluate a trained network on the test images."""

import io
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from stn_lightning.callbacks.drawings import Caption, draw, shorten, to_displayable
from stn_lightning.datamodules.batches import Draw
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.tasks.data_check import require_classes
from stn_lightning.tasks.metrics import cross_entropies
from stn_lightning.transformers import WarpOutput

GALLERY = 12
"""Number of images in a drawing."""
LETTERS = 18
"""Letters of a line below an image."""
PAIRS = 6
"""Number of pairs of confused classes that are drawn."""


class Evaluation(NamedTuple):
    """Predictions for all test images, and drawings of some."""

    label: Int64[Tensor, "images *digits"]
    answer: Int64[Tensor, "images *digits"]
    """predicted classes"""
    theta: Float[Tensor, "images n numbers"] | None
    examples: bytes | None
    """PNG of images of every class with outlines and crops; None if nothing can be drawn"""
    worst: bytes | None
    """PNG of the images with the highest losses"""
    confused: bytes | None
    """PNG of the most confused pairs of classes: on the left an image of the first class that was
    misclassified as the second, on the right an image of the second class
    """


class _Example(NamedTuple):
    """One test image and the network's output for it."""

    loss: float
    image: Tensor
    warp: WarpOutput | None
    label: Tensor
    answer: Tensor
    probability: float


def evaluate(network: TrainedNetwork) -> Evaluation:
    """Run the network over the test split once.

    Images to draw are stored: some of each class, and those with the highest losses.
    """
    data = network.data
    data.prepare_data()
    data.setup("test")
    require_classes(network.class_names, data.class_names)
    labels, answers, indices, thetas = [], [], [], []
    by_class: dict[tuple[int, ...], list[_Example]] = {}
    worst: list[_Example] = []
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        logits, record = network.infer(batch.image)
        logits = logits.float().cpu()
        answer = logits.argmax(-1)
        labels.append(batch.label)
        answers.append(answer)
        indices.append(batch.indices)
        if record is not None:
            thetas.append(record.thetas.float().cpu())
        examples = _examples(logits, batch.image, batch.label, record and record.output)
        worst = sorted([*worst, *examples], key=lambda each: -each.loss)[:GALLERY]
        for each in examples:
            key = tuple(each.label.reshape(-1).tolist())
            if key not in by_class and len(by_class) == GALLERY:
                continue
            if len(of_class := by_class.setdefault(key, [])) < GALLERY // 2:
                of_class.append(each)
    label, answer, names = torch.cat(labels), torch.cat(answers), network.class_names
    pairs = _confused_images(label, answer, len(names))
    return Evaluation(
        label,
        answer,
        torch.cat(thetas) if thetas else None,
        _gallery(_spread(by_class), names),
        _gallery(worst, names),
        _gallery(_again(network, torch.cat(indices)[pairs]), names) if len(pairs) else None,
    )


def confusion_table(
    label: Int64[Tensor, " images"], answer: Int64[Tensor, " images"], num_classes: int
) -> Int64[Tensor, "label answer"]:
    """Count images by label and answer."""
    counts = torch.bincount(label * num_classes + answer, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def most_confused(table: Int64[Tensor, "label answer"], number: int) -> list[tuple[int, int, int]]:
    """Return (label, answer, count) of the most confused classes."""
    wrong, n = table.clone().fill_diagonal_(0).flatten(), len(table)
    order = wrong.argsort(descending=True, stable=True)[:number].tolist()
    return [(i // n, i % n, int(wrong[i])) for i in order if wrong[i]]


def _confused_images(label: Tensor, answer: Tensor, num_classes: int) -> Int64[Tensor, " images"]:
    """Return the indices of two images for each confused pair.

    The first is of one class and was misclassified as the other. The second is of the other class,
    correctly classified if there is such an image.
    """
    if label.dim() != 1:
        return torch.zeros(0, dtype=torch.int64)
    found: list[Tensor] = []
    for true, taken_for, _ in most_confused(confusion_table(label, answer, num_classes), PAIRS):
        of_other = label == taken_for
        right = of_other & (answer == taken_for)
        shown = right if right.any() else of_other
        if shown.any():
            found += [((label == true) & (answer == taken_for)).nonzero()[0], shown.nonzero()[0]]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _again(network: TrainedNetwork, indices: Int64[Tensor, " images"]) -> list[_Example]:
    """Evaluate some test images again, which were not stored."""
    data = network.data
    batch = data.transform_batch(data.dataset("test")[Draw(indices, 0, 1.0)])
    logits, record = network.infer(batch.image)
    return _examples(logits.float().cpu(), batch.image, batch.label, record and record.output)


def _examples(
    logits: Tensor, image: Tensor, label: Tensor, warp: WarpOutput | None
) -> list[_Example]:
    loss = cross_entropies(logits, label).tolist()
    probability = logits.softmax(-1).amax(-1).reshape(len(logits), -1).prod(1).tolist()
    return [
        _Example(
            loss[i],
            image[i].cpu().clone(),  # a view would keep the whole batch in memory
            warp and WarpOutput(*(value[i].float().cpu().clone() for value in warp)),
            label[i],
            logits[i].argmax(-1),
            probability[i],
        )
        for i in range(len(logits))
    ]


def _spread(by_class: dict[tuple[int, ...], list[_Example]]) -> list[_Example]:
    """Take from each class in turn."""
    longest = max(map(len, by_class.values()), default=0)
    classes = [by_class[label] for label in sorted(by_class)]
    rounds = (each[i] for i in range(longest) for each in classes if i < len(each))
    return [example for _, example in zip(range(GALLERY), rounds, strict=False)]


def _gallery(examples: list[_Example], class_names: tuple[str, ...]) -> bytes | None:
    """Draw examples as PNG, with the predictions below."""
    warps = [each.warp for each in examples if each.warp is not None]
    image = torch.stack([each.image for each in examples])
    if image.dim() != 4 or image.shape[1] not in (1, 3) or len(warps) < len(examples):
        return None
    stacked = (torch.stack([getattr(w, name) for w in warps]) for name in WarpOutput._fields)
    warp = WarpOutput(*stacked)
    image, crop = to_displayable(image, warp.image)
    captions = [_caption(each, class_names) for each in examples]
    file = io.BytesIO()
    drawn = draw(image, warp._replace(image=crop), columns=2, captions=captions)
    Image.fromarray(drawn).save(file, "PNG")
    return file.getvalue()


def _caption(example: _Example, class_names: tuple[str, ...]) -> Caption:
    answer, label = (_name(each, class_names) for each in (example.answer, example.label))
    correct = bool((example.answer == example.label).all())
    answered = f"{example.probability:.0%}: {shorten(answer or 'nothing', LETTERS - 6)}"
    return Caption(f"{shorten(label, LETTERS)}\n{answered}", correct)


def _name(label: Any, class_names: tuple[str, ...]) -> str:
    return "".join(class_names[i] for i in label.reshape(-1).tolist())
