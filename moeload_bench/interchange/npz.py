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
from moeload_bench.interchange.common import trace_from
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Trace

_NAMES = ("load", "step", "tokens", *OPTIONAL_COLUMNS)


def import_npz(
    path: Path, top_k: int | None = None, tokens: int | None = None, *, max_bytes: int | None = None, **meta: Any
) -> Trace:
    """The trace in an archive; ``meta`` goes into `TraceMeta`.

    ``tokens`` is the number per step and layer where the archive has none. Sizes are checked before anything is
    unpacked (``max_bytes`` over all arrays; else in proportion to the archive, see `moeload_bench.bounds`), and object
    arrays are refused: nothing is unpickled. Raises `TraceError` that names file, array, what was got and expected.
    """
    arrays = read_arrays(path, _NAMES, max_bytes)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    return trace_from(
        path,
        arrays["load"],
        arrays.get("tokens"),
        tokens,
        top_k,
        step_S=arrays.get("step"),
        columns=columns,
        **meta,
    )
