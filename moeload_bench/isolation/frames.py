"""The frames on the pipe between the harness and a forecaster's process.

A frame is a prefix (magic, length of the header), a JSON header and raw little-endian arrays whose names, dtypes and
shapes the header declares, in that order, without padding. Nothing is pickled. Whoever reads a frame bounds the
header's length, its depth and every array's size before reading or allocating it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.bounds import check_depth
from moeload_bench.errors import IsolationError

Header = dict[str, Any]
ReadInto = Callable[[memoryview], None]

MAGIC = b"MLB1"
PREFIX = struct.Struct("<4sI")
MAX_HEADER_BYTES = 2**20
MAX_DEPTH = 32
MAX_ARRAYS = 64
MAX_ITEMS = 2**40
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f4", "<f8")


@dataclass(frozen=True)
class ArrayRule:
    """What a reader accepts under a name: the dtype, and the least and greatest length of each axis.

    ``required`` says that an answer that reports success has it.
    """

    dtype: str
    axes: tuple[tuple[int, int], ...]
    required: bool = True


Rules = Mapping[str, ArrayRule]


@dataclass(frozen=True)
class ArraySpec:
    """One array that a header announces."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def encode_frame(header: Header, arrays: Mapping[str, Array]) -> list[memoryview]:
    """Return the frame as buffers to be written one after the other; contiguous little-endian arrays are not copied."""
    little = {name: _little(array) for name, array in arrays.items()}
    specs = [[name, array.dtype.str, list(array.shape)] for name, array in little.items()]
    text = json.dumps({**header, "arrays": specs}, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise IsolationError(f"a frame's header has {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    buffers = [memoryview(PREFIX.pack(MAGIC, len(text)) + text)]
    return buffers + [_bytes_of(array) for array in little.values() if array.size]


def read_frame(
    read_into: ReadInto, rules: Rules | None, max_header_bytes: int = MAX_HEADER_BYTES
) -> tuple[Header, dict[str, Array]]:
    """Read one frame; raise `IsolationError` for whatever breaks the protocol, before reading further.

    ``rules`` says which arrays are accepted; None (for the worker, which trusts the harness) accepts any.
    """
    prefix = bytearray(PREFIX.size)
    read_into(memoryview(prefix))
    magic, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise IsolationError(f"a frame starts with {bytes(magic)!r}, expected {MAGIC!r}")
    if length > max_header_bytes:
        raise IsolationError(f"a frame announces a header of {length} bytes, at most {max_header_bytes} are allowed")
    text = bytearray(length)
    read_into(memoryview(text))
    header = parse_header(bytes(text))
    specs = _parse_specs(header.pop("arrays", None))
    if rules is not None:
        check_specs(specs, rules)
    arrays = {}
    for spec in specs:
        array = np.empty(spec.shape, dtype=spec.dtype)
        if array.size:
            read_into(_bytes_of(array))
        arrays[spec.name] = array
    return header, arrays


def parse_header(text: bytes) -> Header:
    """Return a JSON object that is not nested deeper than `MAX_DEPTH`; known before it is parsed, in linear time."""
    try:
        check_depth(text, MAX_DEPTH)
        header = json.loads(text)  # arguments of a forecaster may be infinite
    except (ValueError, RecursionError) as error:
        raise IsolationError(f"a frame's header is not JSON as expected: {str(error)[:100]}") from None
    if not isinstance(header, dict):
        raise IsolationError(f"a frame's header is a JSON {type(header).__name__}, expected an object")
    return header


def check_specs(specs: Sequence[ArraySpec], rules: Rules) -> None:
    """Raise `IsolationError` unless every announced array is an expected one with dtype and shape within bounds.

    Whether all are there is for the caller to say: an answer that reports an error has none.
    """
    for spec in specs:
        rule = rules.get(spec.name)
        if rule is None:
            raise IsolationError(f"a frame announces the array {spec.name[:40]!r}, expected {sorted(rules) or 'none'}")
        fits = len(spec.shape) == len(rule.axes) and all(
            least <= got <= most for got, (least, most) in zip(spec.shape, rule.axes, strict=True)
        )
        if spec.dtype != rule.dtype or not fits:
            expected = [f"{least}..{most}" if least != most else str(most) for least, most in rule.axes]
            raise IsolationError(
                f"a frame announces {spec.name} as {spec.dtype} {list(spec.shape)[:8]}, expected {rule.dtype} "
                f"[{', '.join(expected)}]"
            )


def _parse_specs(found: Any) -> list[ArraySpec]:
    if not isinstance(found, list) or len(found) > MAX_ARRAYS:
        raise IsolationError(f"a frame's header has no list of at most {MAX_ARRAYS} arrays")
    specs: dict[str, ArraySpec] = {}
    for entry in found:
        spec = _parse_spec(entry)
        if spec.name in specs:
            raise IsolationError(f"a frame announces the array {spec.name[:40]!r} twice")
        specs[spec.name] = spec
    return list(specs.values())


def _parse_spec(entry: Any) -> ArraySpec:
    if not (isinstance(entry, list) and len(entry) == 3):
        raise IsolationError(f"a frame announces an array as {str(entry)[:80]}, expected [name, dtype, shape]")
    name, dtype, shape = entry
    if not isinstance(name, str) or dtype not in DTYPES:
        raise IsolationError(f"a frame announces the dtype {str(dtype)[:40]!r}, allowed are {', '.join(DTYPES)}")
    valid = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < MAX_ITEMS for n in shape)
    if not valid or math.prod(shape) > MAX_ITEMS:
        raise IsolationError(f"a frame announces the shape {str(shape)[:80]}, expected a list of sizes")
    return ArraySpec(name, dtype, tuple(shape))


def _little(array: Array) -> Array:
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    little = contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise IsolationError(f"an array of {array.dtype} cannot pass, allowed are {', '.join(DTYPES)}")
    return little


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)
