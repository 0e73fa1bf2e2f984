"""Time the distortions, ours beside torchvision's and kornia's.

    python -m benchmarks.distortions [--quick]

From uint8 images of 28 x 28 to batches of 256 distorted float images. torchvision works on one
image at a time (a batch given to v2 gets one transformation for all), as its users write it: PIL
images in `transforms`, uint8 tensors in `transforms.v2`. kornia and ours work on the batch.
"""

import random
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.alternating import alternate, chosen, report, table, times_as_long
from stn_lightning.distortions import (
    Cluttered,
    CounterRandom,
    Distortion,
    Elastic,
    Perspective,
    Rotated,
    RotatedScaledTranslated,
)

BATCH = 256
OURS: dict[str, Distortion] = {
    "R": Rotated(),
    "RTS": RotatedScaledTranslated(),
    "P": Perspective(),
    "E": Elastic(),
    "TC": Cluttered(),
}
RTS = {"degrees": 45, "translate": (0.2, 0.2), "scale": (0.7, 1.2)}
NOTES = """Images per second; in brackets how many times as fast ours is. R is the same operation
everywhere. RTS: `RandomAffine` on the padded image; the place is drawn a little differently. P:
`RandomPerspective` draws corners uniformly. E: torchvision bends by a smoothed field of noise,
kornia by a spline with 5 points. TC: no library has it; for torchvision it is written with PIL's
crop and paste."""


class _Clutter:
    """Make TC image by image, with torchvision's operations."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, image: Image.Image) -> Image.Image:
        canvas = Image.new("L", (60, 60))
        canvas.paste(image, (random.randrange(33), random.randrange(33)))
        for _ in range(6):
            other = Image.fromarray(self.images[random.randrange(len(self.images)), 0].numpy())
            x, y = random.randrange(23), random.randrange(23)
            canvas.paste(
                other.crop((x, y, x + 6, y + 6)), (random.randrange(55), random.randrange(55))
            )
        return canvas


class Distorted(Dataset[Tensor]):
    """Distort each image when it is read."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[index, 0].numpy()))


def rts() -> Callable[[Any], Tensor]:
    """Distort one PIL image by torchvision: RTS."""
    bilinear = transforms.InterpolationMode.BILINEAR
    return transforms.Compose(
        [
            transforms.Pad(7),
            transforms.RandomAffine(**RTS, interpolation=bilinear),
            transforms.ToTensor(),
        ]
    )


def per_image(images: Tensor) -> dict[str, Callable[[Any], Tensor]]:
    bilinear = transforms.InterpolationMode.BILINEAR
    steps: dict[str, Callable[[Any], Any]] = {
        "R": transforms.RandomRotation(90, interpolation=bilinear),
        "P": transforms.RandomPerspective(0.5, p=1.0, interpolation=bilinear),
        "E": transforms.ElasticTransform(34.0, 4.0, interpolation=bilinear),
        "TC": _Clutter(images),
    }
    return {
        "RTS": rts(),
        **{name: transforms.Compose([step, transforms.ToTensor()]) for name, step in steps.items()},
    }


def per_tensor() -> dict[str, Callable[[Tensor], Tensor]]:
    bilinear, scaled = v2.InterpolationMode.BILINEAR, v2.ToDtype(torch.float32, scale=True)
    return {
        "R": v2.Compose([v2.RandomRotation(90, interpolation=bilinear), scaled]),
        "RTS": v2.Compose([v2.Pad(7), v2.RandomAffine(**RTS, interpolation=bilinear), scaled]),
        "P": v2.Compose([v2.RandomPerspective(0.5, p=1.0, interpolation=bilinear), scaled]),
        "E": v2.Compose([v2.ElasticTransform(34.0, 4.0, interpolation=bilinear), scaled]),
    }


def by_kornia() -> dict[str, Callable[[Tensor], Tensor]]:
    try:
        from kornia import augmentation
    except ImportError:
        return {}
    affine = augmentation.RandomAffine(**RTS, p=1.0)
    return {
        "R": augmentation.RandomRotation(90.0, p=1.0),
        "RTS": lambda images: affine(torch.nn.functional.pad(images, (7, 7, 7, 7))),
        "P": augmentation.RandomPerspective(0.5, p=1.0),
        "E": augmentation.RandomThinPlateSpline(0.1, p=1.0),
    }


def ours(distortion: Distortion, images: Tensor, index: Tensor) -> Tensor:
    return distortion(images[index].float() / 255, CounterRandom(0, 0, 0, index), images)


def one_by_one(distort: Callable[[Any], Tensor], of: Iterable[Any]) -> Tensor:
    return torch.stack([distort(each) for each in of])


def all_at_once(distort: Callable[[Tensor], Tensor], images: Tensor, index: Tensor) -> Tensor:
    return distort(images[index].float() / 255)


def main() -> None:
    options = chosen(__doc__, 9)
    images = torch.randint(
        0, 256, (BATCH if options.quick else 40 * BATCH, 1, 28, 28), dtype=torch.uint8
    )
    pil, tensors, kornia = per_image(images), per_tensor(), by_kornia()
    index = torch.arange(BATCH)
    rows = []
    for name, distortion in OURS.items():
        data = Distorted(images, pil[name])
        cases: dict[str, Callable[[], object]] = {
            "ours": partial(ours, distortion, images, index),
            "torchvision": partial(one_by_one, data.__getitem__, index.tolist()),
        }
        if name in tensors:
            cases["v2"] = partial(one_by_one, tensors[name], images[:BATCH])
        if name in kornia:
            cases["kornia"] = partial(all_at_once, kornia[name], images, index)
        taken = alternate(cases, options.rounds, options.clock)
        rates = [BATCH / statistics.median(taken["ours"])]
        cells = [
            f"{BATCH / statistics.median(taken[peer]):,.0f} "
            f"({times_as_long(taken['ours'], taken[peer]):.1f})"
            if peer in taken
            else ""
            for peer in ("torchvision", "v2", "kornia")
        ]
        rows.append([name, *rates, *cells])
    workers = _with_workers(images, options.rounds) if not options.quick else ""
    body = table(
        ["", "ours", "torchvision, per image", "torchvision v2, per image", "kornia"], rows
    )
    report("Distortions alone", body, f"{NOTES}{workers}", options.rounds)


def _with_workers(images: Tensor, rounds: int) -> str:
    loader = DataLoader(Distorted(images, rts()), BATCH, num_workers=2, persistent_workers=True)
    batches = [torch.arange(i, i + BATCH) for i in range(0, len(images), BATCH)]

    def whole_pass() -> None:
        for index in batches:
            ours(OURS["RTS"], images, index)

    taken = alternate(
        {"ours": whole_pass, "torchvision": lambda: [None for _ in loader]}, max(rounds // 3, 1)
    )
    rate, factor = (
        len(images) / statistics.median(taken["torchvision"]),
        times_as_long(taken["ours"], taken["torchvision"]),
    )
    return f"\nRTS by torchvision in a DataLoader with 2 workers: {rate:,.0f} ({factor:.1f})."


if __name__ == "__main__":
    main()
