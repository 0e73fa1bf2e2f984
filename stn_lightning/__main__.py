"""The command `stn`. This module imports nothing heavy, so help, version and mistakes answer at
once.
"""

import difflib
import importlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from stn_lightning.runtime import provenance, signals
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, USAGE

COMMANDS = {
    "fit": (
        "cli.training:fit",
        "train, then test the best checkpoint; goes on where a run of that name was stopped",
    ),
    "validate": ("cli.training:validate", "error of a run on the validation images"),
    "test": ("cli.training:test", "error of a run on the test images; writes results.json"),
    "predict": ("analysis.predict:predict", "label, probability and crop of your own images"),
    "export": ("analysis.export:export", "a run's network as safetensors, torch.export and ONNX"),
    "report": ("analysis.report:report", "a page about runs: curves, crops, errors"),
    "demo": ("analysis.demo:demo", "a page to draw or drop an image on and watch the crops follow"),
    "zoo": ("analysis.zoo:zoo", "list the trained networks that come with the package"),
    "tune": ("cli.tune:tune", "suggest a learning rate or a batch size"),
    "sweep": ("launch.sweep:sweep", "train with other values, keep the best by validation"),
    "prepare": ("cli.prepare:prepare", "download and check data sets (mnist, cub, svhn)"),
    "table": ("launch.table:table", "run what is missing of a table of the paper, and print it"),
    "bench": ("cli.bench:bench", "measure speed, side by side with others (in the repository)"),
    "submit": ("launch.submit:submit", "train as a job of a SLURM cluster"),
    "status": ("launch.status:status", "show how far runs are"),
}
"""Every command: the function that runs it, below this package, and a line of help."""
HELP = """\
usage: {stn} COMMAND [--config FILE ...] [OPTIONS]

{commands}

  {stn} fit --config configs/quickstart.yaml
  {stn} fit --config configs/mnist/networks/st_cnn_affine.yaml --config configs/mnist/data/rts.yaml --trainer.max_epochs 3
  {stn} test --name quickstart
  {stn} predict quickstart scans/ --out answers.csv

`{stn} COMMAND --help` lists the options of a command, `{stn} --version` the versions for a bug report."""


def main() -> int:
    """Run the command line's command.

    Returns:
        0 finished, 2 the user got something wrong, 75 preempted and resumable, anything else a
        failure.
    """
    sys.path.append(
        str(Path.cwd())
    )  # a YAML names your own classes; last, so that a file there hides no library
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:<10} {line}" for name, (_, line) in COMMANDS.items())
        print(HELP.format(stn=provenance.program_name(), commands=lines))
        return FINISHED
    if arguments[0] in ("-V", "--version"):
        print(about())
        return FINISHED
    if arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"commands are {', '.join(COMMANDS)}"
        print(f"stn: there is no command '{arguments[0]}'; {hint}", file=sys.stderr)
        return USAGE
    if arguments[0] in ("fit", "validate", "test", "tune"):
        signals.start_listening()  # before seconds of imports, in which a signal would kill
    module, _, function = COMMANDS[arguments[0]][0].partition(":")
    command = getattr(importlib.import_module(f"stn_lightning.{module}"), function)
    from stn_lightning.cli.typed_command import call  # a hundredth of a second

    return _until_unread(call, command, arguments[1:])


def _until_unread(
    call: Callable[[Callable[..., int], list[str]], int],
    command: Callable[..., int],
    arguments: list[str],
) -> int:
    """Return the command's exit code; 1 where the reader of its output, as `head`, leaves."""
    try:
        code = call(command, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stn: stopped, as nothing reads its output any more", file=sys.stderr)
        return FAILED
    return code


def about() -> str:
    """Return what matters in a bug report, one line each, without importing any of it."""
    found = {
        **provenance.versions(),
        "commit": provenance.commit(),
        "system": platform.platform(),
        "installed in": Path(__file__).parent,
    }
    return "\n".join(f"{name} {value}" for name, value in found.items() if value)


if __name__ == "__main__":
    sys.exit(main())
