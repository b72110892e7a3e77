"""Read, write, hash and find traces.

A trace is one parquet file with one row per step; the metadata is a JSON record under the key ``moeload`` of the
parquet schema, with the content hash beside it. Folders hold traces at ``RECIPE/SPLIT/seedN.parquet``, the same
path as the trace's id, and are at the same time Hugging Face dataset folders (one config per recipe).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moeload_bench.errors import HashMismatchError, TraceError, not_found
from moeload_bench.files import PACKAGE, replacing
from moeload_bench.traces.meta import RECIPE_PATTERN, SPLIT_PATTERN, TraceMeta, checked_meta, hashed_meta
from moeload_bench.traces.parquet import (
    META_KEY,
    ROW_GROUP_STEPS,
    open_mapped,
    open_parquet,
    read_columns,
    read_record,
)
from moeload_bench.traces.trace import COLUMNS, Array, Trace, check_trace

if TYPE_CHECKING:
    import pyarrow as pa

TRACES_ENV = "MOELOAD_TRACES"
WRITING: dict[str, Any] = {"compression": "zstd", "compression_level": 12, "store_schema": True}
"""How pyarrow writes a trace, whatever its columns."""
_REPEATING = ("lr", "expert_bias")
"""Columns of few different values, which a dictionary holds in less room than their bytes side by side."""
_ID = re.compile(rf"{RECIPE_PATTERN}/{SPLIT_PATTERN}/seed\d+")


class TraceRef(NamedTuple):
    """A trace that exists on this machine: its id, its file, and where that was found."""

    id: str
    path: Path
    origin: str


# ---------------------------------------------------------------- hashing


def data_sha256(trace: Trace) -> str:
    """Hash of the decoded columns: names, dtypes, shapes and little-endian values, with a single NaN.

    File bytes do not enter, so it survives re-compression, other row groups and library upgrades.
    """
    digest = hashlib.sha256()
    for name, array in columns_of(trace).items():
        digest.update(column_header(name, array.shape))
        digest.update(column_bytes(array))
    return digest.hexdigest()


def column_header(name: str, shape: Sequence[int]) -> bytes:
    """What `data_sha256` takes of a column before its values."""
    return json.dumps([name, COLUMNS[name].dtype, list(shape)], separators=(",", ":")).encode() + b"\n"


def column_bytes(array: Array) -> memoryview:
    """What `data_sha256` takes of a column's values; of rows one after another, it is that of the parts in order."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if little.dtype.kind == "f" and np.isnan(little).any():
        little = np.where(np.isnan(little), little.dtype.type(np.nan), little)
    return little.reshape(-1).view(np.uint8).data


def columns_of(trace: Trace) -> dict[str, Array]:
    """All columns of a trace by name, in the format's order."""
    known: Mapping[str, Array] = {
        "run": np.full(trace.steps, trace.meta.run, dtype=np.int32),
        "step": trace.step_S,
        "tokens": trace.tokens_SL,
        "load": trace.load_SLE,
        **trace.columns,
    }
    return {name: known[name] for name in COLUMNS if name in known}


# ---------------------------------------------------------------- writing


def write_trace(trace: Trace, path: str | os.PathLike[str], *, overwrite: bool = False, durable: bool = False) -> Path:
    """Check a trace and write it atomically; ``durable`` waits until it is on the disk.

    Raises `TraceError` on a broken invariant, an existing file, or a name under which no reader looks for a trace.
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
            _to_table(trace), scratch, row_group_size=ROW_GROUP_STEPS, **writer_options(list(columns_of(trace)))
        )
    return target


def refuse_trace_at(target: Path) -> None:
    """Raise `TraceError` where a trace lies, under whatever name: what is made of traces replaces none."""
    if target.is_file() and _is_trace(target):
        raise TraceError(f"{target}: a trace is there already; choose another name or remove it first")


def _is_trace(file: Path) -> bool:
    """Whether a file has a trace's mark, told from its footer; a series exported as parquet has none."""
    try:
        with open_parquet(file) as opened:
            return META_KEY in (opened.metadata.metadata or {})
    except TraceError:
        return False


