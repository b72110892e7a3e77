"""Traces from CSV tables with a header line.

Two layouts, told apart by the header:

* long, one count per row: `step,layer,expert,load`
* wide, one layer-step per row: `step,layer,load_0,load_1,...,load_{E-1}`

Both may have a column `tokens` (tokens entering the layer in that step). Rows may come in any order. `layer` is the
index of the block in the model; every step has every layer, every layer every expert from 0 on.

Axis letters: S steps, L MoE layers, E experts, N rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import TraceError
from moeload_bench.interchange.common import trace_from
from moeload_bench.traces.trace import Trace

MAX_BYTES = 4 * 2**30
IntArray = NDArray[np.int64]
_LAYOUTS = "step,layer,expert,load or step,layer,load_0,load_1,..., each with an optional column tokens"


class _Cells(NamedTuple):
    """Where the rows belong: distinct steps [S] and layers [L], and of each row its place among the layer-steps [N]."""

    step_S: IntArray
    layer_L: IntArray
    place_N: IntArray


def import_csv(
    path: Path, top_k: int | None = None, tokens: int | None = None, *, max_bytes: int = MAX_BYTES, **meta: Any
) -> Trace:
    """The trace in a table; ``meta`` goes into `TraceMeta`.

    ``tokens`` is the number per step and layer where the table has no such column. Files above ``max_bytes`` are
    refused. Raises `TraceError` that names file, row (the header is row 1), what was got and what was expected.
    """
    names = _header(path, max_bytes)
    table = _read(path, names)
    cells = _cells(table)
    load_SLE = _long(path, table, cells) if "expert" in table else _wide(path, table, cells)
    E = load_SLE.shape[2]
    return trace_from(
        path,
        load_SLE,
        _tokens(path, table["tokens"], cells) if "tokens" in table else None,
        tokens,
        top_k,
        step_S=cells.step_S,
        layers=[{"index": int(index), "experts": E, "top_k": top_k} for index in cells.layer_L],
        **meta,
    )


def _header(path: Path, max_bytes: int) -> list[str]:
    try:
        size = path.stat().st_size
        with path.open(encoding="utf-8-sig") as file:
            names = [name.strip().strip('"') for name in file.readline(1_000_000).strip().split(",")]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: not a CSV table: {error}") from None
    if size > max_bytes:
        raise TraceError(f"{path}: {size} bytes, expected at most {max_bytes}")
    wide = [f"load_{e}" for e in range(sum(name.startswith("load_") for name in names))]
    counts = ["expert", "load"] if "expert" in names else wide
    if len(counts) == 0 or sorted(set(names) - {"tokens"}) != sorted(["step", "layer", *counts]):
        raise TraceError(f"{path}, row 1: columns are {','.join(names)[:200]!r}, expected {_LAYOUTS}")
    if len(set(names)) != len(names):
        raise TraceError(f"{path}, row 1: a column is there twice: {','.join(names)[:200]!r}, expected {_LAYOUTS}")
    return names


def _read(path: Path, names: list[str]) -> dict[str, IntArray]:
    import pyarrow as pa
    from pyarrow import csv

    try:
        table = csv.read_csv(
            path,
            # without threads, errors name the row
            read_options=csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False),
            parse_options=csv.ParseOptions(ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise TraceError(f"{path}, {_located(str(error), names)}") from None
    if table.num_rows == 0:
        raise TraceError(f"{path}: no rows after the header, expected one per count or layer-step")
    arrays: dict[str, IntArray] = {name: table.column(name).to_numpy() for name in names}
    for name, value_N in arrays.items():
        if value_N.min() < 0:
            row = int(np.argmax(value_N < 0))
            raise TraceError(f"{path}, row {row + 2}, column {name}: got {value_N[row]}, expected at least 0")
    return arrays


def _located(message: str, names: list[str]) -> str:
    """pyarrow's message in the words of this package: row, column, got and expected."""
    cell = re.search(r"column #(\d+): Row #(\d+): .*invalid value '(.*)'", message)
    if cell:
        column, row, got = names[int(cell[1])], cell[2], cell[3]
        return f"row {row}, column {column}: got {got!r}, expected a whole number"
    length = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if length:
        return f"row {length[1]}: got {length[3]} columns, expected {length[2]} as in the header"
    return f"no table: {message}"


