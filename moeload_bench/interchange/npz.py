"""Traces from NumPy archives.

Layout: one array per column, named like the format's columns. `load` [S, L, E] is required; `step` [S] (else 0 .. S-1),
`tokens` [S] or [S, L], `layer` [L] (the layers' numbers in the model, else 0 .. L-1), and the optional columns of the
format (`load_half`, `dropped`, `loss`, `lr`, ...) with the steps first. Counts are whole numbers of any dtype.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moeload_bench.errors import TraceError
from moeload_bench.interchange.logfiles import Paths, find_file
from moeload_bench.interchange.rows import Log, LogRow, Report
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.meta import OPTIONAL_COLUMNS
from moeload_bench.traces.trace import Trace

MAX_BYTES = 4 << 30
"""Arrays are read whole, so a larger archive is refused; the message names the formats that are read in pieces."""
STREAMED = "; read in pieces, whatever their size: logs of engines and trackers (`moeload-bench import formats`)"
_NAMES = ("load", "step", "tokens", "layer", *OPTIONAL_COLUMNS)


def read_npz(paths: Paths, *, max_bytes: int = MAX_BYTES, report: Report | None = None) -> Log:
    """Return the log in an archive; ``report`` is not called: the file is read at once.

    Sizes are checked before anything is unpacked (``max_bytes`` over all arrays, and in proportion to the archive, see
    `moeload_bench.bounds`), and object arrays are refused: nothing is unpickled. Raise `TraceError` that names file,
    array, what was got and expected.
    """
    path = find_file(paths, "*.npz")
    arrays = read_arrays(path, _NAMES, max_bytes, STREAMED)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    try:
        trace = Trace.from_arrays(arrays["load"], arrays.get("tokens"), step_S=arrays.get("step"), columns=columns)
        layers = _layers(arrays.get("layer", np.arange(trace.num_layers)), trace.num_layers)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    return Log(str(path), layers, trace.num_experts, _rows(trace, "tokens" in arrays, str(path)))


def _rows(trace: Trace, has_tokens: bool, where: str) -> Iterator[LogRow]:
    for s, step in enumerate(trace.step_S.tolist()):
        tokens_L = trace.tokens_SL[s] if has_tokens else None
        columns = {name: column[s] for name, column in trace.columns.items()}
        yield LogRow(step, trace.load_SLE[s], where, tokens_L, columns=columns)


def _layers(layer_L: Any, layers: int) -> tuple[int, ...]:
    if layer_L.shape != (layers,) or layer_L.dtype.kind not in "iu" or (np.diff(layer_L.astype(np.int64)) <= 0).any():
        raise TraceError(
            f"layer has shape {list(layer_L.shape)} and dtype {layer_L.dtype}, expected the rising numbers of "
            f"{layers} layers"
        )
    return tuple(layer_L.tolist())