def writer_options(names: Sequence[str]) -> dict[str, Any]:
    """How pyarrow writes a trace of these columns.

    Measured numbers are floats that hardly ever repeat: their bytes are stored side by side (byte-stream-split), which
    saves 2 to 12 % of a file. Counts would save 11 % at most, and DuckDB before 2.0 reads no whole numbers stored so.
    """
    path_of = {name: name + ".list.element" * len(COLUMNS[name].axes) for name in names}
    split = {name for name in names if COLUMNS[name].dtype == "float32" and name not in _REPEATING}
    return {
        **WRITING,
        "use_dictionary": [path for name, path in path_of.items() if name not in split],
        "column_encoding": {path_of[name]: "BYTE_STREAM_SPLIT" for name in sorted(split)},
    }


def _to_table(trace: Trace) -> pa.Table:
    import pyarrow as pa

    arrays = {name: _to_arrow(array) for name, array in columns_of(trace).items()}
    record = {
        **trace.meta.model_dump(mode="json"),
        "data_sha256": data_sha256(trace),
        "meta_sha256": trace.meta.sha256(),
    }
    table = pa.table(arrays)
    return table.replace_schema_metadata({META_KEY: json.dumps(record, sort_keys=True, allow_nan=False)})


def _to_arrow(array: Array) -> pa.Array:
    import pyarrow as pa

    out = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        out = pa.FixedSizeListArray.from_arrays(out, size)
    return out


# ---------------------------------------------------------------- reading


def read_trace(path: str | os.PathLike[str], *, verify: bool = True, expected_sha256: str | None = None) -> Trace:
    """The trace in a parquet file.

    ``verify`` checks the invariants and both hashes; without it only shapes are checked. ``expected_sha256`` is the
    `data_sha256` that the content must have (a suite's). Raises `TraceError`, which names the file, and step and
    layer where there are some; `HashMismatchError` when content was edited or is another trace's.
    """
    where = str(path)
    with open_mapped(Path(path)) as opened:
        record = read_record(opened.reader, where)
        stored = {key: record.pop(key, None) for key in ("data_sha256", "meta_sha256")}
        meta, meta_sha256 = hashed_meta(record, where)
        arrays = read_columns(opened, meta)
    run_S = arrays.pop("run")
    if (run_S != meta.run).any():
        raise TraceError(f"{where}: column run holds {run_S[run_S != meta.run][0]}, the metadata says {meta.run}")
    trace = Trace(meta, arrays.pop("step"), arrays.pop("tokens"), arrays.pop("load"), arrays)
    if verify:
        check_trace(trace, where)
        content = data_sha256(trace)
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
    """The metadata of a trace's file, unverified; its columns are not read. Raises `TraceError`."""
    where = str(path)
    with open_parquet(Path(path)) as file:
        record = read_record(file, where)
    return checked_meta({key: record[key] for key in record if key not in ("data_sha256", "meta_sha256")}, where)


def stored_hash(path: str | os.PathLike[str]) -> str:
    """The `data_sha256` that a trace's file claims; whether its content keeps that claim is not checked."""
    with open_parquet(Path(path)) as file:
        return str(read_record(file, str(path)).get("data_sha256"))


# ---------------------------------------------------------------- finding


def bundled_folder() -> Path:
    """The mini suite's traces inside the installed package."""
    return PACKAGE / "data"


def trace_folders() -> Iterator[tuple[str, Path]]:
    """(origin, folder) in the order in which ids are looked up: bundled, then `$MOELOAD_TRACES`, then ./traces."""
    yield "bundled", bundled_folder()
    for entry in os.environ.get(TRACES_ENV, "").split(os.pathsep):
        if entry:
            yield "local", Path(entry)
    if Path("traces").is_dir():
        yield "local", Path("traces")


