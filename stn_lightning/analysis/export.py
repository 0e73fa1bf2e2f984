"""`stn export`: write a run's network for other programs."""

import copy
import dataclasses
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pprint import pformat
from typing import Any, Literal, NamedTuple

import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor, nn

from stn_lightning.analysis import preprocess_template
from stn_lightning.analysis.outputs import require_writable_folder
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.runs.loading import Network, TrainedNetwork
from stn_lightning.runtime.atomic_files import atomic_write

Format = Literal["safetensors", "exported", "onnx"]
FORMATS: tuple[Format, ...] = ("safetensors", "exported", "onnx")
TOLERANCES: dict[Format, float] = {"safetensors": 1e-5, "exported": 1e-5, "onnx": 5e-5}
"""Largest difference of logits, relative to the largest logit if that is above 1. ONNX Runtime adds
in another order; for crops that follow a sharp heat map the difference was 1.1e-5.
"""
OPSET = 20
"""First version of ONNX with the present GridSample."""
ONNX = ("onnx", "onnxscript", "onnxruntime")


def export(
    run: str,
    *,
    out: Path | None = None,
    formats: Sequence[Format] | None = None,
    checkpoint: str | None = None,
) -> int:
    """Write a run's network as safetensors, torch.export and ONNX.

    Each works for any batch size, and is compared with the run's network before it is written.

    Args:
        run: name of a run, its folder, or zoo:NAME.
        out: folder for the files; export/ in the run's folder when left out.
        formats: formats to write; when left out, all that the installed libraries can write.
        checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

    Returns:
        0.

    Raises:
        ValueError: there is no such run, nothing can be written into `out`, or an exported network
            gives other logits.
    """
    require_writable_folder("--out", out)
    network = TrainedNetwork.load(run, checkpoint=checkpoint)
    print(f"weights of {network.checkpoint}", flush=True)
    write_formats(network, out, formats, announce=lambda line: print(line, flush=True))
    return 0


