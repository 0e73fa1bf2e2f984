"""Train a spatial transformer in a plain PyTorch loop.

    python examples/plain_pytorch.py --epochs 10

No Lightning, no command line. Trains on digits that are turned, scaled and moved at random, and
prints the test error.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional

from stn_lightning.backbones import CNN
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import RotatedScaledTranslated
from stn_lightning.transformers import Affine, ConvolutionalLocalisation, SpatialTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    data = MNISTDataModule(EmbeddedDigits(), RotatedScaledTranslated(), batch_size=32)
    data.setup("fit")
    data.setup("test")

    # any image in, 28 x 28 out; the classifier knows nothing of it
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(28, 28))
    network = nn.Sequential(transformer, CNN(num_filters=32))
    network(torch.zeros(1, *data.image_shape))  # lazy layers take their sizes
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)

    loader = data.train_dataloader()
    for epoch in range(epochs):
        for raw in loader:
            batch = data.transform_batch(raw)  # distorted anew in each epoch
            loss = functional.cross_entropy(network(batch.image), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1:3d}/{epochs}  loss {loss.item():.3f}")

    network.eval()
    wrong = total = 0
    with torch.inference_mode():
        for raw in data.test_dataloader():
            batch = data.transform_batch(raw)
            wrong += int((network(batch.image).argmax(1) != batch.label).sum())
            total += len(batch.label)
        _, theta, _ = transformer.warp(batch.image)
    print(f"test error {100 * wrong / total:.1f} % of {total} images")
    print(f"theta of the last test image: {[round(value, 2) for value in theta[-1].tolist()]}")


if __name__ == "__main__":
    main()
