"""A trained run in three lines of Python.

run = stn_lightning.load_run("quickstart")
predictions = run.predict(["scan.png"])
logits = run.network(images)
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from stn_lightning.analysis import export, predictions, report
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.runs.loading import TrainedNetwork


class Run(TrainedNetwork):
    """A trained network with methods to predict, report and export."""

    def predict(self, paths: Iterable[str | Path]) -> list[predictions.Prediction]:
        """Return label, probability and crop outlines of each image.

        Args:
            paths: files, folders (with all image files below them), or patterns such as
                `scans/*.png`.

        Raises:
            ValueError: a path does not exist, or files cannot be read; the message names the first.
        """
        return predictions.predict_all(self, paths)

    @property
    def preprocessing(self) -> Preprocessing:
        """Steps that turn an image into the network's input."""
        return self.data.preprocessing

    def preprocess(
        self, image: str | Path | Image.Image | Tensor
    ) -> Float[Tensor, "channels height width"]:
        """Turn an image into the network's input, (channels, height, width).

        Args:
            image: a file, an upright Pillow image, or an upright RGB image as uint8,
                (3, height, width).
        """
        if isinstance(image, Tensor):
            pixels = image
        elif isinstance(image, Image.Image):
            pixels = pil_to_tensor(image.convert("RGB"))
        else:
            pixels = predictions.read_pixels(self.data, Path(image))
        preprocessed = self.data.preprocess(pixels, self.flat_shape).image
        return preprocessed.to(self.device, self.dtype)

    def report(self, path: str | Path | None = None) -> Path:
        """Write a page about the run.

        Args:
            path: file of the page; report.html in the run's folder when left out.

        Returns:
            the path.
        """
        return report.write_report([self], path)

    def export(
        self, folder: str | Path | None = None, formats: Sequence[export.Format] | None = None
    ) -> Path:
        """Write the network for other programs.

        Args:
            folder: folder for the files; `export` in the run's folder when left out.
            formats: some of safetensors, exported (torch.export) and onnx; None: all that the
                installed libraries can write.

        Returns:
            the folder.

        Raises:
            ValueError: an exported network gives other logits; its file is then not written.
        """
        return export.write_formats(self, folder, formats)


def load_run(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    checkpoint: str | None = None,
) -> Run:
    """Load a finished run, or a network of the zoo.

    Args:
        name: name of a run in `runs/`, its folder, or `zoo:NAME`.
        device: device of the network; when left out a GPU, or the CPU if there is none.
        dtype: data type of weights and images, by default float32. Sampling grids are always
            float32.
        checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

    Raises:
        ValueError: there is no such run, or it cannot be read; one line says why.
    """
    return Run.load(name, device, dtype, checkpoint)