def write_formats(
    network: TrainedNetwork,
    folder: str | Path | None = None,
    formats: Sequence[Format] | None = None,
    announce: Callable[[str], object] = lambda _: None,
) -> Path:
    """Write a network in each format.

    Its configuration, `about.json` and `preprocess.py` are written, too.

    Args:
        network: network on the CPU or a GPU; the files work on both.
        folder: folder for the files; `export` in the run's folder when left out.
        formats: formats to write; None: all that the installed libraries can write.
        announce: function that is called with a line about each file.

    Returns:
        the folder.

    Raises:
        ValueError: the folder has other files of the same names, libraries of a format are missing,
            or its logits differ from the run's; its file is then not written.
    """
    folder = Path(folder) if folder is not None else network.folder / "export"
    foreign = [name for name in ("config.yaml", "preprocess.py") if (folder / name).exists()]
    if foreign and not _is_export(folder):
        raise ValueError(
            f"{folder / foreign[0]} is not of an export and would be overwritten; "
            f"give another --out, for example {folder / 'export'}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(network.config, sort_keys=False))
    (folder / "about.json").write_text(json.dumps(about(network), indent=2) + "\n")
    if (code := preprocess_code(network)) is not None:
        (folder / "preprocess.py").write_text(code)
    missing = ", ".join(name for name in ONNX if importlib.util.find_spec(name) is None)
    needed = f"ONNX needs {missing}; pip install 'stn-lightning[export]'"
    if missing and "onnx" in (formats or ()):
        raise ValueError(needed)
    for name in formats or FORMATS:
        left_out = missing and name == "onnx"
        announce(f"not written: {needed}" if left_out else _write(network, name, folder))
    return folder


def _is_export(folder: Path) -> bool:
    """Return True if `write_formats` wrote a folder."""
    try:
        return "preprocessing" in json.loads((folder / "about.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def about(network: TrainedNetwork) -> dict[str, object]:
    """Describe input, output and origin of a network."""
    record = dataclasses.asdict(network.record) if network.record else {}
    kept = ("name", "seed", "commit", "versions", "metrics")
    return {
        "image_shape": network.image_shape,
        "classes": network.class_names,
        "preprocessing": dataclasses.asdict(network.data.preprocessing),
        "checkpoint": str(network.checkpoint),
        **{key: record[key] for key in kept if record},
    }


def preprocess_code(network: TrainedNetwork) -> str | None:
    """Return code that preprocesses image files, or None.

    It is None if the data module does not use `Preprocessing`, or images have not 1 or 3 channels.
    """
    preprocessing, shape = network.data.preprocessing, network.image_shape
    if type(preprocessing) is not Preprocessing or len(shape) != 3 or shape[0] not in (1, 3):
        return None
    numbers = {
        **dataclasses.asdict(preprocessing),
        "background": network.data.background,
        "image_shape": shape,
        "classes": network.class_names,
    }
    placeholder = "NUMBERS: dict[str, Any] = {}"
    template = Path(preprocess_template.__file__).read_text()
    return template.replace(placeholder, f"NUMBERS: dict[str, Any] = {pformat(numbers, width=98)}")


def _write(run: TrainedNetwork, name: Format, folder: Path) -> str:
    """Convert to a format, read back, compare, and write."""
    file, write, read = WRITERS[name]
    network = copy.deepcopy(run.network).float().cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of PyTorch's exporters about PyTorch
        content = write(network, (torch.rand(3, *run.image_shape),))
        loaded = read(network, content)
        worst = max(_difference(network, loaded, run.image_shape, batch) for batch in (1, 5))
    if not worst <= TOLERANCES[name]:  # not ">", as NaN is refused, too
        raise ValueError(
            f"{folder / file} is not written: its logits differ from the run's by {worst:.1e}; "
            "leave it out with --formats"
        )
    with atomic_write(folder / file) as out:
        out.write(content)
    return f"{folder / file}: the logits of the run, to {worst:.0e}"


def _difference(
    network: nn.Module, loaded: Callable[[Tensor], Tensor], shape: Sequence[int], batch: int
) -> float:
    """Return the largest difference of logits on random images.

    It is relative to the largest logit if that is above 1.
    """
    image = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected, found = network(image), loaded(image)
    return float(((found - expected).abs() / expected.abs().max().clamp(min=1)).max())


def _write_safetensors(network: Network, _example: tuple[Tensor]) -> bytes:
    weights = network.state_dict().items()
    return save({name: value.detach().contiguous().clone() for name, value in weights})


def _read_safetensors(network: Network, content: bytes) -> Callable[[Tensor], Tensor]:
    other: nn.Module = copy.deepcopy(network)
    other.load_state_dict(load(content))
    return other


def _write_exported(network: Network, example: tuple[Tensor]) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, example, dynamic_shapes=_any_batch()), file)
    return file.getvalue()


def _read_exported(_network: Network, content: bytes) -> Callable[[Tensor], Tensor]:
    loaded: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(content)).module()
    return loaded


def _write_onnx(network: Network, example: tuple[Tensor]) -> bytes:
    program: Any = torch.onnx.export(
        network,
        example,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=_any_batch(),
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
    )
    return program.model_proto.SerializeToString()


def _read_onnx(_network: Network, content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content)
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _any_batch() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch", min=1)},)


class Writer(NamedTuple):
    """A format's file name, writer and reader."""

    file: str
    write: Callable[[Network, tuple[Tensor]], bytes]
    read: Callable[[Network, bytes], Callable[[Tensor], Tensor]]


WRITERS: dict[Format, Writer] = {
    "safetensors": Writer("weights.safetensors", _write_safetensors, _read_safetensors),
    "exported": Writer("network.pt2", _write_exported, _read_exported),
    "onnx": Writer("network.onnx", _write_onnx, _read_onnx),
}
