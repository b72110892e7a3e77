"""The header of a safetensors file, checked against the file's size before a byte of data is read.

A file is eight bytes of length, a JSON header, then the data of all tensors without gaps. Nothing in it is executed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from moeload_bench.bounds import named_once
from moeload_bench.errors import printable
from moeload_bench.schema import Schema, first_problem

MAX_HEADER_BYTES = 16 << 20
"""About 130,000 tensors."""
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one value of each type that safetensors knows."""
Count = Annotated[int, Field(strict=True, ge=0, lt=2**48)]


class Tensor(Schema):
    """One tensor of a file; ``data_offsets`` are its first byte and the one after its last, behind the header."""

    dtype: str
    shape: tuple[Count, ...] = Field(max_length=8)
    data_offsets: tuple[Count, Count]

    @property
    def size(self) -> int:
        """Return the bytes that it takes in the file."""
        return self.data_offsets[1] - self.data_offsets[0]


class Header(NamedTuple):
    """A file's tensors by name, in the order of their data, which begin at byte ``start``."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    start: int


_TENSORS = TypeAdapter(dict[Annotated[str, Field(max_length=400)], Tensor])
_METADATA = TypeAdapter(dict[str, str])


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file whose tensors fill it, each with the bytes of its shape and dtype.

    Raise `ValueError` for any other file, and for a header of more than MAX_HEADER_BYTES.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            payload = json.loads(file.read(length), object_pairs_hook=named_once)
        entries = _TENSORS.validate_python({name: entry for name, entry in payload.items() if name != "__metadata__"})
        tensors = dict(sorted(entries.items(), key=lambda item: item[1].data_offsets))
        _check_bytes(tensors, size - 8 - length)
        return Header(tensors, _METADATA.validate_python(payload.get("__metadata__", {})), 8 + length)
    except (ValueError, AttributeError, RecursionError) as error:
        why = first_problem(error, "header") if isinstance(error, ValidationError) else str(error)
    raise ValueError(f"not a safetensors file: {printable(why)[:300]}")


def _check_bytes(tensors: dict[str, Tensor], size: int) -> None:
    """Raise `ValueError` unless the tensors fill the data without gaps, each with the bytes of its shape."""
    end = 0
    for name, tensor in tensors.items():
        begin, stop = tensor.data_offsets
        if tensor.dtype not in BITS:
            raise ValueError(f"{name} has dtype {tensor.dtype[:40]!r}, expected one of {', '.join(BITS)}")
        bits = math.prod(tensor.shape) * BITS[tensor.dtype]
        if begin != end or 8 * (stop - begin) != bits:
            raise ValueError(
                f"{name} lies at {begin} to {stop}, expected {-(-bits // 8)} bytes from {end} on: {tensor.dtype} "
                f"{list(tensor.shape)}"
            )
        end = stop
    if end != size:
        raise ValueError(f"{size} bytes of data, its header describes {end}: it breaks off or has a tail")
