"""`stn report`: one page about one run or several."""

from collections.abc import Sequence
from pathlib import Path

from stn_lightning.analysis.outputs import require_writable_file
from stn_lightning.analysis.page import render
from stn_lightning.analysis.run_report import collect
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runtime.atomic_files import atomic_write
from stn_lightning.runtime.exit_codes import FINISHED

_LONGEST = 200
"""Largest length of a page's name without its suffix; file systems allow 255 bytes."""


def report(
    runs: Sequence[str],
    *,
    out: Path | None = None,
    film: Path | None = None,
    strip: Path | None = None,
    checkpoint: str | None = None,
) -> int:
    """Write a page about runs in one file.

    It shows curves, the paper's numbers, crops and errors.

    Args:
        runs: names of runs, or their folders.
        out: file of the page; when left out report.html in the run's folder, or for several runs
            report-A-B.html, with their names, in the folder of the first.
        film: file for an animated WebP of the first run's crops: each epoch, at most 30 frames.
        strip: file for a PNG of the first run's crops at a few steps.
        checkpoint: a file in the runs' folders `checkpoints`; best.ckpt when left out.

    Returns:
        0.

    Raises:
        ValueError: there is no such run, a file cannot be written, or film or strip are given and
            there are no drawings of two epochs.
    """
    for option, path in (("--out", out), ("--film", film), ("--strip", strip)):
        require_writable_file(option, path)
    networks = [TrainedNetwork.load(name, checkpoint=checkpoint) for name in runs]
    file = write_report(networks, out, film, strip)
    print(f"{file}, {file.stat().st_size / 2**20:.1f} MB: open it in any browser")
    return FINISHED


def write_report(
    networks: Sequence[TrainedNetwork],
    path: str | Path | None = None,
    film: str | Path | None = None,
    strip: str | Path | None = None,
) -> Path:
    """Write a page about trained networks.

    Args:
        networks: networks to compare.
        path: file of the page; when left out report.html in the run's folder, or for several runs
            report-A-B.html, with their names, in the folder of the first.
        film: file for an animated WebP of the first run's crops: each epoch, at most 30 frames.
        strip: file for a PNG of the first run's crops at a few steps.

    Returns:
        the path of the page.

    Raises:
        ValueError: film or strip are given and there are no drawings of two epochs.
    """
    reports = [collect(network) for network in networks]
    file = Path(path) if path is not None else networks[0].folder / _file_name(networks)
    _write(file, render(reports).encode())
    for option, target, content in (
        ("film", film, reports[0].animation),
        ("strip", strip, reports[0].filmstrip),
    ):
        if target is None:
            continue
        if content is None:
            raise ValueError(
                f"{networks[0].folder} has no images of two epochs or more; leave --{option} out"
            )
        _write(Path(target), content)
    return file


def _file_name(networks: Sequence[TrainedNetwork]) -> str:
    """Return the name of a page about runs."""
    names = [network.name for network in networks] if len(networks) > 1 else []
    return "-".join(["report", *names])[:_LONGEST] + ".html"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        out.write(content)
