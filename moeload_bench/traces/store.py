"""Read, write and hash traces.

A trace is one parquet file with one row per step. The metadata is a JSON object under the key ``moeload`` of the
parquet schema, next to the content hash. Folders hold traces at ``RECIPE/SPLIT/seedN.parquet``, which is also the
trace's id. They are Hugging Face dataset folders at the same time (one config per recipe).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.errors import HashMismatchError, TraceError
from moeload_bench.files import replacing
from moeload_bench.traces.meta import COLUMNS, TraceMeta, checked_meta, hashed_meta
from moeload_bench.traces.parquet import META_KEY, group_steps, open_mapped, open_parquet, read_columns, read_metadata
from moeload_bench.traces.routing import CATALOGUE
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace, check_counts, check_load, check_steps, check_trace

if TYPE_CHECKING:
    import pyarrow as pa

WRITING: dict[str, Any] = {"compression": "zstd", "compression_level": 12, "store_schema": True}
"""Options of pyarrow for writing any trace."""
HASHES = ("data_sha256", "meta_sha256")
"""Keys of the two hashes in a file's metadata; all others are fields of `TraceMeta`."""
_REPEATING = ("lr", "expert_bias")
"""Columns of few different values: a dictionary takes less room for them than byte-stream-split. The biases of quantile
balancing are no such column: they hardly ever repeat, those that move by a fixed step do."""


# ---------------------------------------------------------------- hashing


def data_sha256(trace: Trace) -> str:
    """Return the hash of the decoded columns: names, dtypes, shapes and little-endian values, with a single NaN.

    File bytes do not enter, so the hash stays the same after re-compression, with other row groups and library
    versions.
    """
    digest = _HASHES.get(trace)
    if digest is None:
        digest = _HASHES[trace] = _digest(trace)
    return digest


def _digest(trace: Trace, look: Callable[[Trace], None] | None = None) -> str:
    """Return the hash; ``look`` sees the trace part by part, as its loads are read for it."""
    digest = hashlib.sha256()
    for name, array in columns_of(trace).items():
        digest.update(column_header(name, array.shape))
        if name == "load" and look is not None:
            for part in trace.in_parts():
                look(part)
                digest.update(column_bytes(part.load_SLE))
        else:
            for rows in parts(array.shape):
                digest.update(column_bytes(array[rows]))
    return digest.hexdigest()


_HASHES: WeakKeyDictionary[Trace, str] = WeakKeyDictionary()
"""Of the traces in use: arrays of a trace are read-only, and one of 240 MB takes a second."""


def column_header(name: str, shape: Sequence[int]) -> bytes:
    """Return what `data_sha256` hashes of a column before its values."""
    return json.dumps([name, COLUMNS[name].dtype, list(shape)], separators=(",", ":")).encode() + b"\n"


def column_bytes(array: Array) -> memoryview:
    """Return what `data_sha256` hashes of a column's values; parts of a column, hashed in order, give the same hash."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if little.dtype.kind == "f" and np.isnan(little).any():
        little = np.where(np.isnan(little), little.dtype.type(np.nan), little)
    return little.reshape(-1).view(np.uint8).data


def columns_of(trace: Trace) -> dict[str, Array]:
    """Return all columns of a trace by name, in the format's order."""
    columns: Mapping[str, Array] = {
        "run": np.full(trace.steps, trace.meta.run, dtype=np.int32),
        "step": trace.step_S,
        "tokens": trace.tokens_SL,
        "load": trace.load_SLE,
        **trace.columns,
    }
    return {name: columns[name] for name in COLUMNS if name in columns}


# ---------------------------------------------------------------- writing


def write_trace(trace: Trace, path: str | os.PathLike[str], *, overwrite: bool = False, durable: bool = False) -> Path:
    """Check a trace and write it atomically; ``durable`` waits until it is on the disk.

    Raise `TraceError` for a broken invariant, an existing file, or a name under which no reader looks for a trace.
    """
    import pyarrow.parquet as pq

    target = Path(path)
    if target.suffix != ".parquet":
        raise TraceError(f"{target}: expected a file name that ends in .parquet")
    if target.exists() and not overwrite:
        raise TraceError(f"{target}: a trace is there already; choose another folder or remove it first")
    check_trace(trace, where=str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, durable=durable) as scratch:
        pq.write_table(
            _to_table(trace),
            scratch,
            row_group_size=group_steps(trace.meta),
            **writer_options(list(columns_of(trace)), trace.meta.balancing.method),
        )
    return target


def refuse_trace_at(target: Path) -> None:
    """Raise `TraceError` if a trace lies at ``target``, whatever its name: no output may replace a trace."""
    if target.is_file() and _is_trace(target):
        raise TraceError(f"{target}: a trace is there already; choose another name or remove it first")


def _is_trace(file: Path) -> bool:
    """Return whether a file is a trace, by the mark in its footer; a series exported as parquet has none."""
    try:
        with open_parquet(file) as opened:
            return META_KEY in (opened.metadata.metadata or {})
    except TraceError:
        return False


