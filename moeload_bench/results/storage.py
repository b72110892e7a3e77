"""Results as parquet files: one for each entry of a suite's folder, or one with all that a command made.

A folder holds `NAME.parquet` with the rows of an entry, `layers/NAME.parquet` with its means by layer, and
`costs.parquet` with the costs of all entries. A single file holds costs and the facts of its traces in its metadata.
What describes entries is in the metadata, too. Files are a stranger's: sizes are bounded before anything is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from moeload_bench.bounds import check_decoded, parse_json
from moeload_bench.errors import ResultError, TraceError, printable, short
from moeload_bench.files import PACKAGE, file_name, replacing
from moeload_bench.results.checks import cost_problems, entry_problems, fact_problems, layer_problems, table_problems
from moeload_bench.results.columns import (
    COST_KEYS,
    COST_TEXTS,
    FACT_KEYS,
    LAYER_KEYS,
    MARKS,
    ROW_KEYS,
    RUN_KEYS,
    TEXTS,
    fact_frame,
    metric_columns,
    run_costs,
)
from moeload_bench.results.entry import MAX_NAMES, Entry, SuiteRecord
from moeload_bench.results.trace_facts import suite_facts
from moeload_bench.schema import Schema, validated_json
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.traces.pages import chunks, page_bytes
from moeload_bench.traces.parquet import Mapped, open_mapped

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

KEY = b"moeload_bench results"
MAX_FILE_BYTES = 64 << 20
MAX_COLUMNS = 1000
NAMES = ("forecaster", "trace", "recipe", "state", "horizon", "origin", "crossing", "counts")
"""Columns that have no empty cell."""
ALL_TEXTS = (*TEXTS, *COST_TEXTS, *FLOOR_NAMES)
COSTS, LAYERS = "costs.parquet", "layers"
BUNDLED = PACKAGE / "data" / "reference"
WHOLE = (PRIMARY, "imbalance", "regret", "rank_correlation")
"""Metrics whose ratios are near 1, or whose means are near 0: 24 bits would show in skill and in means."""
JSON_READ_AT = "07f6d2b8"
"""The commit that reads the JSON results of schema 2."""


Parts = tuple[Mapping[str, Entry], "pd.DataFrame", "pd.DataFrame", "pd.DataFrame | None"]
"""Entries by name, the table, the floors of its traces and means by layer: the fields of `results.results.Results`."""


class Description(Schema):
    """What a file's metadata holds: its entries, and in a single file the costs and facts as columns of values."""

    schema_version: int = Field(ge=3, le=3)
    entries: tuple[Entry, ...] = Field(max_length=MAX_NAMES)
    costs: dict[str, list[Any]] | None = None
    facts: dict[str, list[Any]] | None = None


def save(parts: Parts, path: Path) -> Path:
    """Write results as one file, or into a folder; files are written completely or not at all."""
    if path.suffix == ".parquet":
        _save_file(parts, path)
    else:
        _save_folder(parts, path)
    return path


def load(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], layers: bool = False) -> list[Parts]:
    """Return what is in a file of results, in several, or in a folder; see `results.results.load_results`."""
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(text) for text in path]
    files = [file for place in paths for file in (_files_of(place) if place.is_dir() else [place])]
    if not files:
        raise ResultError(f"{', '.join(map(str, paths))}: no result is there, expected NAME.parquet")
    return [_load_file(file, layers) for file in files]


@lru_cache(maxsize=4)
def load_bundled(suite: str) -> Parts | None:
    """Return the results of a suite's reference that come with the package, None without any."""
    path = BUNDLED / f"{suite}.parquet"
    return _load_file(path, layers=False) if Path(suite).name == suite and path.is_file() else None


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if path.name != COSTS)


def _save_file(parts: Parts, path: Path) -> None:
    entries, table, facts, _ = parts
    about = Description(
        schema_version=3,
        entries=tuple(entries.values()),
        costs=_columns(run_costs(table)),
        facts=_own_facts(entries, facts),
    )
    rows = scored_columns(table.drop(columns=list(RUN_KEYS)))
    _write(rows, path, about, metric_columns(rows))


