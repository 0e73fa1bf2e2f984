import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from tests.cluster.cluster import ENDED, ROOT, TOOL, TWO_NODES, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, installed where that is possible, and gone in the end."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(
            "a SLURM of one's own needs Debian and root, for packages and network namespaces"
        )
    installed = subprocess.run([TOOL, "install"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"SLURM's packages cannot be installed: {installed.stderr.strip()[-200:]}")
    folder = Path(tempfile.mkdtemp(prefix="stn-cluster-", dir="/tmp"))  # sockets' names are short
    folder.chmod(0o755)  # munge insists
    (folder / "work").mkdir()
    (folder / "work" / "configs").symlink_to(ROOT / "configs")
    cluster = Cluster(folder / "slurm", folder / "work")
    try:
        cluster.tool("start", "-n", "2")
        yield cluster
    finally:
        cluster.tool("stop", "--purge")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def straight(cluster: Cluster) -> dict[str, Tensor]:
    """Weights of three jobs that nothing has interrupted, side by side in one directory: two nodes,
    two tasks of one node, one process. Two more train in float64.
    """
    sizes = {"nodes": TWO_NODES, "tasks": ("--processes", "2"), "alone": ()}
    sizes |= {"nodes64": TWO_NODES, "alone64": ()}
    jobs = {}
    for name, size in sizes.items():
        cluster.describe(name, precision="64-true" if name.endswith("64") else "32-true")
        jobs[name] = cluster.submit(name, *size)
    for name, job in jobs.items():
        assert cluster.wait(job, *ENDED)["JobState"] == "COMPLETED", f"{name}: {cluster.said()}"
    assert sorted(cluster.lines("nodes.places")) == [
        [jobs["nodes"], rank, 2, rank, 0, f"n{rank + 1}", "n1"] for rank in (0, 1)
    ]
    (first, second) = sorted(cluster.lines("tasks.places"))
    assert [first[:5], second[:5]] == [[jobs["tasks"], rank, 2, 0, rank] for rank in (0, 1)]
    assert first[5] == second[5] == first[6] == second[6]
    ((_, *place),) = cluster.lines("alone.places")
    assert place[:4] == [0, 1, 0, 0]
    return cluster.weights("nodes")
