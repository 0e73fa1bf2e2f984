"""The notebooks run from top to bottom, and are kept small, with their outputs."""

import shutil
from pathlib import Path

import pytest

from tests.pages import REPOSITORY

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_small_and_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 300_000
    assert str(REPOSITORY) not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    copied = shutil.copy(path, tmp_path)
    notebook = nbformat.read(copied, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("EPOCHS = 10", "EPOCHS = 2").replace(
            "EPOCHS = 20", "EPOCHS = 2"
        )
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "runs", "signs.py"} | {
        f"sign-{n}.png" for n in range(3)
    } | {"__pycache__"}
