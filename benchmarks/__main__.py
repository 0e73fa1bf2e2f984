"""Run benchmarks and print their tables.

    python -m benchmarks [NAME ...]

Each runs in a process of its own, so that none warms the caches of another.
"""

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = {
    "training": "a training step of stn fit against the machine's limit and other ways to write it",
    "distortions": "the distortions R, RTS, P, E and TC by themselves",
    "warps": "affine, projective and spline grids with sampling, forward and backward",
    "crops": "parallel transformers against their backbone alone",
    "svhn": "Single, Multi and shared layers against the CNN for house numbers",
    "growth": "time and memory over the number of images, their size, crops and batch sizes",
    "predictions": "stn predict on image files against the network alone, and its memory",
    "start_up": "seconds until help, version and the first training step",
}
"""Benchmarks in the order of running; time_to_error trains to the end and is run by itself."""


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks and write their tables; return the exit code."""
    options = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure speed, side by side with other libraries.",
        epilog="; ".join(f"{name}: {text}" for name, text in BENCHMARKS.items()),
    )
    options.add_argument("names", nargs="*", metavar="NAME", help="run only these")
    options.add_argument(
        "--quick", action="store_true", help="few and small cases: two minutes instead of ten"
    )
    options.add_argument(
        "--processor",
        action="store_true",
        help="one thread and processor time where it applies: for a busy machine",
    )
    options.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder for the tables"
    )
    chosen = options.parse_args(arguments)
    if unknown := set(chosen.names) - set(BENCHMARKS):
        options.error(
            f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    shared = [f"--{option}" for option in ("quick", "processor") if getattr(chosen, option)]
    failed = [name for name in chosen.names or BENCHMARKS if not run(name, shared, chosen.out)]
    if failed:
        print(f"benchmarks: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, options: list[str], folder: Path) -> bool:
    """Run one benchmark; return whether it finished."""
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options], stdout=subprocess.PIPE, text=True
    )
    if process.returncode == 0:
        print(process.stdout, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(process.stdout)
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
