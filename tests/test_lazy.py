from collections.abc import Callable

import pytest
import torch
from torch import nn

from stn_lightning import lazy


def test_layers_learn_their_input_from_the_first_batch_without_a_warning() -> None:
    linear, convolution = lazy.linear(3), lazy.conv2d(4, 5, stride=2, padding=1)
    assert linear(torch.rand(2, 7)).shape == (2, 3)
    assert linear.weight.shape == (3, 7)
    assert convolution(torch.rand(2, 6, 9, 9)).shape == (2, 4, 4, 4)
    assert convolution.weight.shape == (4, 6, 5, 5)


def test_layers_start_as_pytorchs_own_do() -> None:
    image = torch.rand(2, 7)
    torch.manual_seed(5)
    expected = nn.Linear(7, 3)
    torch.manual_seed(5)
    linear = lazy.linear(3)
    assert torch.equal(linear(image), expected(image))


def test_a_layer_starts_as_it_is_told_and_learns() -> None:
    def initialise(layer: nn.Linear) -> None:
        nn.init.constant_(layer.weight, layer.in_features)

    linear = lazy.linear(3, initialise)
    linear(torch.ones(2, 7)).square().sum().backward()
    assert torch.equal(linear.weight, torch.full((3, 7), 7.0))
    assert linear.weight.grad is not None
    assert linear.weight.grad.all()


@pytest.mark.parametrize("initialise", [None, lazy.initialise_for_relu])
def test_a_layer_that_has_seen_nothing_takes_over_saved_weights_and_keeps_them(
    initialise: Callable[[nn.Module], None] | None,
) -> None:
    saved = nn.Linear(7, 3)
    linear = lazy.linear(3, initialise)
    linear.load_state_dict(saved.state_dict())
    image = torch.rand(2, 7)
    assert torch.equal(linear(image), saved(image))
    assert torch.equal(linear.weight, saved.weight)
