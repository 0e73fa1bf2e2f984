"""Job scripts for SLURM that one can read, and their submission.

A script asks for what the training needs and nothing clever: `srun` starts the processes, a signal
before the time limit has them save, and a job whose training was stopped after saving is put
back into the queue, where it goes on with its own run. Lightning's requeueing, which saves inside a
signal handler, is left out.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stn_lightning.runs.config_errors import check_yaml
from stn_lightning.runtime.exit_codes import PREEMPTED, PROCESS_LOST
from stn_lightning.runtime.provenance import program_name

SITE = Path("slurm.yaml")
SITE_KEYS = {"sbatch": dict, "srun": list, "before": list}
SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "wekafs"} | {
    "glusterfs",
    "afs",
    "panfs",
    "pvfs2",
    "cifs",
    "9p",
    "smb3",
}
"""File systems that several machines can mount; anything that runs in user space (`fuse.*`) may be
one too.
"""

SCRIPT = """\
#!/bin/bash
# Written by: {written_by}
# Send it again: sbatch {file}
{directives}
{before}{run}
code=$?
if [ $code -eq {preempted} ]; then  # stopped and saved: back into the queue, and on from there
    scontrol requeue {job}
{lost}fi
exit $code
"""
SENT = "# sent as job "
"""The last line of a script that has been, with its number."""
SRUN = "srun --kill-on-bad-exit=0 --wait=60"
"""When a process ends the others have a minute: those that are stopped together do not end in the
same instant, and a killed one
would hide the exit code of the others."""
LOST = f"""\
elif [ $code -ne 0 ] && ! srun --overlap --ntasks-per-node=1 true; then  # a node does not answer, which SLURM finds out
    sleep 1200  # in five minutes or so, and puts the job back
elif [ $code -eq {PROCESS_LOST} ] || [[ $code =~ ^(134|137)$ && ${{SLURM_RESTART_COUNT:-0}} -lt 3 ]]; then
    scontrol requeue $SLURM_JOB_ID  # one has lost another, or was killed: with a node that is back before SLURM has missed it
"""


@dataclass(frozen=True)
class Resources:
    """What a job gets on each node.

    Args:
        gpus: GPUs, with a process each; 0 trains on processors.
        processes: processes, where gpus is 0.
        cpus: cores of each process.
        time: limit as H:M:S; a job that reaches it saves, waits in the queue and goes on.
        signal_before: seconds before the limit at which it saves.
        site: the cluster's own settings; slurm.yaml where there is one.
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
        """Refuse what would train nothing, or something else than was asked for.

        Raises:
            ValueError: says what disagrees.
        """
        for name, count, least in (("nodes", nodes, 1), ("gpus", self.gpus, 0)):
            if count < least:
                raise ValueError(f"--{name} {count}; give {least} or more")
        if _seconds(self.time) < 2 * self.signal_before:
            raise ValueError(
                f"--time {self.time} is hardly begun when it saves, "
                f"--signal-before {self.signal_before} s; give more time"
            )
        if self.gpus and self.processes:
            raise ValueError(
                f"--gpus {self.gpus} has a process for each GPU; "
                "leave --processes out, or give --gpus 0"
            )

    def trainer_options(self, nodes: int = 1) -> list[str]:
        """Return the options of `stn fit` that fit the job."""
        trainer = {
            "num_nodes": nodes,
            "devices": self.processes_per_node,
            "accelerator": "gpu" if self.gpus else "cpu",
        }
        return [part for key, value in trainer.items() for part in (f"--trainer.{key}", str(value))]

    def check_settings(self, settings: dict[str, Any], nodes: int = 1) -> None:
        """Refuse a configuration for another number of processes than the job has.

        Args:
            settings: resolved configuration, to which the user's own options came last.

        Raises:
            ValueError: names the option that disagrees.
        """
        for key, wanted in {"devices": self.processes_per_node, "num_nodes": nodes}.items():
            if str(given := settings["trainer"][key]) != str(wanted):
                raise ValueError(
                    f"--trainer.{key} {given} disagrees with the job, which has {wanted}; "
                    "leave it out, submit sets it"
                )


