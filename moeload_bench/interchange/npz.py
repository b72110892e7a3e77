"""Traces from NumPy archives.

Layout: one array per column, named like the format's columns. `load` [S, L, E] is required; `step` [S] (else 0 .. S-1),
`tokens` [S] or [S, L], and the optional columns of the format (`load_half`, `dropped`, `loss`, `lr`, ...) with the
steps first. Counts are whole numbers of any dtype.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from moeload_bench.errors import TraceError
from moeload_bench.interchange.common import trace_from
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Trace

MAX_BYTES = 8 * 2**30
_NAMES = ("load", "step", "tokens", *OPTIONAL_COLUMNS)


def import_npz(
    path: Path, top_k: int | None = None, tokens: int | None = None, *, max_bytes: int = MAX_BYTES, **meta: Any
) -> Trace:
    """The trace in an archive; ``meta`` goes into `TraceMeta`.

    ``tokens`` is the number per step and layer where the archive has none. Sizes are checked before anything is
    unpacked (``max_bytes`` over all arrays), and object arrays are refused: nothing is unpickled. Raises `TraceError`
    that names file, array, what was got and what was expected.
    """
    arrays = _read(path, max_bytes)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    return trace_from(
        path,
        arrays["load"],
        arrays.get("tokens"),
        tokens,
        top_k,
        step_S=arrays.get("step"),
        columns=columns,
        **meta,
    )


def _read(path: Path, max_bytes: int) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [_column(path, entry.filename) for entry in archive.infolist()]
            if len(set(names)) != len(names):
                raise TraceError(f"{path}: an array is there twice; got {', '.join(names)}")
            _check_sizes(path, archive, max_bytes)
            return {name: _array(path, archive, name) for name in names}
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise TraceError(f"{path}: not a NumPy archive (.npz): {error}") from None


def _column(path: Path, member: str) -> str:
    name = member.removesuffix(".npy")
    if name not in _NAMES:
        raise TraceError(f"{path}: unknown array {name!r}, expected: {', '.join(_NAMES)}")
    return name


def _check_sizes(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> None:
    """Refuse before unpacking: too large altogether, or a header that promises more than its member holds."""
    total = sum(entry.file_size for entry in archive.infolist())
    if total > max_bytes:
        raise TraceError(f"{path}: arrays take {total} bytes unpacked, expected at most {max_bytes}")
    for entry in archive.infolist():
        with archive.open(entry) as file:
            shape, dtype = _header(path, entry.filename, file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or dtype.kind not in "iufb" or size > entry.file_size:
            raise TraceError(
                f"{path}: array {entry.filename} is {dtype} {list(shape)} in {entry.file_size} bytes, "
                "expected plain numbers"
            )


def _header(path: Path, name: str, file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise TraceError(f"{path}: member {name} is not a NumPy array: {error}") from None
    return shape, dtype


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    member = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
    file: BinaryIO
    try:
        with archive.open(member) as file:  # type: ignore[assignment]  # ZipExtFile reads like a BinaryIO
            array: np.ndarray[Any, Any] = npy.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TraceError(f"{path}: array {name} cannot be read: {error}") from None
    return array
