"""Write SLURM job scripts.

`srun` starts the processes. At a signal before the time limit they save a checkpoint and end; the
script then requeues the job, which resumes its run. Lightning's own requeueing is not used, because
it saves within a signal handler.
"""

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stn_lightning.launch.jobs import fit
from stn_lightning.runs.config_errors import read_mapping
from stn_lightning.runtime.exit_codes import PREEMPTED, PROCESS_LOST
from stn_lightning.runtime.provenance import program_name

SITE = Path("slurm.yaml")
SITE_KEYS = {"sbatch": dict, "srun": list, "before": list}
SHARED = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "wekafs"),
    *("glusterfs", "afs", "panfs", "pvfs2", "cifs", "9p", "smb3"),
}
"""Types of file systems that several machines can mount. Those in user space (`fuse.*`) may be
shared, too.
"""

SCRIPT = """\
#!/bin/bash
# Written by: {written_by}
# Send it again: sbatch {file}
{directives}
{before}{run}
code=$?
if [ $code -eq {preempted} ]; then  # stopped after saving: requeue, and resume
    scontrol requeue {job}
{lost}fi
exit $code
"""

SRUN = "srun --kill-on-bad-exit=0 --wait=60"
"""When a process ends, the others have a minute to end, too. If srun killed them at once, as by
default, their exit codes would be lost.
"""

NODE_LOST = """\
elif [ $code -ne 0 ] && ! srun --overlap --ntasks-per-node=1 true; then
    sleep 1200  # a node does not answer: SLURM requeues the job within minutes
"""

LOST = """\
elif [[ $code =~ ^({process_lost}|134|137)$ ]]; then
    scontrol requeue {job}  # a process was killed, or lost another
"""


@dataclass(frozen=True)
class Resources:
    """Resources of a job on each node.

    Args:
        gpus: number of GPUs, with one process each; 0 trains on CPUs.
        processes: number of processes if gpus is 0.
        cpus: number of cores for each process.
        time: time limit as H:M:S; a job that reaches it is saved, requeued and resumed.
        signal_before: seconds before the time limit at which the job saves.
        site: YAML file with settings of the cluster; slurm.yaml if it exists.
    """

    gpus: int = 1
    processes: int | None = None
    cpus: int | None = None
    time: str = "24:00:00"
    signal_before: int = 180
    site: Path | None = None

    @property
    def processes_per_node(self) -> int:
        return self.gpus or self.processes or 1

    def check(self, nodes: int = 1) -> None:
        """Check the resources for contradictions.

        Raises:
            ValueError: names the option.
        """
        for name, count, least in (("nodes", nodes, 1), ("gpus", self.gpus, 0)):
            if count < least:
                raise ValueError(f"--{name} {count}; give {least} or more")
        if _seconds(self.time) < 2 * self.signal_before:
            raise ValueError(
                f"--time {self.time} is less than twice --signal-before {self.signal_before} s, "
                "so the job would stop soon after its start; give more time"
            )
        if self.gpus and self.processes:
            raise ValueError(
                f"--gpus {self.gpus} starts one process for each GPU; "
                "leave --processes out, or give --gpus 0"
            )

    def trainer_options(self, nodes: int = 1) -> list[str]:
        """Return the options of `stn fit` for these resources."""
        trainer = {
            "num_nodes": nodes,
            "devices": self.processes_per_node,
            "accelerator": "gpu" if self.gpus else "cpu",
        }
        return [part for key, value in trainer.items() for part in (f"--trainer.{key}", str(value))]

    def check_settings(self, settings: dict[str, Any], nodes: int = 1) -> None:
        """Check that settings have the job's number of processes.

        Args:
            settings: resolved configuration, including the user's own options.
            nodes: number of nodes.

        Raises:
            ValueError: names the option that disagrees.
        """
        for key, wanted in {"devices": self.processes_per_node, "num_nodes": nodes}.items():
            if str(given := settings["trainer"][key]) != str(wanted):
                raise ValueError(
                    f"--trainer.{key} {given} contradicts the job, which has {wanted}; "
                    "leave it out, submit sets it"
                )


