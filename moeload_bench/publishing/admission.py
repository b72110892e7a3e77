"""Check whether a trace may be published: its licence, what its counts are, whom its metadata names, and copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from moeload_bench.publishing.identifying import identifying_fields, own_names
from moeload_bench.publishing.release import COMMUNITY
from moeload_bench.traces.store import list_traces, stored_hash, stored_meta, trace_folders

LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "Apache-2.0")
"""Licences under which anybody may use a trace and pass it on."""


def publishing_problems(file: Path, held: Mapping[Path, str]) -> Iterator[str]:
    """Yield a line for each reason why a valid trace may not be published; none if it may.

    ``held``: the files that it must not repeat, each with its `data_sha256`: a trace is a copy of another if these are
    equal. The trace's own file among them does not count.
    """
    meta, content = stored_meta(file), stored_hash(file)
    if meta.licence not in LICENCES:
        yield f"licence is {meta.licence!r}, expected one of {', '.join(LICENCES)}"
    if meta.count_semantics == "unknown":
        yield "count_semantics is 'unknown', expected pre_drop or post_drop: say what the counts are"
    if not meta.recipe.isascii():
        yield f"recipe is {meta.recipe!r}, expected plain letters: others look like them and are not"
    for field, text in identifying_fields(meta, own_names()):
        yield f"metadata field {field} holds {text!r}, which identifies a machine or a person: take it out"
    for other, held_content in held.items():
        if held_content == content and not other.samefile(file):
            yield f"a copy of {other}: its data_sha256 is equal"


def published_hashes() -> dict[Path, str]:
    """Return the `data_sha256` of each trace that is found on this machine, those of others included.

    Raise `TraceError` for a file of these that cannot be read.
    """
    places = [place for _, folder in trace_folders() for place in (folder, folder / COMMUNITY)]
    return {ref.path: stored_hash(ref.path) for place in places if place.is_dir() for ref in list_traces(place)}
