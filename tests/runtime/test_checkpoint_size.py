"""A checkpoint's size is known before the first step."""

import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop, lr_scheduler

from stn_lightning.runtime.checkpoint_size import state_after_a_step

OPTIMIZERS: list[Callable[..., Optimizer]] = [
    Adam,
    functools.partial(AdamW, amsgrad=True),
    functools.partial(Adam, foreach=True),
    functools.partial(Adam, fused=True),
    functools.partial(SGD, momentum=0.9),
    functools.partial(SGD, lr=0.1),
    functools.partial(RMSprop, centered=True),
    torch.optim.Adadelta,
    torch.optim.NAdam,
    torch.optim.Rprop,
]


def size(state: dict[str, Any]) -> int:
    file = io.BytesIO()
    torch.save(state, file)
    return len(file.getvalue())


@pytest.mark.parametrize("make", OPTIMIZERS, ids=str)
def test_the_state_before_the_first_step_has_the_size_of_the_one_after(
    make: Callable[..., Optimizer],
) -> None:
    module = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 3))
    module[1].requires_grad_(False)
    optimizer = make(module.parameters())
    lr_scheduler.ConstantLR(optimizer)  # which replaces the method `step`
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    predicted = state_after_a_step(optimizer)
    assert not optimizer.state, "the optimiser itself has taken no step"
    assert all(map(torch.equal, weights, module.parameters()))
    module(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    after = optimizer.state_dict()
    assert abs(size(predicted) - size(after)) < 0.02 * size(after) + 512
    assert predicted["state"].keys() == after["state"].keys()


def test_an_optimizer_that_needs_a_closure_gives_what_it_has() -> None:
    optimizer = torch.optim.LBFGS(nn.Linear(3, 2).parameters())
    assert state_after_a_step(optimizer)["state"] == optimizer.state_dict()["state"]


def test_a_resumed_optimizer_gives_its_own_state() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = Adam([parameter])
    optimizer.step()
    assert state_after_a_step(optimizer)["state"][0]["exp_avg"].tolist() == pytest.approx(
        [0.1, 0.1]
    )
