"""Your own images, in folders or a table."""

from typing import Any

from stn_lightning.datamodules.image import ImageDataModule
from stn_lightning.datasets.image_folder import ImageFolder


class ImageFolderDataModule(ImageDataModule):
    """Square crops of your own images.

    The images are in one folder for each class, or listed in a table (`ImageFolder`).

    Args:
        folder: folder with one folder for each class.
        table: a CSV file with the columns `file`, `class` and, optionally, `split`.
        size: side of the crops, in pixels.
        side: before they are cropped, images are resized so that their smaller side has this many
            pixels.
        cache: folder for resized images; null decodes them each time they are read.
        skip_unreadable: whether to leave out images that cannot be read. Otherwise they are an
            error before the training starts.
        options: other arguments of `ImageDataModule`.
    """

    def __init__(
        self,
        folder: str,
        table: str | None = None,
        size: int = 224,
        side: int = 256,
        cache: str | None = None,
        skip_unreadable: bool = False,
        **options: Any,
    ) -> None:
        source = ImageFolder(folder, table, side, cache, skip_unreadable=skip_unreadable)
        super().__init__(source, size, **options)
