"""The readme's commands, in its order, on a miniature of MNIST and for a moment each."""

from pathlib import Path

import pytest
from PIL import Image

from stn_lightning.launch import slurm
from tests.mnist_miniature import write_mnist
from tests.pages import REPOSITORY, commands, do, words
from tests.stn_command import CONFIGS

README = REPOSITORY / "README.md"
MOMENT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.log_every_n_steps=1",
]
SHORTER = {
    "fit": [*MOMENT, "--trainer.accelerator=cpu"],
    "table": ["--dry-run", "--rows", "CNN", "--columns", "RTS"],
    "submit": ["--dry-run"],
    "export": ["--formats", "safetensors"],
}
LEFT_OUT = {
    "make test": "it is this",
    "demo": "goes on until it is stopped; tests/analysis/test_demo.py",
    "tune": "takes 300 steps; tests/cli/test_tune.py",
    "sweep": "trains twenty times; tests/launch/test_sweep.py",
}


@pytest.mark.slow
def test_every_command_of_the_readme_does_what_it_is_there_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.setattr(slurm, "_file_system", lambda _: "nfs")
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "scans").mkdir()
    Image.new("L", (30, 30)).save(tmp_path / "scans/a.png")
    for n in range(60):
        file = tmp_path / f"images/{'ab'[n % 2]}/{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 90).save(file)
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    other = "make train CONFIG=configs/quickstart_cnn.yaml"
    assert f"`{other}`" in README.read_text()
    done = []
    for command in [other, *commands(README)]:
        if command in LEFT_OUT or (line := words(command))[1] in LEFT_OUT:
            continue
        assert do([*line, *SHORTER.get(line[1], [])]) == 0, command
        done.append(line[1])
    said = capsys.readouterr().out
    assert done[:2] == ["fit", "fit"]
    assert {
        "fit",
        "table",
        "test",
        "predict",
        "report",
        "export",
        "submit",
        "status",
    } <= set(done)
    assert "crops runs/quickstart/panel.png" in said
    assert {"answers.csv", "drawn"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "runs/mine/results.json").exists()
    made = {path.name for path in (tmp_path / "runs/quickstart").iterdir()}
    page = "report-quickstart-quickstart_cnn.html"
    assert {page, "export", "results.json", "config.yaml", "panel.png"} <= made
