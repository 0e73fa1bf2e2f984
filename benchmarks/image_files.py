"""Count the images read and cropped in a second.

    STN_DATA=/path/to/data python benchmarks/image_files.py

Takes a minute or two on 20 classes of CUB; `--classes 200` takes all. One process, one thread,
processor time, the median of repeats that alternate. Ours gives whole batches of random crops of
224 px. The bare loops give single images with a smallest side of 256, without a crop or a batch, by
Pillow's decoder and torchvision's resizing (as its data sets do), and by torchvision's own decoder
where it still has one (deprecated since 0.29; damaged files can crash it).
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from stn_lightning.datamodules import ImageDataModule
from stn_lightning.datasets import CUB
from stn_lightning.runtime.memory import keep_freed_memory


def ours(module: ImageDataModule) -> Callable[[], int]:
    module.setup("fit")

    def run() -> int:
        return sum(len(batch.label) for batch in module.train_dataloader())

    return run


def bare(files: list[Path], decode: Callable[[Path], torch.Tensor]) -> Callable[[], int]:
    def run() -> int:
        for file in files:
            functional.resize(decode(file), [256], antialias=True)
        return len(files)

    return run


def with_pillow(file: Path) -> torch.Tensor:
    with Image.open(file) as image:
        return functional.pil_to_tensor(image.convert("RGB"))


def with_torchvision(file: Path) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_image, read_file

    return decode_image(read_file(str(file)), mode=ImageReadMode.RGB)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        cached, decoded = (
            CUB(cache=cache, first_classes=options.class_names) for cache in (folder, None)
        )
        cached.prepare()
        files = [decoded.folder / "images" / name for name in decoded.load("train").names]
        ways = {
            "bare loop, Pillow's decoder": bare(files, with_pillow),
            "bare loop, torchvision's decoder": bare(files, with_torchvision),
            "decoded, cropped, in batches": ours(ImageDataModule(decoded)),
            "from the cache, cropped, in batches": ours(ImageDataModule(cached)),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats + 1):
            for name, run in ways.items():
                start = time.process_time()
                rates[name].append(run() / (time.process_time() - start))
    medians = {
        name: statistics.median(values[1:]) for name, values in rates.items()
    }  # the first one warms up
    for name, rate in medians.items():
        print(
            f"{name:36}{rate:9,.0f} images/s"
            + "".join(f"{rate / medians[other]:8.2f} x {other}" for other in list(ways)[:2])
        )


if __name__ == "__main__":
    main()
