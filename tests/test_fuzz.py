"""Files that nobody would write: each is read correctly or refused in one line that names it."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stn_lightning.datasets.mnist import read_idx
from stn_lightning.runs.config_errors import check_yaml

many = settings(max_examples=350, suppress_health_check=[HealthCheck.function_scoped_fixture])
dimensions = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 6), max_size=5)


def refused(path: Path, problem: ValueError) -> bool:
    return str(problem).startswith(f"{path}:") and "\n" not in str(problem)


@many
@given(
    kind=st.binary(max_size=5) | st.just(b"\0\0\x08"),
    shape=dimensions,
    body=st.binary(max_size=64),
    packed=st.booleans(),
)
def test_an_idx_file_is_read_as_its_header_says_or_refused(
    kind: bytes, shape: list[int], body: bytes, packed: bool, tmp_path: Path
) -> None:
    raw = kind + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + body
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    try:
        values = read_idx(path)
    except ValueError as problem:
        assert refused(path, problem)
    else:
        n_dims = raw[3]
        assert raw[:3] == b"\0\0\x08"
        assert list(values.shape) == [
            int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(n_dims)
        ]
        assert np.array_equal(
            values.flatten().numpy(), np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims)
        )


@many
@given(data=st.data())
def test_a_damaged_gzip_file_is_refused_or_was_not_damaged_where_it_matters(
    data: st.DataObject, tmp_path: Path
) -> None:
    body = bytes(range(60))
    packed = bytearray(gzip.compress(b"\0\0\x08\x01" + (60).to_bytes(4, "big") + body))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "file.gz"
    path.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        assert bytes(read_idx(path).numpy()) == body
    except ValueError as problem:
        assert refused(path, problem)


keys = st.sampled_from(
    ["trainer", "model", "data", "max_epochs", "class_path", "init_args"]
) | st.text(max_size=4)
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=8,
)
lines = st.text(alphabet="abt:- []{}&*!|>'\"%@#\n\t\0\\é1", max_size=60)


@many
@given(
    text=st.binary(max_size=40)
    | lines.map(str.encode)
    | values.map(lambda value: yaml.safe_dump(value).encode())
)
def test_a_configuration_file_is_yaml_or_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(text)
    try:
        check_yaml(path)
    except ValueError as problem:
        assert refused(path, problem)
    else:
        yaml.safe_load(text.decode())  # what is let through is YAML


def test_the_fuzzer_meets_files_that_are_right_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(6))
    assert read_idx(path).shape == (2, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends at byte 17, its header promises 18"):
        read_idx(path)
