"""Jobs of a real SLURM train what one process trains, and come back from whatever ends them."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.cluster.cluster import ENDED, TWO_NODES, Cluster, same, until

pytestmark = pytest.mark.cluster
ROUNDS = int(os.environ.get("STN_ROUNDS", "1"))


def test_two_nodes_and_two_tasks_train_what_one_process_trains(
    cluster: Cluster, straight: dict[str, Tensor]
) -> None:
    for name in ("nodes", "tasks"):
        ends = [line for line in cluster.lines(f"{name}.jsonl") if line[0] == "epoch"]
        assert sorted(line[1:3] for line in ends) == [
            [rank, epoch] for rank in (0, 1) for epoch in range(3)
        ]
        assert len({line[3] for line in ends}) == 3, (
            "after each epoch both processes hold the same weights"
        )
    assert same(cluster.weights("tasks"), straight)
    # float64: one process adds in another order than two, and on some processors float32 makes
    # that a difference of 4e-3 in the end
    alone = cluster.weights("alone64")
    for key, value in cluster.weights("nodes64").items():
        torch.testing.assert_close(alone[key], value, rtol=0, atol=1e-9)


def test_names_that_a_shell_would_act_on_are_names(
    cluster: Cluster, straight: dict[str, Tensor]
) -> None:
    name, file = "ünï+x=2.b-c", "it's $(touch pwned) & `touch pwned`; # \"a.yaml"
    cluster.describe(name)
    (cluster.work / file).write_text("seed_everything: 0\n")
    job = cluster.submit(name, "--config", file)
    assert cluster.wait(job, *ENDED)["JobState"] == "COMPLETED", cluster.said()
    assert same(cluster.weights(name), cluster.weights("alone"))
    assert not (cluster.work / "pwned").exists()


def test_a_second_job_of_a_run_waits_for_the_first(cluster: Cluster) -> None:
    cluster.describe("twice", linger=1)
    first, second = (cluster.submit("twice") for _ in range(2))
    cluster.wait_for_step("twice", 1)
    assert (cluster.job(first)["JobState"], cluster.job(second)["Reason"]) == (
        "RUNNING",
        "Dependency",
    )
    cluster.call("scancel", second, first)
    cluster.wait(first, "CANCELLED")


def signalled(cluster: Cluster, job: str) -> None:
    cluster.call("scancel", "--signal=USR1", job)


def at_its_limit(cluster: Cluster, job: str) -> None:
    cluster.call("scontrol", "update", f"JobId={job}", "EndTime=now+25")
    until(lambda: cluster.job(job)["Restarts"] != "0", f"job {job} is put back; {cluster.said()}")
    cluster.call(
        "scontrol", "update", f"JobId={job}", "TimeLimit=30"
    )  # or it would be stopped after a minute again and again


def requeued(cluster: Cluster, job: str) -> None:
    cluster.call("scontrol", "requeue", job)


def preempted(cluster: Cluster, job: str) -> None:
    cluster.call(
        "sbatch",
        "--partition=high",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap",
        "srun sleep 3",
    )


def with_a_dead_node(cluster: Cluster, job: str) -> None:
    cluster.tool("kill-node", "n2")
    until(lambda: cluster.job(job)["Restarts"] != "0", f"job {job} is put back; {cluster.said()}")
    cluster.tool("start-node", "n2")


def with_a_node_that_starts_anew(cluster: Cluster, job: str) -> None:
    """Before SLURM has missed it."""
    cluster.tool("kill-node", "n2")
    cluster.tool("start-node", "n2")


LOSES_A_NODE = (with_a_dead_node, with_a_node_that_starts_anew)


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(
    "interrupted", [signalled, at_its_limit, requeued, preempted, *LOSES_A_NODE]
)
def test_an_interrupted_job_comes_back_by_itself_and_ends_in_the_same_weights(
    cluster: Cluster,
    straight: dict[str, Tensor],
    interrupted: Callable[[Cluster, str], None],
    round_: int,
) -> None:
    name, step = f"{interrupted.__name__}-{round_}", 5 + 8 * round_
    # nobody signals the processes of a job that loses a node
    cluster.describe(name, **({"pause": 0.2} if interrupted in LOSES_A_NODE else {"linger": step}))
    job = cluster.submit(name, *TWO_NODES)
    cluster.wait_for_step(name, step)
    interrupted(cluster, job)
    ended = cluster.wait(job, *ENDED)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), cluster.said()
    assert f"resuming runs/{name}" in cluster.said()
    assert same(cluster.weights(name), straight)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_cancelled_job_stays_away_and_the_same_command_goes_on_with_it(
    cluster: Cluster, straight: dict[str, Tensor], round_: int
) -> None:
    name, step = f"cancelled-{round_}", 5 + 8 * round_
    cluster.describe(name, linger=step)
    job = cluster.submit(name, *TWO_NODES)
    cluster.wait_for_step(name, step)
    cluster.call("scancel", job)
    assert cluster.wait(job, *ENDED)["JobState"] == "CANCELLED"
    again = cluster.submit(name, *TWO_NODES)
    assert cluster.wait(again, *ENDED)["JobState"] == "COMPLETED", cluster.said()
    assert cluster.job(job)["JobState"] == "CANCELLED"
    assert "resuming runs" in (cluster.work / "runs" / name / f"slurm-{again}.out").read_text()
    assert same(cluster.weights(name), straight)
