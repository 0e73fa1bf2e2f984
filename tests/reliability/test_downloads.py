"""Downloads by several processes at a time, some of which are killed."""

import hashlib
import http.server
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stn_lightning.datasets.files.download import File, fetch
from stn_lightning.runtime.atomic_files import remove_stale
from tests.reliability.processes import SERVER, started, until
from tests.runtime.test_checkpointing import without_privileges

CONTENT = b"digits" * 50_000
FILE = File("digits.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Slow(http.server.BaseHTTPRequestHandler):
    """Takes half a second for the file, and never ends the one called endless."""

    asked: list[str]

    def do_GET(self) -> None:  # as the base class calls it
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        while True:
            for part in range(0, len(CONTENT), len(CONTENT) // 10):
                self.wfile.write(CONTENT[part : part + len(CONTENT) // 10])
                time.sleep(0 if "endless" in self.path else 0.05)
            if "endless" not in self.path:
                return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Counting", (Slow,), {"asked": asked})
    )
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever is killed hangs up
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_of_several_processes_one_downloads_and_a_killed_one_is_replaced(
    tmp_path: Path, mirror: tuple[str, list[str]]
) -> None:
    url, asked = mirror
    with started(fetch, FILE, tmp_path, [url], environment={}) as killed:
        until(lambda: asked, lambda: "nothing was asked for")
        processes = [SERVER.Process(target=fetch, args=(FILE, tmp_path, [url])) for _ in range(3)]
        for process in processes:
            process.start()
        time.sleep(0.2)
        killed.kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert asked == ["/digits.gz", "/digits.gz"], (
        "once by the killed process, once by one of the others"
    )
    # as the next download does; the killed process may still have been ending when the second began
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.gz"]
    assert (tmp_path / "digits.gz").read_bytes() == CONTENT


def test_a_server_that_sends_more_than_the_file_is_not_listened_to_for_longer(
    tmp_path: Path, mirror: tuple[str, list[str]]
) -> None:
    url, asked = mirror
    fetch(FILE, tmp_path, [url + "endless", url])
    assert asked == ["/endlessdigits.gz", "/digits.gz"]
    with pytest.raises(FileNotFoundError, match=f"it is larger than {len(CONTENT)} bytes"):
        fetch(FILE._replace(name="other.gz"), tmp_path, [url + "endless"])
    assert [path.name for path in tmp_path.iterdir()] == ["digits.gz"]


def test_files_that_are_right_in_a_folder_that_cannot_be_written_are_enough() -> None:
    with (
        tempfile.TemporaryDirectory() as name
    ):  # pytest's own folders cannot be entered by somebody else
        (Path(name) / "digits.gz").write_bytes(CONTENT)
        Path(name).chmod(0o555)
        with without_privileges():
            fetch(FILE, Path(name), [])
        assert [path.name for path in Path(name).iterdir()] == ["digits.gz"]
