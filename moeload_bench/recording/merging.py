"""The shards of a recording made one trace, of which no more than a few shards are in memory at once.

Axis letters: S steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moeload_bench.errors import RecordingError
from moeload_bench.files import replacing
from moeload_bench.traces.parquet import META_KEY, ROW_GROUP_STEPS, cells, open_parquet
from moeload_bench.traces.store import column_bytes, column_header, columns_of, read_trace, writing
from moeload_bench.traces.trace import TraceMeta, column_shape

if TYPE_CHECKING:
    import pyarrow as pa


def merge_shards(shards: Sequence[Path], target: Path, meta: TraceMeta) -> Path:
    """Write whole shards of consecutive steps as the trace ``target``, atomically; returns its file.

    The file is the one that `write_trace` would write. Raises `TraceError` for a damaged shard and `RecordingError` for
    shards that do not go together or when a trace is at the target already.
    """
    import pyarrow.parquet as pq

    if target.exists():
        raise RecordingError(f"{target}: a trace is there already")
    names, steps = _checked(shards, meta)
    hashes = {"data_sha256": _data_sha256(shards, names, steps, meta), "meta_sha256": meta.sha256()}
    record = json.dumps({**meta.model_dump(mode="json"), **hashes}, sort_keys=True, allow_nan=False)
    schema = _table(shards[0]).schema.with_metadata({META_KEY: record})
    with replacing(target) as scratch, pq.ParquetWriter(scratch, schema, **writing(names)) as writer:
        for table in _row_groups(shards):
            writer.write_table(table)
    return target


def _checked(shards: Sequence[Path], meta: TraceMeta) -> tuple[list[str], int]:
    """Names of the columns and the number of steps, once every shard is whole and follows the one before."""
    names: list[str] = []
    steps, following = 0, None
    for path in shards:
        shard = read_trace(path)
        if following not in (None, shard.step_S[0]):
            raise RecordingError(f"{path}: begins with step {shard.step_S[0]}, expected {following} to follow")
        if shard.meta.layers != meta.layers:
            raise RecordingError(f"{path}: has other layers than the last shard")
        columns = list(columns_of(shard))
        if names not in ([], columns):
            raise RecordingError(f"{path}: has columns {columns}, the shards before have {names}")
        names, following = columns, shard.step_S[-1] + meta.stride
        steps += shard.steps
    return names, steps


def _data_sha256(shards: Sequence[Path], names: Sequence[str], steps: int, meta: TraceMeta) -> str:
    """`moeload_bench.traces.store.data_sha256` of the whole; reading the trace checks that it is."""
    digest = hashlib.sha256()
    for name in names:
        shape = column_shape(name, steps, len(meta.layers), meta.experts)
        digest.update(column_header(name, shape))
        for path in shards:
            column = _table(path, [name]).column(name).combine_chunks()
            digest.update(column_bytes(cells(name, column, shape[1:], str(path))))
    return digest.hexdigest()


def _row_groups(shards: Sequence[Path]) -> Iterator[pa.Table]:
    """All rows in order, as many at once as `write_trace` puts into one row group."""
    import pyarrow as pa

    held = None
    for path in shards:
        table = _table(path)
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= ROW_GROUP_STEPS:
            yield held.slice(0, ROW_GROUP_STEPS)
            held = held.slice(ROW_GROUP_STEPS)
    if held is not None and held.num_rows:
        yield held


def _table(path: Path, names: list[str] | None = None) -> pa.Table:
    with open_parquet(path) as file:
        return file.read(columns=names).replace_schema_metadata(None)
