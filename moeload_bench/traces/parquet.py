"""Read trace columns from parquet into arrays of known shape and dtype, without Python objects.

The columns of a small trace are decoded at once. Those of a large one that have a value per expert stay in the file,
and a row group is decoded when rows of it are asked for. Axis letters: S steps, L MoE layers, E experts, G row groups.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moeload_bench.arrays import Array, IntArray
from moeload_bench.bounds import check_decoded, parse_json
from moeload_bench.errors import MoeloadError, TraceError
from moeload_bench.files import PACKAGE
from moeload_bench.traces.meta import COLUMNS, REQUIRED_COLUMNS, TraceMeta
from moeload_bench.traces.pages import chunks, page_bytes
from moeload_bench.traces.streaming import HELD_BYTES, StoredRows
from moeload_bench.traces.trace import column_shape
from moeload_bench.traces.trial import try_to_open

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Stamp = tuple[int, ...]
"""Device, inode, size and time of change of a file."""
META_KEY = b"moeload"
MAX_META_BYTES = 4 << 20
ROW_GROUP_STEPS = 1024
CELLS_AT_ONCE = 1 << 23
"""A trace with at most this many loads is decoded at once; of a larger one, row groups are, when they are asked for."""
CELLS_A_BATCH = 1 << 21
"""Loads per batch and per row group of a large model, 16 MB: a batch of 1,024 steps would take twice as long."""
LEAST_ROWS = 64
"""Rows per batch at least: each batch costs a millisecond."""


def group_steps(meta: TraceMeta) -> int:
    """Return how many steps a row group has when a trace is written: of a large model it holds `CELLS_A_BATCH`."""
    return min(ROW_GROUP_STEPS, max(LEAST_ROWS, CELLS_A_BATCH // (len(meta.layers) * meta.experts)))


class Mapped(NamedTuple):
    """An open parquet file: its reader, and its bytes mapped into memory, from which the pages' headers are read."""

    reader: pq.ParquetFile
    content: mmap.mmap
    where: str


@contextmanager
def open_mapped(
    path: Path, *, trusted: bool = False, texts: Sequence[str] = (), stamp: Stamp | None = None
) -> Iterator[Mapped]:
    """Open the file; turn any error of pyarrow inside the block into a `TraceError` that names the file.

    ``trusted``: the caller knows the hash of the content, as a suite does. Any other file that is not the package's own
    is opened in a child process first (`moeload_bench.traces.trial`). ``texts``: columns to read as dictionaries, which
    hold each text once. ``stamp``: of a file that is opened again and again; its footer is read once.
    """
    import pyarrow.parquet as pq

    if path.is_dir():
        files = sorted(file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}*.parquet"))
        names = ", ".join(str(file.relative_to(path)) for file in files[:20]) or "none"
        more = f" and {len(files) - 20} more" if len(files) > 20 else ""
        raise TraceError(f"{path}: a folder, expected a trace (.parquet); there is in it: {names}{more}")
    if not path.is_file():
        raise TraceError(f"{path}: no such file")
    if not trusted and not path.resolve().is_relative_to(PACKAGE):
        try_to_open(path)
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Arrow maps the file a second time: a buffer it would read by threads that may start while Python exits
            source = path if _is_text(path) else file
            footer = pq.read_metadata(source) if stamp is None else _footer(path, stamp)
            columns = {*texts} & {*footer.schema.names}
            with pq.ParquetFile(source, metadata=footer, memory_map=True, read_dictionary=[*columns]) as reader:
                yield Mapped(reader, content, str(path))
    except MoeloadError:
        raise
    except Exception as error:  # a hostile file can raise almost anything: Arrow, Python's codecs, memory
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TraceError(f"{path}: not a readable parquet file (truncated or damaged): {reason}") from error


