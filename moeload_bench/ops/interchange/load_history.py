"""Load histories of vLLM: one JSON document with the loads of every interval, read as a stream.

`{"load_history": [{"logical_expert_load": [[12, 9, ...], ...]}, ...]}`: a table of layers x logical experts per
interval. Such files circulate as `expert-load.json` (224 MB of 58 layers x 256 experts in a public data set). The form
is what their readers expect: released versions of vLLM write no such file. Entries may hold other fields.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from moeload_bench.bounds import MAX_DEPTH, check_depth
from moeload_bench.errors import MissingExtraError, TraceError, printable
from moeload_bench.ops.interchange.logfiles import Paths, Progress, field_of, find_file, whole_counts
from moeload_bench.ops.interchange.rows import Log, LogRow, Report

BLOCK = 1 << 16
MAX_ENTRY = 16 << 20
"""The most bytes of an entry: 64 layers x 1,024 experts take less than one MiB."""
MAX_STRING = 1 << 20
LOAD = "logical_expert_load"
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("|\\?\Z)', re.DOTALL)
"""A string, or the part of it that is there: its group 1 is then no quote, but at most the backslash at the end."""
_DOCUMENT = f'{{"load_history": [{{"{LOAD}": [[...], ...]}}, ...]}}'


def read_load_history(paths: Paths, *, interval: int = 1, report: Report | None = None) -> Log:
    """Return the log in one document; an entry holds the loads of ``interval`` steps, added up."""
    file, cut = find_file(paths, "*.json"), list[str]()
    rows = _rows(_entries(file, Progress([file], report), cut), interval)
    first = next(rows, None)
    if first is None:
        raise TraceError(f"{file}: no whole entry, expected {_DOCUMENT}{': ' if cut else ''}{'; '.join(cut)}")
    layers, experts = first.load_LE.shape
    notes = ["intervals of an inference engine, from its load history"]
    return Log(str(file), tuple(range(layers)), experts, chain([first], rows), notes=notes, cut=cut, row_steps=interval)


class _Object(dict[str, Any]):
    """A JSON object, with a name that occurs twice in it: an error raised here would break the parser, which is C."""

    twice: str | None = None

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self:
            self.twice = name
        super().__setitem__(name, value)


def _rows(entries: Iterator[tuple[str, Any]], interval: int) -> Iterator[LogRow]:
    shape: tuple[int, ...] | None = None
    for number, (where, entry) in enumerate(entries):
        if not isinstance(entry, _Object):
            raise TraceError(f"{where}: got a JSON {type(entry).__name__}, expected an object with {LOAD}")
        if entry.twice is not None:
            raise TraceError(f"{where}: {printable(repr(entry.twice))[:80]} occurs twice in one object")
        load_LE = whole_counts(field_of(entry, LOAD, where, [LOAD]), LOAD, where, ndim=2)
        shape = shape or load_LE.shape
        if load_LE.shape != shape:
            raise TraceError(f"{where}: {LOAD} has shape {list(load_LE.shape)}, expected {list(shape)} as in entry 0")
        yield LogRow(number * interval, load_LE, where)


def _entries(file: Path, progress: Progress, cut: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the history, each with its place, up to the last whole one of a document that breaks off."""
    try:
        import ijson
    except ModuleNotFoundError:
        raise MissingExtraError("ijson", "import", "reading a load history") from None
    where = f"{file}, entry 0"
    with file.open("rb") as opened:
        pieces = _Pieces(opened, file, progress)
        try:
            entries = ijson.items(pieces, "load_history.item", use_float=True, buf_size=BLOCK, map_type=_Object)
            for number, entry in enumerate(entries):
                yield f"{file}, entry {number}", entry
                pieces.size, where = 0, f"{file}, entry {number + 1}"
        except (OSError, ijson.JSONError, ValueError, OverflowError, RecursionError) as error:
            if not pieces.ended:
                said = printable(" ".join(str(error).split()))[:200]
                raise TraceError(f"{where}: not JSON: {said}") from None
            cut.append(f"{where}: the document breaks off (is it still being written?); read up to it")


class _Pieces:
    """A file that is read a block at a time; ``size`` counts the bytes since an entry ended, so none is endless.

    Brackets are counted, as ijson takes memory for the square of their depth; a string may lie over several blocks.
    """

    def __init__(self, opened: IO[bytes], path: Path, progress: Progress) -> None:
        self.size, self.ended = 0, False
        self._opened, self._path, self._progress = opened, path, progress
        self._string, self._string_bytes, self._depth = b"", 0, 0

    def read(self, size: int) -> bytes:
        """Return the next bytes; raise for an entry of more than MAX_ENTRY, a long string and deep nesting."""
        block = self._opened.read(size)
        self.ended = size > 0 and not block
        self.size += len(block)
        if self.size > MAX_ENTRY:
            raise TraceError(f"{self._path}: more than {MAX_ENTRY} bytes without an entry's end, expected {_DOCUMENT}")
        content, self._string = self._string + block, b""
        outside = _STRINGS.sub(self._without, content)
        if self._string_bytes > MAX_STRING:
            raise ValueError(f"a string of more than {MAX_STRING} bytes")
        self._depth = check_depth(outside, MAX_DEPTH, self._depth)
        self._progress.add(len(block), self._path.name)
        return block

    def _without(self, match: re.Match[bytes]) -> bytes:
        """Return nothing in a string's place; of one that goes on, keep what the next block has to begin with."""
        if match[1] == b'"':
            self._string_bytes = 0
        else:
            self._string_bytes += len(match[0])
            self._string = b'"' + match[1]
        return b""
