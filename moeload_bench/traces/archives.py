"""NumPy archives read with care: sizes are checked before anything is unpacked, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from moeload_bench.bounds import check_decoded
from moeload_bench.errors import MoeloadError, TraceError, short

MAX_HEADER = 1 << 16


def read_arrays(
    path: Path,
    expected: Collection[str],
    max_bytes: int | None = None,
    advice: str = "",
    wanted: Collection[str] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of an archive by name, all or those ``wanted``; others are passed over unread.

    They must be plain numbers, take at most ``max_bytes`` together, and be in proportion to the archive's size
    (`moeload_bench.bounds`). ``advice`` ends the message about an archive that is too large: what can be read instead.

    Raise `TraceError` if the file is not an archive, or if an array is none of the ``expected`` ones, occurs twice,
    holds objects, is too large, or claims more than its member holds. The message names file, array, what was got and
    what was expected.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [_name(path, entry.filename, expected) for entry in entries]
            if len(set(names)) != len(names):
                raise TraceError(f"{path}: an array occurs twice; got {short(names)}")
            total = sum(entry.file_size for entry in entries)
            if max_bytes is not None and total > max_bytes:
                raise TraceError(f"{path}: arrays take {total} bytes unpacked, expected at most {max_bytes}{advice}")
            check_decoded(total, path.stat().st_size, str(path))
            read = {name: entry for name, entry in zip(names, entries, strict=True) if name in (wanted or expected)}
            _check_headers(path, archive, read.values())
            return {name: _array(path, archive, name, entry) for name, entry in read.items()}
    except MoeloadError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a hostile archive can raise almost anything: encryption, compression, text, numbers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TraceError(f"{path}: not a NumPy archive (.npz): {reason}") from error


def read_array(path: Path, max_bytes: int, advice: str = "") -> np.ndarray[Any, Any]:
    """Return the array of a bare `.npy` file, plain numbers of at most ``max_bytes``; raise as `read_arrays`."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise TraceError(f"{path}: the array takes {size} bytes, expected at most {max_bytes}{advice}")
        with path.open("rb") as file:
            _check_header(str(path), file, size)
            file.seek(0)
            return np.asarray(npy.read_array(file, allow_pickle=False))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise TraceError(f"{path}: not a NumPy array (.npy): {' '.join(str(error).split())[:300]}") from None


def _name(path: Path, member: str, expected: Collection[str]) -> str:
    name = member.removesuffix(".npy")
    if name not in expected:
        raise TraceError(f"{path}: unknown array {name[:80]!r}, expected: {', '.join(expected)}")
    return name


def _check_headers(path: Path, archive: zipfile.ZipFile, entries: Iterable[zipfile.ZipInfo]) -> None:
    """Check each header against the bytes that its member holds, before anything is unpacked."""
    for entry in entries:
        try:
            with archive.open(entry) as file:
                _check_header(f"{path}: array {entry.filename}", file, entry.file_size)
        except ValueError as error:
            raise TraceError(f"{path}: member {entry.filename} is not a NumPy array: {error}") from None


def _check_header(where: str, file: Any, size: int) -> None:
    """Raise `TraceError` for an array that is not of plain numbers, or announces more than its file of ``size`` has."""
    shape, _, dtype = npy_header(file)
    got = f"{where} is {str(dtype)[:80]} {str(list(shape))[:120]}"
    if any(n < 1 for n in shape):
        raise TraceError(f"{got}, expected no empty axis")
    if dtype.hasobject or dtype.kind not in "iufb" or math.prod(shape) * dtype.itemsize > size:
        raise TraceError(f"{got} in {size} bytes, expected plain numbers")


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran's order, and dtype, as an array's own header announces them.

    The file stands behind the header then. Raise `ValueError` for none, and for one of more than MAX_HEADER bytes.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    version = npy.read_magic(head)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(head)
    if any(type(length) is not int for length in shape):  # NumPy takes True for 1
        raise ValueError(f"its shape is {shape}, expected whole numbers")
    file.seek(head.tell())
    return shape, is_fortran, dtype


def _array(path: Path, archive: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo) -> Any:
    try:
        with archive.open(entry) as file:
            return npy.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TraceError(f"{path}: array {name} cannot be read: {error}") from None
