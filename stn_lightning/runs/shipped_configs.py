"""Find configuration files that come with the package.

With them `--config configs/quickstart.yaml` works in any folder.
"""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
"""In the repository it is a symbolic link to `configs/` at the top."""


def resolve_config(path: Path) -> Path:
    """Return an existing path, else the package's file.

    Only paths that begin with `configs/` are looked up in the package.
    """
    if (
        not path.exists()
        and path.parts[:1] == (CONFIGS.name,)
        and (own := CONFIGS.joinpath(*path.parts[1:])).exists()
    ):
        return own
    return path


def shipped_configs() -> list[Path]:
    """Return the package's files, as `configs/quickstart.yaml`."""
    folder = CONFIGS.resolve()
    return [Path(CONFIGS.name, file.relative_to(folder)) for file in sorted(folder.rglob("*.yaml"))]
