"""Count the images that `stn predict` predicts in a second.

    python -m benchmarks.predictions
    python -m benchmarks.predictions --quick --processor

Beside it the bare forward, and the peak memory for two numbers of images. The first command takes a
minute or two: 10,000 images of 42 x 42 by the quickstart's network.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from benchmarks.alternating import alternate, chosen, in_a_process, report, table, times_as_long
from stn_lightning import load_run
from stn_lightning.analysis.predict import predict
from stn_lightning.analysis.predictions import BATCH
from stn_lightning.cli.typed_command import call
from stn_lightning.runs.shipped_configs import CONFIGS


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        peak(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    options = chosen(__doc__, 5)
    number = 200 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        run, images = trained_run(Path(folder)), Path(folder, "images")
        write_images(images, number)
        network = load_run(run).task.cpu()
        image = torch.rand(BATCH, 1, 42, 42)

        def bare() -> None:
            with torch.inference_mode():
                for _ in range(number // BATCH):
                    network(image)

        cases = {
            "stn predict": lambda: call(
                predict, [str(run), str(images), "--out", f"{folder}/out.csv"]
            ),
            "bare forward": bare,
        }
        seconds = alternate(cases, options.rounds, options.clock)
        few = Path(folder, "few")
        write_images(few, number // 10)
        memory = {
            path: in_a_process(["-m", "benchmarks.predictions", "--memory", str(run), str(path)])
            for path in (few, images)
        }
    rows = [
        [
            name,
            number / sorted(taken)[len(taken) // 2],
            times_as_long(taken, seconds["bare forward"]),
        ]
        for name, taken in seconds.items()
    ]
    mebibytes = [
        f"{memory[path]['mebibytes']:.0f} MiB at {count:,} images"
        for path, count in ((few, number // 10), (images, number))
    ]
    notes = (
        f"PNG files of 42 x 42 pixels to a CSV, in batches of {BATCH}. "
        f"Peak memory: {', '.join(mebibytes)}."
    )
    report(
        "Predictions of images in files",
        table(["", "images/s", "beside the bare forward"], rows),
        notes,
        options.rounds,
    )


def trained_run(folder: Path) -> Path:
    """Train the quickstart for a moment.

    The rate of predictions does not depend on what was learnt.
    """
    short = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.log_every_n_steps=1",
    ]
    command = [
        sys.executable,
        "-m",
        "stn_lightning",
        "fit",
        "--config",
        str(CONFIGS / "quickstart.yaml"),
        *short,
    ]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "runs/quickstart"


def write_images(folder: Path, number: int) -> None:
    folder.mkdir()
    noise = (
        torch.randint(
            0, 256, (100, 42, 42), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        // 4
    )
    for i in range(number):
        Image.fromarray(noise[i % 100].numpy()).save(folder / f"{i:06d}.png")


def peak(run: Path, images: Path) -> None:
    """Return the peak memory of this process after all images."""
    call(predict, [str(run), str(images), "--out", f"{images}.csv"])
    print(json.dumps({"mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
