"""Counts of your own, in the three shapes that this project chose: NumPy archives, CSV tables, JSON Lines.

* npz: an array per column, named like the format's columns. `load` [S, L, E] is required; `step` [S] (else 0 .. S-1),
  `tokens` [S] or [S, L], `layer` [L] (the layers' numbers in the model, else 0 .. L-1), and the optional columns of the
  format (`load_half`, `dropped`, `loss`, `lr`, ...) with the steps first. Counts are whole numbers of any dtype. A bare
  `.npy` file is `load`. So is a `.pt` file with one tensor or a list of them [L, E], a step each; a dict of tensors has
  the names of the arrays.
* csv: `step,layer,expert,load`, a count per row, or `step,layer,load_0,load_1,...`, a layer-step per row; each may have
  a column `tokens` (tokens entering the layer in that step). Rows may come in any order. `layer` is the index of the
  block in the model; every step has every layer, every layer every expert from 0 on.
* jsonl: `{"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16, "dropped": [0, 1, 0, 0]}`, a line per step and
  layer, for engines that write nothing yet. `load` counts routed tokens of all experts, before drops unless
  `--counted post_drop` says otherwise. `tokens` and `dropped` (a part of what `load` counts) are optional, in all lines
  or none. The lines of a step are consecutive, and steps rise. Several files are ranks (or micro-batches) that each
  routed tokens of their own: their counts are added.

Axis letters: S steps, L MoE layers, E experts, N rows, C columns, U rows of a layer-step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.logfiles import (
    JsonLines,
    Paths,
    Progress,
    field_of,
    find_file,
    find_files,
    whole_counts,
    whole_number,
)
from moeload_bench.ops.interchange.rank_logs import RankStep, log_of_ranks, rank_of
from moeload_bench.ops.interchange.rows import Log, LogRow, Report
from moeload_bench.ops.interchange.table import NamedColumns
from moeload_bench.ops.interchange.torch_arrays import MAX_BYTES as MAX_TENSOR_BYTES
from moeload_bench.ops.interchange.torch_arrays import load_arrays
from moeload_bench.traces.archives import read_array, read_arrays
from moeload_bench.traces.meta import OPTIONAL_COLUMNS
from moeload_bench.traces.trace import MAX_COUNT, Trace

MAX_BYTES = 4 << 30
"""Archives are read whole, so a larger one is refused; the message names the formats that are read in pieces."""
MAX_TABLE_BYTES = 2 << 30
"""Of the counts of a table, which is sorted in memory."""
STREAMED = "; read in pieces, whatever their size: logs of engines and trackers (`moeload-bench import formats`)"
_NAMES = ("load", "step", "tokens", "layer", *OPTIONAL_COLUMNS)
_LAYOUTS = "step,layer,expert,load or step,layer,load_0,load_1,..., each with an optional column tokens"
_FIELDS = ("step", "layer", "load", "tokens", "dropped")


def read_npz(paths: Paths, *, max_bytes: int = MAX_BYTES, report: Report | None = None) -> Log:
    """Return the log in an archive; ``report`` is not called: the file is read at once.

    Sizes are checked before anything is unpacked (``max_bytes`` over all arrays, and in proportion to the archive, see
    `moeload_bench.bounds`), and object arrays are refused: nothing is unpickled. Raise `TraceError` that names file,
    array, what was got and expected.
    """
    path = find_file(paths, "*.npz")
    arrays = _arrays(path, max_bytes)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    try:
        trace = Trace.from_arrays(arrays["load"], arrays.get("tokens"), step_S=arrays.get("step"), columns=columns)
        layers = _layers(arrays.get("layer", np.arange(trace.num_layers)), trace.num_layers)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    return Log(str(path), layers, trace.num_experts, _trace_rows(trace, "tokens" in arrays, str(path)))


def _arrays(path: Path, max_bytes: int) -> dict[str, Any]:
    """Return the arrays of an archive, of a bare array, or of a file of tensors, by name."""
    if path.suffix == ".npy":
        return {"load": read_array(path, max_bytes, STREAMED)}
    if path.suffix not in (".pt", ".pth"):
        return read_arrays(path, _NAMES, max_bytes, STREAMED)
    arrays = load_arrays(path, min(max_bytes, MAX_TENSOR_BYTES))
    unknown = next((name for name in arrays if name not in _NAMES), None)
    if unknown is not None:
        raise TraceError(f"{path}: unknown tensor {printable(unknown)[:80]!r}, expected: {', '.join(_NAMES)}")
    return arrays


def _trace_rows(trace: Trace, has_tokens: bool, where: str) -> Iterator[LogRow]:
    for s, step in enumerate(trace.step_S.tolist()):
        tokens_L = trace.tokens_SL[s] if has_tokens else None
        columns = {name: column[s] for name, column in trace.columns.items()}
        yield LogRow(step, trace.load_SLE[s], where, tokens_L, columns=columns)


def _layers(layer_L: Any, layers: int) -> tuple[int, ...]:
    if layer_L.shape != (layers,) or layer_L.dtype.kind not in "iu" or (np.diff(layer_L.astype(np.int64)) <= 0).any():
        raise TraceError(
            f"layer has shape {list(layer_L.shape)} and dtype {layer_L.dtype}, expected the rising numbers of "
            f"{layers} layers"
        )
    return tuple(layer_L.tolist())


class _Places(NamedTuple):
    """The rows that a table must have, ordered by step, layer and expert; ``units`` [U] are those of a layer-step."""

    step_S: IntArray
    layer_L: IntArray
    units: int

    @property
    def of_step(self) -> int:
        return len(self.layer_L) * self.units

    def name(self, place: int) -> str:
        cell, expert = divmod(place, self.units)
        step, layer = divmod(cell, len(self.layer_L))
        where = f"step {self.step_S[step]}, layer {self.layer_L[layer]}"
        return f"expert {expert} of {where}" if self.units > 1 else where


def read_csv(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in a table; raise `TraceError` that names file, row, what was got and what was expected.

    If the last line breaks off, the table ends before it, and the step that it may belong to is left out.
    """
    table = NamedColumns(find_file(paths, "*.csv"), report)
    loads = _load_columns(table)
    cell_NC = _cells(table)
    column = dict(zip(table.names, cell_NC.T, strict=True))
    step_S, step_N = np.unique(column["step"], return_inverse=True)
    layer_L, layer_N = np.unique(column["layer"], return_inverse=True)
    expert_N = column.get("expert", np.zeros(len(cell_NC), dtype=np.int64))
    places = _Places(step_S, layer_L, int(expert_N.max()) + 1)
    if len(step_S) * places.of_step > 1 << 62:
        raise TraceError(f"{table.file}: {_no_row(places, len(cell_NC))}")
    place_N = (step_N * len(layer_L) + layer_N) * places.units + expert_N
    order_N = np.argsort(place_N, kind="stable")
    steps = _whole_steps(table, places, place_N, order_N)
    load_NC = cell_NC[:, [table.names.index(name) for name in loads]]
    rows = _table_rows(str(table.file), places, order_N[: steps * places.of_step], load_NC, column.get("tokens"))
    return Log(str(table.file), tuple(layer_L.tolist()), places.units * len(loads), rows, cut=table.cut)


