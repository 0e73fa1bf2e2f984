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

ALONE = (
    "predict",
    "export",
    "report",
    "demo",
    "tune",
    "sweep",
    "prepare",
    "table",
    "bench",
    "submit",
    "status",
)
"""Commands without Lightning's command line: each a function in a file of its name in `cli`."""
COMMANDS = ("fit", "validate", "test", *ALONE)
USAGE = """\
usage: {stn} COMMAND [--config FILE ...] [OPTIONS]

  fit        train, then test the best checkpoint; goes on where a run of that name was stopped
  validate   error of a run on the validation pictures
  test       error of a run on the test pictures; writes results.json
  predict    what a run says of your own pictures, and where it looks in them
  export     a run's network as safetensors, torch.export and ONNX
  report     a page about one run or several: curves, where they look, what they get wrong
  demo       a page on this machine: draw a digit, move it, watch where the transformer looks
  tune       a learning rate or a batch size to begin with
  sweep      many runs with other values, the best by its validation
  prepare    download what is missing of a data set (mnist, cub, svhn) and check what is there
  table      run what is missing of a table of the paper, and print it beside the paper's numbers
  bench      measure speed, side by side with others (in the repository)
  submit     train as a job of a SLURM cluster
  status     how far the runs are

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
        print(USAGE.format(stn=provenance.program_name()))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(about())
        return 0
    if arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"commands are {', '.join(COMMANDS)}"
        print(f"stn: there is no command '{arguments[0]}'; {hint}", file=sys.stderr)
        return 2
    if arguments[0] in ALONE:
        command: Callable[[list[str]], int] = getattr(
            importlib.import_module(f"stn_lightning.cli.{arguments[0]}"), arguments[0]
        )
        return _read_by_someone(command, arguments[1:])
    signals.start_listening()  # before seconds of imports, in which a signal would kill the process
    from stn_lightning.cli.command import run

    return run(arguments)


def _read_by_someone(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The command's exit code; 1 where the reader of its output, `head` for one, leaves before its
    end.
    """
    try:
        code = command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python flushes once more on its way out
        print("stn: stopped, as nothing reads its output any more", file=sys.stderr)
        return 1
    return code


def about() -> str:
    """What matters in a bug report, one line each, without importing any of it."""
    found = {
        **provenance.versions(),
        "commit": provenance.commit(),
        "system": platform.platform(),
        "installed in": Path(__file__).parent,
    }
    return "\n".join(f"{name} {value}" for name, value in found.items() if value)


if __name__ == "__main__":
    sys.exit(main())
