"""A trace as it is named on the command line: an id, a file, or a recording that is not finished."""

from __future__ import annotations

from pathlib import Path

from moeload_bench.cli.progress import pair_progress
from moeload_bench.recording.parts import unfinished_trace
from moeload_bench.traces.store import load_trace
from moeload_bench.traces.trace import Trace

PARTS = ".parts"


def open_trace(name: str) -> Trace:
    """Return the trace of that name, or what is on disk of a recording in progress (`seedN.parts`), unchanged.

    A terminal shows that it is read.
    """
    with pair_progress(first=f"reading {name}"):
        return unfinished_trace(Path(name)) if is_unfinished(name) else load_trace(name)


def is_unfinished(name: str) -> bool:
    """Return whether the name is that of a recording in progress."""
    return name.rstrip("/").endswith(PARTS)
