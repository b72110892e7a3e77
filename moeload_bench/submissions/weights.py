"""The weights of a submission: one file next to its code, checked without loading anything from it.

Two formats, neither of which can hold code: npz (a zip archive of numpy arrays, without pickled objects) and
safetensors. The forecaster finds it as ``Path(__file__).with_suffix(".npz")``, at every level of isolation.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.traces.archives import npy_header
from moeload_bench.traces.tensors import read_header

WEIGHTS = ("forecaster.npz", "forecaster.safetensors")
MAX_WEIGHTS_BYTES = 64 << 20
MAX_ARRAYS = 10_000


def check_weights(path: Path) -> str:
    """Return the SHA-256 of a file of weights; raise `SubmissionError` if it is too large or not plain arrays."""
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise SubmissionError(
            f"{path}: {size} bytes, at most {MAX_WEIGHTS_BYTES} are accepted; larger weights come in a pinned wheel"
        )
    try:
        _check_npz(path) if path.suffix == ".npz" else read_header(path)
    except ValueError as error:
        raise SubmissionError(f"{path}: {error}") from None
    return bytes_sha256(path)


class _WrongError(ValueError):
    """What is wrong with a file."""


def _check_npz(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
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
