"""Your own images, in folders or a table."""

from typing import Any

from stn_lightning.datamodules.image import ImageDataModule
from stn_lightning.datasets.image_folder import ImageFolder


class ImageFolderDataModule(ImageDataModule):
    """Square crops of your own images.

    They come from an `ImageFolder`: one folder for each class, or a CSV.

    Args:
        folder: folder that holds a folder for each class.
        table: a CSV file with the columns `file` and `class` and, if wanted, `split`.
        size: side of the crops, in pixels.
        side: smallest side that images are resized to before that, in pixels.
        cache: folder for resized images; null decodes them each time they are read.
        skip_unreadable: whether files that cannot be read are left out and counted; else they are
            all named before the training starts.
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
