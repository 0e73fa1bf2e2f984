"""`stn bench`: the benchmarks of the repository, each in a process of its own, as tables for
docs/speed.md.
"""

import os
import subprocess
import sys
from pathlib import Path

from stn_lightning.runs.options import Options
from stn_lightning.runtime.exit_codes import USAGE

FOLDER = Path(__file__).parents[2] / "benchmarks"
BENCHMARKS = {
    "training": "a training step of stn fit against the machine's limit and others' ways",
    "distortions": "R, RTS, P, E, TC alone",
    "warps": "affine, projective and spline grids with sampling, forward and backward",
    "crops": "parallel transformers against the backbone alone",
    "svhn": "Single, Multi and shared layers against the CNN for house numbers",
    "growth": "time and memory over images, sides, crops and batch sizes",
    "predictions": "stn predict on pictures in files against the bare forward, and its memory",
    "start_up": "seconds until help, version and the first step",
}
"""What there is, in the order of running; time_to_error trains to the end and is run by itself."""


def bench(arguments: list[str]) -> int:
    """Run the benchmarks, print their tables and write them to a folder.

    Returns:
        the process's exit code: 0 finished, 2 the user got something wrong, 1 a benchmark failed.
    """
    known = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    options = Options(
        "bench", f"Measure speed, side by side with others. Needs the repository. {known}."
    )
    options.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    options.add_argument(
        "--quick", action="store_true", help="few and small cases: two minutes instead of ten"
    )
    options.add_argument(
        "--processor",
        action="store_true",
        help="one thread and processor time where it applies: for a busy machine",
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        metavar="FOLDER",
        help="where the tables go; runs/bench",
    )
    chosen = options.parse_args(arguments)
    if unknown := set(chosen.names) - set(BENCHMARKS):
        options.error(
            f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    if not FOLDER.is_dir():
        print(
            "stn bench: the benchmarks are in the repository, not in the installed package; clone it and run make bench",
            file=sys.stderr,
        )
        return USAGE
    passed = [f"--{option}" for option in ("quick", "processor") if getattr(chosen, option)]
    failed = [name for name in chosen.names or BENCHMARKS if not _run(name, passed, chosen.out)]
    if failed:
        print(f"stn bench: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, options: list[str], folder: Path) -> bool:
    """One benchmark; whether it finished."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
    }
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if run.returncode == 0:
        print(run.stdout, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(run.stdout)
    return run.returncode == 0
