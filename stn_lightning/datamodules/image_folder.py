"""Anyone's photographs in folders or a table."""

from typing import Any

from stn_lightning.datamodules.image import ImageDataModule
from stn_lightning.datasets.image_folder import ImageFolder


class ImageFolderDataModule(ImageDataModule):
    """`ImageDataModule` of a `ImageFolder`: one folder a class, or a CSV.

    Args:
        folder: that holds a folder for each class.
        table: a CSV file with the columns `file` and `class`, and, if wanted, `split`.
        size: side of the crops, in pixels.
        side: smallest side that pictures are brought to before that, in pixels.
        cache: folder for resized pictures; null decodes them each time they are read.
        options: of `ImageDataModule`.
    """

    def __init__(
        self,
        folder: str,
        table: str | None = None,
        size: int = 224,
        side: int = 256,
        cache: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ImageFolder(folder, table, side, cache), size, **options)