def _is_text(path: Path) -> bool:
    """Return whether pyarrow can take this name: it takes only UTF-8, but a file system allows other names too."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def open_parquet(path: Path, *, trusted: bool = False) -> Iterator[pq.ParquetFile]:
    """Open the file as `open_mapped` does, and yield the reader alone."""
    with open_mapped(path, trusted=trusted) as opened:
        yield opened.reader


def read_metadata(file: pq.ParquetFile, where: str) -> dict[str, Any]:
    """Return the file's metadata, hashes included, as it stands there; only its size and form are checked."""
    raw = (file.metadata.metadata or {}).get(META_KEY)
    if raw is None:
        raise TraceError(f"{where}: the parquet schema holds no key {META_KEY.decode()!r}: not a trace")
    if len(raw) > MAX_META_BYTES:
        raise TraceError(f"{where}: metadata has {len(raw)} bytes, at most {MAX_META_BYTES} are read")
    try:
        metadata = parse_json(raw)
    except ValueError as error:
        raise TraceError(f"{where}: metadata is not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise TraceError(f"{where}: metadata is a JSON {type(metadata).__name__}, expected an object")
    return metadata


def held_bytes(path: Path) -> int:
    """Return how many bytes the columns of a suite's file take in memory, from its footer: of a large one, what is
    kept.
    """
    total = 0
    with open_parquet(path, trusted=True) as file:
        footer = file.metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        for j in range(footer.num_columns):
            cells = sum(max(0, group.column(j).num_values) for group in groups)
            total += min(8 * cells, HELD_BYTES) if cells > CELLS_AT_ONCE else 8 * cells
    return total


def check_cost(opened: Mapped, *, announced: int = 0, lists: bool = True) -> None:
    """Raise `TraceError` if a batch of rows may take memory out of proportion to the file.

    ``announced``: bytes that are allocated in any case. ``lists``: True if a row may hold any number of values; then
    all values of the file count, else only its largest page.
    """
    content, columns = opened.content, chunks(opened.reader.metadata)
    most = max(announced, max(page_bytes(content, columns, opened.where), default=0))
    if lists:
        most = max(most, sum(size for _, _, size in columns))
    check_decoded(most, len(content), opened.where)


def read_columns(opened: Mapped, meta: TraceMeta) -> dict[str, Any]:
    """Return every column by name: [S], [S, L] or [S, L, E] in the format's dtype, a large [S, L, E] as `StoredRows`.

    How much memory they take is known from the footer, the pages' headers and the metadata before anything is decoded.
    Raise `TraceError` if that is out of proportion to the file (`moeload_bench.bounds`), if a column is missing or
    unknown, if its type or shape is not the metadata's, or if it has empty cells.
    """
    file, where = opened.reader, opened.where
    names = _column_names(file, where)
    steps = file.metadata.num_rows
    shapes = {name: column_shape(name, steps, len(meta.layers), meta.experts) for name in names}
    announced = sum(math.prod(shape) * np.dtype(COLUMNS[name].dtype).itemsize for name, shape in shapes.items())
    check_cost(opened, announced=announced)
    stored = {name for name in names if len(shapes[name]) == 3 and math.prod(shapes[name]) > CELLS_AT_ONCE}
    arrays: dict[str, Any] = dict.fromkeys(names)
    for name in stored:
        arrays[name] = _stored(opened, name, shapes[name])
    memory = {name: shapes[name] for name in names if name not in stored}
    arrays.update(_decoded(file.iter_batches(max(1, steps), columns=[*memory], use_threads=False), memory, where))
    return arrays


def _stored(opened: Mapped, name: str, shape: tuple[int, ...]) -> StoredRows:
    """Return a column that stays in the file."""
    footer = opened.reader.metadata
    stop_G = np.cumsum([footer.row_group(g).num_rows for g in range(footer.num_row_groups)])
    if stop_G[-1] != shape[0]:
        raise TraceError(f"{opened.where}: {stop_G[-1]} rows, the file's footer says {shape[0]}")
    path = Path(opened.where).absolute()
    decode = functools.partial(_row_group, path, _stamp(path), name, stop_G, shape[1:])
    return StoredRows(decode, stop_G, shape[1:], COLUMNS[name].dtype)


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(4)
def _footer(path: Path, stamp: Stamp) -> pq.FileMetaData:
    """Return the footer of the file with this stamp. Parsed for each of 1,000 row groups it leaves 1.3 GB of holes."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        return pq.read_metadata(file)


def _row_group(path: Path, stamp: Stamp, name: str, stop_G: IntArray, cells: tuple[int, ...], group: int) -> Array:
    """Return one row group of one column; raise `TraceError` if the file is not the one that was opened."""
    with open_mapped(path, trusted=True, stamp=stamp) as opened:
        if _stamp(path) != stamp:
            raise TraceError(f"{path}: was changed or replaced while it was read; open it again")
        rows = int(np.diff(stop_G, prepend=0)[group])
        at_once = max(LEAST_ROWS, CELLS_A_BATCH // max(1, math.prod(cells)))
        batches = opened.reader.iter_batches(at_once, row_groups=[group], columns=[name], use_threads=False)
        return _decoded(batches, {name: (rows, *cells)}, opened.where)[name]


def _decoded(batches: Iterator[pa.RecordBatch], shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Array]:
    """Return columns of known shape from their batches; a single batch is not copied."""
    arrays: dict[str, Array] = {}
    steps, rows = next(iter(shapes.values()))[0], 0
    for batch in batches:
        for name, shape in shapes.items():
            values = cell_rows(name, batch.column(name), shape[1:], where)
            if batch.num_rows == steps:
                arrays[name] = values
            else:
                array = arrays[name] if rows else arrays.setdefault(name, _empty(shape, name, where))
                array[rows : rows + batch.num_rows] = values
        rows += batch.num_rows
    if rows != steps:
        raise TraceError(f"{where}: {rows} rows, the file's footer says {steps}")
    return arrays or {name: _empty(shape, name, where) for name, shape in shapes.items()}


def _column_names(file: pq.ParquetFile, where: str) -> list[str]:
    """Return the columns' names; check that each is one of the format's, has its type, and occurs once."""
    schema = file.schema_arrow  # pyarrow builds it on every access
    try:
        names: list[str] = schema.names
    except UnicodeDecodeError as error:
        raise TraceError(f"{where}: a column's name is not UTF-8: {error}") from None
    for name in names:
        if name not in COLUMNS:
            raise TraceError(f"{where}: unknown column {name[:80]!r}; the format has: {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise TraceError(f"{where}: column {name!r} occurs {names.count(name)} times, expected once")
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise TraceError(f"{where}: column {missing[0]!r} is missing; there is: {', '.join(names)}")
    for name in names:
        _check_type(name, schema.field(name).type, where)
    return names


def _check_type(name: str, got: pa.DataType, where: str) -> None:
    """Check that a column's lists are as deep as the format says, of its dtype: others could decode to anything."""
    import pyarrow as pa

    inner = got
    for _ in COLUMNS[name].axes:
        if not (pa.types.is_list(inner) or pa.types.is_fixed_size_list(inner)):
            break
        inner = inner.value_type
    else:
        if inner == _arrow_type(COLUMNS[name].dtype):
            return
    expected = f"expected cells of {COLUMNS[name].dtype} in each list level"
    raise TraceError(f"{where}: column {name} has type {str(got)[:120]}, {expected}")


@functools.cache
def _arrow_type(dtype: str) -> pa.DataType:
    import pyarrow as pa

    return pa.from_numpy_dtype(np.dtype(dtype))


def _empty(shape: tuple[int, ...], name: str, where: str) -> Array:
    try:
        return np.empty(shape, COLUMNS[name].dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        raise TraceError(f"{where}: column {name} of shape {shape} does not fit in memory: {error}") from None


def cell_rows(name: str, column: pa.Array, cell_shape: tuple[int, ...], where: str) -> Array:
    """Return the rows of one column, whose type is the format's; [rows, *cell_shape]."""
    if column.null_count:
        raise TraceError(f"{where}: column {name} has {column.null_count} empty cells, expected none")
    flat: Any = column
    for size in cell_shape:
        flat = _flattened(name, flat, size, where)
    dtype = COLUMNS[name].dtype
    # Not `to_numpy`, which imports pandas: 0.15 s of CPU and 40 MB in every process. The result is read-only.
    buffer = flat.buffers()[1]
    values = np.frombuffer(b"" if buffer is None else buffer, dtype, len(flat), flat.offset * np.dtype(dtype).itemsize)
    return values.reshape(len(column), *cell_shape)


def _flattened(name: str, lists: Any, size: int, where: str) -> Any:
    """Return the values with one list level less; raise unless every list has exactly ``size`` cells."""
    import pyarrow as pa

    lengths = {lists.type.list_size} if pa.types.is_fixed_size_list(lists.type) else _lengths(lists)
    wrong = lengths - {size}
    if wrong:
        raise TraceError(f"{where}: column {name} has lists of {min(wrong)} cells, expected {size} in each")
    flat = lists.flatten()
    if flat.null_count:
        raise TraceError(f"{where}: column {name} has {flat.null_count} empty cells, expected none")
    return flat


def _lengths(lists: Any) -> set[int]:
    import pyarrow.compute as pc

    return set(pc.unique(pc.list_value_length(lists)).to_pylist())
