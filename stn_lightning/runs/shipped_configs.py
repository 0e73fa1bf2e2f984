"""Find configuration files that come with the package.

So `--config configs/quickstart.yaml` works in any folder.
"""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
"""In the repository a symbolic link to `configs/` at the top."""


def resolve_config(path: Path) -> Path:
    """Return the path, else that of the shipped file.

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
    """Return the names of the package's files, as `configs/quickstart.yaml`."""
    folder = CONFIGS.resolve()
    return [Path(CONFIGS.name, file.relative_to(folder)) for file in sorted(folder.rglob("*.yaml"))]
