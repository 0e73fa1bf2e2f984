"""Group parameters by learning rate and weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from stn_lightning.backbones import FeatureExtractor
from stn_lightning.transformers import Transformer


def is_part(name: str, part: str) -> bool:
    """Return True if a name belongs to a part.

    Examples:
        >>> [is_part(name, "backbone.conv1") for name in ("backbone.conv1.bias", "backbone.conv10")]
        [True, False]
    """
    return name == part or name.startswith(f"{part}.")


def lr_scale(name: str, lr_scales: Mapping[str, float]) -> float:
    """Return the learning rate factor of a parameter or module.

    Args:
        name: name of the parameter or module in the task.
        lr_scales: factors of parts, by name. The longest name that fits counts.

    Examples:
        >>> lr_scale("backbone.conv1.bias", {"backbone": 0.1, "backbone.conv1": 0.5})
        0.5
    """
    parts = [part for part in lr_scales if is_part(name, part)]
    return lr_scales[max(parts, key=len)] if parts else 1.0


def refuse_unknown_parts(task: nn.Module, lr_scales: Mapping[str, float]) -> None:
    """Check that the task has all parts.

    Raises:
        ValueError: `lr_scales` names a part that does not exist.
    """
    names = [name for name, _ in task.named_parameters()]
    for part in lr_scales:
        if not any(is_part(name, part) for name in names):
            there = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ValueError(f"lr_scales: there is no part {part!r}; parts are {there}")


def parameter_groups(
    task: nn.Module,
    lr_scales: Mapping[str, float],
    localisation_lr_scale: float,
    decay_biases_and_norms: bool,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Group a task's parameters for its optimiser.

    Args:
        task: task with transformers and feature extractors.
        lr_scales: factors of the learning rate for parts, by name.
        localisation_lr_scale: a further factor for the parameters of transformers.
        decay_biases_and_norms: whether weight decay applies to parameters of one dimension.

    Returns:
        the groups, and the factors of their learning rates. Groups have unique names, which
        Lightning's LearningRateMonitor requires.
    """
    modules = list(task.modules())
    transformers = [module for module in modules if isinstance(module, Transformer)]
    localising = {id(p) for transformer in transformers for p in transformer.parameters()}
    extractors = [module for module in modules if isinstance(module, FeatureExtractor)]
    own = {id(p): scale for extractor in extractors for p, scale in extractor.parameter_lr_scales()}
    groups: dict[str, dict[str, Any]] = {}
    scales: dict[str, float] = {}
    for full_name, p in task.named_parameters():
        part, scale = "backbone", own.get(id(p), 1.0) * lr_scale(full_name, lr_scales)
        name = "" if scale == 1 else f"/lr_scale_{scale:.6g}"
        if id(p) in localising:
            part, scale = "localisation", scale * localisation_lr_scale
        decay: dict[str, float] = {}
        if p.dim() < 2 and not decay_biases_and_norms:
            name, decay = f"{name}/no_decay", {"weight_decay": 0.0}
        group = groups.setdefault(part + name, {"name": part + name, "params": [], **decay})
        group["params"].append(p)
        scales[part + name] = scale
    names = sorted(groups)
    return [groups[name] for name in names], [scales[name] for name in names]