def _load_columns(table: NamedColumns) -> list[str]:
    """Return the names of the columns of loads, in the order of experts; raise for other columns than a layout's."""
    wide = [f"load_{e}" for e in range(sum(name.startswith("load_") for name in table.names))]
    loads, keys = (["load"], ["expert"]) if "expert" in table.names else (wide, [])
    if not loads or sorted({*table.names} - {"tokens"}) != sorted(["step", "layer", *keys, *loads]):
        raise TraceError(f"{table.where(1)}: columns are {','.join(table.names)[:200]!r}, expected {_LAYOUTS}")
    return loads


def _cells(table: NamedColumns) -> IntArray:
    """Return all cells [N, C], checked to be counts."""
    parts, size = list[IntArray](), 0
    for number, value_NC in table.numbers(table.names):
        size += 8 * value_NC.size
        if size > MAX_TABLE_BYTES:
            raise TraceError(
                f"{table.file}: more than {MAX_TABLE_BYTES} bytes of counts, expected a smaller table{STREAMED}"
            )
        wrong_NC = ~((value_NC >= 0) & (value_NC <= MAX_COUNT) & (value_NC == np.floor(value_NC)))
        if wrong_NC.any():
            n, c = np.argwhere(wrong_NC)[0].tolist()
            got = "nothing" if np.isnan(value_NC[n, c]) else f"{value_NC[n, c]:.17g}"
            where = f"{table.where(number + n)}, column {table.names[c]}"
            raise TraceError(f"{where}: got {got}, expected a whole number from 0 to {MAX_COUNT}")
        parts.append(value_NC.astype(np.int64))
    if not size:
        raise TraceError(f"{table.file}: no rows after the header, expected one per count or layer-step")
    return np.concatenate(parts)


