"""What a trace's parquet file holds besides its columns and record: keys, texts and bytes that no reader looks at.

Only the footer and the bytes between the columns are read, for a file of any size. `write_trace` writes nothing of that
kind, and its footer follows from columns and record: so the footer is made once more and compared. The pages of a
column are not checked.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moeload_bench.traces.pages import chunks
from moeload_bench.traces.parquet import META_KEY, open_parquet, read_record

SCHEMA_KEY = b"ARROW:schema"
"""The key under which pyarrow keeps the types of the columns, and the record a second time."""
ITEM_NAMES = ("item", "element")
"""Names of a list's cells, as pyarrow writes and as it reads them."""
_WRITER = re.compile(r"parquet-cpp-arrow version [\w.-]{1,40}")
_MAGIC = b"PAR1"
"""The bytes at both ends of a parquet file; before the last ones, `_LENGTH_BYTES` give the footer's length."""
_LENGTH_BYTES = 4


def foreign_parts(path: Path) -> list[str]:
    """Return a line for each thing in a trace's file that is neither a column nor the record; [] if this package wrote
    it.

    `write_trace` writes the same trace without them. Raise `TraceError` for a file that is not a trace.
    """
    with open_parquet(path) as file:
        record, metadata, schema = read_record(file, str(path)), file.metadata, _stored_schema(file)
        named = [*_keys(metadata, schema), *_fields(schema), *_chunks(metadata), *_writer(metadata)]
        # Look for parts without a name only if nothing else was found: they would report the same thing twice.
        return named or [*_hidden(metadata, schema, record), *_between(metadata, path)]


def _stored_schema(file: pq.ParquetFile) -> pa.Schema:
    """Return the schema stored under `SCHEMA_KEY`; a reader uses only a part of it."""
    raw = file.metadata.metadata.get(SCHEMA_KEY)
    return file.schema_arrow if raw is None else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw)))


def _keys(metadata: pq.FileMetaData, schema: pa.Schema) -> Iterator[str]:
    """Yield keys of the footer, and of the schema under `SCHEMA_KEY`, where a key can stand that no reader shows."""
    expected = f"expected {META_KEY.decode()} and {SCHEMA_KEY.decode()} alone"
    for key, value in {**(schema.metadata or {}), **metadata.metadata}.items():
        if key not in (META_KEY, SCHEMA_KEY):
            yield f"schema metadata holds the key {_shown(key)} of {len(value):,} bytes, {expected}"
    if SCHEMA_KEY not in metadata.metadata:
        yield f"schema metadata has no key {SCHEMA_KEY.decode()}, which pyarrow writes for this package"


def _fields(schema: pa.Schema) -> Iterator[str]:
    for column in schema:
        for field in _with_cells(column):
            for key, value in (field.metadata or {}).items():
                yield f"column {column.name} has metadata {_shown(key)} of {len(value):,} bytes, expected none"


def _with_cells(field: pa.Field) -> Iterator[pa.Field]:
    """Yield a column, and the cells of its lists, which are fields too."""
    yield field
    if _is_list(field.type):
        yield from _with_cells(field.type.value_field)


def _chunks(metadata: pq.FileMetaData) -> Iterator[str]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for chunk in map(group.column, range(metadata.num_columns)):
            where = f"column {chunk.path_in_schema[:80]} in row group {number}"
            keys: Mapping[bytes, bytes] = getattr(chunk, "metadata", None) or {}  # pyarrow 17 does not have it
            for key, value in keys.items():
                yield f"{where} has metadata {_shown(key)} of {len(value):,} bytes, expected none"
            if chunk.file_path:
                yield f"{where} lies in the file {chunk.file_path[:80]!r}, expected this one"


def _writer(metadata: pq.FileMetaData) -> Iterator[str]:
    if not _WRITER.fullmatch(metadata.created_by):
        yield f"written by {metadata.created_by[:80]!r}, expected parquet-cpp-arrow and its version"


def _hidden(metadata: pq.FileMetaData, schema: pa.Schema, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line if record or footer differ from what is written for the same content.

    That finds keys given twice, extra spaces, fields that Arrow skips, and names within lists.
    """
    held = metadata.metadata
    if json.dumps(record, sort_keys=True, allow_nan=False).encode() != held[META_KEY]:
        expected = "as Python's json writes it: keys sorted, each once, no more spaces"
        yield f"the record under {META_KEY.decode()} is written otherwise, expected {expected}"
        return
    try:
        made = _made_again(metadata, schema)
    except RuntimeError:
        yield "its columns are not laid out as pyarrow lays them out"
        return
    more = metadata.serialized_size - len(metadata.created_by) - (made.serialized_size - len(made.created_by))
    if more or made.metadata != held:
        yield f"the footer holds other text than the columns and the record; it is {abs(more):,} bytes off"


def _made_again(metadata: pq.FileMetaData, schema: pa.Schema) -> pq.FileMetaData:
    """Return the footer that pyarrow writes for these columns, row groups and record, without reading the file."""
    columns = [(column.name, _plain(column.type)) for column in schema]
    own = pa.schema(columns, metadata={META_KEY: metadata.metadata[META_KEY]})
    footer = io.BytesIO()
    pq.write_metadata(own, footer, metadata_collector=[metadata])
    return pq.read_metadata(io.BytesIO(footer.getvalue()))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a column's type without any additional text in it."""
    if not _is_list(kind):
        return kind
    name = kind.value_field.name
    cells = pa.field(name if name in ITEM_NAMES else ITEM_NAMES[0], _plain(kind.value_type))
    return pa.list_(cells, kind.list_size if pa.types.is_fixed_size_list(kind) else -1)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _between(metadata: pq.FileMetaData, path: Path) -> Iterator[str]:
    """Yield bytes before, between and after the columns; pyarrow 17 repeats a column's footer entry after it."""
    size = metadata.serialized_size
    end = path.stat().st_size - size - len(_MAGIC) - _LENGTH_BYTES
    at, lost = len(_MAGIC), 0
    with path.open("rb") as file:
        file.seek(end)
        footer = file.read(size)
        for start, stop, _ in [*sorted(chunks(metadata)), (end, end, 0)]:
            file.seek(at)
            if start - at > size or file.read(max(0, start - at)) not in footer:
                lost += start - at
            at = max(at, stop)
    if lost:
        yield f"{lost:,} bytes of the file belong to no column, expected none"


def _shown(key: bytes) -> str:
    return repr(key[:80].decode(errors="backslashreplace"))
