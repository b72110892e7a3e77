"""The weights of a submission: one file next to its code, checked without loading anything from it.

Two formats, neither of which can hold code: npz (a zip archive of numpy arrays, without pickled objects) and
safetensors. The forecaster finds it as ``Path(__file__).with_suffix(".npz")``, at every level of isolation.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from pathlib import Path
from typing import BinaryIO

from moeload_bench.errors import SubmissionError
from moeload_bench.traces.archives import npy_header

WEIGHTS = ("forecaster.npz", "forecaster.safetensors")
MAX_WEIGHTS_BYTES = 64 << 20
MAX_ARRAYS = 10_000
MAX_HEADER_BYTES = 4 << 20
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
         "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}  # fmt: skip
"""Bytes of one value of each type that safetensors knows."""


def check_weights(path: Path) -> str:
    """Return the SHA-256 of a file of weights; raise `SubmissionError` if it is too large or not plain arrays."""
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise SubmissionError(
            f"{path}: {size} bytes, at most {MAX_WEIGHTS_BYTES} are accepted; larger weights come in a pinned wheel"
        )
    try:
        with path.open("rb") as file:
            (_check_npz if path.suffix == ".npz" else _check_safetensors)(file, size)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _WrongError as error:
        raise SubmissionError(f"{path}: {error}") from None


class _WrongError(Exception):
    """What is wrong with a file."""


def _check_npz(file: BinaryIO, size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS:
                raise _WrongError(f"{len(entries)} arrays, at most {MAX_ARRAYS} are accepted")
            if sum(entry.file_size for entry in entries) > MAX_WEIGHTS_BYTES:
                raise _WrongError(f"more than {MAX_WEIGHTS_BYTES} bytes when unpacked")
            for entry in entries:
                with archive.open(entry) as member:
                    _check_array(entry.filename, member)
    except _WrongError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds of errors for a broken archive
        raise _WrongError(f"not an npz archive: {type(error).__name__}") from None


def _check_array(name: str, member: object) -> None:
    if not name.endswith(".npy"):
        raise _WrongError(f"{name[:80]!r} is not an array: an npz archive holds NAME.npy only")
    _, dtype = npy_header(member)
    if dtype.hasobject or dtype.kind not in "biufc":
        raise _WrongError(f"{name[:80]!r} has the type {str(dtype)[:40]}, expected plain numbers")


def _check_safetensors(file: BinaryIO, size: int) -> None:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise _WrongError(f"not a safetensors file: a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length).decode("utf-8"))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = sorted((*entry["data_offsets"], _bytes_of(entry)) for entry in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _WrongError(f"not a safetensors file: {type(error).__name__} in its header") from None
    at = 0
    for start, stop, expected in spans:
        if start != at or stop - start != expected:
            raise _WrongError(f"not a safetensors file: {expected} bytes expected from {at}, got {start} to {stop}")
        at = stop
    if at != size - 8 - length:
        raise _WrongError(f"not a safetensors file: {size - 8 - length} bytes of data, its header describes {at}")


def _bytes_of(entry: dict[str, object]) -> int:
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError
    return SIZES[str(entry["dtype"])] * math.prod(shape)
