"""A contributed file holds its columns and its record, and nothing else in which something can be sent along."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leaderboard.verify_trace import footer
from leaderboard.verify_trace.footer import foreign_parts
from moeload_bench.errors import TraceError
from moeload_bench.traces.store import bundled_folder, write_trace
from tests.conftest import needs_traces, synthetic_trace

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = b"\x7fELF\x02\x01\x01/home/jolanda/bin"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_trace(synthetic_trace(60, recipe="mine"), tmp_path / "mine.parquet")


@needs_traces
def test_no_trace_of_this_project_holds_anything_foreign() -> None:
    """Written by several versions of the package, whole or in parts: the rule has no false alarm on them."""
    folders = (bundled_folder(), ROOT / "traces", ROOT / "leaderboard")
    found = [path for folder in folders for path in folder.rglob("*.parquet")]
    assert len(found) > 100
    assert {path: lines for path in found if (lines := foreign_parts(path))} == {}


def with_key(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"payload": PROGRAM}), path)


def with_column_metadata(path: Path) -> None:
    table = pq.read_table(path)
    at = table.schema.get_field_index("loss")
    schema = table.schema.set(at, table.schema.field(at).with_metadata({"payload": PROGRAM}))
    pq.write_table(table.cast(schema), path)


def with_metadata_of_cells(path: Path) -> None:
    """It is taken from `ARROW:schema`, which alone keeps it."""
    rewrite(path, lambda schema: schema.set(2, pa.field(schema[2].name, pa.list_(
        pa.field("element", pa.int64(), metadata={"payload": PROGRAM}), schema[2].type.list_size))))  # fmt: skip


def with_key_in_the_arrow_schema(path: Path) -> None:
    rewrite(path, lambda schema: schema.with_metadata({**schema.metadata, b"payload": PROGRAM}))


def with_name_of_cells(path: Path) -> None:
    rewrite(path, lambda schema: schema.set(2, pa.field(schema[2].name, pa.list_(
        pa.field("jolanda", pa.int64()), schema[2].type.list_size))))  # fmt: skip


def with_another_record_in_the_arrow_schema(path: Path) -> None:
    record = pq.read_metadata(path).metadata[b"moeload"].replace(b"mine", b"jola")
    rewrite(path, lambda schema: schema.with_metadata({b"moeload": record}))


def without_arrow_schema(path: Path) -> None:
    rewrite(path, lambda schema: None)


def rewrite(path: Path, changed: Callable[[pa.Schema], pa.Schema | None], **more: bytes) -> None:
    """The same columns and record, with another schema under `ARROW:schema`, which Arrow itself never changes alone."""
    table = pq.read_table(path)
    inner = changed(table.schema)
    keys = {b"moeload": table.schema.metadata[b"moeload"], **{name.encode(): value for name, value in more.items()}}
    if inner is not None:
        keys[b"ARROW:schema"] = base64.b64encode(inner.serialize().to_pybytes())
    bare = table.replace_schema_metadata(None)
    with pq.ParquetWriter(path, bare.schema, store_schema=False) as writer:
        writer.write_table(bare)
        writer.add_key_value_metadata(keys)


def with_a_key_twice(path: Path) -> None:
    rewrite(path, lambda schema: schema, moeloae=PROGRAM)
    path.write_bytes(path.read_bytes().replace(b"moeloae", b"moeload"))


def with_a_field_twice_in_the_record(path: Path) -> None:
    table = pq.read_table(path)
    record = table.schema.metadata[b"moeload"].replace(b"{", b'{"notes": ["jolanda"], ', 1)
    pq.write_table(table.replace_schema_metadata({b"moeload": record}), path)


def with_another_writer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"parquet-cpp-arrow", b"jolanda-cpp-arrow"))


def with_a_file_beside_it(path: Path) -> None:
    columns, metadata, _ = parts(path)
    metadata.set_file_path("/home/jolanda/x")
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    path.write_bytes(columns + sink.getvalue().to_pybytes()[4:])


def with_bytes_behind_the_columns(path: Path) -> None:
    columns, _, rest = parts(path)
    path.write_bytes(columns + PROGRAM + rest)


def parts(path: Path) -> tuple[bytes, pq.FileMetaData, bytes]:
    """A file's columns, its footer, and the bytes of that to the end."""
    metadata, content = pq.read_metadata(path), path.read_bytes()
    at = len(content) - metadata.serialized_size - 8
    return content[:at], metadata, content[at:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_key, "schema metadata holds the key 'payload' of 24 bytes, expected moeload and ARROW:schema alone"),
        (with_key_in_the_arrow_schema, "schema metadata holds the key 'payload' of 24 bytes, expected moeload and"),
        (without_arrow_schema, "schema metadata has no key ARROW:schema"),
        (with_column_metadata, "column loss has metadata 'payload' of 24 bytes, expected none"),
        (with_metadata_of_cells, "column tokens has metadata 'payload' of 24 bytes, expected none"),
        (with_name_of_cells, "the footer holds other text than the columns and the record"),
        (with_another_record_in_the_arrow_schema, "the footer holds other text than the columns and the record"),
        (with_a_key_twice, "the footer holds other text than the columns and the record"),
        (with_a_field_twice_in_the_record, "the record under moeload is written otherwise, expected as Python"),
        (with_another_writer, "written by 'jolanda-cpp-arrow version "),
        (with_a_file_beside_it, "column run in row group 0 lies in the file '/home/jolanda/x', expected this one"),
        (with_bytes_behind_the_columns, "24 bytes of the file belong to no column, expected none"),
    ],
)  # fmt: skip
def test_what_is_neither_a_column_nor_the_record_is_named(
    path: Path, change: Callable[[Path], None], says: str
) -> None:
    """An executable or a name in any place of a parquet file that a trace does not need; the file can still be read."""
    change(path)
    assert pq.read_table(path).num_rows == 60
    assert foreign_parts(path)[0].startswith(says)


def test_metadata_of_a_column_s_chunk_is_named() -> None:
    """Arrow reads it and writes none, so that no file for this test can be made by it."""
    chunk = SimpleNamespace(path_in_schema="loss", metadata={b"payload": PROGRAM}, file_path="")
    group = SimpleNamespace(column=lambda number: chunk)
    held: Any = SimpleNamespace(num_row_groups=1, num_columns=1, row_group=lambda number: group)
    (line,) = footer._chunks(held)
    assert line == "column loss in row group 0 has metadata 'payload' of 24 bytes, expected none"


def test_what_the_footer_says_once_more_is_not_foreign(path: Path) -> None:
    """pyarrow 17 writes what the footer says of a column behind that column too."""
    columns, _, rest = parts(path)
    path.write_bytes(columns + rest[100:160] + rest)
    assert foreign_parts(path) == []


def test_what_is_no_trace_has_no_parts(tmp_path: Path) -> None:
    """A parquet file without a record is refused as such."""
    pq.write_table(pa.table({"run": [1]}), tmp_path / "x.parquet")
    with pytest.raises(TraceError, match="holds no key 'moeload'"):
        foreign_parts(tmp_path / "x.parquet")
