"""What a maintainer asks of a trace that somebody else recorded, before it is published beside the project's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.errors import TraceError
from moeload_bench.traces.duplicates import duplicate_of
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import TraceRef, read_trace
from moeload_bench.traces.trace import Trace

MAX_BYTES = 2 * 2**30
"""A trace file may have; 50,000 steps of 24 layers and 128 experts take about half of it."""
LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "Apache-2.0")
"""Under which anybody may use a trace and pass it on."""
_IDENTIFYING = re.compile(
    r"(?P<path>(?:^|[\s'\":=])(?:/(?:home|Users|root|mnt|data|scratch|workspace|tmp)/|~/|[A-Za-z]:\\|\\\\)\S*)"
    r"|(?P<address>[\w.+-]+@[\w-]+\.[\w.]+)"
    r"|(?P<host>\b(?:\d{1,3}\.){3}\d{1,3}\b|\b[\w-]+\.(?:local|internal|lan|cluster)\b)"
)


def identifying_fields(meta: TraceMeta) -> list[tuple[str, str]]:
    """(field, text) of what in the metadata names a machine or a person: folders, mail addresses, hosts."""
    return [
        (where, found.group(0).strip(" '\":="))
        for where, text in _texts(meta.model_dump(mode="json"), "")
        for found in _IDENTIFYING.finditer(text)
    ]


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text of a tree with its place; names of keys are texts too."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(str(key), where)
            yield from _texts(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}.{number}")


def contribution_problems(path: Path, known: Iterable[TraceRef], taken: Iterable[str] = ()) -> Iterator[str]:
    """Why the traces at a path cannot be published, a line for each reason; none when they can.

    Asked are: nothing but traces, of a bounded size; both hashes and conservation of counts; what the counts are; an
    open licence; nothing in the metadata that identifies a machine or a person; a recipe's name that is not one of the
    ``taken`` ones; and training that is not among the ``known`` traces or a second time in the contribution, also
    permuted, cut, sampled or thinned (`duplicate_of`).
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    traces = [file for file in files if file.suffix == ".parquet"]
    yield from (f"{file}: no trace; a contribution holds .parquet files and nothing else" for file in files
                if file not in traces)  # fmt: skip
    if not traces:
        yield f"{path}: no trace is there"
    refs, names = list(known), set(taken)
    for number, file in enumerate(traces):
        trace = None
        try:
            trace = _read(file)
        except TraceError as error:
            yield str(error)
        if trace is not None:
            yield from (f"{file}: {line}" for line in _wrong_meta(trace.meta, names))
            others = [*((ref.id, ref.path) for ref in refs), *((str(other), other) for other in traces[:number])]
            yield from _copies(file, trace, others)


def _read(file: Path) -> Trace:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror}") from None
    if size > MAX_BYTES:
        raise TraceError(f"{file}: {size:,} bytes, a contributed trace has at most {MAX_BYTES:,}")
    return read_trace(file)


def _wrong_meta(meta: TraceMeta, taken: set[str]) -> Iterator[str]:
    if meta.licence not in LICENCES:
        yield f"licence is {meta.licence!r}, expected one of {', '.join(LICENCES)}"
    if meta.count_semantics == "unknown":
        yield "count_semantics is 'unknown', expected pre_drop or post_drop: say what the counts are"
    if meta.recipe in taken:
        yield f"recipe is {meta.recipe!r}, which is one of the project's own: give it another name"
    for where, text in identifying_fields(meta):
        yield f"metadata field {where} holds {text!r}, which tells a machine or a person: take it out"


def _copies(file: Path, trace: Trace, others: Sequence[tuple[str, Path]]) -> Iterator[str]:
    for name, path in others:
        try:
            reason = duplicate_of(trace, read_trace(path, verify=False))
        except TraceError:
            continue  # one of the contribution's own, refused by itself
        if reason is not None:
            yield f"{file}: a copy of {name}: {reason}"
