"""Files of a log and the numbers in them: found by glob, read in blocks; errors name file, line and expectation."""

from __future__ import annotations

import glob
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.bounds import named_once
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.rows import Report
from moeload_bench.traces.trace import MAX_COUNT
from moeload_bench.words import silent

Paths = str | Path | Sequence[str | Path]

MAX_FILES = 20_000
MAX_LINE = 256 << 20
_BLOCK, _SMALL_BLOCK, _MANY = 1 << 20, 1 << 16, 64


def find_files(paths: Paths, pattern: str) -> list[Path]:
    """Return the files that paths, folders (searched for ``pattern``) and globs name; numbers in names sort as numbers.

    Raise `TraceError` if there is none, if a path does not exist, and for more than MAX_FILES.
    """
    files: dict[Path, None] = {}
    for path in map(str, [paths] if isinstance(paths, str | Path) else paths):
        place = Path(path)
        if place.is_dir():
            matches = [str(file) for file in place.glob(pattern)]
        else:
            matches = [path] if place.exists() else glob.glob(path, recursive=True)
        if not matches:
            what = f"no file {pattern} in this folder" if place.is_dir() else "no such file, and no glob that finds one"
            raise TraceError(f"{printable(path)}: {what}")
        files.update(dict.fromkeys(map(Path, matches)))
        if len(files) > MAX_FILES:
            raise TraceError(f"{printable(path)}: more than {MAX_FILES} files, expected a narrower glob")
    check_files(files)
    return sorted(files, key=lambda file: natural(str(file)))


def check_files(files: Iterable[Path]) -> None:
    """Raise `TraceError` for what is no file, such as a folder, a device or a pipe, or a link to none."""
    for file in files:
        if not file.is_file():
            raise TraceError(f"{printable(str(file))}: not a file")


def find_file(paths: Paths, pattern: str) -> Path:
    """Return the one file that is found as by `find_files`; raise `TraceError` for several."""
    file, *others = find_files(paths, pattern)
    if others:
        raise TraceError(f"{file.parent}: got {1 + len(others)} files, expected the file of one run")
    return file


def natural(name: str) -> list[Any]:
    """Return a key that sorts numbers in names as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _example(pattern: str) -> str:
    """Return a name that a pattern of `files_by_number` fits: `rank0.jsonl`."""
    return re.sub(r"[\\^$]", "", pattern.replace(r"(\d+)", "0"))


def files_by_number(files: Sequence[Path], pattern: str, what: str) -> dict[int, Path]:
    """Return files by the number that ``pattern`` finds in their names; raise if a number from 0 on is missing."""
    by_number: dict[int, Path] = {}
    for file in files:
        match = re.search(pattern, file.name)
        if match is None:
            raise TraceError(f"{file}: no number of a {what} in the name, expected a name like {_example(pattern)!r}")
        number = int(match[1])
        if number in by_number:
            raise TraceError(f"{file}: {what} {number} again, it is in {by_number[number]} too")
        by_number[number] = file
    # a name may hold any number, however large: count only as many as are shown
    missing = list(islice((number for number in range(max(by_number) + 1) if number not in by_number), 11))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        got = f"got {len(by_number)} files, up to {max(by_number)}"
        raise TraceError(f"{files[0].parent}: {what} {shown} missing: {got}")
    return by_number


class Progress:
    """Counts the bytes that were read of all files, and reports them."""

    def __init__(self, files: Sequence[Path], report: Report | None = None) -> None:
        self._report, self._done = report or silent, 0
        self.total = sum(file.stat().st_size for file in files)
        self.block = _BLOCK if len(files) <= _MANY else _SMALL_BLOCK

    def add(self, count: int, what: str) -> None:
        """Add ``count`` bytes that were read, of ``what``."""
        self.at(self._done + count, what)

    def at(self, done: int, what: str) -> None:
        """Report that ``done`` bytes of all files were read, up to ``what``."""
        self._done = done
        self._report(min(done, self.total), self.total, what)


class TextLine(NamedTuple):
    """One line of a file, numbered from 1; ``complete`` is False for a last line without a line break."""

    path: Path
    number: int
    text: bytes
    complete: bool

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def read_lines(path: Path, progress: Progress) -> Iterator[TextLine]:
    """Yield the lines of a file; it is open only while a block is read, so any number can be read in parallel."""
    offset, number, held = 0, 0, 0
    pieces: list[bytes] = []
    while True:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                block = file.read(progress.block)
        except OSError as error:
            raise TraceError(f"{path}: cannot be read: {error}") from None
        if not block:
            break
        offset += len(block)
        progress.add(len(block), path.name)
        *full, rest = block.split(b"\n")
        for text in full:
            number += 1
            yield TextLine(path, number, b"".join([*pieces, text]), True)
            pieces, held = [], 0
        pieces.append(rest)
        held += len(rest)
        if held > MAX_LINE:
            raise TraceError(f"{path}, line {number + 1}: more than {MAX_LINE} bytes, expected shorter lines")
    if held:
        yield TextLine(path, number + 1, b"".join(pieces), False)


class WholeLines(NamedTuple):
    """A table's file up to ``end``; ``cut`` names a last line without a line break, which comes after ``end``.

    Such a line may have lost digits of its last number, and nothing shows it: 12 may have been 1234.
    """

    path: Path
    end: int
    cut: str

    @classmethod
    def of(cls, path: Path) -> WholeLines:
        """Look at the last line; a header alone is left as it is."""
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            for size in (1 << 20, MAX_LINE):
                start = file.seek(max(0, end - size))
                tail = file.read(end - start)
                if b"\n" in tail or start == 0:
                    break
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last or len(last) == end:
            return cls(path, end, "")
        cut = f"{path}: the last line breaks off, it has no line break (is the run still writing?); read up to it"
        return cls(path, end - len(last), cut)

    def open(self) -> io.RawIOBase:
        """Open the bytes up to the end."""
        return _Bounded(self.path, self.end)


class _Bounded(io.RawIOBase):
    def __init__(self, path: Path, end: int) -> None:
        self._file, self._end = path.open("rb"), end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._end - self._file.tell())
        part = self._file.read(wanted)
        buffer[: len(part)] = part
        return len(part)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class JsonLines:
    """The objects of a file of JSON Lines, with their lines.

    A last line that breaks off (the run may still be writing) ends the file; ``cut`` says so then.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self.cut = path, list[str]()
        self._lines = read_lines(path, progress)

    def __iter__(self) -> Iterator[tuple[TextLine, dict[str, Any]]]:
        for line in self._lines:
            if not line.text.strip():
                continue
            try:
                entry = json.loads(line.text, object_pairs_hook=named_once)
            except (ValueError, RecursionError) as error:
                if not line.complete:
                    note = "the last line breaks off (is the run still writing?); read up to it"
                    self.cut.append(f"{line.where}: {note}")
                    return
                raise TraceError(f"{line.where}: not JSON: {printable(str(error))[:200]}") from None
            if not isinstance(entry, dict):
                raise TraceError(f"{line.where}: got a JSON {type(entry).__name__}, expected an object")
            yield line, entry


