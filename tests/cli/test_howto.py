"""The how-to pages, followed to the letter: their files are written, their commands run, and
nothing else is touched.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
import yaml

from stn_lightning.launch import slurm
from stn_lightning.runs.record import RunRecord
from tests.pages import REPOSITORY, commands, do, words, write_files
from tests.stn_command import CONFIGS

HOWTO = REPOSITORY / "docs/howto"
MOMENT = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.log_every_n_steps=1",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader starts: the repository's configurations, and nothing of their own."""
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def follow(
    page: Path, left_out: Container[str] = (), shortened: tuple[str, ...] = MOMENT
) -> list[str]:
    """Run a page's commands, trainings with options that shorten them; what was run."""
    lines = [line for command in commands(page) if (line := words(command))[1] not in left_out]
    for line in lines:
        assert do([*line, *shortened] if line[:2] == ["stn", "fit"] else line) == 0, " ".join(line)
    return [line[1] for line in lines]


PAGES = {
    "family": (
        ["box.py", "box.yaml", "test_box.py"],
        ["model", "transformer", "family", "box.Box"],
    ),
    "distortion": (
        ["stretched.py", "stretched.yaml"],
        ["data", "distortion", "stretched.Stretched"],
    ),
    "backbone": (["residual.py", "residual.yaml"], ["model", "backbone", "residual.Residual"]),
    "data_set": (
        ["arrays.py", "arrays.yaml", "make_shapes.py"],
        ["data", "source", "arrays.Arrays"],
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_something_new_is_a_file_and_a_yaml_and_nothing_else_is_touched(
    name: str, folder: Path
) -> None:
    files, path = PAGES[name]
    assert write_files(HOWTO / f"{name}.md", folder) == files
    assert "fit" in follow(HOWTO / f"{name}.md")
    made = {path.name for path in folder.iterdir()} - {
        "configs",
        "runs",
        "__pycache__",
        *files,
    }
    assert made <= {"shapes.npz", "scans"}
    *keys, wanted = path
    for run in (folder / "runs").iterdir():
        found = yaml.safe_load((run / "config.yaml").read_text())
        for key in keys:
            found = found.get("init_args", found)[key]
        assert (found if isinstance(found, str) else found["class_path"]) == wanted


def test_the_tests_of_the_family_pass_and_fail_where_it_is_wrong(folder: Path) -> None:
    write_files(HOWTO / "family.md", folder)
    module = importlib.import_module("test_box")
    tests = [getattr(module, name) for name in dir(module) if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()
    family = module.Box.grid
    module.Box.grid = lambda self, theta, size: family(self, theta.roll(1, 1) + 0.1, size)
    for test in (
        module.test_the_identity_returns_the_image,
        module.test_half_the_width_on_the_right_is_seen_twice_as_wide,
    ):
        with pytest.raises(AssertionError):
            test()


@pytest.mark.slow
def test_fine_tuning_leads_from_the_zoo_to_ones_own_classes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = HOWTO / "fine_tuning.md"
    assert write_files(page, folder) == ["signs.py", "signs.yaml"]
    runs = follow(page, shortened=())
    assert runs == ["fit", "fit", "fit", "signs.py", "predict", "fit"]
    said = capsys.readouterr().out
    (promised,) = re.findall(r"^    (weights of zoo:.*)$", page.read_text(), re.MULTILINE)
    assert said.count(promised) == 2
    error = {
        name: RunRecord.read(folder / f"runs/{name}/results.json").metrics["test/error"]
        for name in ("quickstart-signs", "frozen", "from_nothing")
    }
    assert error["quickstart-signs"] < min(error["frozen"], error["from_nothing"], 3)
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        "configs",
        "runs",
        "scans",
        "signs.py",
        "signs.yaml",
        "answers.csv",
    }
    answers = (folder / "answers.csv").read_text().splitlines()[1:]
    assert len(answers) == 30
    right = [line.split(",")[1] == Path(line.split(",")[0]).stem.split("-")[0] for line in answers]
    assert sum(right) >= 28


def test_one_file_tells_the_job_script_what_is_the_clusters(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "_file_system", lambda _: "nfs")
    assert write_files(HOWTO / "cluster.md", folder) == ["slurm.yaml"]
    follow(HOWTO / "cluster.md")
    script = capsys.readouterr().out
    for part in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=project7",
        "#SBATCH --nodes=2",
        "module load cuda",
        "--container-image=torch.sqsh",
    ):
        assert part in script


LEFT_OUT = {
    "demo": "goes on until it is stopped; tests/analysis/test_demo.py uses it",
    "export": "takes long; tests/analysis/test_export.py has it",
}


def test_the_tutorial_leads_from_nothing_to_answers_about_ones_own_images(folder: Path) -> None:
    page = REPOSITORY / "docs/tutorial.md"
    assert write_files(page, folder) == ["make_images.py"]
    maker = folder / "make_images.py"
    maker.write_text(maker.read_text().replace("range(600)", "range(60)"))
    assert follow(page, LEFT_OUT) == [
        "fit",
        "report",
        "make_images.py",
        "fit",
        "predict",
        "report",
        "fit",
    ]
    answers = (folder / "answers.csv").read_text().splitlines()
    assert len(answers) == 21
    assert answers[0].startswith("file,label,probability,0.theta.00")
    assert len(list((folder / "drawn").iterdir())) == 20


def test_what_lies_in_the_present_folder_can_be_named_but_hides_nothing(tmp_path: Path) -> None:
    for name in ("box", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"where = 'the folder of {name}.py'\n")
    code = (
        f"import sys; sys.path.append({str(REPOSITORY)!r}); sys.argv = ['stn', '--version'];"
        "from stn_lightning.__main__ import main; main();"
        "import box, yaml; print(box.where, hasattr(yaml, 'where'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.splitlines()[-1] == "the folder of box.py False"
