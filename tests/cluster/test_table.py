"""A table as a job array, interrupted often, comes to the numbers of one machine."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import STN, Cluster, until

pytestmark = pytest.mark.cluster
TABLE = {
    "title": "Digits",
    "metric": "test/error",
    "rows": {"ST": "configs/quickstart.yaml", "CNN": "configs/quickstart_cnn.yaml"},
    "columns": {"here": "short.yaml"},
}
LIMITS = {"limit_train_batches": 6, "limit_val_batches": 1, "limit_test_batches": 4}
ARGUMENTS = ("table", "digits.yaml", "--seeds", "0", "1", "2")


def prepare(folder: Path) -> Path:
    """The files of a table of 6 runs."""
    folder.mkdir(exist_ok=True)
    slowly = {"class_path": "tests.reliability.training.Slowly", "init_args": {"seconds": 0.3}}
    (folder / "digits.yaml").write_text(yaml.safe_dump(TABLE, sort_keys=False))
    (folder / "short.yaml").write_text(
        yaml.safe_dump(
            {"trainer": {"accelerator": "cpu", "max_epochs": 3, **LIMITS, "callbacks": [slowly]}}
        )
    )
    return folder


def outcome(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The table's rows but for the time that they took, and the metrics of its runs."""
    rows = [
        line.rpartition("|")[0].rpartition("|")[0]
        for line in (folder / "digits.md").read_text().splitlines()
        if line[:1] == "|"
    ]
    records = [json.loads(line) for line in (folder / "digits.jsonl").read_text().splitlines()]
    return rows, {record["name"]: record["metrics"] for record in records}


def test_a_table_goes_through_a_job_array_is_interrupted_twice_and_is_the_same_as_a_local_one(
    cluster: Cluster,
) -> None:
    prepare(cluster.work)
    said = cluster.call(
        *STN, *ARGUMENTS, "--slurm", "--gpus", "0", "--time", "30:00", "--jobs", "3"
    )
    match = re.match(r"job (\d+), 6 runs: ", said)
    assert match, said
    array = match[1]

    def output(element: int) -> str:
        file = cluster.work / f"runs/tables/digits-{array}_{element}.out"
        return file.read_text() if file.exists() else ""

    def element(n: int) -> dict[str, str]:
        return cluster.job(f"{array}_{n}")

    until(lambda: "epoch   1/3" in output(0), f"the first element trains; {cluster.said()}")
    waiting = re.findall(rf"submitted +{array}_(\d) +waits: ", cluster.call(*STN, "status"))
    assert {"3", "4", "5"} <= set(waiting), "at most three at once"
    # the element's step: to the element, scancel of 22.05 sends it again and again for as long as
    # others wait in the queue
    cluster.call("scancel", "--signal=USR1", f"{array}_0.0")
    until(lambda: element(0)["Restarts"] == "1", f"the first element is put back; {output(0)}")
    assert "stopped by SIGUSR1" in output(0)
    until(lambda: "epoch   1/3" in output(4), f"a later element trains; {cluster.said()}")
    cluster.call("scontrol", "requeue", f"{array}_4")
    until(
        lambda: all(element(n)["JobState"] in ("COMPLETED", "FAILED") for n in range(6)),
        f"all end; {cluster.said()}",
    )
    assert [element(n)["JobState"] for n in range(6)] == ["COMPLETED"] * 6, cluster.said()
    assert [element(n)["Restarts"] for n in range(6)] == ["1", "0", "0", "0", "1", "0"]
    assert "resuming runs" in output(0)
    assert "resuming runs" in output(4)
    cluster.call(*STN, *ARGUMENTS, "--show")
    assert "0 runs to do" in cluster.call(*STN, *ARGUMENTS, "--slurm", "--gpus", "0")

    local = prepare(cluster.work / "local")
    (local / "configs").symlink_to(cluster.work / "configs")
    done = subprocess.run(
        [*STN, *ARGUMENTS, "--jobs", "2"],
        cwd=local,
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert outcome(cluster.work / "runs" / "tables") == outcome(local / "runs" / "tables")
