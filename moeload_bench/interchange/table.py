"""CSV tables with a header line, read twice, a few megabytes at a time.

The header shows which of the two layouts it is:

* long, one count per row: `step,layer,expert,load`
* wide, one layer-step per row: `step,layer,load_0,load_1,...,load_{E-1}`

Both may have a column `tokens` (tokens entering the layer in that step). Rows may come in any order. `layer` is the
index of the block in the model; every step has every layer, every layer every expert from 0 on.

The first reading finds steps, layers and experts. The second puts every count in its place in a temporary file (in
`$TMPDIR`, 8 bytes for each count and each number of tokens): so rows may come in any order, and memory stays bounded.

Axis letters: S steps, L MoE layers, E experts, N rows of a batch, P places of rows, C columns of numbers, U rows of a
layer-step.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError
from moeload_bench.interchange.logfiles import Paths, WholeLines, find_file
from moeload_bench.interchange.rows import Log, LogRow, Report
from moeload_bench.traces.trace import MAX_COUNT

BLOCK = 1 << 20
"""Bytes of the table that are in memory at once; no line may be longer."""
CELLS_AT_ONCE = 1 << 20
_LAYOUTS = "step,layer,expert,load or step,layer,load_0,load_1,..., each with an optional column tokens"


class _Shape(NamedTuple):
    """What the first reading finds; ``width``: counts in a row, ``units``: rows of a whole layer-step."""

    step_S: IntArray
    layer_L: IntArray
    experts: int
    width: int
    rows: int

    @property
    def units(self) -> int:
        return self.experts // self.width

    @property
    def places(self) -> int:
        return len(self.step_S) * len(self.layer_L) * self.units

    def place_N(self, table: dict[str, IntArray]) -> IntArray:
        """Return the place of each row, ordered by step, layer and expert."""
        step_N, layer_N = np.searchsorted(self.step_S, table["step"]), np.searchsorted(self.layer_L, table["layer"])
        place_N = step_N * len(self.layer_L) + layer_N
        return np.asarray(place_N * self.units + table["expert"] if "expert" in table else place_N)

    def name(self, place: int) -> str:
        cell, expert = divmod(place, self.units)
        step, layer = divmod(cell, len(self.layer_L))
        where = f"step {self.step_S[step]}, layer {self.layer_L[layer]}"
        return f"expert {expert} of {where}" if self.units > 1 else where


def read_csv(paths: Paths, report: Report | None = None) -> Log:
    """Return the log in a table.

    Raise `TraceError` that names file, row (the header is row 1), what was got and what was expected. If the last line
    breaks off, the table ends before it, and the step that it may belong to is left out.
    """
    path = find_file(paths, "*.csv")
    names = _header(path)
    lines = WholeLines.of(path)
    shape = _survey(path, names, lines, report)
    wide = [f"load_{e}" for e in range(shape.experts)]
    counts = ["load"] if "expert" in names else wide
    cells = _Cells(path, shape, counts + ["tokens"] * ("tokens" in names))
    for table, row in _batches(path, names, lines, report, half=1):
        cells.put(table, row)
    steps = cells.whole_steps(lines.cut)
    layers = tuple(shape.layer_L.tolist())
    return Log(str(path), layers, shape.experts, cells.rows(steps), cut=[lines.cut] if lines.cut else [])


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = [name.strip().strip('"') for name in file.readline(1_000_000).strip().split(",")]
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a CSV table: {error}") from None
    wide = [f"load_{e}" for e in range(sum(name.startswith("load_") for name in names))]
    counts = ["expert", "load"] if "expert" in names else wide
    if len(counts) == 0 or sorted(set(names) - {"tokens"}) != sorted(["step", "layer", *counts]):
        raise TraceError(f"{path}, row 1: columns are {','.join(names)[:200]!r}, expected {_LAYOUTS}")
    if len(set(names)) != len(names):
        raise TraceError(f"{path}, row 1: a column occurs twice: {','.join(names)[:200]!r}, expected {_LAYOUTS}")
    return names


def _batches(
    path: Path, names: list[str], lines: WholeLines, report: Report | None, half: int
) -> Iterator[tuple[dict[str, IntArray], int]]:
    """Yield some rows at a time, checked to be counts: columns by name, and the number of the first row (the header is
    row 1). ``half`` says which of the two readings this is.
    """
    import pyarrow as pa
    from pyarrow import csv

    row = 2
    try:
        with (
            lines.open() as stream,
            csv.open_csv(
                stream,
                # only without threads do errors name the row
                read_options=csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False, block_size=BLOCK),
                parse_options=csv.ParseOptions(ignore_empty_lines=False),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
            ) as reader,
        ):
            for found in reader:
                table: dict[str, IntArray] = {name: found.column(name).to_numpy() for name in names}
                _check_range(path, table, row)
                yield table, row
                row += found.num_rows
                if report is not None:
                    report(half * lines.end + stream.tell(), 2 * lines.end, f"row {row - 1}")
    except pa.ArrowInvalid as error:
        raise TraceError(f"{path}, {_located(str(error), names)}") from None
    if row == 2:
        raise TraceError(f"{path}: no rows after the header, expected one per count or layer-step")


def _check_range(path: Path, table: dict[str, IntArray], row: int) -> None:
    for name, value_N in table.items():
        wrong_N = (value_N < 0) | (value_N > MAX_COUNT)
        if wrong_N.any():
            n = int(np.argmax(wrong_N))
            limit = "at least 0" if value_N[n] < 0 else f"at most {MAX_COUNT}"
            raise TraceError(f"{path}, row {row + n}, column {name}: got {value_N[n]}, expected {limit}")


def _located(message: str, names: list[str]) -> str:
    """Rewrite pyarrow's message in the words of this package: row, column, got and expected."""
    cell = re.search(r"column #(\d+): Row #(\d+): .*invalid value '(.*)'", message)
    if cell:
        column, row, got = names[int(cell[1])], cell[2], cell[3]
        return f"row {row}, column {column}: got {got!r}, expected a whole number from 0 to {MAX_COUNT}"
    length = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if length:
        return f"row {length[1]}: got {length[3]} columns, expected {length[2]} as in the header"
    return f"not a table: {message}"


