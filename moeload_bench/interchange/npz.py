"""Traces from NumPy archives.

Layout: one array per column, named like the format's columns. `load` [S, L, E] is required; `step` [S] (else 0 .. S-1),
`tokens` [S] or [S, L], and the optional columns of the format (`load_half`, `dropped`, `loss`, `lr`, ...) with the
steps first. Counts are whole numbers of any dtype.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeload_bench.errors import TraceError
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Trace

MAX_BYTES = 4 << 30
"""Arrays are read whole: more than this is refused, and told of the formats that are read a piece at a time."""
_NAMES = ("load", "step", "tokens", *OPTIONAL_COLUMNS)


def import_npz(
    path: Path, top_k: int | None = None, tokens: int | None = None, *, max_bytes: int = MAX_BYTES, **meta: Any
) -> Trace:
    """The trace in an archive; ``meta`` goes into `TraceMeta`.

    ``tokens`` is the number per step and layer where the archive has none. Sizes are checked before anything is
    unpacked (``max_bytes`` over all arrays, and in proportion to the archive, see `moeload_bench.bounds`), and object
    arrays are refused: nothing is unpickled. Raises `TraceError` that names file, array, what was got and expected:
    for tokens both in the archive and given too, and for loads after drops with neither.
    """
    arrays = read_arrays(path, _NAMES, max_bytes)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    if "tokens" in arrays and tokens is not None:
        raise TraceError(f"{path}: tokens are in the file; got {tokens} for them as well, expected one of them")
    counted = arrays.get("tokens", tokens)
    if counted is None and top_k is not None and meta.get("count_semantics") == "post_drop":
        raise TraceError(f"{path}: tokens do not follow from loads after drops, expected an array or number of tokens")
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    try:
        return Trace.from_arrays(arrays["load"], counted, top_k, step_S=arrays.get("step"), columns=columns, **meta)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