def read_site_config(given: Path | None) -> dict[str, Any]:
    """Read the cluster's settings, such as partition and account.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    if given is None and not SITE.exists():
        return {}
    file = given or SITE
    site = read_mapping(file)
    for key, value in site.items():
        if not isinstance(value, SITE_KEYS.get(key, type(None))):
            raise ValueError(
                f"{file}: {key}: give sbatch as a mapping of options, srun as a list of options, "
                "before as a list of shell lines"
            )
    return site


def check_shared_folder(shared: bool) -> None:
    """Check that other nodes can see the working directory.

    Raises:
        ValueError: names the file system.
    """
    kind = _file_system(Path.cwd())
    if not shared and kind not in SHARED and not kind.startswith("fuse"):
        raise ValueError(
            f"{Path.cwd()} is on {kind}, which other nodes do not see; "
            "use a shared file system, or give --shared (make slurm: SHARED=1) if this is one"
        )


def fit_command(arguments: list[str], site: dict[str, Any]) -> str:
    """Return the job script's command for a training."""
    return " ".join([SRUN, *map(shlex.quote, site.get("srun", [])), shlex.join(fit(arguments))])


def job_script(
    resources: Resources,
    site: dict[str, Any],
    file: Path,
    directives: dict[str, Any],
    run: str,
    nodes: int = 1,
) -> str:
    """Return a job script.

    Args:
        resources: resources on each node.
        site: settings of the cluster; its directives override all others.
        file: path of the script.
        directives: directives of this job; they override those for `resources`.
        run: lines of the script that train.
        nodes: number of nodes.

    Raises:
        ValueError: a directive contains a control character, which would end its line.
    """
    ours = {
        "nodes": nodes,
        "ntasks-per-node": resources.processes_per_node,
        **({"gres": f"gpu:{resources.gpus}"} if resources.gpus else {}),
        **({"cpus-per-task": resources.cpus} if resources.cpus else {}),
        "time": resources.time,
        "signal": f"USR1@{resources.signal_before}",
        "requeue": None,
        "open-mode": "append",
    }
    directives = {**ours, **directives, **site.get("sbatch", {})}
    before = [shlex.join(["cd", str(Path.cwd())]), *_environment(), *site.get("before", [])]
    if "cpus-per-task" in directives:  # since SLURM 22.05 srun does not take it from the job
        before.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")
    written_by = f"{program_name()} {shlex.join(sys.argv[1:])}"
    # the job id of an array would requeue all its elements
    array = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    job = array if "array" in directives else "$SLURM_JOB_ID"
    several = nodes > 1 or resources.processes_per_node > 1
    lost = LOST.format(process_lost=PROCESS_LOST, job=job) if several else ""
    return SCRIPT.format(
        written_by=_one_line(written_by),
        file=_one_line(shlex.quote(str(file))),
        directives="\n".join(_directive(key, value) for key, value in directives.items()),
        before="".join(f"{line}\n" for line in before),
        run=run,
        preempted=PREEMPTED,
        job=job,
        lost=(NODE_LOST if nodes > 1 else "") + lost,
    )


def _directive(key: str, value: Any) -> str:
    """Return an #SBATCH line, quoted if needed.

    Raises:
        ValueError: it contains a control character.
    """
    text = "" if value is None else str(value)
    if not (key + text).isprintable():
        raise ValueError(f"--{key} {text!r}: a control character would end the line; rename it")
    plain = re.fullmatch(r"[\w@%+=:,./\[\]-]*", text)
    quoted = text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{key}" + ("" if value is None else f"={quoted}")


def _one_line(text: str) -> str:
    """Replace control characters, which would end a comment."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _seconds(limit: str) -> int:
    """Convert a SLURM time limit to seconds.

    Formats: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: it has none of these formats.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise ValueError(
            f"--time {limit}: give hours:minutes:seconds, as 4:00:00, or days-hours, as 2-12"
        )
    days, *parts = (int(part or 0) for part in match.groups())
    hours_first = match[1] is not None or match[4] is not None
    hours, minutes, seconds = parts if hours_first else (0, *parts[:2])
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max(
        ((point, kind) for point, kind in mounts if folder.is_relative_to(point)),
        key=lambda mount: len(mount[0]),
    )[1]


def _environment() -> list[str]:
    """Return lines that export the environment variables of a job."""
    return [
        shlex.join(["export", f"{name}={Path(os.environ[name]).absolute()}"])
        for name in ("STN_DATA",)
        if name in os.environ
    ]
