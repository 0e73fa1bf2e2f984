"""`stn submit`: a job script for SLURM that one can read, and its submission.

The script asks for what the training needs and nothing clever: `srun` starts the processes, a signal before the time limit has them save,
and a job whose training was stopped with exit code 75 is put back into the queue, where it goes on with its own run. Lightning's
requeueing, which saves inside a signal handler, is left out.
"""

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml

from stn_lightning.cli.errors import check_yaml
from stn_lightning.cli.options import Options
from stn_lightning.cli.runs import RUNS, default_name, nested

SITE = Path("slurm.yaml")
SITE_KEYS = {"sbatch": dict, "srun": list, "before": list}
SHARED = {
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cephfs",
    "wekafs",
    "glusterfs",
    "afs",
    "panfs",
    "pvfs2",
    "orangefs",
    "cifs",
    "9p",
    "smb3",
}
"""File systems that several machines can mount; anything that runs in user space (`fuse.*`) may be one too."""

SCRIPT = """\
#!/bin/bash
# Written by: {written_by}
# Send it again: sbatch {script}
{directives}
{before}srun --kill-on-bad-exit=1 {srun}{command}
code=$?
if [ $code -eq 75 ]; then  # stopped and saved: back into the queue, and on from there
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def submit(arguments: list[str]) -> int:
    """Write a job script into the run's folder and submit it.

    Returns:
        the process's exit code: 0 submitted, 2 the user got something wrong, else sbatch's own.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = _options().parse_args(arguments[:at])
    try:
        site = _site(chosen.site)
        refuse(chosen, arguments[at + 1 :])
        name = chosen.name or default_name(chosen.config)
        folder = RUNS / name
        text = script(chosen, site, name, arguments[at + 1 :])
    except (ValueError, OSError) as problem:
        print(f"stn submit: {problem}", file=sys.stderr)
        return 2
    if chosen.dry_run:
        print(text, end="")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.sh"
    file.write_text(text)
    try:
        sent = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True)
    except FileNotFoundError:
        print(f"stn submit: there is no sbatch here, so this is no machine of a SLURM cluster; {file} is written", file=sys.stderr)
        return 2
    if sent.returncode:
        print(f"stn submit: {sent.stderr.strip()}", file=sys.stderr)
        return sent.returncode
    job = sent.stdout.strip().partition(";")[0]
    print(f"job {job}: squeue -j {job}; tail -F {folder}/slurm-{job}.out; stn status {name}; scancel {job}")
    return 0


def _options() -> Options:
    options = Options("submit", "Train on a SLURM cluster. Options after -- go to stn fit.")
    options.add_argument(
        "--config", type=Path, action="append", required=True, metavar="FILE", help="as for stn fit; the more the further right wins"
    )
    options.add_argument("--name", help="of the run; by default the config files' names joined by -")
    options.add_argument("--nodes", type=int, default=1, metavar="N")
    options.add_argument("--gpus", type=int, default=1, metavar="N", help="of each node, a process each; 0 for processors")
    options.add_argument("--processes", type=int, metavar="N", help="of each node, where --gpus is 0")
    options.add_argument("--cpus", type=int, metavar="N", help="cores of each process")
    options.add_argument(
        "--time", default="24:00:00", metavar="H:M:S", help="limit; a job that reaches it saves, waits in the queue again, and goes on"
    )
    options.add_argument("--signal-before", type=int, default=180, metavar="S", help="seconds before the limit at which it saves")
    options.add_argument("--site", type=Path, help=f"the cluster's own settings; {SITE} where there is one")
    options.add_argument("--shared", action="store_true", help="this folder is the same on all nodes, whatever it looks like")
    options.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    return options


def _site(given: Path | None) -> dict[str, Any]:
    """Partition, account, modules, container: what is the cluster's and not the experiment's."""
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


def refuse(chosen: Namespace, passed_on: list[str]) -> None:
    """What would train something else than was asked for, or nothing.

    Raises:
        ValueError: says what disagrees.
    """
    for name, least in (("nodes", 1), ("gpus", 0)):
        if getattr(chosen, name) < least:
            raise ValueError(f"--{name} {getattr(chosen, name)}; give {least} or more")
    if chosen.gpus and chosen.processes:
        raise ValueError(f"--gpus {chosen.gpus} has a process for each GPU; leave --processes out, or give --gpus 0")
    for path in chosen.config:
        check_yaml(path)
    for content in nested(passed_on):  # these come last and would win
        for key, wanted in {"devices": _processes(chosen), "num_nodes": chosen.nodes}.items():
            if (given := content.get("trainer", {}).get(key, wanted)) != wanted:
                raise ValueError(f"--trainer.{key} {given} disagrees with the job, which has {wanted}; leave it out, submit sets it")
    if chosen.nodes > 1 and not chosen.shared and (kind := _file_system(Path.cwd())) not in SHARED and not kind.startswith("fuse"):
        raise ValueError(
            f"{Path.cwd()} is on {kind}, which other nodes do not see; work on a shared file system, or give --shared if it is one"
        )


def _processes(chosen: Namespace) -> int:
    """Of each node."""
    return chosen.gpus or chosen.processes or 1


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max(((point, kind) for point, kind in mounts if folder.is_relative_to(point)), key=lambda mount: len(mount[0]))[1]


def _environment() -> list[str]:
    """What a job that is sent again from elsewhere would miss."""
    return [shlex.join(["export", f"{name}={Path(os.environ[name]).absolute()}"]) for name in ("STN_DATA",) if name in os.environ]


def script(chosen: Namespace, site: dict[str, Any], name: str, passed_on: list[str]) -> str:
    """The whole job script."""
    folder = Path.cwd() / RUNS / name
    directives = {
        "job-name": f"stn-{name}",
        "nodes": chosen.nodes,
        "ntasks-per-node": _processes(chosen),
        **({"gres": f"gpu:{chosen.gpus}"} if chosen.gpus else {}),
        **({"cpus-per-task": chosen.cpus} if chosen.cpus else {}),
        "time": chosen.time,
        "signal": f"USR1@{chosen.signal_before}",
        "requeue": None,
        "open-mode": "append",
        "output": f"{folder}/slurm-%j.out",
        **site.get("sbatch", {}),
    }
    trainer = {"num_nodes": chosen.nodes, "devices": _processes(chosen), "accelerator": "gpu" if chosen.gpus else "cpu"}
    files = [part for path in chosen.config for part in ("--config", str(path))]
    options = [part for key, value in trainer.items() for part in (f"--trainer.{key}", str(value))]
    before = [shlex.join(["cd", str(Path.cwd())]), *_environment(), *site.get("before", [])]
    command = [sys.executable, "-m", "stn_lightning", "fit", *files, "--name", name, *options, *passed_on]
    return SCRIPT.format(
        written_by=shlex.join(["stn", *sys.argv[1:]]),
        script=folder / "job.sh",
        directives="\n".join(f"#SBATCH --{key}" + ("" if value is None else f"={value}") for key, value in directives.items()),
        before="".join(f"{line}\n" for line in before),
        srun="".join(f"{shlex.quote(option)} " for option in site.get("srun", [])),
        command=shlex.join(command),
    )
