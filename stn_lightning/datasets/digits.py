"""Real handwritten digits without a download, from scikit-learn.

They have 8 x 8 pixels with 17 grey levels and are the test part of the UCI set "Optical Recognition
of Handwritten Digits". As in MNIST they are enlarged to 20 x 20 pixels and centred in 28 x 28, so
that the distortions and networks for MNIST can be used.

Reference:
    Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0.
"""

import torch
from torch.nn import functional

from stn_lightning.batch import Split
from stn_lightning.datasets.sources import ImageTensorDataset, ImageTensorSource


class EmbeddedDigits(ImageTensorSource):
    """1097 digits to train, 200 to validate, 500 to test.

    >>> EmbeddedDigits().load("test").image.shape
    torch.Size([500, 1, 28, 28])
    """

    class_names = tuple("0123456789")

    def load(self, split: Split) -> ImageTensorDataset:
        from sklearn.datasets import load_digits  # takes a second to import

        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8) / 16  # float64
        enlarged = functional.interpolate(
            images, (20, 20), mode="bicubic", align_corners=False
        ).clamp(0, 1)
        # add 1e-6 so that halves are rounded up on every processor: the images are always the same
        framed = functional.pad(enlarged, (4, 4, 4, 4)).mul(255).add(1e-6).round().to(torch.uint8)
        order = torch.randperm(len(framed), generator=torch.Generator().manual_seed(2015))
        part = {"train": order[:1097], "val": order[1097:1297], "test": order[1297:]}[split]
        return ImageTensorDataset(framed[part].contiguous(), torch.from_numpy(labels).long()[part])
