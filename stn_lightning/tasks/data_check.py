"""The data that a checkpoint was made for."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from stn_lightning.datamodules.base import BaseDataModule

MADE_FOR = "made_for"
"""Key of a checkpoint's image shape, class names and checksum of the data."""


def describe_data(data: BaseDataModule) -> dict[str, Any]:
    """Return the shape, the classes and a checksum of data."""
    described: dict[str, Any] = {
        "image_shape": list(data.image_shape),
        "classes": list(data.class_names),
    }
    if {"train", "val"} <= set(data.splits):
        described["data"] = data.fingerprint()
    return described


def check_data(made_for: dict[str, Any], data: BaseDataModule, *, same_images: bool) -> None:
    """Check that data are those of a checkpoint.

    Args:
        made_for: description in the checkpoint.
        data: the present data.
        same_images: whether they must have the same training and validation images.

    Raises:
        ValueError: the classes have other names, or the images are others.
    """
    require_classes(made_for["classes"], data.class_names)
    before = made_for.get("data")
    if same_images and before is not None and before != data.fingerprint():
        raise ValueError(
            "the training and validation images have other names, labels or splits than those "
            "of the checkpoint; give the run its old data, or start a run of another --name, from "
            "the same weights by --init_weights"
        )


def require_classes(trained: Sequence[str], found: Sequence[str]) -> None:
    """Check that data have the classes of a trained network.

    Raises:
        ValueError: they differ; the message names the first difference.
    """
    for i, (before, now) in enumerate(zip_longest(trained, found)):
        if before != now:
            raise ValueError(
                f"class {i} of the data is {now}, and was {before} in the training, so labels "
                "would mean other classes; give the data their old class names, or train a new run"
            )
