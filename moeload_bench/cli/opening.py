"""A run as it is named on the command line."""

from __future__ import annotations

from moeload_bench.cli.progress import pair_progress
from moeload_bench.recording.parts import unfinished_trace
from moeload_bench.traces.lookup import PARTS, find_run
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace


def open_trace(name: str) -> Trace:
    """Return the trace of a run, or what is on disk of a recording in progress; raise as `find_run`.

    A terminal shows that it is read.
    """
    with pair_progress(first=f"reading {name}"):
        place = find_run(name)
        named_parts = name.endswith(PARTS) and not place.trace.exists()
        return unfinished_trace(place.parts) if place.unfinished or named_parts else read_trace(place.trace)
