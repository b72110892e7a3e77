"""A trace as the time series that other forecasting tools read: one series per layer and expert.

`nixtla`: a long table `unique_id, ds, y` (CSV or parquet), `ds` the training step. `fev`: one row per series with lists
`timestamp` and `target` (parquet). `gluonts`: JSON Lines with `item_id`, `start`, `target`. `csv`: the long table that
`import csv` reads back. Tools that take only dates get one second per step, from 2000-01-01.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, not_found
from moeload_bench.files import replacing
from moeload_bench.traces.trace import Trace, layer_names, shares

Values = Literal["load", "share"]
ENDINGS = {"nixtla": (".csv", ".parquet"), "fev": (".parquet",), "gluonts": (".jsonl", ".json"), "csv": (".csv",)}
"""The formats, and the endings of their files' names."""
START = np.datetime64("2000-01-01T00:00:00", "s")


def write_series(trace: Trace, path: Path, kind: str, values: Values = "load") -> Path:
    """Write a trace in one of the formats of `ENDINGS`, a series at a time.

    ``values``: counts, or shares of the layer's load in the step (missing if a layer had none). Raise `NotFoundError`
    for another format and `TraceError` for a name whose ending does not fit.
    """
    if kind not in ENDINGS:
        raise not_found("series format", kind, ENDINGS)
    if path.suffix not in ENDINGS[kind]:
        raise TraceError(f"{path}: expected a name that ends in {' or '.join(ENDINGS[kind])} for {kind}")
    if kind == "csv" and values != "load":
        raise TraceError(f"{path}: this project's table holds counts, got --values {values}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        if kind == "gluonts":
            _gluonts(trace, scratch, values)
        elif kind == "csv":
            _csv(trace, scratch)
        else:
            batches = _nixtla(trace, values) if kind == "nixtla" else _fev(trace, values)
            _write_batches(batches, scratch, path.suffix)
    return path


def series(trace: Trace, values: Values = "load") -> Iterator[tuple[str, FloatArray]]:
    """Yield the name and the values [S] of each series: `layer2/expert5`, by layer, then expert."""
    for m, layer in enumerate(layer_names(trace)):
        load_SE = trace.load_SLE[:, m]
        value_SE = shares(load_SE) if values == "share" else load_SE.astype(np.float64)
        for e in range(trace.num_experts):
            yield f"layer{layer}/expert{e}", value_SE[:, e]


def _nixtla(trace: Trace, values: Values) -> Iterator[pa.RecordBatch]:
    for name, y_S in series(trace, values):
        names = pa.array([name]).take(pa.array(np.zeros(len(y_S), dtype=np.int64)))
        yield pa.record_batch({"unique_id": names, "ds": pa.array(trace.step_S), "y": pa.array(y_S)})


def _fev(trace: Trace, values: Values) -> Iterator[pa.RecordBatch]:
    stamp_S = START + trace.step_S.astype("timedelta64[s]")
    for name, y_S in series(trace, values):
        columns: dict[str, Any] = {
            "id": pa.array([name]),
            "timestamp": pa.array([stamp_S], pa.list_(pa.timestamp("s"))),
            "target": pa.array([y_S], pa.list_(pa.float64())),
        }
        yield pa.record_batch(columns)


def _write_batches(batches: Iterator[pa.RecordBatch], path: Path, suffix: str) -> None:
    first = next(batches)
    maker = pq.ParquetWriter if suffix == ".parquet" else csv.CSVWriter
    with maker(path, first.schema) as writer:
        for batch in (first, *batches):
            writer.write_batch(batch)


def _gluonts(trace: Trace, path: Path, values: Values) -> None:
    start = str(START + trace.step_S[0].astype("timedelta64[s]")).replace("T", " ")
    freq = f"{trace.meta.stride}s"
    with path.open("w", encoding="utf-8") as file:
        for name, y_S in series(trace, values):
            target = [None if np.isnan(y) else y for y in y_S.tolist()]
            file.write(json.dumps({"item_id": name, "start": start, "freq": freq, "target": target}) + "\n")


def _csv(trace: Trace, path: Path) -> None:
    layers = np.array([layer.index for layer in trace.meta.layers])
    if len(set(layers.tolist())) < len(layers):
        raise TraceError(f"{trace.id}: two MoE layers stand in one block, and this table cannot distinguish them")
    L, E = trace.num_layers, trace.num_experts
    rows = max(1, (1 << 20) // (L * E))
    schema = pa.schema({name: pa.int64() for name in ("step", "layer", "expert", "load", "tokens")})
    with csv.CSVWriter(path, schema) as writer:
        for start in range(0, trace.steps, rows):
            load = trace.load_SLE[start : start + rows]
            columns = (
                np.repeat(trace.step_S[start : start + rows], L * E),
                np.tile(np.repeat(layers, E), len(load)),
                np.tile(np.arange(E), len(load) * L),
                load.ravel(),
                np.repeat(trace.tokens_SL[start : start + rows].ravel(), E),
            )
            writer.write_batch(pa.record_batch([pa.array(c) for c in columns], schema=schema))