def writer_options(names: Sequence[str], method: str) -> dict[str, Any]:
    """Return pyarrow's options for writing a trace of these columns, balanced by a method.

    Measured numbers are floats that hardly ever repeat, so their bytes are stored side by side (byte-stream-split),
    which makes a file 2 to 12 % smaller. Counts would gain at most 11 %, and DuckDB before 2.0 cannot read whole
    numbers stored so.
    """
    path_of = {name: name + ".list.element" * len(COLUMNS[name].axes) for name in names}
    repeating = {*_REPEATING} - ({"expert_bias"} if method == "quantile" else set())
    split = {name for name in names if COLUMNS[name].dtype == "float32" and name not in repeating}
    return {
        **WRITING,
        "use_dictionary": [path for name, path in path_of.items() if name not in split],
        "column_encoding": {path_of[name]: "BYTE_STREAM_SPLIT" for name in sorted(split)},
    }


def _to_table(trace: Trace) -> pa.Table:
    import pyarrow as pa

    arrays = {name: _to_arrow(array[:]) for name, array in columns_of(trace).items()}
    metadata = {
        **trace.meta.model_dump(mode="json"),
        "data_sha256": data_sha256(trace),
        "meta_sha256": trace.meta.sha256(),
    }
    table = pa.table(arrays)
    return table.replace_schema_metadata({META_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)})


def _to_arrow(array: Array) -> pa.Array:
    import pyarrow as pa

    flat = np.ascontiguousarray(array).reshape(-1)
    # `pa.array` would import pandas, some 40 MB, to see what it was given
    out = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])
    for size in reversed(array.shape[1:]):
        out = pa.FixedSizeListArray.from_arrays(out, size)
    return out


# ---------------------------------------------------------------- reading


def read_trace(path: str | os.PathLike[str], *, verify: bool = True, expected_sha256: str | None = None) -> Trace:
    """Return the trace in a parquet file.

    ``verify`` checks the invariants and both hashes; without it only shapes are checked. ``expected_sha256`` is the
    `data_sha256` that the content must have (a suite's); only without it is the file opened in a child process first.
    Raise `TraceError`, which names the file, and the step and layer where that applies; raise `HashMismatchError` if
    the content was edited or is another trace's.
    """
    where = str(path)
    with open_mapped(Path(path), trusted=expected_sha256 is not None) as opened:
        metadata = read_metadata(opened.reader, where)
        stored = {key: metadata.pop(key, None) for key in HASHES}
        meta, meta_sha256 = hashed_meta(metadata, where)
        arrays = read_columns(opened, meta)
    run_S = arrays.pop("run")
    if (run_S != meta.run).any():
        raise TraceError(f"{where}: column run holds {run_S[run_S != meta.run][0]}, the metadata says {meta.run}")
    trace = Trace(meta, arrays.pop("step"), arrays.pop("tokens"), arrays.pop("load"), arrays)
    if verify:
        check_steps(trace, where)
        content = _HASHES[trace] = _digest(trace, lambda part: check_counts(part, where))
        for key, got in (("data_sha256", content), ("meta_sha256", meta_sha256)):
            if stored[key] != got:
                raise HashMismatchError(f"{where}: {key} is {got}, the file says {stored[key]}: it was edited")
        if expected_sha256 not in (None, content):
            raise HashMismatchError(f"{where}: data_sha256 is {content}, expected {expected_sha256}: another trace")
    return trace


Source = Path | Trace
"""A run that is at hand: its file, or the trace itself."""


def open_source(source: Source, expected_sha256: str) -> Trace:
    """Return the trace; raise `HashMismatchError` when its content has another `data_sha256`."""
    if isinstance(source, Path):
        return read_trace(source, expected_sha256=expected_sha256)
    content = data_sha256(source)
    if content != expected_sha256:
        raise HashMismatchError(f"{source.id}: data_sha256 is {content}, expected {expected_sha256}: another trace")
    return source


def stored_meta(path: str | os.PathLike[str]) -> TraceMeta:
    """Return the metadata of a trace's file without reading its rows."""
    return stored_outline(path)[0]


def stored_outline(path: str | os.PathLike[str]) -> tuple[TraceMeta, int]:
    """Return the metadata and the number of steps of a trace's file without reading its rows."""
    with open_parquet(Path(path)) as file:
        metadata, steps = read_metadata(file, str(path)), file.metadata.num_rows
    return checked_meta({key: value for key, value in metadata.items() if key not in HASHES}, str(path)), steps


def stored_hash(path: str | os.PathLike[str]) -> str:
    """Return the `data_sha256` that a trace's file claims, without checking it against the content."""
    with open_parquet(Path(path)) as file:
        return str(read_metadata(file, str(path)).get("data_sha256"))


def validate_path(path: str | os.PathLike[str]) -> Iterator[tuple[Path, TraceError | None]]:
    """Yield each trace file at or below a path, with what is wrong with it, or None."""
    root = Path(path)
    files = sorted({*root.glob("**/*.parquet")} - {root / CATALOGUE}) if root.is_dir() else [root]
    if not files:
        raise TraceError(f"{root}: the folder holds no parquet file")
    for file in files:
        try:
            check_load(read_trace(file), str(file))
        except TraceError as error:
            yield file, error
        else:
            yield file, None