def read_site_config(given: Path | None) -> dict[str, Any]:
    """Partition, account, modules, container: what is the cluster's and not the experiment's.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    if given is None and not SITE.exists():
        return {}
    file = given or SITE
    check_yaml(file)
    site = yaml.safe_load(file.read_text()) or {}
    for key, value in site.items():
        if not isinstance(value, SITE_KEYS.get(key, type(None))):
            raise ValueError(
                f"{file}: {key}: give sbatch as a mapping of options, srun as a list of options, before as a list of shell lines"
            )
    return site


def check_shared_folder(shared: bool) -> None:
    """Refuse a folder that the other nodes of a job do not see.

    Raises:
        ValueError: names its file system.
    """
    kind = _file_system(Path.cwd())
    if not shared and kind not in SHARED and not kind.startswith("fuse"):
        raise ValueError(
            f"{Path.cwd()} is on {kind}, which other nodes do not see; "
            "work on a shared file system, or give --shared (make slurm: SHARED=1) if it is one"
        )


def fit_command(arguments: list[str], site: dict[str, Any]) -> str:
    """Return the line of a job script that trains, with each word quoted."""
    stn = [sys.executable, "-m", "stn_lightning", "fit", *arguments]
    return " ".join([SRUN, *map(shlex.quote, site.get("srun", [])), shlex.join(stn)])


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
        resources: what the job gets.
        site: the cluster's own settings, whose directives go over all others.
        file: where the script will lie.
        directives: of this job; they go over those that follow from `resources`.
        run: the lines that train.
        nodes: number of nodes.

    Raises:
        ValueError: where a directive holds a control character, which would end its line.
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
    written_by = f"{program_name()} {shlex.join(sys.argv[1:])}"
    return SCRIPT.format(
        written_by=_one_line(written_by),
        file=_one_line(shlex.quote(str(file))),
        directives="\n".join(_directive(key, value) for key, value in directives.items()),
        before="".join(f"{line}\n" for line in before),
        run=run,
        preempted=PREEMPTED,
        # an array's number is also that of one of its elements, and would put back all
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
        if "array" in directives
        else "$SLURM_JOB_ID",
        lost=LOST.replace("{process_lost}", str(PROCESS_LOST)) if nodes > 1 else "",
    )


def _directive(key: str, value: Any) -> str:
    """Return a line for sbatch, which splits it at spaces unless they are quoted.

    Raises:
        ValueError: at a control character.
    """
    text = "" if value is None else str(value)
    if not (key + text).isprintable():
        raise ValueError(f"--{key} {text!r}: a control character would end the line; rename it")
    plain = re.fullmatch(r"[\w@%+=:,./\[\]-]*", text)
    quoted = text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{key}" + ("" if value is None else f"={quoted}")


def _one_line(text: str) -> str:
    """Return a comment's text without what would end its line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def submit_script(file: Path, text: str) -> str:
    """Write a job script and submit it; the job's number.

    Raises:
        ValueError: says why it was not submitted.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    try:
        sent = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError(
            f"there is no sbatch here, so this is no machine of a SLURM cluster; {file} is written"
        ) from None
    if sent.returncode:
        reasons = [
            line.removeprefix("sbatch: ").removeprefix("error: ")
            for line in sent.stderr.strip().splitlines()
        ]
        raise ValueError(f"the cluster does not take it: {'; '.join(reasons)} ({file} is written)")
    number = sent.stdout.strip().partition(";")[0]
    file.write_text(f"{text}{SENT}{number}\n")
    return number


def _seconds(limit: str) -> int:
    """Of SLURM's time limits: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: where it is none.
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
    """The kind of file system that a folder lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max(
        ((point, kind) for point, kind in mounts if folder.is_relative_to(point)),
        key=lambda mount: len(mount[0]),
    )[1]


def _environment() -> list[str]:
    """What a job that is sent again from elsewhere would miss."""
    return [
        shlex.join(["export", f"{name}={Path(os.environ[name]).absolute()}"])
        for name in ("STN_DATA",)
        if name in os.environ
    ]
