"""Configuration files that come with the package, so that `--config configs/quickstart.yaml` works
in any folder.
"""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
"""In the repository a link to the folder that one sees."""


def resolve_config(path: Path) -> Path:
    """The file or folder itself; where there is none and its path begins with `configs/`, the
    package's own, if there is one.
    """
    if (
        not path.exists()
        and path.parts[:1] == (CONFIGS.name,)
        and (own := CONFIGS.joinpath(*path.parts[1:])).exists()
    ):
        return own
    return path
