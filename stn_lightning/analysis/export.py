"""`stn export`: a run's network for other programs, each file checked against the run before it is
announced.
"""

import copy
import importlib.util
import io
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn

from stn_lightning.runs.loading import Run, load_run
from stn_lightning.runs.options import Options
from stn_lightning.runtime.atomic_files import atomic_write

TOLERANCE = 1e-5
"""Of logits, over the largest of them where that is above 1."""
OPSET = 20
"""The first ONNX with a GridSample of its present form."""
ONNX = ("onnx", "onnxscript", "onnxruntime")


class Network(nn.Module):
    """What a task computes, without the task: image to logits."""

    def __init__(self, transformer: nn.Module | None, backbone: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.backbone = backbone

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch *digits classes"]:
        logits: Tensor = self.backbone(
            image if self.transformer is None else self.transformer(image)
        )
        return logits


def export(arguments: list[str]) -> int:
    """Write what other programs read.

    Returns:
        the process's exit code: 0 all is written and agrees with the run, 1 something does not
        agree, 2 the user got something wrong.
    """
    options = Options(
        "export", "A run's network as safetensors, torch.export and ONNX, for batches of any size."
    )
    options.add_argument("run", metavar="RUN", help="its name, or its folder")
    options.add_argument(
        "--out", type=Path, metavar="FOLDER", help="RUN's folder export/ when left out"
    )
    options.add_argument(
        "--formats",
        nargs="+",
        choices=list(FORMATS),
        default=list(FORMATS),
        help="all when left out",
    )
    chosen = options.parse_args(arguments)
    try:
        run = load_run(chosen.run)
        folder = chosen.out or run.run.path / "export"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.run.config, folder / "config.yaml")
        (folder / "about.json").write_text(json.dumps(about(run), indent=2) + "\n")
        return max([_one(run, name, folder) for name in chosen.formats])
    except (ValueError, OSError) as problem:
        print(f"stn export: {problem}", file=sys.stderr)
        return 2


def about(run: Run) -> dict[str, object]:
    """What goes in and what comes out, and what the run came to."""
    results = run.run.path / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    kept = {
        key: known[key] for key in ("name", "seed", "commit", "versions", "metrics") if key in known
    }
    return {
        "image_shape": run.image_shape,
        "classes": run.class_names,
        "preprocess": run.data.preprocess_summary,
        **kept,
    }


def _one(run: Run, name: str, folder: Path) -> int:
    """Make one format, read it back, compare; write it."""
    if name == "onnx" and (
        missing := [package for package in ONNX if importlib.util.find_spec(package) is None]
    ):
        print(
            f"not written: ONNX needs {', '.join(missing)}; pip install 'stn-lightning[export]'",
            file=sys.stderr,
        )
        return 2
    file, write, read = FORMATS[name]
    network = Network(run.task.transformer, run.task.backbone).cpu().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporters warn of PyTorch's own ways
        content = write(network, (torch.rand(3, *run.image_shape),))
        worst = max(_difference(network, read(network, content), run, batch) for batch in (1, 5))
    if worst > TOLERANCE:
        raise ValueError(
            f"{folder / file} is not written: it differs from the run by {worst:.1e}; leave it out with --formats"
        )
    with atomic_write(folder / file) as out:
        out.write(content)
    print(f"{folder / file}: as the run, to {worst:.0e}", flush=True)
    return 0


def _difference(
    network: nn.Module, loaded: Callable[[Tensor], Tensor], run: Run, batch: int
) -> float:
    """Largest difference of logits over noise, over the largest logit where that is above 1."""
    image = torch.rand(batch, *run.image_shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = network(image)
        found = loaded(image)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def _write_safetensors(network: nn.Module, _example: tuple[Tensor]) -> bytes:
    return save(
        {name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}
    )


def _read_safetensors(network: nn.Module, content: bytes) -> Callable[[Tensor], Tensor]:
    other: nn.Module = copy.deepcopy(network)
    other.load_state_dict(load(content))
    return other


def _write_exported(network: nn.Module, example: tuple[Tensor]) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, example, dynamic_shapes=_free()), file)
    return file.getvalue()


def _read_exported(_network: nn.Module, content: bytes) -> Callable[[Tensor], Tensor]:
    loaded: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(content)).module()
    return loaded


def _write_onnx(network: nn.Module, example: tuple[Tensor]) -> bytes:
    program: Any = torch.onnx.export(
        network,
        example,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=_free(),
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
    )
    return program.model_proto.SerializeToString()


def _read_onnx(_network: nn.Module, content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content)
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _free() -> tuple[dict[int, torch.export.Dim]]:
    """Batches of any size."""
    return ({0: torch.export.Dim("batch", min=1)},)


FORMATS = {
    "safetensors": ("weights.safetensors", _write_safetensors, _read_safetensors),
    "exported": ("network.pt2", _write_exported, _read_exported),
    "onnx": ("network.onnx", _write_onnx, _read_onnx),
}
"""File, how it is written, and how it is read back."""