def _own_facts(entries: Mapping[str, Entry], facts: pd.DataFrame) -> dict[str, list[Any]] | None:
    """Return the facts of traces that no suite of this package has."""
    suite = next(iter(entries.values())).suite
    return None if suite_facts(suite.name, suite.sha256) else _columns(facts)


def _save_folder(parts: Parts, folder: Path) -> None:
    import pandas as pd

    entries, table, facts, layers = parts
    own, all_rows, costs = _own_facts(entries, facts), table.drop(columns=list(RUN_KEYS)), run_costs(table)
    for name, entry in entries.items():
        about = Description(schema_version=3, entries=(entry,), facts=own)
        rows = _of(all_rows, name)
        _write(rows, folder / f"{file_name(name)}.parquet", about, metric_columns(rows))
        if layers is not None:
            means = _of(layers, name)
            _write(means, folder / LAYERS / f"{file_name(name)}.parquet", about, metric_columns(means))
    if (folder / COSTS).is_file():
        others = _frame_in(folder / COSTS, COST_KEYS)
        others = others[~others["forecaster"].isin(list(entries))]
        costs = pd.concat([others, costs]).sort_values(["forecaster", "trace"], kind="stable", ignore_index=True)
    _write(costs, folder / COSTS, Description(schema_version=3, entries=()))


def _of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return scored_columns(frame[frame["forecaster"] == name])


