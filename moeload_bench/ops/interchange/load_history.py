"""Load histories of vLLM: one JSON document with the loads of every interval, read as a stream.

`{"load_history": [{"logical_expert_load": [[12, 9, ...], ...]}, ...]}`: a table of layers x logical experts per
interval. Such files circulate as `expert-load.json` (224 MB of 58 layers x 256 experts in a public data set). The form
is what their readers expect: released versions of vLLM write no such file. Entries may hold other fields.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
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
    """A JSON object; a name that is in it twice goes to a list: an error raised here would break the parser, in C."""

    def __init__(self, twice: list[str]) -> None:
        self._twice = twice

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self:
            self._twice.append(name)
        super().__setitem__(name, value)


def _rows(entries: Iterator[tuple[str, Any]], interval: int) -> Iterator[LogRow]:
    shape: tuple[int, ...] | None = None
    for number, (where, entry) in enumerate(entries):
        if not isinstance(entry, dict):
            raise TraceError(f"{where}: got a JSON {type(entry).__name__}, expected an object with {LOAD}")
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
            objects = partial(_Object, pieces.twice)
            entries = ijson.items(pieces, "load_history.item", use_float=True, buf_size=BLOCK, map_type=objects)
            for number, entry in enumerate(entries):
                pieces.check_names()
                yield f"{file}, entry {number}", entry
                pieces.size, where = 0, f"{file}, entry {number + 1}"
        except (OSError, ijson.JSONError, ValueError, OverflowError, RecursionError) as error:
            if not pieces.ended:
                text = printable(" ".join(str(error).split()))[:200]
                raise TraceError(f"{where}: not JSON: {text}") from None
            cut.append(f"{where}: the document breaks off (is it still being written?); read up to it")


class _Pieces:
    """A file that is read a block at a time; ``size`` counts the bytes since an entry ended, so none is endless.

    Brackets are counted, as ijson takes memory for the square of their depth; a string may lie over several blocks.
    ``twice``: names that an object has twice. The parser does not build the outermost one, so its names are kept here.
    """

    def __init__(self, opened: IO[bytes], path: Path, progress: Progress) -> None:
        self.size, self.ended, self.twice = 0, False, list[str]()
        self._opened, self._path, self._progress = opened, path, progress
        self._string, self._string_bytes, self._depth = b"", 0, 0
        self._names, self._last = _Object(self.twice), b""

    def read(self, size: int) -> bytes:
        """Return the next bytes; raise for an entry of more than MAX_ENTRY, a long string and deep nesting."""
        block = self._opened.read(size)
        self.ended = size > 0 and not block
        self.size += len(block)
        if self.size > MAX_ENTRY:
            raise TraceError(f"{self._path}: more than {MAX_ENTRY} bytes without an entry's end, expected {_DOCUMENT}")
        content, self._string, end = self._string + block, b"", 0
        for match in _STRINGS.finditer(content):
            self._pass(content[end : match.start()])
            self._pass_string(match)
            end = match.end()
        self._pass(content[end:])
        self.check_names()
        self._progress.add(len(block), self._path.name)
        return block

    def check_names(self) -> None:
        """Raise for an object with a name twice, since a value would be lost."""
        if self.twice:
            raise ValueError(f"{self.twice[0][:80]!r} occurs twice in one object")

    def _pass(self, outside: bytes) -> None:
        """Count the brackets of what lies outside of strings."""
        self._depth = check_depth(outside, MAX_DEPTH, self._depth)
        self._last = outside.rstrip()[-1:] or self._last

    def _pass_string(self, match: re.Match[bytes]) -> None:
        """Keep the name of a field of the outermost object, and of a string that goes on what the next block needs."""
        if match[1] != b'"':
            self._string_bytes += len(match[0])
            self._string = b'"' + match[1]
        else:
            if self._depth == 1 and self._last in (b"{", b",") and not self._string_bytes:
                self._names[json.loads(match[0])] = None
            self._string_bytes = 0
        if self._string_bytes > MAX_STRING:
            raise ValueError(f"a string of more than {MAX_STRING} bytes")