def _survey(path: Path, names: list[str], lines: WholeLines, report: Report | None) -> _Shape:
    """Make the first reading; raise `TraceError` if the rows cannot be a whole table, whatever they hold."""
    step_S, layer_L = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    width, most, rows = sum(name.startswith("load_") for name in names), -1, 0
    for table, _ in _batches(path, names, lines, report, half=0):
        step_S, layer_L = np.union1d(step_S, table["step"]), np.union1d(layer_L, table["layer"])
        most = max(most, int(table["expert"].max())) if "expert" in names else -1
        rows += len(table["step"])
    shape = _Shape(step_S, layer_L, width or most + 1, width or 1, rows)
    if rows < shape.units or shape.places > 2**62:
        S, L = len(step_S), len(layer_L)
        raise TraceError(f"{path}: got {rows} rows, expected {S} steps x {L} layers x {shape.experts} experts")
    return shape


class _Cells:
    """Every row in its place, in a file without a name: numbers are stored plus 1, so that 0 means that none came.

    If there are fewer rows than places, one of the first ``rows`` + 1 places is empty; so no more places are stored.
    """

    def __init__(self, path: Path, shape: _Shape, columns: list[str]) -> None:
        self._path, self._shape, self._columns = path, shape, columns
        self._stored = min(shape.places, shape.rows + 1)
        self._file = _reserved(path, self._stored * len(columns) * 8)

    def put(self, table: dict[str, IntArray], row: int) -> None:
        """Write some rows; raise if a row's place is taken."""
        place_N = self._shape.place_N(table)
        stored_N = place_N < self._stored
        place_N, row_N = place_N[stored_N], row + np.flatnonzero(stored_N)
        if not len(place_N):
            return
        first, last = int(place_N.min()), int(place_N.max())
        held_PC = self._mapped(first, last - first + 1)
        _, once = np.unique(place_N, return_index=True)
        again_N = held_PC[place_N - first, 0] != 0
        again_N[np.setdiff1d(np.arange(len(place_N)), once)] = True
        if again_N.any():
            n = int(np.argmax(again_N))
            named = self._shape.name(int(place_N[n]))
            raise TraceError(f"{self._path}, row {row_N[n]}: {named} again, expected one row for it")
        held_PC[place_N - first] = 1 + np.stack([table[name][stored_N] for name in self._columns], axis=1)

    def _mapped(self, first: int, count: int) -> Any:
        """Map the numbers of ``count`` places from ``first`` on; the pages are freed with the array."""
        width = len(self._columns)
        return np.memmap(self._file, np.int64, mode="r+", offset=first * width * 8, shape=(count, width))

    def whole_steps(self, cut: str) -> int:
        """Return how many steps are whole: all of them, or all but the last if the table breaks off (``cut``)."""
        shape = self._shape
        missing = self._first_missing()
        if missing is None:
            return len(shape.step_S)
        last = len(shape.step_S) - 1
        if cut and last and missing // (shape.places // len(shape.step_S)) == last:
            return last
        S, L, E = len(shape.step_S), len(shape.layer_L), shape.experts
        size = f"{S} steps x {L} layers" + (f" x {E} experts" if shape.units > 1 else "") + f" = {shape.places}"
        raise TraceError(
            f"{self._path}: no row for {shape.name(missing)}: got {shape.rows} rows, expected {size} (write zeros too)"
            + (f"; {cut}" if cut else "")
        )

    def _first_missing(self) -> int | None:
        for first in range(0, self._stored, CELLS_AT_ONCE):
            held_PC = self._mapped(first, min(CELLS_AT_ONCE, self._stored - first))
            if (empty_P := held_PC[:, 0] == 0).any():
                return first + int(np.argmax(empty_P))
        return None

    def rows(self, steps: int) -> Iterator[LogRow]:
        """Yield the first ``steps`` steps; raise if a layer's rows have different tokens."""
        shape, where, width = self._shape, str(self._path), self._shape.width
        L, units = len(shape.layer_L), shape.units
        for s, step in enumerate(shape.step_S[:steps].tolist()):
            value_LUC = np.array(self._mapped(s * L * units, L * units)).reshape(L, units, -1) - 1
            load_LE, tokens_LU = value_LUC[..., :width].reshape(L, -1), value_LUC[..., width:].reshape(L, -1)
            for m in np.flatnonzero((tokens_LU != tokens_LU[:, :1]).any(axis=1)):
                got = f"its rows have {tokens_LU[m].min()} and {tokens_LU[m].max()} tokens"
                raise TraceError(f"{where}: step {step}, layer {shape.layer_L[m]}: {got}, expected one number")
            yield LogRow(step, load_LE, where, tokens_LU[:, 0] if tokens_LU.size else None)


def _reserved(path: Path, size: int) -> IO[bytes]:
    """Open a file of ``size`` zeros that is gone when closed; a full disk raises here, not at a later write."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the rows are read)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS: there a full disk raises only when a count is written
            file.truncate(size)
    except OSError as error:
        file.close()
        where = tempfile.gettempdir()
        raise TraceError(
            f"{path}: needs {size} bytes of temporary space in {where} (set $TMPDIR for another place): {error}"
        ) from None
    return file
