"""`stn demo`: a page with the crops of a drawing.

The server accepts connections of this machine only.
"""

import base64
import io
import json
import re
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from stn_lightning import zoo
from stn_lightning.analysis.predictions import Prediction, Unreadable, predict_tensor, predictions
from stn_lightning.datamodules.preprocessing import PreprocessedImage
from stn_lightning.datasets.decoding import decode
from stn_lightning.runs.folder import RUNS
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runtime.exit_codes import FINISHED
from stn_lightning.transformers import Transformer

PAGE = Path(__file__).with_name("demo.html")
HOSTS = ("localhost", "127.0.0.1")
"""Host names that requests may have; a script of another site sends that site's name."""
DEFAULT = "quickstart"
SHOWN_CLASSES = 10
LARGEST_FILE = 32 * 2**20
"""Largest size of an image file, in bytes."""
SHOWN_SIDE = 1024
"""Longest side of the image that is sent back to the page, in pixels."""


def demo(run: str | None = None, *, port: int = 8765, checkpoint: str | None = None) -> int:
    """Open a page that shows the crops of a drawing.

    Draw a digit on it, or drop an image file.

    Args:
        run: name of a run, its folder, or zoo:NAME; when left out quickstart, or zoo:quickstart if
            there is no such run.
        port: port of this machine; 0 chooses a free one.
        checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

    Returns:
        0, after Ctrl-C.

    Raises:
        ValueError: there is no such run, the port is not valid, or the network does not take images
            with 1 or 3 channels.
    """
    if run is None:
        trained = (RUNS / DEFAULT / "config.yaml").exists() or DEFAULT not in zoo.names()
        run = DEFAULT if trained else zoo.PREFIX + DEFAULT
    network = TrainedNetwork.load(run, checkpoint=checkpoint)
    with make_server(network, port) as server:
        address = f"http://localhost:{server.server_port}/"
        print(f"{network.checkpoint} on {address} - Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return FINISHED


class Reply(NamedTuple):
    """The response to a request."""

    code: int
    kind: str
    content: bytes

    @classmethod
    def json(cls, content: Any) -> "Reply":
        """Return a successful response."""
        return cls(200, "application/json", json.dumps(content, allow_nan=False).encode())

    @classmethod
    def refusal(cls, code: int, reason: str) -> "Reply":
        """Return an error as a response."""
        return cls(code, "text/plain; charset=utf-8", reason.encode())


def make_server(network: TrainedNetwork, port: int) -> ThreadingHTTPServer:
    """Return a server of the page, for this machine only.

    Raises:
        ValueError: the network does not take images with 1 or 3 channels, or the port is not valid
            or not free.
    """
    _ = network.flat_shape  # raises an error if there are other channels
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}; give 0 to 65535")
    handler = type("Handler", (_Handler,), {"network": network})
    try:
        return _Server(("127.0.0.1", port), handler)
    except OSError as problem:
        raise ValueError(
            f"--port {port}: {problem.strerror}; give another one, or 0 for a free one"
        ) from problem


class _Server(ThreadingHTTPServer):
    """Does not report closed connections."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers each of the page's requests in its own thread."""

    network: TrainedNetwork
    protocol_version = "HTTP/1.1"
    timeout = 30
    """seconds without a byte after which a connection is closed"""
    disable_nagle_algorithm = True  # send responses without waiting for acknowledgements

    def do_GET(self) -> None:  # the framework's name
        if self.path == "/":
            self._send(Reply(200, "text/html; charset=utf-8", PAGE.read_bytes()))
        elif self.path == "/about":
            self._send(Reply.json(about(self.network)))
        else:
            self._send(Reply.refusal(404, "there is nothing but /"))

    def do_POST(self) -> None:  # the framework's name
        channels, height, width = self.network.flat_shape
        given = self.headers.get("Content-Length", "")
        length = int(given) if re.fullmatch(r"[0-9]{1,12}", given) else 0
        drawn = self.path == "/draw" and length == channels * height * width
        if not drawn and not (self.path == "/image" and 0 < length <= LARGEST_FILE):
            self.close_connection = True  # the body is not read
            reason = f"POST {channels} x {height} x {width} bytes to /draw, or a file to /image"
            self._send(Reply.refusal(400, reason))
            return
        content = self.rfile.read(length)
        try:
            answer = answer_drawing if drawn else answer_file
            self._send(Reply.json(answer(self.network, content)))
        except ValueError as problem:
            self._send(Reply.refusal(422, str(problem)))

    def _send(self, reply: Reply) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0]
        origin = urlsplit(self.headers.get("Origin", "http://localhost")).hostname
        if host not in HOSTS or origin not in HOSTS:
            reply = Reply.refusal(403, "this page is for localhost")
        self.send_response(reply.code)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the framework's name
        """Print nothing, as there are dozens of requests a second."""


def about(network: TrainedNetwork) -> dict[str, Any]:
    """Return what the page needs before the first request."""
    channels, height, width = network.flat_shape
    return {
        "name": network.name,
        "channels": channels,
        "height": height,
        "width": width,
        "draws": network.data.preprocessing.invert_light,  # its images are light ink on black
        "has_transformer": any(isinstance(m, Transformer) for m in network.task.modules()),
    }


def answer_drawing(network: TrainedNetwork, pixels: bytes) -> dict[str, Any]:
    """Return the prediction for a drawing.

    Args:
        network: trained network.
        pixels: pixels from 0 to 255 in the order (channel, row, column).
    """
    values = torch.from_numpy(np.frombuffer(pixels, np.uint8).astype(np.float32) / 255)
    _, height, width = network.flat_shape
    image = PreprocessedImage(values.view(network.image_shape), (0.0, 0.0), (1.0, 1.0))
    return _answer(predict_tensor(network, Path("drawing"), image), width, height)


def answer_file(network: TrainedNetwork, content: bytes) -> dict[str, Any]:
    """Return the prediction for an image file, with the image.

    Raises:
        ValueError: it cannot be read.
    """
    with tempfile.NamedTemporaryFile(suffix=".image") as file:
        file.write(content)
        file.flush()
        path = Path(file.name)
        prediction = next(predictions(network, [path]))
        if isinstance(prediction, Unreadable):
            raise ValueError(prediction.reason.replace(file.name, "the file"))
        image = Image.fromarray(decode(path, network.data.background))
    answer = _answer(prediction, *image.size)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return {**answer, "image": _data_url(image)}


def _answer(prediction: Prediction | Unreadable, width: int, height: int) -> dict[str, Any]:
    """Convert a prediction to JSON values.

    Outlines are from 0 to 1 across the image. `upper` is the number of points of the upper edge of
    each outline. Crops are data URLs.
    """
    if isinstance(prediction, Unreadable):
        raise ValueError(prediction.reason)
    size = torch.tensor([width, height])
    outlines = [(crop.outline / size).clamp(-2, 3) for crop in prediction.crops]
    return {
        "label": prediction.label,
        "classes": prediction.best(SHOWN_CLASSES),
        "outlines": [outline.tolist() for outline in outlines],
        "upper": [crop.crop.shape[-1] for crop in prediction.crops],
        "crops": [_data_url(crop.draw()) for crop in prediction.crops],
    }


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
