"""Stand-ins whose behaviour a test can state in a line."""

import torch
from torch import Tensor, nn

from stn_lightning.transformers import Family, Start


class At(Start):
    """A stated start: one theta for all, or one for each of `n`."""

    def __init__(self, *thetas: list[float]) -> None:
        self.thetas = torch.tensor(thetas)

    def theta(self, family: Family, n: int) -> Tensor:
        assert self.thetas.shape[1] == len(family.identity)
        return self.thetas.expand(n, -1)


class Script(nn.Module):
    """A localisation that remembers what it saw and answers with the next line, whatever it was."""

    def __init__(self, *lines: list[float]) -> None:
        super().__init__()
        self.lines = [torch.tensor(line) for line in lines]
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.lines[(len(self.seen) - 1) % len(self.lines)].expand(len(image), -1)


def awaken(network: nn.Module, image: Tensor, std: float = 0.02) -> None:
    """Build the lazy layers and take the weights away from zero, so that theta depends on the
    image.
    """
    with torch.no_grad():
        network(image)
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