def _cells(table: dict[str, IntArray]) -> _Cells:
    step_S, step_N = np.unique(table["step"], return_inverse=True)
    layer_L, layer_N = np.unique(table["layer"], return_inverse=True)
    return _Cells(step_S, layer_L, step_N * len(layer_L) + layer_N)


def _long(path: Path, table: dict[str, IntArray], cells: _Cells) -> IntArray:
    S, L, E = len(cells.step_S), len(cells.layer_L), int(table["expert"].max()) + 1
    rows = len(cells.place_N)
    if rows < E or S * L * E > 2**62:
        raise TraceError(f"{path}: got {rows} rows, expected {S} steps x {L} layers x {E} experts (write zeros too)")
    place_N = cells.place_N * E + table["expert"]
    _check_once(path, place_N, lambda n: f"expert {table['expert'][n]} of {_place(cells, cells.place_N[n])}")
    if rows != S * L * E:
        present = np.sort(place_N)
        missing = int(np.argmax(np.append(present, -1) != np.arange(rows + 1)))
        raise TraceError(
            f"{path}: no row for expert {missing % E} of {_place(cells, missing // E)}: got {rows} rows, expected "
            f"{S} steps x {L} layers x {E} experts = {S * L * E} (write zeros too)"
        )
    load = np.empty(S * L * E, dtype=np.int64)
    load[place_N] = table["load"]
    return load.reshape(S, L, E)


def _wide(path: Path, table: dict[str, IntArray], cells: _Cells) -> IntArray:
    S, L, E = len(cells.step_S), len(cells.layer_L), sum(name.startswith("load_") for name in table)
    _check_once(path, cells.place_N, lambda n: _place(cells, cells.place_N[n]))
    rows = len(cells.place_N)
    if rows != S * L:
        missing = int(np.argmax(np.append(np.sort(cells.place_N), -1) != np.arange(rows + 1)))
        raise TraceError(
            f"{path}: no row for {_place(cells, missing)}: got {rows} rows, expected {S} steps x {L} layers = {S * L}"
        )
    load = np.empty((S * L, E), dtype=np.int64)
    load[cells.place_N] = np.stack([table[f"load_{e}"] for e in range(E)], axis=1)
    return load.reshape(S, L, E)


def _tokens(path: Path, token_N: IntArray, cells: _Cells) -> IntArray:
    """[S, L]; all rows of a layer-step must agree."""
    S, L = len(cells.step_S), len(cells.layer_L)
    tokens = np.empty(S * L, dtype=np.int64)
    tokens[cells.place_N] = token_N
    wrong = np.flatnonzero(tokens[cells.place_N] != token_N)
    if wrong.size:
        n = int(wrong[0])
        raise TraceError(
            f"{path}, row {n + 2}: got {token_N[n]} tokens for {_place(cells, cells.place_N[n])}, expected "
            f"{tokens[cells.place_N[n]]} as in another of its rows"
        )
    return tokens.reshape(S, L)


def _check_once(path: Path, place_N: IntArray, say: Any) -> None:
    _, first = np.unique(place_N, return_index=True)
    if len(first) != len(place_N):
        again = np.setdiff1d(np.arange(len(place_N)), first)[0]
        raise TraceError(f"{path}, row {again + 2}: {say(again)} again, expected one row for it")


def _place(cells: _Cells, place: Any) -> str:
    step, layer = divmod(int(place), len(cells.layer_L))
    return f"step {cells.step_S[step]}, layer {cells.layer_L[layer]}"
