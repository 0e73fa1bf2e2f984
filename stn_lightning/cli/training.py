"""`stn fit`, `stn validate`, `stn test`, and their exit codes."""

import os
import sys
import traceback
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from stn_lightning.cli.arguments import add_config_of_run
from stn_lightning.cli.command import CommandLine
from stn_lightning.cli.help import answer_help
from stn_lightning.cli.messages import quieten, say
from stn_lightning.runs.config_errors import one_line, text_of
from stn_lightning.runtime.distributed import (
    announce_failure,
    destroy_process_groups,
    failure_of_another,
    lost_process_reason,
)
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, PROCESS_LOST, USAGE
from stn_lightning.runtime.guards import NonFiniteError
from stn_lightning.runtime.memory import keep_freed_memory
from stn_lightning.runtime.preemption import Preempted
from stn_lightning.runtime.restarts import NoProgressError

PLAIN = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)
"""Errors whose message needs no class name."""


def fit(arguments: list[str]) -> int:
    """Train a run, then test its best checkpoint."""
    return run(["fit", *arguments])


def validate(arguments: list[str]) -> int:
    """Evaluate a run on the validation images."""
    return run(["validate", *arguments])


def test(arguments: list[str]) -> int:
    """Evaluate a run on the test images; write its record."""
    return run(["test", *arguments])


def run(
    arguments: list[str],
    build: Callable[[list[str]], CommandLine] = CommandLine,
    name: str | None = None,
) -> int:
    """Parse arguments and run their command.

    An error before the end of the first batch is reported in one line, as it is most likely a
    mistake in the configuration. With STN_TRACEBACK=1 its traceback is printed, too.

    Args:
        arguments: the command and its options.
        build: builds the command from its arguments.
        name: name of the command in messages; the first argument by default.

    Returns:
        one of `runtime.exit_codes`.
    """
    quieten()
    keep_freed_memory()
    called = f"stn {name or arguments[0]}"
    if answer_help(arguments):
        return FINISHED
    command: CommandLine | None = None
    try:
        command = build(add_config_of_run(arguments))
        try:
            command.execute()
        except Exception as problem:
            announce_failure(problem)
            raise
        destroy_process_groups()
    except Preempted as stopped:
        say(str(stopped))
        if arguments[0] == "fit" and command is not None and command.options.resume == "never":
            say("without --resume never the same command resumes it")
        destroy_process_groups()
        return PREEMPTED
    except SystemExit as leaving:  # --help
        return int(leaving.code or 0)
    except (NonFiniteError, NoProgressError) as problem:
        say(f"{called}: {problem}", sys.stderr)
        return FAILED
    except Exception as problem:
        if isinstance(problem, RuntimeError) and (reason := lost_process_reason(problem)):
            cause = failure_of_another()
            text = cause or f"{reason}; the same command resumes it from last.ckpt"
            print(f"{called}: {text}", file=sys.stderr, flush=True)
            # a normal exit might wait for the lost process
            os._exit(PROCESS_LOST if cause is None else FAILED)
        return _report(problem, called, command)
    return FINISHED


def _report(problem: Exception, called: str, command: CommandLine | None) -> int:
    """Print an error and return the exit code.

    Before the end of the first batch it is one line, later a traceback.
    """
    after_first_step = command is not None and command.first_step.done
    if after_first_step or os.environ.get("STN_TRACEBACK"):
        traceback.print_exception(problem)
    if after_first_step:
        return FAILED
    text = one_line(text_of(problem))
    if not isinstance(problem, PLAIN) and "--" not in text:
        kind = type(problem).__name__
        text = f"{text or kind}; STN_TRACEBACK=1 shows where ({kind})"
    if command is None:  # all processes have the same arguments
        say(f"{called}: {text}", sys.stderr)
    else:
        rank = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it
        process = f"process {rank}: " if rank else ""
        print(f"{called}: {process}{text}", file=sys.stderr, flush=True)
    return USAGE
