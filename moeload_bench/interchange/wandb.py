"""Weights & Biases: a run's history as a table (CSV or parquet).

It may be `wandb.Api().run(PATH).scan_history()` or `run.history(samples=...)` written by `DataFrame.to_csv`, the export
of a panel ("RUN - name", with `__MIN` and `__MAX` columns, which are left out), or any table with one row per step and
one column per layer and expert. Rows without any of these values are other logs and are skipped; a row with only some
of them is refused. `run.history()` samples 500 rows by default; `scan_history` gives all.

Axis letters: L MoE layers, E experts, N rows.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import WholeLines, find_files
from moeload_bench.interchange.rows import Log, LogRow, Report
from moeload_bench.interchange.scalars import Names, match_names
from moeload_bench.traces.parquet import check_cost, open_mapped, open_parquet
from moeload_bench.traces.trace import MAX_COUNT

MAX_LINE = 64 << 20
"""The most bytes of a line; a run with thousands of columns has lines of a megabyte."""
STEPS = ("Step", "_step", "step", "global_step", "trainer/global_step", "train/global_step", "iteration", "iter")


def read_wandb(
    paths: Sequence[str | Path],
    *,
    pattern: str | None = None,
    step_column: str | None = None,
    report: Report | None = None,
) -> Log:
    """Return the log in one table; ``step_column`` is needed if its name is not in STEPS."""
    files = find_files(paths, "*.csv")
    if len(files) != 1:
        raise TraceError(f"{files[0].parent}: got {len(files)} files, expected the table of one run")
    file = files[0]
    columns = _columns(file)
    again = next((name for name, times in Counter(columns).items() if name and times > 1), None)
    if again is not None:
        raise TraceError(f"{file}: column {printable(again)[:80]} occurs twice, expected it once")
    names = match_names(columns, pattern, str(file))
    step = next((name for name in ((step_column,) if step_column else STEPS) if name in columns), None)
    if step is None:
        raise TraceError(f"{file}: no column of steps: none of {', '.join((step_column,) if step_column else STEPS)}")
    lines = None if file.suffix == ".parquet" else WholeLines.of(file)
    rows, notes = _rows(file, names, step, lines, report), [f"logged as {names.pattern}"]
    cut = [lines.cut] if lines and lines.cut else []
    return Log(str(file), names.layers, names.experts, rows, semantics="unknown", notes=notes, cut=cut)


def _columns(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline(MAX_LINE + 1)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file}: not a CSV table: {error}") from None
    if len(head) > MAX_LINE:
        raise TraceError(f"{file}, row 1: more than {MAX_LINE} bytes, expected shorter lines")
    try:
        return next(csv.reader([head]), [])
    except csv.Error as error:
        raise TraceError(f"{file}, row 1: not a CSV table: {error}") from None


def _batches(file: Path, wanted: list[str], lines: WholeLines | None) -> Iterator[tuple[Any, int]]:
    """Yield each batch of rows, and how many bytes of the file were read with it."""
    size = file.stat().st_size
    if lines is None:
        with open_mapped(file) as opened:
            check_cost(opened, lists=False)
            rows, done = max(1, opened.reader.metadata.num_rows), 0
            for batch in opened.reader.iter_batches(256, columns=wanted, use_threads=False):
                done += batch.num_rows
                yield batch, size * done // rows
        return
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    options = arrow_csv.ReadOptions(use_threads=False, block_size=MAX_LINE)
    convert = arrow_csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.float64()),
        null_values=["", "NaN", "nan", "null", "None"],
    )
    try:
        with lines.open() as stream, arrow_csv.open_csv(stream, options, convert_options=convert) as reader:
            for batch in reader:
                yield batch, min(size, stream.tell())
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise TraceError(f"{file}: cannot be read as a table: {printable(str(error))[:300]}") from None


def _rows(file: Path, names: Names, step: str, lines: WholeLines | None, report: Report | None) -> Iterator[LogRow]:
    wanted, size, done = [step, *names.at], file.stat().st_size, 0
    for batch, read in _batches(file, wanted, lines):
        value_NC = np.stack(
            [_floats(batch.column(batch.schema.get_field_index(name)), name, file) for name in wanted], 1
        )
        for row_C in value_NC:
            done += 1
            found = _row(row_C, names, step, f"{file}, row {done + 1}")
            if found is not None:
                yield found
        if report is not None:
            report(read, size, f"row {done}")


def _floats(column: Any, name: str, file: Path) -> Any:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise TraceError(f"{file}: column {printable(name)} holds {column.type}, expected numbers")
    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        raise TraceError(
            f"{file}: column {printable(name)} holds a number of more than 53 bits, expected counts up to {MAX_COUNT}"
        ) from None


def _row(row_C: Any, names: Names, step: str, where: str) -> LogRow | None:
    number, value_C = row_C[0], row_C[1:]
    empty = np.isnan(value_C)
    if empty.all():
        return None
    columns = list(names.at)
    if empty.any():
        raise TraceError(f"{where}: {printable(columns[int(np.argmax(empty))])} is empty, other experts have a value")
    bad = ~((value_C >= 0) & (value_C <= MAX_COUNT) & (value_C == np.floor(value_C)))
    if bad.any():
        at = int(np.argmax(bad))
        raise TraceError(
            f"{where}: {printable(columns[at])} is {value_C[at]:g}, expected a whole number from 0: shares and "
            "means over steps are not counts"
        )
    if not (0 <= number <= MAX_COUNT and number == np.floor(number)):
        raise TraceError(f"{where}: {step} is {number}, expected a whole number from 0 to {MAX_COUNT}")
    load_LE: IntArray = np.zeros((len(names.layers), names.experts), dtype=np.int64)
    places = np.array(list(names.at.values()))
    load_LE[places[:, 0], places[:, 1]] = value_C
    return LogRow(int(number), load_LE, where)
