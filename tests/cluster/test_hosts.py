"""Two hosts under torchrun: a lost process, a cut cable."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from tests.cluster.cluster import PATIENCE, STN, TOOL, Cluster, same, until

pytestmark = pytest.mark.cluster
HOSTS = ("n1", "n2")
MINUTES = 0.5
"""Until a collective that not all join is an error; a user has five."""
LOST = 60
"""Seconds until the launcher of a host that is cut off gives up; a user has 360."""


@contextmanager
def torchrun(cluster: Cluster, name: str, restarts: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The launchers of the two hosts, as docs/clusters.md has them; ended in the end."""
    launchers = []
    for host in HOSTS:
        launch = [
            *STN[:2],
            "stn_lightning.runtime.torchrun",
            "--nnodes=2",
            "--nproc-per-node=1",
            f"--max-restarts={restarts}",
            f"--rdzv-id={name}",
        ]
        meet = [
            "--rdzv-endpoint=n1:29400",
            f"--rdzv-conf=is_host={int(host == 'n1')},join_timeout=120,lost_timeout={LOST}",
        ]
        fit = [
            "fit",
            "--config",
            "configs/quickstart.yaml",
            "--config",
            f"{name}.yaml",
            "--name",
            name,
        ]
        trainer = [
            "--trainer.accelerator",
            "cpu",
            "--trainer.num_nodes",
            "2",
            "--trainer.devices",
            "1",
        ]
        strategy = [
            "--trainer.strategy",
            "stn_lightning.runtime.distributed.DDP",
            "--trainer.strategy.minutes",
            str(MINUTES),
        ]
        with (cluster.work / f"{name}.{host}.log").open("ab") as log:
            command = [
                str(TOOL),
                "sh",
                str(cluster.state),
                host,
                *launch,
                *meet,
                "-m",
                "stn_lightning",
                *fit,
                *trainer,
                *strategy,
            ]
            launchers.append(
                subprocess.Popen(
                    command, cwd=cluster.work, env=cluster.environment, stdout=log, stderr=log
                )
            )
    try:
        yield launchers
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.wait()


def trainings(cluster: Cluster, host: str) -> list[int]:
    """Processes of a host that train."""
    return [int(number) for number in cluster.tool("pids", host, "-u -m stn_lightning").split()]


def log(cluster: Cluster, name: str, host: str) -> str:
    return (cluster.work / f"{name}.{host}.log").read_text()


def test_torchrun_starts_both_hosts_again_when_a_process_of_one_is_killed(
    cluster: Cluster, straight: dict[str, Tensor]
) -> None:
    cluster.describe("killed", pause=0.2)
    with torchrun(cluster, "killed", restarts=3) as launchers:
        cluster.wait_for_step("killed", 10)
        (process,) = trainings(cluster, "n2")
        os.kill(process, signal.SIGKILL)
        assert [launcher.wait(PATIENCE) for launcher in launchers] == [0, 0], [
            log(cluster, "killed", host) for host in HOSTS
        ]
    assert "resuming runs/killed" in log(cluster, "killed", "n1")
    assert same(cluster.weights("killed"), straight)


def test_when_the_cable_is_cut_both_hosts_say_so_within_the_time_out_and_go_on_when_started_again(
    cluster: Cluster, straight: dict[str, Tensor]
) -> None:
    cluster.describe("cut", pause=0.2)
    with torchrun(cluster, "cut", restarts=0) as launchers:
        cluster.wait_for_step("cut", 10)
        cluster.tool("link", "n2", "down")
        cut = time.monotonic()
        try:
            until(
                lambda: not any(trainings(cluster, host) for host in HOSTS),
                "both end",
                MINUTES * 60 + 30,
            )
            assert time.monotonic() - cut > MINUTES * 60 / 2, "they have waited"
            until(
                lambda: all(launcher.poll() for launcher in launchers),
                "their launchers end",
                cut + LOST + 30 - time.monotonic(),
            )
        finally:
            cluster.tool("link", "n2", "up")
    for rank, host in enumerate(HOSTS):
        assert (
            f"stn fit: process {rank} of 2, on {host}, has lost another or the way to it (Timed out"
            in log(cluster, "cut", host)
        )
    assert "torchrun: n2 does not find the other hosts any more" in log(cluster, "cut", "n2")
    with torchrun(cluster, "cut", restarts=0) as launchers:
        assert [launcher.wait(PATIENCE) for launcher in launchers] == [0, 0], [
            log(cluster, "cut", host) for host in HOSTS
        ]
    assert "resuming runs/cut" in log(cluster, "cut", "n1")
    assert same(cluster.weights("cut"), straight)
