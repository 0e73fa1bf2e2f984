"""Write a family of transformations and train with it.

    python examples/own_family.py

A family says how many numbers theta has, which of them are the identity, and where each pixel of
the output looks. `Turn` has one number, the angle. A transformer with it learns to turn bars
upright that were turned at random, from nothing but their images: it minimises the variance of
what it returns, along x.
"""

import argparse
import math

import torch
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.transformers import ConvolutionalLocalisation, Family, SpatialTransformer


class Turn(Family):
    """(angle,): a turn about the middle, in radians, clockwise."""

    identity = (0.0,)

    def grid(self, theta: Tensor, size: tuple[int, ...]) -> Tensor:
        cos, sin, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
        return affine.grid(torch.cat([cos, -sin, zero, sin, cos, zero], dim=1), size)


def bars(angle: Tensor) -> Tensor:
    """Return images (N, 1, 32, 32) of turned bars.

    `angle` is measured from the vertical.
    """
    axis = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    across, along = x * cos + y * sin, y * cos - x * sin
    return torch.exp(-((across / 0.15) ** 2) - (along / 0.6) ** 2)[:, None]


def spread_along_x(image: Tensor) -> Tensor:
    """Mean squared distance of the ink from the middle column."""
    x = torch.linspace(-1, 1, image.shape[-1])
    return (image * x.square()).sum() / image.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Turn())
    transformer(torch.zeros(1, 1, 32, 32))  # lazy layers take their sizes
    optimizer = torch.optim.Adam(transformer.parameters(), lr=2e-3)
    for step in range(steps):
        angle = (torch.rand(32) - 0.5) * math.radians(120)
        loss = spread_along_x(transformer(bars(angle)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            left = (transformer.warp(bars(angle)).theta[:, 0] - angle).abs().mean()
            print(f"step {step:4d}  {math.degrees(left.item()):5.1f} degrees left")


if __name__ == "__main__":
    main()
