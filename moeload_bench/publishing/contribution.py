"""Prepare a trace that somebody else recorded for publishing, and check it before it is published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moeload_bench.errors import TraceError
from moeload_bench.publishing.community import checked_about, path_of
from moeload_bench.publishing.identifying import identifying_fields, without_identifying
from moeload_bench.traces.duplicates import duplicate_of, live_experts
from moeload_bench.traces.meta import TraceMeta, checked_meta
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_meta, trace_folders
from moeload_bench.traces.trace import Trace

MAX_BYTES = 2 * 2**30
"""The largest trace file; 50,000 steps of 24 layers and 128 experts take about half of it."""
LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "Apache-2.0")
"""Licences under which anybody may use a trace and pass it on."""


@dataclass(frozen=True)
class Contribution:
    """Traces as they would be published, by their path in the repository.

    ``removed`` is what was taken out of the metadata, as (field, text). ``problems`` has one line for each reason why
    the traces cannot be published.
    """

    traces: Mapping[str, Trace]
    removed: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]

    @property
    def recipes(self) -> list[str]:
        """Return the names that the traces would have."""
        return sorted({trace.meta.recipe for trace in self.traces.values()})


@dataclass(frozen=True)
class Wishes:
    """What a contributor says of the traces.

    A line about them; their licence, which must be the traces' own if they state one; and a new name for them.
    ``own_names`` are the names of the machine and the user; they are taken out with everything else that identifies.
    """

    about: str
    licence: str
    name: str | None = None
    own_names: tuple[str, ...] = ()


def make_contribution(path: Path, wishes: Wishes, known: Iterable[TraceRef], taken: Iterable[str] = ()) -> Contribution:
    """Return the trace at a path, or those below it, as they would be published, and what is wrong with them.

    Files are written again, so that only what they hold as traces counts. A licence that a trace states must be the
    wished one. Raise `TraceError` if the line about them cannot stand in a card.
    """
    checked_about(wishes.about)
    refs, names = list(known), set(taken)
    problems = [*foreign_files(path)]
    traces: dict[str, Trace] = {}
    removed: dict[tuple[str, str], None] = {}
    origin: dict[str, Path] = {}
    for file in trace_files(path):
        try:
            read = read_contributed(file)
            removed.update(dict.fromkeys(identifying_fields(read.meta, wishes.own_names)))
            trace = replace(read, meta=_as_wished(read.meta, wishes))
        except TraceError as error:
            problems.append(str(error))
            continue
        place = path_of(trace)
        if place in origin:
            problems.append(f"{file}: {trace.id} again, as {origin[place]}: number the runs of one split")
        stated = read.meta.licence
        if stated not in ("unknown", wishes.licence):  # the contributor may not be the author: it is never replaced
            expected = "expected the same, or a trace that states none"
            problems.append(f"{file}: licence is {stated!r} in the trace, got {wishes.licence!r}, {expected}")
        problems += [f"{file}: {line}" for line in meta_problems(trace.meta, names)]
        problems += copies_of(file, trace, refs, origin.values())
        traces[place], origin[place] = trace, file
    return Contribution(traces, tuple(removed), tuple(problems))


def _as_wished(meta: TraceMeta, wishes: Wishes) -> TraceMeta:
    """Return the metadata with the line about it as the first note: the card's row is made from the metadata alone."""
    name = wishes.name or meta.recipe
    more = {"recipe": name, "group": name, "licence": wishes.licence}
    renamed = checked_meta({**meta.model_dump(mode="json"), **more}, "the contribution")
    bare = without_identifying(renamed, wishes.own_names)
    return bare.model_copy(update={"notes": (wishes.about, *(note for note in bare.notes if note != wishes.about))})


def known_traces(folders: Iterable[Path] | None = None) -> list[TraceRef]:
    """Return the traces of dataset folders, those of others included; by default of all folders that are found here.

    Raise `TraceError` for a folder that does not exist.
    """
    found = []
    for folder in [place for _, place in trace_folders() if place.is_dir()] if folders is None else folders:
        found += list_traces(folder)
        if (folder / "community").is_dir():
            found += list_traces(folder / "community")
    return found


def trace_files(path: Path) -> list[Path]:
    """Return the trace files at or below a path."""
    return [file for file in _all_files(path) if file.suffix == ".parquet"]


def _all_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def foreign_files(path: Path) -> Iterator[str]:
    """Yield a line for everything there that is not a trace; nothing is opened."""
    for file in _all_files(path):
        if file.suffix != ".parquet":
            yield f"{file}: not a trace; a contribution holds .parquet files and nothing else"
    if not trace_files(path):
        yield f"{path}: no trace is there"


def read_contributed(file: Path) -> Trace:
    """Return a contributed trace; raise `TraceError` for one that cannot be read or is too large."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror}") from None
    check_size(str(file), size)
    return read_trace(file)


def check_size(name: str, size: int) -> None:
    """Raise `TraceError` if a file has more than `MAX_BYTES`; call it before the file is opened."""
    if size > MAX_BYTES:
        raise TraceError(f"{name}: {size:,} bytes, a contributed trace has at most {MAX_BYTES:,}")


def meta_problems(meta: TraceMeta, taken: set[str]) -> Iterator[str]:
    """Yield a line for each reason why a trace with this metadata cannot be published."""
    if meta.licence not in LICENCES:
        yield f"licence is {meta.licence!r}, expected one of {', '.join(LICENCES)}"
    if meta.count_semantics == "unknown":
        yield "count_semantics is 'unknown', expected pre_drop or post_drop: say what the counts are"
    if not meta.recipe.isascii():
        yield f"recipe is {meta.recipe!r}, expected plain letters: others look like them and are not (--name)"
    if meta.recipe in taken:
        yield f"recipe is {meta.recipe!r}, which is taken: give it another name"
    for where, text in identifying_fields(meta):
        yield f"metadata field {where} holds {text!r}, which identifies a machine or a person: take it out"


def copies_of(file: Path, trace: Trace, known: Iterable[TraceRef], own: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each trace that this one is a copy of, among the known traces and its own contribution.

    A file is not a copy of itself, even if it lies where known traces are found. A trace that cannot be read is a
    problem too, because it cannot be compared.
    """
    live = live_experts(trace.load_SLE)
    own = list(own)
    for name, path in (*((ref.id, ref.path) for ref in known), *((str(path), path) for path in own)):
        if path.exists() and path.samefile(file):
            continue
        try:
            if stored_meta(path).experts < live:
                continue  # the footer alone shows that it is another's: its loads need not be read
            reason = duplicate_of(trace, read_trace(path, verify=False))
        except TraceError as error:
            if path not in own:  # those are refused for a reason of their own
                yield f"{file}: cannot be compared with {name}: {error}"
            continue
        if reason is not None:
            yield f"{file}: a copy of {name}: {reason}"
