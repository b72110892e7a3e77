"""The frame protocol: what goes in comes out, and nothing is read or allocated before it is known to be bounded."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moeload_bench.errors import IsolationError
from moeload_bench.isolation.frames import DTYPES, MAX_DEPTH, ArrayRule, encode_frame, parse_header, read_frame

arrays = st.dictionaries(
    st.text(max_size=8).filter(bool),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4))
    ),
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
headers = st.dictionaries(st.text(max_size=8).filter(lambda name: name != "arrays"), json_values, max_size=4)


class Stream:
    """A pipe that holds these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read_into(self, view: memoryview) -> None:
        chunk = self.data[self.at : self.at + len(view)]
        if len(chunk) < len(view):
            raise EOFError
        view[:] = chunk
        self.at += len(view)


def frame(header: Any, payload: bytes = b"") -> Stream:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return Stream(struct.pack("<4sI", b"MLB1", len(text)) + text + payload)


@settings(max_examples=50)
@given(headers, arrays)
def test_a_frame_comes_back_as_it_was_sent(header: dict[str, Any], sent: dict[str, Any]) -> None:
    """Header and arrays, whatever their dtype, shape and order in memory; nothing is left over."""
    stream = Stream(b"".join(encode_frame(header, {name: np.array(array, order="F") for name, array in sent.items()})))
    got_header, got = read_frame(stream.read_into, None)
    assert got_header == header
    assert list(got) == list(sent)
    for name, array in sent.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()
        assert got[name].flags.writeable
    assert stream.at == len(stream.data)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_anything_else(noise: bytes) -> None:
    """Bytes that are no frame raise IsolationError or are too few; with the right prefix too."""
    for data in (noise, struct.pack("<4sI", b"MLB1", len(noise)) + noise):
        with pytest.raises((IsolationError, EOFError)):
            read_frame(Stream(data).read_into, {})


@given(json_values.filter(lambda value: not isinstance(value, list)))
def test_a_header_without_a_list_of_arrays_is_refused(value: Any) -> None:
    """Whatever stands there instead."""
    with pytest.raises(IsolationError, match="no list of at most"):
        read_frame(frame({"arrays": value}).read_into, {})


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (["x", "<f8", [2**39]], "announces x as"),
        (["x", "<f8", [2**41]], "the shape"),
        (["x", "<f8", [2**30, 2**30]], "the shape"),
        (["x", "<f8", [-1]], "the shape"),
        (["x", "<f8", [1.0]], "the shape"),
        (["x", "<f8", [True]], "the shape"),
        (["x", "<f8", "11"], "the shape"),
        (["x", "<f8", [1] * 9], "the shape"),
        (["x", "<f8", [[[[1]]]]], "the shape"),
        (["x", "|O", [1]], "the dtype"),
        (["x", "<U8", [1]], "the dtype"),
        (["x", [["a", "<f8"]], [1]], "the dtype"),
        (["x", ">f8", [1]], "the dtype"),
        (["x", "<f4", [1]], "as <f4"),
        (["x", "<f8", [1, 1]], "announces x as"),
        (["y", "<f8", [1]], "the array 'y'"),
        ([1, "<f8", [1]], "the dtype"),
        (["x", "<f8"], "expected .name, dtype, shape."),
        ("x", "expected .name, dtype, shape."),
    ],
)
def test_an_array_is_refused_by_its_announcement(spec: Any, reason: str) -> None:
    """Nothing follows the header here: whoever tried to read the array would raise EOFError instead."""
    with pytest.raises(IsolationError, match=reason):
        read_frame(frame({"arrays": [spec]}).read_into, {"x": ArrayRule("<f8", ((1, 100),))})


def test_an_array_announced_twice_is_refused() -> None:
    """The second would replace the first."""
    with pytest.raises(IsolationError, match="twice"):
        read_frame(frame({"arrays": [["x", "<f8", [1]]] * 2}).read_into, {"x": ArrayRule("<f8", ((1, 1),))})


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["]",'])
def test_depth_is_bounded_before_parsing(opening: bytes) -> None:
    """Deeper than the limit is refused whether or not it is closed; brackets inside strings do not count."""
    with pytest.raises(IsolationError, match="nested"):
        parse_header(b'{"a":' + opening * (MAX_DEPTH + 1))
    assert parse_header(json.dumps({"a": "[{" * 1000 + '"' + "\\" * 3}).encode())["a"].startswith("[{[{")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nonsense", b"[]", b"1", b'"a"', b"null", b"\xff\xfe", b'{"a":1}x', b'{"a":1,"a":2}']
)
def test_a_header_that_is_no_json_object_is_refused(text: bytes) -> None:
    """Whatever else it is."""
    with pytest.raises(IsolationError, match="header is"):
        parse_header(text)


def test_the_length_of_a_header_is_bounded_before_reading() -> None:
    """The reader does not wait for what is announced."""
    data = struct.pack("<4sI", b"MLB1", 2**32 - 1)
    with pytest.raises(IsolationError, match="a header of 4294967295 bytes"):
        read_frame(Stream(data).read_into, {})


def test_an_array_of_objects_cannot_be_sent() -> None:
    """The writer refuses too."""
    with pytest.raises(IsolationError, match="cannot pass"):
        encode_frame({}, {"x": np.array([object()])})
