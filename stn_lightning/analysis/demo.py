"""`stn demo`: draw a digit, turn it, move it, and watch where the transformer looks. A page served
to this machine alone.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stn_lightning.runs.loading import TrainedNetwork as Run
from stn_lightning.runs.options import Options

PAGE = Path(__file__).with_name("demo.html")
HERE = ("localhost", "127.0.0.1")
"""The only names that the page answers to: another site's script that found the port would come
under its own.
"""


def demo(arguments: list[str]) -> int:
    """Serve until Ctrl-C.

    Returns:
        the process's exit code: 0, or 2 where the user got something wrong.
    """
    options = Options(
        "demo",
        "Draw a digit in the browser and watch the transformer follow it. Nothing leaves this machine.",
    )
    options.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        default="quickstart",
        help="its name, or its folder; quickstart when left out",
    )
    options.add_argument(
        "--port", type=int, default=8765, help="of this machine; 0 takes any that is free"
    )
    chosen = options.parse_args(arguments)
    try:
        run = Run.load(chosen.run)
        server = serving(run, chosen.port)
    except OverflowError:
        print(f"stn demo: --port {chosen.port}; give 0 to 65535", file=sys.stderr)
        return 2
    except (ValueError, OSError) as problem:
        print(f"stn demo: {problem}", file=sys.stderr)
        return 2
    print(f"{run.folder} on http://localhost:{server.server_port}/ - Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def serving(run: Run, port: int) -> ThreadingHTTPServer:
    """A server for the page and its questions, on this machine's own address.

    Raises:
        ValueError: where the run cannot be drawn for.
    """
    if len(run.image_shape) != 3 or run.image_shape[0] != 1 or run.task.transformer is None:
        raise ValueError(
            f"{run.folder} has no transformer in front, or takes images of shape {run.image_shape}; the demo draws in grey"
        )
    page = PAGE.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = (
            True  # else each answer waits for the one before to be acknowledged
        )

        def do_GET(self) -> None:  # the framework's name
            known = {
                "/": ("text/html; charset=utf-8", page),
                "/about": ("application/json", json.dumps(about(run)).encode()),
            }
            kind, content = known.get(self.path, ("text/plain", b"there is / alone"))
            self._send(200 if self.path in known else 404, kind, content)

        def do_POST(self) -> None:
            _, height, width = run.image_shape
            length = int(self.headers.get("Content-Length", 0))
            if self.path != "/look" or length != height * width:
                self.close_connection = True  # what was sent is not read
                return self._send(
                    400, "text/plain", f"POST {height} x {width} bytes of grey to /look".encode()
                )
            answer = look(run, self.rfile.read(length))
            return self._send(200, "application/json", json.dumps(answer).encode())

        def _send(self, code: int, kind: str, content: bytes) -> None:
            if self.headers.get("Host", "").rpartition(":")[0] not in HERE:
                code, kind, content = 403, "text/plain", b"this page is for localhost"
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the framework's name
            """Nothing: there are dozens of questions a second."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def about(run: Run) -> dict[str, Any]:
    """What the page has to know before the first question."""
    _, height, width = run.image_shape
    return {"name": run.name, "height": height, "width": width, "classes": run.class_names}


def look(run: Run, grey: bytes) -> dict[str, Any]:
    """What the run makes of a picture.

    Args:
        grey: a byte for each pixel, row by row.

    Returns:
        `probabilities` by class; of each transformer an outline, (x, y) from 0 to 1 across the
        picture, and a crop, rows of 0 to 255.
    """
    pixels = np.frombuffer(grey, np.uint8).astype(np.float32) / 255
    logits, seen = run.infer(torch.from_numpy(pixels).view(1, *run.image_shape))
    assert seen is not None
    crops = seen.output.image.reshape(-1, *seen.output.image.shape[-2:]).float().cpu()
    outlines = [
        torch.cat([g[0], g[1:, -1], g[-1].flip(0)[1:], g[1:, 0].flip(0)])
        for g in seen.grids[0].float().cpu()
    ]
    return {
        "probabilities": logits[0].float().softmax(-1).tolist(),
        "outlines": [((rim.clamp(-5, 5) + 1) / 2).tolist() for rim in outlines],
        "crops": crops.clamp(0, 1).mul(255).round().int().tolist(),
    }