def look_in(folder: str | os.PathLike[str]) -> None:
    """Have this process, and those that it starts, look for traces in a folder too, before those of `$MOELOAD_TRACES`.

    Raises `TraceError` for a folder that does not exist.
    """
    if not Path(folder).is_dir():
        raise TraceError(f"{os.fspath(folder)}: no such folder; expected one that holds RECIPE/SPLIT/seedN.parquet")
    os.environ[TRACES_ENV] = os.pathsep.join(filter(None, [os.fspath(folder), os.environ.get(TRACES_ENV)]))


def list_traces(folder: str | os.PathLike[str] | None = None) -> list[TraceRef]:
    """Traces found on this machine, or those of one folder; of equal ids the first one found counts.

    Raises `TraceError` for a folder that does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise TraceError(f"{os.fspath(folder)}: no such folder; expected one that holds RECIPE/SPLIT/seedN.parquet")
    places = [("local", Path(folder))] if folder is not None else list(trace_folders())
    found: dict[str, TraceRef] = {}
    for origin, place in places:
        for path in sorted(place.glob("*/*/seed*.parquet")):
            name = path.relative_to(place).with_suffix("").as_posix()
            if _ID.fullmatch(name):
                found.setdefault(name, TraceRef(name, path, origin))
    return list(found.values())


def find_trace(id_or_path: str | os.PathLike[str], *, hub: tuple[str, str] | None = None) -> Path:
    """The file of a trace: a parquet path, or an id looked up in `trace_folders`, then on the Hub.

    ``hub``: repository and tag to look in first (the asking suite's). Raises `NotFoundError`, which lists the ids that
    exist here; `HubError` when the Hub holds the trace and cannot be used; `HashMismatchError` when what it holds is
    not what the suite was frozen with.
    """
    text = os.fspath(id_or_path)
    if text.endswith(".parquet"):
        return Path(text)
    if _ID.fullmatch(text):
        for _, place in trace_folders():
            path = place / f"{text}.parquet"
            if path.is_file():
                return path
        fetched = _fetch(text, hub)
        if fetched is not None:
            return fetched
    if Path(text).is_dir():
        return Path(text)  # refused by `read_trace`, which lists what is in it
    raise not_found("trace", text, [ref.id for ref in list_traces()])


def _fetch(trace_id: str, hub: tuple[str, str] | None) -> Path | None:
    """A trace from the Hub or its cache, refused unless it claims the hash that its suite pins.

    Whether the content keeps that claim is checked by `read_trace`.
    """
    from moeload_bench.hub import fetch

    found = fetch.fetch_trace(trace_id, hub)
    if found is None:
        return None
    claimed = stored_hash(found.path)
    if found.pin.data_sha256 not in (None, claimed):
        raise HashMismatchError(
            f"{found.pin}: {trace_id} has data_sha256 {claimed}, suite {found.pin.suite} was frozen with "
            f"{found.pin.data_sha256}: the release was changed, or {found.path} was (remove it to download it again)"
        )
    return found.path


def load_trace(id_or_path: str | os.PathLike[str], *, verify: bool = True) -> Trace:
    """A trace by id (`RECIPE/SPLIT/seedN`) or by the path of a parquet file."""
    return read_trace(find_trace(id_or_path), verify=verify)


def validate_path(path: str | os.PathLike[str]) -> Iterator[tuple[Path, TraceError | None]]:
    """Each trace file at or below a path with what is wrong with it, None for nothing."""
    root = Path(path)
    files = sorted(root.glob("**/*.parquet")) if root.is_dir() else [root]
    if not files:
        raise TraceError(f"{root}: the folder holds no parquet file")
    for file in files:
        try:
            read_trace(file)
        except TraceError as error:
            yield file, error
        else:
            yield file, None
