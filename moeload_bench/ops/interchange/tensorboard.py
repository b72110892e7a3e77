"""TensorBoard: the scalars in event files (`events.out.tfevents.*`), read without TensorBoard.

Event files are records of a length, a checksum and a message. Of the messages only step, tag and value are read (their
fields are those of tensorflow's `event.proto` and `summary.proto`, as `torch.utils.tensorboard` writes them).
Checksums are not verified. Scalars are float32, which holds whole numbers up to 2^24 exactly: larger counts are
refused.

A directory is one run. If a run was restarted, its files follow one another by name; a step that occurs twice is
refused.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.interchange.logfiles import Paths, Progress, find_files
from moeload_bench.ops.interchange.rows import Log, LogRow, Report, Semantics, logged_row
from moeload_bench.ops.interchange.scalars import Names, match_names
from moeload_bench.traces.pages import varint

MAX_RECORD = 256 << 20
EXACT = 1 << 24
_FLOAT = 1  # DT_FLOAT of a tensor


class Scalar(NamedTuple):
    """One logged value."""

    step: int
    tag: str
    value: float
    where: str


def read_tensorboard(
    paths: Paths, *, pattern: str | None = None, shares: bool = False, report: Report | None = None
) -> Log:
    """Return the log in the event files of one run; a first pass over them finds the tags.

    ``shares``: the values are shares of their layer's load, or ratios to its mean.
    """
    files = find_files(paths, "events.out.tfevents.*")
    if len({file.parent for file in files}) > 1:
        raise TraceError(f"{files[0]} and {files[-1]}: two folders, expected the event files of one run")
    cut: list[str] = []
    tags = dict.fromkeys(scalar.tag for scalar in _scalars(files, [], None))
    names = match_names(tags, pattern, str(files[0].parent))
    rows = _rows(_scalars(files, cut, report), names, cut, shares)
    notes = [f"logged as {names.pattern}"]
    semantics: Semantics = "derived" if shares else "unknown"
    return Log(str(files[0].parent), names.layers, names.experts, rows, semantics, notes=notes, cut=cut)


def _rows(scalars: Iterator[Scalar], names: Names, cut: list[str], shares: bool) -> Iterator[LogRow]:
    """Yield complete steps; raise for an incomplete one, but if it is the last, leave it out and say so in ``cut``."""
    value_LE = np.full((len(names.layers), names.experts), -1.0)
    step: int | None = None
    where = ""
    for scalar in scalars:
        place = names.places.get(scalar.tag)
        if place is None:
            continue
        if step is not None and scalar.step != step:
            if (value_LE < 0).any():
                m, e = np.argwhere(value_LE < 0)[0].tolist()
                missing = f"expert {e} of layer {names.layers[m]}"
                raise TraceError(f"{where}: {missing} has no value in step {step}, others have one")
            yield logged_row(step, value_LE, where, shares)
            value_LE = np.full_like(value_LE, -1)
        if not 0 <= scalar.value <= EXACT or not (shares or scalar.value == int(scalar.value)):
            raise TraceError(
                f"{scalar.where}: {printable(scalar.tag)} of step {scalar.step} is {scalar.value:g}, expected a whole "
                f"number from 0 to {EXACT} (what float32 holds exactly): shares (--shares) and means are not counts"
            )
        if value_LE[place] >= 0:
            raise TraceError(f"{scalar.where}: {printable(scalar.tag)} of step {scalar.step} again, expected one value")
        value_LE[place], step, where = scalar.value, scalar.step, scalar.where
    if step is None:
        return
    if (value_LE >= 0).all():
        yield logged_row(step, value_LE, where, shares)
    else:
        count = int((value_LE >= 0).sum())
        cut.append(f"{where}: breaks off in step {step}, which has {count} of {value_LE.size} values; read up to it")


def _scalars(files: Sequence[Path], cut: list[str], report: Report | None) -> Iterator[Scalar]:
    progress = Progress(files, report)
    for file in files:
        for number, message in enumerate(_records(file, cut)):
            where = f"{file}, record {number}"
            try:
                yield from _event(message, where)
            except (struct.error, IndexError, UnicodeDecodeError, ValueError):
                raise TraceError(f"{where}: not an event of TensorBoard") from None
            progress.add(len(message) + 16, file.name)


def _records(path: Path, cut: list[str]) -> Iterator[bytes]:
    """Yield the messages of one file; end at one that breaks off (the run may still be writing)."""
    with path.open("rb") as file:
        while head := file.read(12):
            length = int.from_bytes(head[:8], "little") if len(head) == 12 else 0
            if length > MAX_RECORD:
                raise TraceError(
                    f"{path}: a record of {length} bytes, expected at most {MAX_RECORD}: is this an event file?"
                )
            message = file.read(length + 4)
            if len(head) < 12 or len(message) < length + 4:
                cut.append(f"{path}: the last record breaks off (is the run still writing?); read up to it")
                return
            yield message[:-4]


def _event(message: bytes, where: str) -> Iterator[Scalar]:
    step, summaries = 0, []
    for field, value in _fields(message):
        if field == 2 and isinstance(value, int):
            step = value - (1 << 64) if value >> 63 else value  # an int64
        elif field == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for field, value in _fields(summary):
            if field == 1 and isinstance(value, bytes):
                yield from _value(value, step, where)


def _value(message: bytes, step: int, where: str) -> Iterator[Scalar]:
    tag, number = "", None
    for field, value in _fields(message):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode()
        elif field == 2 and isinstance(value, bytes):
            number = struct.unpack("<f", value)[0]
        elif field == 8 and isinstance(value, bytes):
            number = _tensor(value)
    if number is not None:
        yield Scalar(step, tag, float(number), where)


def _tensor(message: bytes) -> float | None:
    """Return the value of a tensor of one float32; None for any other tensor."""
    parts = {field: value for field, value in _fields(message)}
    raw = parts.get(4, parts.get(5))
    if parts.get(1) != _FLOAT or not isinstance(raw, bytes) or len(raw) != 4:
        return None
    return float(struct.unpack("<f", raw)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: number, and a whole number or the bytes of anything else."""
    i = 0
    while i < len(message):
        key, i = varint(message, i)
        kind = key & 7
        if kind == 0:
            value, i = varint(message, i)
            yield key >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind}")
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, i = varint(message, i)
        if i + size > len(message):
            raise ValueError("a field is longer than its message")
        yield key >> 3, message[i : i + size]
        i += size
