"""What every importer does with the numbers it has read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeload_bench.errors import TraceError
from moeload_bench.traces.trace import Trace


def trace_from(path: Path, load_SLE: Any, tokens: Any, given: int | None, top_k: int | None, **more: Any) -> Trace:
    """`Trace.from_arrays` for numbers read from ``path``, whose name every error begins with.

    ``tokens`` are those in the file, None if it has none; ``given`` the number the user gave. Raises
    `TraceError` when both are there, and when tokens cannot be known because dropped ones are not in the loads.
    """
    if tokens is not None and given is not None:
        raise TraceError(f"{path}: tokens are in the file; got {given} for them as well, expected one of them")
    if tokens is None and given is None and top_k is not None and more.get("count_semantics") == "post_drop":
        raise TraceError(f"{path}: tokens do not follow from loads after drops, expected a column or number of tokens")
    found = given if tokens is None else tokens
    try:
        return Trace.from_arrays(load_SLE, found, top_k, **more)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
