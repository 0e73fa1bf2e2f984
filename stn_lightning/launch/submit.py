"""`stn submit`: a training as a SLURM job."""

import sys
from pathlib import Path

from stn_lightning.launch.slurm import (
    add_resources,
    check_options,
    fit_command,
    job_script,
    read_site_config,
    submit_script,
)
from stn_lightning.runs.folder import RUNS, default_name
from stn_lightning.runs.options import Options
from stn_lightning.runtime.exit_codes import FINISHED, USAGE
from stn_lightning.runtime.provenance import program_name


def submit(arguments: list[str]) -> int:
    """Write a job script into the run's folder and submit it.

    Returns:
        the process's exit code: 0 submitted, 2 the user got something wrong, or the cluster does
        not take it.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen, passed_on = _options().parse_args(arguments[:at]), arguments[at + 1 :]
    try:
        site = read_site_config(chosen.site)
        check_options(chosen, chosen.config, passed_on)
        name = chosen.name or default_name(chosen.config)
        folder = Path.cwd() / RUNS / name
        file = folder / "job.sh"
        # singleton: of two jobs of one run, the second waits for the first
        directives = {
            "job-name": f"stn-{name}",
            "dependency": "singleton",
            "output": f"{folder}/slurm-%j.out",
        }
        files = [part for path in chosen.config for part in ("--config", str(path))]
        # seconds, which help and mistakes in the job need not wait
        from stn_lightning.cli.command import (
            Parsed,
            run,
        )

        if wrong := run(["fit", *files, "--name", name, *passed_on], made=Parsed, name="submit"):
            return wrong
        text = job_script(
            chosen,
            site,
            file,
            directives,
            fit_command(chosen, [*files, "--name", name], site, passed_on),
        )
        if chosen.dry_run:
            print(text, end="")
            return FINISHED
        job = submit_script(file, text)
    except (ValueError, OSError) as problem:
        print(f"stn submit: {problem}", file=sys.stderr)
        return USAGE
    print(
        f"job {job}: squeue -j {job}; tail -F {RUNS / name}/slurm-{job}.out; {program_name()} status {name}; scancel {job}"
    )
    return FINISHED


def _options() -> Options:
    options = Options("submit", "Train on a SLURM cluster. Options after -- go to stn fit.")
    options.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="as for stn fit; the more the further right wins",
    )
    options.add_argument(
        "--name", help="of the run; by default the config files' names joined by -"
    )
    add_resources(options, nodes=True)
    options.add_argument(
        "--dry-run", action="store_true", help="print the script and submit nothing"
    )
    return options
