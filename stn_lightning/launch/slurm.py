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
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from stn_lightning.runs.config_errors import check_yaml
from stn_lightning.runs.folder import nest_options
from stn_lightning.runs.options import Options
from stn_lightning.runs.shipped_configs import resolve_config
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


def add_resources(options: Options, *, nodes: bool) -> None:
    """The options that say what a job gets; `nodes` where it may be several."""
    group = options.add_argument_group("the job")
    if nodes:
        group.add_argument("--nodes", type=int, default=1, metavar="N")
        group.add_argument(
            "--shared",
            action="store_true",
            help="this folder is the same on all nodes, whatever it looks like",
        )
    else:
        options.set_defaults(nodes=1, shared=True)
    group.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="of each node, a process each; 0 for processors",
    )
    group.add_argument("--processes", type=int, metavar="N", help="of each node, where --gpus is 0")
    group.add_argument("--cpus", type=int, metavar="N", help="cores of each process")
    group.add_argument(
        "--time",
        default="24:00:00",
        metavar="H:M:S",
        help="limit; a job that reaches it saves, waits in the queue again, and goes on",
    )
    group.add_argument(
        "--signal-before",
        type=int,
        default=180,
        metavar="S",
        help="seconds before the limit at which it saves",
    )
    group.add_argument(
        "--site", type=Path, help=f"the cluster's own settings; {SITE} where there is one"
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


def check_options(chosen: Namespace, configs: Iterable[Path], passed_on: list[str]) -> None:
    """What would train something else than was asked for, or nothing.

    Raises:
        ValueError: says what disagrees.
    """
    for name, least in (("nodes", 1), ("gpus", 0)):
        if getattr(chosen, name) < least:
            raise ValueError(f"--{name} {getattr(chosen, name)}; give {least} or more")
    if _seconds(chosen.time) < 2 * chosen.signal_before:
        raise ValueError(
            f"--time {chosen.time} is hardly begun when it saves, --signal-before {chosen.signal_before} s; give more time"
        )
    if chosen.gpus and chosen.processes:
        raise ValueError(
            f"--gpus {chosen.gpus} has a process for each GPU; leave --processes out, or give --gpus 0"
        )
    for path in configs:
        check_yaml(resolve_config(path))
    for content in nest_options(passed_on):  # these come last and would win
        for key, wanted in {"devices": _processes(chosen), "num_nodes": chosen.nodes}.items():
            if (given := content.get("trainer", {}).get(key, wanted)) != wanted:
                raise ValueError(
                    f"--trainer.{key} {given} disagrees with the job, which has {wanted}; leave it out, submit sets it"
                )
    if (
        chosen.nodes > 1
        and not chosen.shared
        and (kind := _file_system(Path.cwd())) not in SHARED
        and not kind.startswith("fuse")
    ):
        raise ValueError(
            f"{Path.cwd()} is on {kind}, which other nodes do not see; work on a shared file system, "
            "or give --shared (make slurm: SHARED=1) if it is one"
        )


def fit_command(
    chosen: Namespace, arguments: list[str], site: dict[str, Any], passed_on: list[str]
) -> str:
    """The line that trains: `arguments` of `stn fit`, what the job has, and then what the user
    wants.
    """
    trainer = {
        "num_nodes": chosen.nodes,
        "devices": _processes(chosen),
        "accelerator": "gpu" if chosen.gpus else "cpu",
    }
    options = [part for key, value in trainer.items() for part in (f"--trainer.{key}", str(value))]
    stn = [sys.executable, "-m", "stn_lightning", "fit", *arguments, *options, *passed_on]
    return " ".join([SRUN, *map(shlex.quote, site.get("srun", [])), shlex.join(stn)])


def job_script(
    chosen: Namespace, site: dict[str, Any], file: Path, directives: dict[str, Any], run: str
) -> str:
    """The whole job script, which is to lie in `file` and does `run`; the site's `directives` go
    over these, and these over ours.
    """
    ours = {
        "nodes": chosen.nodes,
        "ntasks-per-node": _processes(chosen),
        **({"gres": f"gpu:{chosen.gpus}"} if chosen.gpus else {}),
        **({"cpus-per-task": chosen.cpus} if chosen.cpus else {}),
        "time": chosen.time,
        "signal": f"USR1@{chosen.signal_before}",
        "requeue": None,
        "open-mode": "append",
    }
    directives = {**ours, **directives, **site.get("sbatch", {})}
    before = [shlex.join(["cd", str(Path.cwd())]), *_environment(), *site.get("before", [])]
    return SCRIPT.format(
        written_by=f"{program_name()} {shlex.join(sys.argv[1:])}",
        file=shlex.quote(str(file)),
        directives="\n".join(
            f"#SBATCH --{key}" + ("" if value is None else f"={value}")
            for key, value in directives.items()
        ),
        before="".join(f"{line}\n" for line in before),
        run=run,
        preempted=PREEMPTED,
        # an array's number is also that of one of its elements, and would put back all
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
        if "array" in directives
        else "$SLURM_JOB_ID",
        lost=LOST if chosen.nodes > 1 else "",
    )


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


def _processes(chosen: Namespace) -> int:
    """Of each node."""
    return chosen.gpus or chosen.processes or 1


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
