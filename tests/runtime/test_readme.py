"""The program in runtime's README resumes after signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stn_lightning import runtime

README = Path(runtime.__file__).with_name("README.md")
ROOT = README.parents[2]


def start(program: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    """Return the last line of a program that ends with this exit code."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said.strip().rpartition("\n")[2]


@pytest.mark.slow
def test_the_program_of_the_readme_goes_on_after_a_stop_and_a_kill(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(code)
    straight = finish(start(program, tmp_path / "straight"), 0)
    assert straight.startswith("weights 0x")
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(program, tmp_path / "stopped")
        while not (last.exists() and last.stat().st_mtime_ns > before):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        finish(process, 75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert finish(start(program, tmp_path / "stopped"), 0) == straight


def test_every_file_of_runtime_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `(\w+\.py)` \|", README.read_text(), re.MULTILINE))
    inner = {"__init__.py", "monitors.py", "checkpoint_size.py"}
    assert named == {path.name for path in README.parent.glob("*.py")} - inner
