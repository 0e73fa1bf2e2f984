"""`stn submit`: train as a SLURM job."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from stn_lightning.launch.jobs import run_options
from stn_lightning.launch.slurm import (
    Resources,
    check_shared_folder,
    fit_command,
    job_script,
    read_site_config,
)
from stn_lightning.runs.config_errors import check_yaml
from stn_lightning.runs.folder import RunFolder, default_name
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime.atomic_files import atomic_write
from stn_lightning.runtime.exit_codes import FINISHED
from stn_lightning.runtime.provenance import program_name

SENT = "# sent as job "
"""Start of the last line of a submitted script, before the job's number."""


def submit(
    *,
    config: Sequence[Path],
    name: str | None = None,
    nodes: int = 1,
    shared: bool = False,
    job: Resources = Resources(),  # noqa: B008  # it is frozen
    dry_run: bool = False,
    fit_options: Sequence[str] = (),
) -> int:
    """Train as a job of a SLURM cluster.

    Options after -- go to stn fit. The job script is written into the run's folder.

    Args:
        config: configuration files, as for stn fit; a file overrides those before it.
        name: name of the run; by default the config files' names joined by -.
        nodes: number of nodes.
        shared: confirm that all nodes share the file system of this folder, if it is not recognised
            as shared.
        job: resources of the job on each node.
        dry_run: print the script and submit nothing.
        fit_options: options of `stn fit`.

    Returns:
        the exit code.

    Raises:
        ValueError: the configuration is wrong, or the cluster refuses the job.
    """
    site = read_site_config(job.site)
    job.check(nodes)
    if nodes > 1 and not dry_run:
        check_shared_folder(shared)
    for path in config:
        check_yaml(resolve_config(path))
    run = RunFolder(default_name(config) if name is None else name)
    arguments = [*run_options(config, run.name), *job.trainer_options(nodes), *fit_options]
    from stn_lightning.cli.parsing import ParsedSettings  # takes seconds to import

    job.check_settings(ParsedSettings(["fit", *arguments]).settings(), nodes)
    folder = Path.cwd() / run.path
    directives = {
        "job-name": f"stn-{run.name}",
        "dependency": "singleton",  # a second job of the run waits for the first
        "output": f"{folder}/slurm-%j.out",
    }
    file = folder / "job.sh"
    text = job_script(job, site, file, directives, fit_command(arguments, site), nodes)
    if dry_run:
        print(text, end="")
        return FINISHED
    number = submit_script(file, text)
    print(
        f"job {number}: squeue -j {number}; tail -F {run.path}/slurm-{number}.out; "
        f"{program_name()} status {run.name}; scancel {number}"
    )
    return FINISHED


def submit_script(file: Path, text: str) -> str:
    """Submit a job script, then write it.

    A script that sbatch refuses does not replace that of a waiting job, which has its number.

    Returns:
        the job's number.

    Raises:
        ValueError: the job was not submitted; the message says why.
    """
    file.parent.mkdir(parents=True, exist_ok=True)  # the job's output goes there
    command = ["sbatch", "--parsable"]
    try:
        sent = subprocess.run(command, input=text, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            "there is no sbatch here, so this is not a SLURM cluster; "
            "submit on one, or print the script by --dry-run"
        ) from None
    if sent.returncode:
        reasons = [
            line.removeprefix("sbatch: ").removeprefix("error: ")
            for line in sent.stderr.strip().splitlines()
        ]
        raise ValueError(f"sbatch refused the job: {'; '.join(reasons)}")
    number = sent.stdout.strip().partition(";")[0]
    with atomic_write(file) as script:
        script.write(f"{text}{SENT}{number}\n".encode())
    return number