def field_of(record: Mapping[str, Any], name: str, where: str, expected: Sequence[str]) -> Any:
    """Return a field; raise if it is missing."""
    if name not in record:
        got = printable(", ".join(map(str, record)))[:200] or "none"
        raise TraceError(f"{where}: no field {name!r}; got {got}, expected {', '.join(expected)}")
    return record[name]


def whole_number(value: Any, what: str, where: str, least: int = 0) -> int:
    """Return a whole number of at least ``least``; raise for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        raise TraceError(f"{where}: {what} is {printable(repr(value))[:80]}, expected a whole number from {least}")
    return value


def whole_counts(value: Any, what: str, where: str, ndim: int = 1) -> IntArray:
    """Return whole numbers from 0, of ``ndim`` axes; 12.0 is a whole number, 12.5 is not."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise TraceError(f"{where}: {what} is not a table of numbers, expected rows of one length") from None
    if array.ndim != ndim or array.size == 0:
        raise TraceError(f"{where}: {what} has shape {list(array.shape)}, expected {ndim} axes with some numbers")
    if array.dtype.kind not in "iuf" or bool in _kinds(value, ndim):
        cells = np.asarray(value, dtype=object).ravel()
        odd = next((cell for cell in cells if type(cell) not in (int, float)), value)
        raise TraceError(f"{where}: {what} holds {printable(repr(odd))[:80]}, expected numbers from 0 to {MAX_COUNT}")
    if array.dtype.kind == "f":
        array = array.astype(np.result_type(array, np.float64))  # float16 has no MAX_COUNT: infinity would be below it
    bad = ~((array >= 0) & (array <= MAX_COUNT))
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        cell = tuple(int(i) for i in np.argwhere(bad)[0])
        raise TraceError(f"{where}: {what}{list(cell)} is {array[cell]}, expected a whole number from 0 to {MAX_COUNT}")
    return array.astype(np.int64)


def _kinds(value: Any, ndim: int) -> set[type]:
    """Return the types of the numbers of lists in lists: numpy takes True for 1 where it stands beside numbers."""
    if not isinstance(value, list):
        return set()
    return set(map(type, value)) if ndim == 1 else set[type]().union(*(_kinds(row, ndim - 1) for row in value))