def scored_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without the metrics that none of its rows has."""
    return frame.drop(columns=[metric for metric in metric_columns(frame) if frame[metric].isna().all()])


def _write(frame: pd.DataFrame, path: Path, about: Description, numbers: Sequence[str] = ()) -> None:
    """Write a frame; ``numbers`` are its metrics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    short = _short(numbers)
    types = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(short, pa.float32())
    columns = {name: pa.array(frame[name], types.get(name), from_pandas=True) for name in map(str, frame.columns)}
    table = pa.table(columns).replace_schema_metadata({KEY: about.model_dump_json(exclude_none=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        pq.write_table(
            table,
            scratch,
            compression="zstd",
            compression_level=15,
            use_dictionary=[name for name in columns if name not in numbers],
            column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
        )


def _short(metrics: Sequence[str]) -> list[str]:
    """Return the metrics that are kept as numbers of 24 bits: the scores of two machines agree less closely.

    Those of WHOLE keep all of their nine digits.
    """
    return [name for name in metrics if name.partition("@")[0] not in WHOLE]


def as_stored(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows or means by layer with their metrics rounded as in a file."""
    short = _short(metric_columns(frame))
    return frame.astype(dict.fromkeys(short, "float32")).astype(dict.fromkeys(short, "float64"))


def _load_file(path: Path, layers: bool) -> Parts:
    if path.suffix == ".json":
        raise ResultError(f"{path}: results are parquet files now; JSON is read at commit {JSON_READ_AT}")
    with _opened(path) as file:
        about = _description(file, path)
        rows = _frame(file, ROW_KEYS, path)
    _refuse(path, entry_problems([entry.name for entry in about.entries]))
    entries, names = {entry.name: entry for entry in about.entries}, set(rows["forecaster"].unique())
    if names - entries.keys() or not entries:
        others = sorted(map(str, names - entries.keys()))[:5]
        raise ResultError(f"{path}: rows of {others}, expected those of its entries {sorted(entries)[:5]}")
    horizons = {horizon for entry in about.entries for horizon in entry.suite.horizons}
    _refuse(path, table_problems(rows, horizons))
    beside = path.parent / LAYERS / path.name
    means = _frame_in(beside, LAYER_KEYS) if layers and beside.is_file() else None
    _refuse(beside, layer_problems(means, horizons) if means is not None else ())
    return entries, _with_costs(rows, about, path), _facts(about, path), means


def _with_costs(rows: pd.DataFrame, about: Description, path: Path) -> pd.DataFrame:
    """Return the rows with what their runs cost; raise `ResultError` for a run without costs, or with two."""
    import pandas as pd

    if about.costs is not None:
        costs = _framed(about.costs, COST_KEYS, path)
        _refuse(path, cost_problems(costs))
    else:
        path = path.parent / COSTS
        costs = _costs(path, path.stat().st_mtime_ns if path.is_file() else 0)
        costs = costs[costs["forecaster"].isin(entry.name for entry in about.entries)]
    run = ["forecaster", "trace"]
    lacking = pd.MultiIndex.from_frame(rows[run]).unique().difference(pd.MultiIndex.from_frame(costs[run]))
    if len(lacking):
        raise ResultError(f"{path}: no costs of {lacking[0][0]} on {lacking[0][1]}, expected one row of each run")
    if costs.duplicated(run).any() or {*rows} & {*RUN_KEYS}:
        raise ResultError(f"{path}: costs of a run are there twice, expected one row of each run")
    return rows.merge(costs[list(COST_KEYS)], how="left", on=run)


@lru_cache(maxsize=4)
def _costs(path: Path, changed_ns: int) -> pd.DataFrame:
    """Return the costs in a folder, which are read once as long as the file stays as it is."""
    costs = _frame_in(path, COST_KEYS)
    _refuse(path, cost_problems(costs))
    return costs


def load_facts(path: Path, horizons: Collection[int]) -> pd.DataFrame:
    """Return the facts of traces in a file of their own; raise `ResultError` for one of another form."""
    facts = _frame_in(path, FACT_KEYS)
    _refuse(path, fact_problems(facts, horizons))
    return facts


def _refuse(path: Path, problems: Iterable[str]) -> None:
    """Raise `ResultError` for the first problem of a file."""
    for problem in problems:
        raise ResultError(f"{path}: {problem}")


def _facts(about: Description, path: Path) -> pd.DataFrame:
    """Return the facts that the file holds; without any, those that this package has of the suite's traces."""
    suite = about.entries[0].suite
    if about.facts is None:
        return _known_facts(suite)
    facts = _framed(about.facts, FACT_KEYS, path)
    _refuse(path, fact_problems(facts, suite.horizons))
    return facts


@lru_cache(maxsize=8)
def _known_facts(suite: SuiteRecord) -> pd.DataFrame:
    return fact_frame(suite_facts(suite.name, suite.sha256), suite.horizons)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Yield a parquet file of bounded size; any error of pyarrow within the block becomes a `ResultError`."""
    try:
        if path.is_file() and (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise ResultError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
        with open_mapped(path, texts=ALL_TEXTS) as opened:
            _check_size(opened)
            yield opened.reader
    except TraceError as error:
        raise ResultError(str(error)) from None


def _check_size(opened: Mapped) -> None:
    """Raise `TraceError` for pages and cells that take memory out of proportion to the file; texts are not decoded."""
    parts, content = chunks(opened.reader.metadata), opened.content
    decoded = sum(page_bytes(content, parts, opened.where)) + sum(taken for _, _, taken in parts)
    check_decoded(decoded, len(content), opened.where)


def _description(file: pq.ParquetFile, path: Path) -> Description:
    metadata = file.schema_arrow.metadata or {}
    if KEY not in metadata:
        raise ResultError(f"{path}: not a file of results: its metadata has no {KEY.decode()!r}")
    return validated_json(Description, metadata[KEY], path, "metadata", ResultError)


def _frame_in(path: Path, keys: Sequence[str]) -> pd.DataFrame:
    with _opened(path) as file:
        return _frame(file, keys, path)


def _frame(file: pq.ParquetFile, keys: Sequence[str], path: Path) -> pd.DataFrame:
    """Return a frame of which every key is a column, and all else numbers."""
    _check_columns(file.schema_arrow, keys, path)
    table = file.read()
    table.validate(full=True)  # texts that are not UTF-8 would fail later, one by one
    _refuse_nan(table, path)
    frame: pd.DataFrame = _with_plain_texts(table, path).to_pandas(ignore_metadata=True)
    _check_values(frame, path)
    numbers = frame.select_dtypes("float32").columns
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _refuse_nan(table: pa.Table, path: Path) -> None:
    """Raise `ResultError` for a NaN: what has no value is empty, and NaN would pass every comparison."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
            raise ResultError(f"{path}: column {name[:100]!r} holds NaN, expected a number, or none")


def _with_plain_texts(table: pa.Table, path: Path) -> pa.Table:
    """Return the table without dictionaries; raise `TraceError` for texts out of proportion to the file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [i for i, field in enumerate(table.schema) if pa.types.is_dictionary(field.type)]
    each = [pc.binary_length(chunk.dictionary).take(chunk.indices) for i in texts for chunk in table.column(i).chunks]
    check_decoded(sum(pc.sum(length).as_py() or 0 for length in each), path.stat().st_size, str(path))
    for i in texts:
        table = table.set_column(i, table.column_names[i], table.column(i).cast(table.schema.field(i).type.value_type))
    return table


def _check_values(frame: pd.DataFrame, path: Path) -> None:
    """Raise for an empty cell where a name has to be, an unknown mark of a floor, and counts of another form."""
    for name in (name for name in NAMES if name in frame):
        if frame[name].isna().any():
            raise ResultError(f"{path}: column {name!r} has empty cells")
    marks = {name: set(frame[name].dropna()) for name in FLOOR_NAMES if name in frame}
    if any(signs - {*MARKS} for signs in marks.values()):
        raise ResultError(f"{path}: marks of floors are others than {', '.join(MARKS)}")
    try:
        for text in frame["counts"].unique() if "counts" in frame else ():
            check_counts(text)
    except ValueError as error:
        raise ResultError(f"{path}: column 'counts': {error}") from None


def check_counts(text: str) -> None:
    """Raise `ValueError` unless the text is a JSON object of whole numbers by name."""
    counts = parse_json(text)
    if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
        raise ValueError(f"got {short(text)}, expected whole numbers by name")


def _check_columns(schema: pa.Schema, keys: Sequence[str], path: Path) -> None:
    from pyarrow import types

    names = schema.names
    if len(names) > MAX_COLUMNS or len({*names}) < len(names):
        raise ResultError(f"{path}: {len(names)} columns, expected at most {MAX_COLUMNS} of different names")
    lacking = [name for name in keys if name not in names]
    if lacking:
        raise ResultError(f"{path}: column {lacking[0]!r} is missing, expected {', '.join(keys)}")
    for field in schema:
        if field.name in ALL_TEXTS:
            kind = field.type.value_type if types.is_dictionary(field.type) else field.type
            right, expected = types.is_string(kind) or types.is_large_string(kind), "text"
        elif field.name in keys:
            right, expected = types.is_integer(field.type) or types.is_floating(field.type), "a number"
            right |= types.is_boolean(field.type) and field.name == "crossing"
        else:
            right, expected = types.is_floating(field.type), "double"
        if not right and not types.is_null(field.type):
            raise ResultError(f"{path}: column {field.name[:100]!r} is {str(field.type)[:100]}, expected {expected}")


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return each column's values as JSON holds them; a frame without rows has empty ones."""
    split = json.loads(frame.to_json(orient="split", index=False, double_precision=15))
    return {name: [row[i] for row in split["data"]] for i, name in enumerate(split["columns"])}


def _framed(columns: Mapping[str, list[Any]], keys: Sequence[str], path: Path) -> pd.DataFrame:
    """Return a frame of the metadata's columns."""
    import pyarrow as pa

    try:
        table = pa.table(dict(columns))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ResultError(f"{path}: metadata: {printable(str(error))[:300]}") from None
    _check_columns(table.schema, keys, path)
    frame: pd.DataFrame = table.to_pandas()
    _check_values(frame, path)
    return frame


def stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames one below the other, with row numbers of their own."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True)
