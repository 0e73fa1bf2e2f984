"""Where the original files are on this machine."""

import os
from pathlib import Path

import pytest


def mnist_folder() -> Path:
    """Where the four original files of MNIST lie, else the test is skipped."""
    named = os.environ.get("STN_DATA")
    beside = Path(__file__).parents[3] / "shared" / "data"  # beside the repository
    folders = [place / "mnist" for place in ([Path(named)] if named else []) + [beside]]
    for folder in folders:
        if len(list(folder.glob("*-ubyte.gz"))) == 4:
            return folder
    pytest.skip(
        f"MNIST's four files are neither in {' nor in '.join(map(str, folders))}; "
        "let STN_DATA name the folder of the data sets"
    )


def cub_folder() -> Path:
    """Where the folder `CUB_200_2011` lies, else the test is skipped."""
    named = os.environ.get("STN_DATA")
    beside = Path(__file__).parents[3] / "shared" / "data"
    folders = [place / "cub" for place in ([Path(named)] if named else []) + [beside]]
    for folder in folders:
        if (folder / "CUB_200_2011/images.txt").is_file():
            return folder
    pytest.skip(
        f"CUB_200_2011 is neither in {' nor in '.join(map(str, folders))}; "
        "let STN_DATA name the folder of the data sets"
    )


def svhn_folder() -> Path:
    """Where SVHN's annotations and the two sample images lie, else the test is skipped."""
    named = os.environ.get("STN_DATA")
    beside = Path(__file__).parents[3] / "shared" / "data"
    folders = [place / "svhn" for place in ([Path(named)] if named else []) + [beside]]
    for folder in folders:
        if (folder / "svhn_format1_train_labels.json").exists():
            return folder
    pytest.skip(
        f"svhn_format1_*_labels.json are neither in {' nor in '.join(map(str, folders))}; "
        "let STN_DATA name the data folder"
    )
