import hashlib
import http.client
import io
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stn_lightning.datasets import cub, mnist, svhn
from stn_lightning.datasets.files.download import File, fetch, sha256

CONTENT = b"digits" * 1000
FILE = File("digits.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
MIRRORS = ("https://one.example/", "https://two.example/")
Prediction = bytes | BaseException


class Response(io.BytesIO):
    """What a server answers, as urllib has it."""

    url = "https://one.example/digits.gz"
    length: int | None = None
    """What it announces."""


class BreaksOff(Response):
    """A response that delivers half of its content and then an error."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__(CONTENT[: len(CONTENT) // 2])
        self.problem = problem

    def read(self, size: int | None = -1) -> bytes:
        if block := super().read(size):
            return block
        raise self.problem


Network = Callable[..., list[str]]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Let the mirrors give these answers in turn; the list of what was asked for fills as it is
    asked for.
    """

    def set_up(*answers: bytes | Response | BaseException) -> list[str]:
        left, asked = list(answers), list[str]()

        def urlopen(url: str, timeout: float) -> Response:
            assert 0 < timeout <= 60
            asked.append(url)
            answer = left.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return Response(answer) if isinstance(answer, bytes) else answer

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return asked

    return set_up


def test_a_missing_file_is_downloaded_whole_and_alone_into_a_new_folder(
    tmp_path: Path, network: Network
) -> None:
    asked = network(CONTENT)
    fetch(FILE, tmp_path / "a" / "b", MIRRORS)
    assert asked == ["https://one.example/digits.gz"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["digits.gz"]
    assert (tmp_path / "a" / "b" / "digits.gz").read_bytes() == CONTENT


def test_a_downloaded_file_can_be_read_by_everybody(tmp_path: Path, network: Network) -> None:
    network(CONTENT)
    fetch(FILE, tmp_path, MIRRORS)
    assert (tmp_path / "digits.gz").stat().st_mode & 0o777 == 0o644


def test_a_file_in_place_is_not_asked_for(tmp_path: Path, network: Network) -> None:
    (tmp_path / "digits.gz").write_bytes(CONTENT)
    asked = network()
    fetch(FILE, tmp_path, MIRRORS)
    assert not asked


def test_another_file_in_its_place_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "digits.gz"
    path.write_bytes(b"letters")
    with pytest.raises(ValueError, match="delete it") as refused:
        fetch(FILE, tmp_path, MIRRORS)
    assert path.read_bytes() == b"letters"
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(
        f"{path}: its SHA-256 is {hashlib.sha256(b'letters').hexdigest()}, expected {FILE.sha256}"
    )


BROKEN = [
    urllib.error.URLError("no route"),
    urllib.error.HTTPError(
        "https://one.example/digits.gz", 404, "Not Found", http.client.HTTPMessage(), None
    ),
    TimeoutError("timed out"),
    CONTENT[:-1],
    b"",
    b"<html>Please log in to this network</html>",
    BreaksOff(ConnectionResetError(104, "Connection reset by peer")),
    BreaksOff(http.client.IncompleteRead(b"", 10)),
    BreaksOff(TimeoutError("The read operation timed out")),
]


@pytest.mark.parametrize("answer", BROKEN, ids=lambda answer: repr(answer)[:30])
def test_where_one_mirror_fails_the_next_one_is_asked(
    tmp_path: Path, network: Network, answer: Prediction
) -> None:
    asked = network(answer, CONTENT)
    fetch(FILE, tmp_path, MIRRORS)
    assert asked == ["https://one.example/digits.gz", "https://two.example/digits.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["digits.gz"]
    assert sha256(tmp_path / "digits.gz") == FILE.sha256


class Unread(Response):
    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("it was read")


def test_a_server_that_announces_too_much_is_not_read_at_all(
    tmp_path: Path, network: Network
) -> None:
    announcing = Unread()
    announcing.length = len(CONTENT) + 1
    network(announcing)
    with pytest.raises(FileNotFoundError, match=f"it is larger than {len(CONTENT)} bytes"):
        fetch(FILE, tmp_path, MIRRORS[:1])


def test_of_an_endless_answer_one_byte_too_many_is_read(tmp_path: Path, network: Network) -> None:
    sizes = []

    class Endless(Response):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            sizes.append(size)
            return bytes(size)

    network(Endless())
    with pytest.raises(FileNotFoundError, match="it is larger than"):
        fetch(FILE, tmp_path, MIRRORS[:1])
    assert sum(sizes) == len(CONTENT) + 1


def test_an_encrypted_address_that_leads_to_an_open_one_is_refused(
    tmp_path: Path, network: Network
) -> None:
    redirected = Unread()
    redirected.url = "http://elsewhere.example/digits.gz"
    network(redirected)
    with pytest.raises(FileNotFoundError, match=r"redirects to http://elsewhere\.example"):
        fetch(FILE, tmp_path, MIRRORS[:1])


@pytest.mark.parametrize("file", [*mnist.FILES.values(), *svhn.ARCHIVES.values(), cub.ARCHIVE])
def test_each_file_of_a_data_set_has_a_size_and_an_encrypted_mirror(file: File) -> None:
    assert file.size > 0
    for mirrors in (mnist.MIRRORS, svhn.MIRRORS, cub.MIRRORS):
        assert mirrors[0].startswith("https://")


def test_where_no_mirror_delivers_one_line_names_the_file_the_mirrors_and_what_to_do(
    tmp_path: Path, network: Network
) -> None:
    network(urllib.error.URLError("no route"), b"half")
    with pytest.raises(FileNotFoundError) as failed:
        fetch(FILE, tmp_path, MIRRORS)
    message = str(failed.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'digits.gz'} is missing")
    assert "https://one.example/: <urlopen error no route>" in message
    assert f"https://two.example/: its SHA-256 is {hashlib.sha256(b'half').hexdigest()}" in message
    assert "STN_DATA" in message
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_stopped_by_hand_leaves_nothing(
    tmp_path: Path, network: Network
) -> None:
    asked = network(BreaksOff(KeyboardInterrupt()), CONTENT)
    with pytest.raises(KeyboardInterrupt):
        fetch(FILE, tmp_path, MIRRORS)
    assert asked == ["https://one.example/digits.gz"]
    assert not list(tmp_path.iterdir())


def test_while_it_is_downloaded_nobody_sees_a_half_finished_file(
    tmp_path: Path, network: Network
) -> None:
    seen = []

    class Watched(Response):
        def read(self, size: int | None = -1) -> bytes:
            seen.append((tmp_path / "digits.gz").exists())
            return super().read(1000)

    network(Watched(CONTENT))
    fetch(FILE, tmp_path, MIRRORS)
    assert len(seen) == 7
    assert not any(seen)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Nobody's rights, as root may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line_that_names_it(
    network: Network,
) -> None:
    network(CONTENT)
    with (
        tempfile.TemporaryDirectory() as name
    ):  # pytest's own folders cannot be entered by somebody else
        Path(name).chmod(0o555)
        with somebody_else(), pytest.raises(PermissionError) as failed:
            fetch(FILE, Path(name), MIRRORS)
        assert not list(Path(name).iterdir())
        assert name in str(failed.value)
        assert FILE.name in str(failed.value)
        assert "\n" not in str(failed.value)


def test_a_file_where_the_folder_should_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "mnist").write_text("")
    with pytest.raises(OSError, match=f"{tmp_path / 'mnist'}"):
        fetch(FILE, tmp_path / "mnist", MIRRORS)


def test_a_pipe_in_the_place_of_a_file_is_named_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.gz")
    with pytest.raises(ValueError, match=r"data\.gz: this is no regular file; move it away"):
        sha256(tmp_path / "data.gz")
