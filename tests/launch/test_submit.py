"""The job script says what the training needs, and what cannot work is refused before anything is
submitted.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stn_lightning.cli import typed_command
from stn_lightning.launch import slurm as module
from stn_lightning.launch.submit import submit
from stn_lightning.runtime.exit_codes import PREEMPTED, PROCESS_LOST
from tests.stn_command import CONFIGS

Submit = Callable[..., tuple[int, str, str]]
QUICKSTART = ("--config", "configs/quickstart.yaml")


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Submit:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STN_DATA", raising=False)
    (tmp_path / "configs").symlink_to(CONFIGS)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = typed_command.call(submit, list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_script_asks_for_what_the_training_is_told_it_has(call: Submit, tmp_path: Path) -> None:
    size = ("--nodes", "2", "--gpus", "8", "--shared", "--time", "4:00:00")
    code, text, _ = call(*QUICKSTART, *size, "--dry-run", "--", "--trainer.max_epochs", "3")
    assert code == 0
    for line in (
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gres=gpu:8",
        "--time=4:00:00",
        "--requeue",
        "--open-mode=append",
        "--signal=USR1@180",
    ):
        assert f"#SBATCH {line}\n" in text
    assert f"#SBATCH --output={tmp_path}/runs/quickstart/slurm-%j.out\n" in text
    command = next(line for line in text.splitlines() if line.startswith("srun"))
    assert command.startswith("srun --kill-on-bad-exit=0 --wait=60 ")
    assert (
        "--trainer.num_nodes 2 --trainer.devices 8 --trainer.accelerator gpu --trainer.max_epochs 3"
        in command
    )
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"


def test_the_script_is_one_that_bash_can_read(
    call: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STN_DATA", "a folder")
    _, text, _ = call(*QUICKSTART, "--gpus", "0", "--processes", "2", "--dry-run", "--name", "its")
    (tmp_path / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", "job.sh"], check=True)
    assert f"export 'STN_DATA={tmp_path}/a folder'\n" in text
    assert "--trainer.devices 2 --trainer.accelerator cpu" in text
    assert "gres" not in text


def test_a_clusters_own_settings_stand_in_one_file(call: Submit) -> None:
    site = (
        "sbatch: {partition: gpu, account: project7}\nsrun: [--container-image=torch.sqsh]\n"
        "before: [module load cuda]\n"
    )
    Path("slurm.yaml").write_text(site)
    _, text, _ = call(*QUICKSTART, "--dry-run")
    assert "#SBATCH --partition=gpu\n#SBATCH --account=project7\n" in text
    assert (
        "module load cuda\nsrun --kill-on-bad-exit=0 --wait=60 --container-image=torch.sqsh "
        in text
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes", "0"], "--nodes 0; give 1 or more"),
        (["--gpus", "2", "--processes", "2"], "leave --processes out, or give --gpus 0"),
        (
            ["--gpus", "2", "--", "--trainer.devices", "4"],
            "--trainer.devices 4 contradicts the job, which has 2",
        ),
        (
            ["--", "--trainer.num_nodes=2"],
            "--trainer.num_nodes 2 contradicts the job, which has 1",
        ),
        (["--", "--trainer.max_epoch", "2"], "did you mean --trainer.max_epochs?"),
        (["--", "--model.init_args.backbone.init_args.filter", "8"], "did you mean num_filters?"),
        (["--time", "5:00"], "--time 5:00 is less than twice --signal-before 180 s"),
        (["--time", "soon"], "--time soon: give hours:minutes:seconds"),
        (["--config", "none.yaml"], "none.yaml: there is no such file"),
        (["--site", "none.yaml"], "none.yaml: there is no such file"),
        (["--site", "wrong.yaml"], "wrong.yaml: modules: give sbatch as a mapping"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    arguments: list[str], complaint: str, call: Submit
) -> None:
    Path("wrong.yaml").write_text("modules: [cuda]\n")
    code, _, err = call(*QUICKSTART, *arguments)
    assert code == 2
    assert complaint in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("5:30", 330),
        ("4:00:00", 14400),
        ("1-2", 93600),
        ("1-2:3", 93780),
        ("1-2:3:4", 93784),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(limit: str, seconds: int) -> None:
    assert module._seconds(limit) == seconds


@pytest.mark.parametrize(
    ("size", "asks", "comes_back"),
    [
        (("--nodes", "2", "--shared"), True, True),
        (("--gpus", "8"), False, True),
        (("--gpus", "0", "--processes", "2"), False, True),
        (("--gpus", "1"), False, False),
    ],
)
def test_a_job_of_several_processes_comes_back_and_one_of_several_nodes_asks_whether_one_is_gone(
    size: tuple[str, ...], asks: bool, comes_back: bool, call: Submit, tmp_path: Path
) -> None:
    _, text, _ = call(*QUICKSTART, *size, "--dry-run")
    assert f"[ $code -eq {PREEMPTED} ]" in text
    assert ("srun --overlap --ntasks-per-node=1 true" in text) is asks
    requeued = [PREEMPTED, *([PROCESS_LOST, 134, 137] if comes_back else [])]
    for name, body in {"srun": "exit $CODE", "scontrol": 'echo "$@" >> requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n[[ $* == *overlap* ]] || {body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    known = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    for code in (0, 1, PREEMPTED, PROCESS_LOST, 134, 137):
        (tmp_path / "requeued").unlink(missing_ok=True)
        done = subprocess.run(["bash", "job.sh"], env=known | {"CODE": str(code)})
        assert done.returncode == code
        assert (tmp_path / "requeued").exists() is (code in requeued), code
    (tmp_path / "requeued").unlink(missing_ok=True)
    known |= {"CODE": "137", "SLURM_RESTART_COUNT": "9"}  # nine times at the time limit
    subprocess.run(["bash", "job.sh"], env=known)
    assert (tmp_path / "requeued").exists() is comes_back


def test_srun_gets_the_cores_of_the_job(call: Submit) -> None:
    shares = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\n"
    _, text, _ = call(*QUICKSTART, "--cpus", "6", "--dry-run")
    assert "#SBATCH --cpus-per-task=6\n" in text
    assert text.index(shares) < text.index("\nsrun ")
    assert shares not in call(*QUICKSTART, "--dry-run")[1]


def test_a_second_job_of_a_run_waits_for_the_first_and_the_site_has_the_last_word(
    call: Submit,
) -> None:
    _, text, _ = call(*QUICKSTART, "--dry-run")
    assert "#SBATCH --dependency=singleton\n" in text
    Path("slurm.yaml").write_text("sbatch: {dependency: 'afterok:5', time: '0:30:00'}\n")
    _, text, _ = call(*QUICKSTART, "--dry-run")
    assert "#SBATCH --dependency=afterok:5\n" in text
    assert "#SBATCH --time=0:30:00\n" in text
    assert "singleton" not in text


def test_several_nodes_need_a_file_system_that_they_share(
    call: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_file_system", lambda _: "ext4")
    monkeypatch.setenv("PATH", "")  # no sbatch
    code, _, err = call(*QUICKSTART, "--nodes", "2")
    assert code == 2
    assert "is on ext4, which other nodes do not see" in err
    assert call(*QUICKSTART, "--nodes", "2", "--dry-run")[0] == 0, "a dry run needs no cluster"
    assert "there is no sbatch" in call(*QUICKSTART, "--nodes", "2", "--shared")[2]
    monkeypatch.setattr(module, "_file_system", lambda _: "nfs4")
    assert "there is no sbatch" in call(*QUICKSTART, "--nodes", "2")[2]


@pytest.mark.parametrize("name", ["a b", "a\nb", "..", ".", "-a", "a/b", "", "a;b", "$(a)", "a'b"])
def test_a_name_is_one_plain_word(name: str, call: Submit) -> None:
    code, out, err = call(*QUICKSTART, f"--name={name}", "--dry-run")
    assert (code, out) == (2, "")
    assert "give up to 200 letters" in err


def test_no_character_of_a_path_becomes_shell_or_ends_a_directive(
    call: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'it\'s; touch "$HOME" $(touch harm)'
    folder.mkdir()
    (folder / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(folder)
    code, text, _ = call(*QUICKSTART, "--dry-run")
    assert code == 0
    output = str(folder).replace('"', '\\"')
    assert f'#SBATCH --output="{output}/runs/quickstart/slurm-%j.out"\n' in text
    (tmp_path / "job.sh").write_text(text.replace("srun ", "echo "))
    done = subprocess.run(["bash", "../job.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["configs"]
    monkeypatch.chdir(tmp_path)
    harmful = tmp_path / "a\nsrun rm"
    harmful.mkdir()
    (harmful / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(harmful)
    code, text, err = call(*QUICKSTART, "--dry-run")
    assert (code, text) == (2, "")
    assert "a control character would end the line" in err


def sbatch(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name into the path."""
    file = folder / "sbatch"
    file.write_text(f"#!/bin/sh\n{lines}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_job_that_the_cluster_refuses_is_one_line_and_leaves_the_script_of_the_waiting_one(
    call: Submit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sbatch(tmp_path, "echo 4711", monkeypatch)
    assert call(*QUICKSTART)[0] == 0
    waiting = Path("runs/quickstart/job.sh").read_text()
    sbatch(
        tmp_path,
        "echo 'sbatch: error: invalid partition' >&2\n"
        "echo 'sbatch: error: Batch job submission failed' >&2\nexit 1",
        monkeypatch,
    )
    code, _, err = call(*QUICKSTART, "--time", "1:00:00")
    assert code == 2
    assert err == (
        "stn submit: sbatch refused the job: invalid partition; Batch job submission failed\n"
    )
    assert Path("runs/quickstart/job.sh").read_text() == waiting
    assert waiting.endswith("# sent as job 4711\n")


def test_the_script_that_was_sent_is_the_one_that_is_written_with_its_number(
    call: Submit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sbatch(tmp_path, 'cat > received; echo "4711;cluster"', monkeypatch)
    _, out, _ = call(*QUICKSTART)
    assert out.startswith("job 4711: ")
    file = tmp_path / "runs/quickstart/job.sh"
    assert file.read_text() == Path("received").read_text() + "# sent as job 4711\n"
    assert f"\n# Send it again: sbatch {file}\n" in file.read_text()


def test_a_machine_without_slurm_is_told_so(
    call: Submit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = call(*QUICKSTART)
    assert code == 2
    assert err == (
        "stn submit: there is no sbatch here, so this is not a SLURM cluster; "
        "submit on one, or print the script by --dry-run\n"
    )
    assert not Path("runs/quickstart/job.sh").exists()
