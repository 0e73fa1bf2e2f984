"""A real browser without a library: Chromium in headless mode, spoken to through two pipes (Chrome
DevTools Protocol).
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
REASON = "no Chromium on this machine; apt install chromium"


class Page:
    """A tab. What its console says is kept in `complaints`."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back = to, back
        self.number, self.rest = 0, b""
        self.complaints: list[str] = []
        self.session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], 60)
            assert ready, "the browser says nothing"
            self.rest += os.read(self.back, 1 << 20)
        line, self.rest = self.rest.split(b"\0", 1)
        event: dict[str, Any] = json.loads(line)
        if event.get("method") in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
        ):
            self.complaints.append(json.dumps(event["params"]))
        return event

    def open(self, address: str, width: int = 390, height: int = 844) -> None:
        """Go to a page on a screen of this size, and wait until it is there."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send("Page.navigate", url=address)
        self.until(
            f"document.readyState == 'complete' && location.href.startsWith({address[:4]!r})"
        )

    def value(self, expression: str) -> Any:
        """Of JavaScript."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait for something to be true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """`mousePressed`, `mouseMoved` or `mouseReleased` with the left button."""
        self.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left",
            buttons=int(kind != "mouseReleased"),
            clickCount=1,
        )

    def screenshot(self, file: Path) -> None:
        """All of the page, as PNG."""
        content = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(content))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A tab of a browser that ends with the block."""
    assert CHROMIUM
    read_by_it, to = os.pipe()
    back, written_by_it = os.pipe()
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe "
        f"--user-data-dir='{profile}'"
    )
    command = f"exec '{CHROMIUM}' {options} 3<&{read_by_it} 4>&{written_by_it}"
    process = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(read_by_it, written_by_it), stderr=subprocess.DEVNULL
    )
    os.close(read_by_it)
    os.close(written_by_it)
    try:
        yield Page(to, back)
    finally:
        process.terminate()
        process.wait(30)
        os.close(to)
        os.close(back)
