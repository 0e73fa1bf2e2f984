"""Tables and images that nobody would write: each is read correctly or refused in one line that
names it.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stn_lightning.datasets.decoding import decode, image_size
from stn_lightning.datasets.files.paths import contained_path
from stn_lightning.datasets.files.text_tables import (
    keyed,
    number,
    rows,
    truth,
    whole_number,
)

many = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.sampled_from(
    ["1", "0", "-1", "7", "1e400", "nan", "0x1", "٣", "1_0", "../a", "/a", "a.jpg", "99999999999"]
) | st.text(max_size=4)
tables = (
    st.lists(st.lists(words, max_size=6).map(" ".join), max_size=6)
    .map("\n".join)
    .map(lambda text: text.encode("utf-8", "replace"))
)


def refused(path: Path, problem: ValueError) -> bool:
    return str(problem).startswith(f"{path}: ") and "\n" not in str(problem)


@many
@given(content=tables | st.binary(max_size=40))
def test_a_table_is_read_as_it_stands_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_bytes(content)
    try:
        read = list(rows(path, whole_number, number, truth))
    except ValueError as problem:
        assert refused(path, problem)
        return
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    written = [(row, line.split()) for row, line in lines if line.strip()]
    assert read == [(row, [int(a), float(b), c == "1"]) for row, (a, b, c) in written]


@many
@given(content=tables | st.binary(max_size=40))
def test_names_of_images_stay_in_their_folder_or_are_refused(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "images.txt"
    path.write_bytes(content)
    try:
        names = keyed(path, contained_path)
    except ValueError as problem:
        assert refused(path, problem)
        return
    folder = tmp_path / "images"
    for name in names.values():
        assert (folder / name).resolve().is_relative_to(folder.resolve())


def jpeg(kind: str = "jpeg") -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


WHOLE = {kind: jpeg(kind) for kind in ("jpeg", "png")}


@many
@given(data=st.data(), kind=st.sampled_from(sorted(WHOLE)))
def test_a_damaged_image_is_refused_by_name_or_decoded_whole(
    data: st.DataObject, kind: str, tmp_path: Path
) -> None:
    content = bytearray(WHOLE[kind])
    header = min(700, len(content))  # tables and sizes, where every byte matters
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))] ^= (
            data.draw(st.integers(1, 255))
        )
    path = tmp_path / "image"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        image_size(path)
        image = decode(path)
    except ValueError as problem:
        assert refused(path, problem)
    else:
        assert image.shape[2] == 3
        if path.read_bytes() == WHOLE[kind]:
            assert image.shape == (24, 40, 3)


def test_the_fuzzer_meets_images_that_are_right_too(tmp_path: Path) -> None:
    for kind, content in WHOLE.items():
        (tmp_path / kind).write_bytes(content)
        assert decode(tmp_path / kind).shape == (24, 40, 3)
    (tmp_path / "short").write_bytes(WHOLE["jpeg"][:-2])
    with pytest.raises(ValueError, match=r"short: .*; JPEG, PNG, .* are read"):
        decode(tmp_path / "short")