def _whole_steps(table: NamedColumns, places: _Places, place_N: IntArray, order_N: IntArray) -> int:
    """Return how many steps are whole: all of them, or all but the last if the table breaks off.

    ``order_N`` sorts the rows by place. Raise `TraceError` for a row that comes twice or is missing.
    """
    rows, steps = len(place_N), len(places.step_S)
    sorted_N = place_N[order_N]
    if (again_N := np.flatnonzero(np.diff(sorted_N) == 0)).size:
        n = int(order_N[again_N + 1].min())
        raise TraceError(f"{table.where(n + 2)}: {places.name(int(place_N[n]))} again, expected one row for it")
    wrong_N = np.flatnonzero(sorted_N != np.arange(rows))
    missing = int(wrong_N[0]) if wrong_N.size else rows
    if missing == steps * places.of_step:
        return steps
    if table.cut and 0 < steps - 1 == missing // places.of_step:
        return steps - 1
    raise TraceError(f"{table.file}: {_no_row(places, rows, missing)}" + "".join(f"; {cut}" for cut in table.cut))


def _no_row(places: _Places, rows: int, missing: int = 0) -> str:
    S, L, U = len(places.step_S), len(places.layer_L), places.units
    size = f"{S} steps x {L} layers" + (f" x {U} experts" if U > 1 else "") + f" = {S * L * U}"
    return f"no row for {places.name(missing)}: got {rows} rows, expected {size} (write zeros too)"


def _table_rows(
    where: str, places: _Places, order_N: IntArray, load_NC: IntArray, tokens_N: IntArray | None
) -> Iterator[LogRow]:
    """Yield the steps; raise if a layer's rows have different tokens."""
    L = len(places.layer_L)
    for step, order_P in zip(places.step_S.tolist(), order_N.reshape(-1, places.of_step), strict=False):
        tokens_L = None
        if tokens_N is not None:
            tokens_LU = tokens_N[order_P].reshape(L, -1)
            tokens_L = tokens_LU[:, 0]
            for m in np.flatnonzero((tokens_LU != tokens_LU[:, :1]).any(axis=1)):
                got = f"its rows have {tokens_LU[m].min()} and {tokens_LU[m].max()} tokens"
                raise TraceError(f"{where}: step {step}, layer {places.layer_L[m]}: {got}, expected one number")
        yield LogRow(step, load_NC[order_P].reshape(L, -1), where, tokens_L)


def read_jsonl(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in one or more files (a folder's `*.jsonl`); raise `TraceError` with file and line."""
    files = find_files(paths, "*.jsonl")
    progress = Progress(files, report)
    return log_of_ranks([rank_of(JsonLines(file, progress), "step", _FIELDS, _add) for file in files])


def _add(step: RankStep, record: dict[str, Any], where: str) -> None:
    unknown = set(record) - set(_FIELDS)
    if unknown:
        raise TraceError(f"{where}: unknown field {min(unknown)!r}; there is: {', '.join(_FIELDS)}")
    layer = whole_number(field_of(record, "layer", where, _FIELDS), "layer", where)
    step.put(layer, whole_counts(field_of(record, "load", where, _FIELDS), "load", where), where)
    if "tokens" in record:
        step.tokens[layer] = whole_number(record["tokens"], "tokens", where)
    if "dropped" in record:
        step.dropped[layer] = whole_counts(record["dropped"], "dropped", where)
        if len(step.dropped[layer]) != len(step.load[layer]):
            raise TraceError(
                f"{where}: dropped has {len(step.dropped[layer])} experts, expected {len(step.load[layer])}"
            )
