"""A table of named columns in a file of CSV, parquet or JSON Lines: its names, and its rows some at a time.

Axis letters: N rows of a batch, C columns.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.logfiles import JsonLines, Progress, TextLine, WholeLines
from moeload_bench.ops.interchange.rows import Report
from moeload_bench.traces.parquet import check_cost, open_mapped, open_parquet
from moeload_bench.traces.trace import MAX_COUNT

BLOCK = 64 << 20
"""Bytes of a CSV table that are in memory at once; no line may be longer. Thousands of columns take a megabyte."""
EMPTY = ["", "NaN", "nan", "null", "None"]
"""Texts of a cell without a number."""
EXACT = 1 << 53
"""Up to here a float64 holds every whole number."""


class NamedColumns:
    """A file's columns. ``cut`` names a last line that breaks off, once the rows are read: it is left out."""

    def __init__(self, file: Path, report: Report | None = None) -> None:
        self.file, self.cut = file, list[str]()
        self.kind = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}.get(file.suffix, "csv")
        self._report = report
        self.names = self._names()
        again = next((name for name, times in Counter(self.names).items() if name and times > 1), None)
        if again is not None:
            raise TraceError(f"{file}: column {printable(again)[:80]} occurs twice, expected it once")

    def where(self, number: int) -> str:
        """Return the place of a row; the header of a table is row 1."""
        return f"{self.file}, {'line' if self.kind == 'json' else 'row'} {number}"

    def numbers(self, wanted: Sequence[str]) -> Iterator[tuple[int, FloatArray]]:
        """Yield some rows at a time: the number of the first one, and columns [N, C], NaN where a cell is empty.

        Raise `TraceError` for anything but numbers, and for a whole number that no float64 holds.
        """
        if self.kind == "json":
            for line, record in self._lines():
                value_C = [_number(record.get(name), name, line.where) for name in wanted]
                yield line.number, np.array([value_C], dtype=np.float64)
            return
        number = 2
        for batch in self._batches(wanted, lists=False):
            yield number, np.stack([self._floats(batch, name) for name in wanted], axis=1)
            number += batch.num_rows

    def records(self, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows of parquet or JSON Lines, each with its place; their cells may be lists."""
        if self.kind == "json":
            yield from ((line.where, record) for line, record in self._lines())
            return
        records = (record for batch in self._batches(wanted, lists=True) for record in batch.to_pylist())
        yield from ((self.where(number), record) for number, record in enumerate(records, 2))

    def _names(self) -> list[str]:
        if self.kind == "json":
            lines = JsonLines(self.file, Progress([self.file]))
            return list(dict.fromkeys(name for _, record in lines for name in record))
        if self.kind == "parquet":
            with open_parquet(self.file) as parquet:
                return list(parquet.schema_arrow.names)
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as stream:
                head = stream.readline(BLOCK + 1)
            if len(head) > BLOCK:
                raise TraceError(f"{self.where(1)}: more than {BLOCK} bytes, expected shorter lines")
            return [name.strip() for name in next(csv.reader([head]), [])]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TraceError(f"{self.where(1)}: not a CSV table: {error}") from None

    def _lines(self) -> Iterator[tuple[TextLine, dict[str, Any]]]:
        lines = JsonLines(self.file, Progress([self.file], self._report))
        yield from lines
        self.cut += lines.cut

    def _batches(self, wanted: Sequence[str], lists: bool) -> Iterator[Any]:
        """Yield batches of rows, and report how many bytes of the file were read with each."""
        progress, rows = Progress([self.file], self._report), 0
        for batch, done in self._parquet(wanted, lists) if self.kind == "parquet" else self._csv(wanted):
            yield batch
            rows += batch.num_rows
            progress.at(done, f"row {rows}")

    def _parquet(self, wanted: Sequence[str], lists: bool) -> Iterator[tuple[Any, int]]:
        with open_mapped(self.file) as opened:
            check_cost(opened, lists=lists)
            footer, size, rows = opened.reader.metadata, self.file.stat().st_size, 0
            leaves = _number_leaves(footer.schema, wanted, self.file)
            for batch in opened.reader.iter_batches(16 if lists else 256, columns=leaves, use_threads=False):
                rows += batch.num_rows
                yield batch, size * rows // footer.num_rows

    def _csv(self, wanted: Sequence[str]) -> Iterator[tuple[Any, int]]:
        lines = WholeLines.of(self.file)
        self.cut += [lines.cut] if lines.cut else []
        # only without threads do errors name the row
        options = arrow_csv.ReadOptions(column_names=self.names, skip_rows=1, use_threads=False, block_size=BLOCK)
        convert = arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.float64()), null_values=EMPTY
        )
        try:
            with lines.open() as stream, arrow_csv.open_csv(stream, options, convert_options=convert) as reader:
                for batch in reader:
                    yield batch, stream.tell()
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise TraceError(f"{self.file}, {self._located(str(error))}") from None

    def _located(self, message: str) -> str:
        """Rewrite pyarrow's message in the words of this package: row, column, got and expected."""
        cell = re.search(r"column #(\d+): Row #(\d+): .*invalid value '(.*)'", message, re.DOTALL)
        if cell:
            name, got = printable(self.names[int(cell[1])])[:80], printable(cell[3])[:80]
            return f"row {cell[2]}, column {name}: got {got!r}, expected a number"
        length = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
        if length:
            return f"row {length[1]}: got {length[3]} columns, expected {length[2]} as in the header"
        return f"not a table: {printable(message)[:300]}"

    def _floats(self, batch: Any, name: str) -> FloatArray:
        column = batch.column(batch.schema.get_field_index(name))
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise TraceError(f"{self.file}: column {printable(name)} holds {column.type}, expected numbers")
        try:
            return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            raise TraceError(f"{self.file}: column {printable(name)} {_TOO_LARGE}") from None


_TOO_LARGE = f"holds a number of more than 53 bits, expected counts up to {MAX_COUNT}"


def _number(value: Any, name: str, where: str) -> float:
    if value is None:
        return float("nan")
    if type(value) not in (int, float):
        raise TraceError(f"{where}: {printable(name)} is {printable(repr(value))[:80]}, expected a number")
    if type(value) is int and abs(value) > EXACT:
        raise TraceError(f"{where}: {printable(name)} {_TOO_LARGE}")
    return float(value)


def _number_leaves(schema: pq.ParquetSchema, wanted: Sequence[str], file: Path) -> list[str]:
    """Return the paths of numbers in columns, without the kind of each histogram; raise `TraceError` for any text.

    One text in a dictionary takes gigabytes where each row has it.
    """
    paths, names = [], {*wanted}
    for leaf in (schema.column(j) for j in range(len(schema))):
        if names.isdisjoint(accumulate(leaf.path.split("."), "{}.{}".format)):
            continue
        if leaf.path.endswith("._type"):
            continue
        if leaf.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            raise TraceError(f"{file}: column {printable(leaf.path)[:80]} holds texts, expected numbers")
        paths.append(leaf.path)
    return paths
