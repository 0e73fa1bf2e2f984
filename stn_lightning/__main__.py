"""The command `stn`.

It imports neither PyTorch nor Lightning, so that help, version and misspelt commands are fast.
"""

import difflib
import importlib
import locale
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from stn_lightning.cli.commands import COMMANDS
from stn_lightning.runtime import provenance, signals
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, USAGE

HELP = """\
usage: {stn} COMMAND [--config FILE ...] [OPTIONS]

{commands}

  {stn} fit --config configs/quickstart.yaml
  {stn} fit --config configs/mnist/networks/st_cnn_affine.yaml \\
      --config configs/mnist/data/rts.yaml --trainer.max_epochs 3
  {stn} test --name quickstart
  {stn} predict quickstart scans/ --out answers.csv

`{stn} COMMAND --help` lists the options of a command.
`{stn} --version` prints what a bug report needs."""


def main() -> int:
    """Run the command that the command line names.

    Returns:
        exit code: 0 finished, 2 wrong arguments or settings, 75 stopped and resumable, else failed.
    """
    encoding = locale.getpreferredencoding(False).lower()
    if encoding not in ("utf-8", "utf8") and "PYTHONUTF8" not in os.environ:
        os.environ["PYTHONUTF8"] = "1"  # files are in UTF-8, whatever the terminal's language
        os.execv(sys.executable, sys.orig_argv)
    # a YAML file may name classes in the working directory; the path is last, so that no file there
    # hides a library
    try:
        sys.path.append(str(Path.cwd()))
    except FileNotFoundError:
        print("stn: the working directory no longer exists; change to another", file=sys.stderr)
        return USAGE
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
        signals.start_listening()  # before PyTorch is imported, which takes seconds
    if arguments[0] == "demo" and not {"-h", "--help"} & set(arguments):
        print("loading ...", flush=True)  # the imports and the network may take half a minute
    module, _, function = COMMANDS[arguments[0]][0].partition(":")
    command = getattr(importlib.import_module(f"stn_lightning.{module}"), function)
    from stn_lightning.cli.typed_command import call  # takes 10 ms

    return _run(call, command, arguments[1:])


def _run(
    call: Callable[[Callable[..., int], list[str]], int],
    command: Callable[..., int],
    arguments: list[str],
) -> int:
    """Run a command; return 1 if nothing reads its output."""
    try:
        code = call(command, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes the output again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stn: stopped, as its output is no longer read", file=sys.stderr)
        return FAILED
    return code


def about() -> str:
    """Return versions, commit and system for a bug report."""
    found = {
        **provenance.versions(),
        "commit": provenance.commit(),
        "system": platform.platform(),
        "installed in": Path(__file__).parent,
    }
    return "\n".join(f"{name} {value}" for name, value in found.items() if value)


if __name__ == "__main__":
    sys.exit(main())
