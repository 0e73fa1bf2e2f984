import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stn_lightning.batch import Split
from stn_lightning.datasets import MNIST, EmbeddedDigits, mnist
from stn_lightning.datasets.files.download import File, sha256
from stn_lightning.datasets.mnist import read_idx
from tests.mnist_miniature import write_idx, write_mnist

from .originals import mnist_folder


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 200 training and 200 test images, 40 of the former for validation."""
    write_mnist(tmp_path / "mnist", monkeypatch, images=200, validation=40)
    return tmp_path / "mnist"


def test_the_miniatures_splits_are_the_images_that_were_written(miniature: Path) -> None:
    source = MNIST(str(miniature))
    source.prepare()  # all files are there: the network is not asked
    train, test = EmbeddedDigits().load("train"), EmbeddedDigits().load("test")
    expected = {
        "train": (train, slice(0, 160)),
        "val": (train, slice(160, 200)),
        "test": (test, slice(0, 200)),
    }
    for split in ("train", "val", "test"):
        images = source.load(split)
        written, part = expected[split]
        assert torch.equal(images.image, written.image[part])
        assert torch.equal(images.label, written.label[part])
        assert (images.image.dtype, images.label.dtype) == (torch.uint8, torch.int64)


def test_the_last_training_may_have_the_validation_images_too(miniature: Path) -> None:
    source, all_images = MNIST(str(miniature)), MNIST(str(miniature), train_on_validation=True)
    train, val = source.load("train").image, source.load("val").image
    assert torch.equal(all_images.load("train").image, torch.cat([train, val]))
    assert torch.equal(all_images.load("val").image, val)


def test_a_missing_file_is_an_error_before_anything_is_loaded(
    miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = miniature / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    monkeypatch.setattr(mnist, "MIRRORS", ())
    with pytest.raises(FileNotFoundError) as failed:
        MNIST(str(miniature)).prepare()
    assert str(failed.value).startswith(f"{missing} is missing")
    assert "\n" not in str(failed.value)


def test_a_file_with_other_content_is_refused_by_name(miniature: Path) -> None:
    write_idx(miniature / "train-labels-idx1-ubyte.gz", torch.zeros(200, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz: its SHA-256 is"):
        MNIST(str(miniature)).prepare()


def spoilt(path: Path, spoil: Callable[[bytes], bytes]) -> Path:
    """The file with other bytes under its compression."""
    path.write_bytes(gzip.compress(spoil(gzip.decompress(path.read_bytes()))))
    return path


WHOLE = 16 + 200 * 784
SPOILT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one byte short": (
        lambda raw: raw[:-1],
        f"ends at byte {WHOLE - 1}, its header promises {WHOLE}",
    ),
    "one byte long": (
        lambda raw: raw + b"\0",
        f"ends at byte {WHOLE + 1}, its header promises {WHOLE}",
    ),
    "cut in the header": (lambda raw: raw[:9], "ends at byte 9, its header promises 16"),
    "cut in the magic number": (lambda raw: raw[:3], "byte 0: 000008 does not begin an IDX file"),
    "empty": (lambda raw: raw[:0], "byte 0:  does not begin an IDX file"),
    "a web page": (lambda raw: b"<html>" + raw, "byte 0: 3c68746d does not begin an IDX file"),
    "floats": (
        lambda raw: b"\0\0\x0d\3" + raw[4:],
        "byte 0: 00000d03 does not begin an IDX file of bytes",
    ),
    "a size that overflows 64 bits": (
        lambda raw: raw[:4] + b"\x80\0\0\0" * 3 + raw[16:],
        f"ends at byte {WHOLE}, its header promises {16 + 2**93}",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_refused_in_one_line_that_names_file_and_byte(
    miniature: Path, name: str
) -> None:
    spoil, expected = SPOILT[name]
    path = spoilt(miniature / "train-images-idx3-ubyte.gz", spoil)
    with pytest.raises(ValueError, match=r"is it the right file|delete it") as refused:
        MNIST(str(miniature)).load("train")
    assert str(refused.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbled", "not gzip", "missing"])
def test_a_file_that_cannot_be_decompressed_is_refused_in_one_line_that_names_it(
    miniature: Path, damage: str
) -> None:
    path = miniature / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    middle = len(raw) // 2
    if damage == "missing":
        path.unlink()
    else:
        flipped = raw[:middle] + bytes([raw[middle] ^ 255]) + raw[middle + 1 :]
        garbled = raw[:10] + b"\xff" * 20 + raw[30:]
        path.write_bytes(
            {"cut": raw[:middle], "flipped": flipped, "garbled": garbled, "not gzip": b"digits"}[
                damage
            ]
        )
    with pytest.raises(ValueError, match="cannot be read") as refused:
        MNIST(str(miniature)).load("val")
    assert str(refused.value).startswith(f"{path}: cannot be read (")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [(200, 14, 56), (200, 784), (199, 28, 28)])
def test_images_of_another_shape_or_number_are_refused(
    miniature: Path, shape: tuple[int, ...]
) -> None:
    write_idx(miniature / "t10k-images-idx3-ubyte.gz", torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected \(N, 28, 28\) and \(N,\)") as refused:
        MNIST(str(miniature)).load("test")
    assert str(refused.value).startswith(f"{miniature}: test has images of shape {shape}")
    assert "\n" not in str(refused.value)


def test_an_idx_file_of_any_dimensions_is_read_with_or_without_compression(tmp_path: Path) -> None:
    values = torch.randint(0, 256, (3, 4, 5, 2), dtype=torch.uint8)
    write_idx(tmp_path / "values.gz", values)
    (tmp_path / "values").write_bytes(gzip.decompress((tmp_path / "values.gz").read_bytes()))
    assert torch.equal(read_idx(tmp_path / "values.gz"), values)
    assert torch.equal(read_idx(tmp_path / "values"), values)


def test_the_data_folder_is_the_one_that_stn_data_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    assert MNIST().root == tmp_path / "mnist"


@pytest.mark.parametrize("value", [None, ""])
def test_without_stn_data_the_data_folder_is_the_one_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("STN_DATA", raising=False)
    else:
        monkeypatch.setenv("STN_DATA", value)
    assert MNIST().root == Path("data") / "mnist"


def test_a_stn_data_that_names_no_folder_is_an_error_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=f"STN_DATA is {tmp_path / 'nowhere'}") as refused:
        MNIST()
    assert "\n" not in str(refused.value)
    assert (
        MNIST(str(tmp_path)).root == tmp_path
    )  # where the folder is given, the variable plays no part


@pytest.mark.parametrize(
    ("split", "size", "first"),
    [("train", 55_000, [5, 0, 4, 1, 9]), ("val", 5_000, None), ("test", 10_000, [7, 2, 1, 0, 4])],
)
def test_real_mnist_has_the_papers_sizes_and_its_well_known_first_digits(
    split: Split, size: int, first: list[int] | None
) -> None:
    source = MNIST(str(mnist_folder()))
    source.prepare()
    images = source.load(split)
    assert images.image.shape == (size, 1, 28, 28)
    assert images.label.shape == (size,)
    assert images.label.unique().tolist() == list(range(10))
    if first is not None:
        assert images.label[:5].tolist() == first
    else:
        whole = read_idx(mnist_folder() / "train-images-idx3-ubyte.gz")
        assert torch.equal(images.image[:, 0], whole[55_000:])


def test_real_mnist_has_the_mean_that_everybody_subtracts() -> None:
    source = MNIST(str(mnist_folder()))
    total = sum(source.load(split).image.double().sum().item() for split in ("train", "val"))
    assert total / (60_000 * 784 * 255) == pytest.approx(0.1307, abs=5e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("where", ["raw below", "raw beside", "here"])
def test_the_files_are_found_as_torchvision_leaves_them(
    miniature: Path, monkeypatch: pytest.MonkeyPatch, where: str, packed: bool
) -> None:
    expected = MNIST(str(miniature)).load("train")
    folder = {
        "raw below": miniature / "MNIST/raw",
        "raw beside": miniature.parent / "MNIST/raw",
        "here": miniature,
    }[where]
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = {}
    for key, file in mnist.FILES.items():
        content = (miniature / file.name).read_bytes()
        (miniature / file.name).unlink()
        path = folder / (file.name if packed else file.name.removesuffix(".gz"))
        path.write_bytes(content if packed else gzip.decompress(content))
        unpacked[key] = File(path.name, sha256(path), path.stat().st_size)
    if not packed:
        monkeypatch.setattr(mnist, "UNPACKED", unpacked)
    source = MNIST(str(miniature))
    source.prepare()
    assert torch.equal(source.load("train").image, expected.image)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=rf"{path.name}: its SHA-256 is"):
        source.prepare()


def test_the_real_files_without_compression_have_the_checksums_that_are_expected(
    tmp_path: Path,
) -> None:
    for key, file in mnist.FILES.items():
        packed = mnist_folder() / file.name
        assert packed.stat().st_size == file.size
        path = tmp_path / mnist.UNPACKED[key].name
        path.write_bytes(gzip.decompress(packed.read_bytes()))
        assert mnist.UNPACKED[key] == File(path.name, sha256(path), path.stat().st_size)
