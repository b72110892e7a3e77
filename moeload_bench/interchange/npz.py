"""Traces from NumPy archives.

Layout: one array per column, named like the format's columns. `load` [S, L, E] is required; `step` [S] (else 0 .. S-1),
`tokens` [S] or [S, L], `layer` [L] (the layers' numbers in the model, else 0 .. L-1), and the optional columns of the
format (`load_half`, `dropped`, `loss`, `lr`, ...) with the steps first. Counts are whole numbers of any dtype.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import TraceError
from moeload_bench.interchange.rows import Options, Report
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.meta import OPTIONAL_COLUMNS
from moeload_bench.traces.trace import Trace

MAX_BYTES = 4 << 30
"""Arrays are read whole, so a larger archive is refused; the message names the formats that are read in pieces."""
STREAMED = "; read in pieces, whatever their size: logs of engines and trackers (`moeload-bench import formats`)"
_NAMES = ("load", "step", "tokens", "layer", *OPTIONAL_COLUMNS)


def read_npz(
    path: Path, options: Options | None = None, *, max_bytes: int = MAX_BYTES, report: Report | None = None
) -> Trace:
    """Return the trace in an archive; ``options`` as for any log. ``report`` is not called: the file is read at once.

    Sizes are checked before anything is unpacked (``max_bytes`` over all arrays, and in proportion to the archive, see
    `moeload_bench.bounds`), and object arrays are refused: nothing is unpickled. Raise `TraceError` that names file,
    array, what was got and expected: for tokens both in the archive and in ``options``, and for loads after drops with
    neither.
    """
    options = options or Options()
    top_k, tokens = options.top_k, options.tokens
    semantics = options.counted or "pre_drop"
    arrays = read_arrays(path, _NAMES, max_bytes, STREAMED)
    if "load" not in arrays:
        raise TraceError(f"{path}: no array 'load' [steps, layers, experts]; there is: {', '.join(arrays) or 'none'}")
    if "tokens" in arrays and tokens is not None:
        raise TraceError(f"{path}: tokens are in the file, but {tokens} was given too; expected one of them")
    counted = arrays.get("tokens", tokens)
    if counted is None and top_k is not None and semantics == "post_drop":
        raise TraceError(f"{path}: tokens do not follow from loads after drops, expected an array or number of tokens")
    # without top-k, drops are unknown, and nothing can be checked against the tokens
    known = semantics if top_k is not None or semantics == "post_drop" else "unknown"
    meta = {"count_semantics": known, **options.meta}
    columns = {name: arrays[name] for name in OPTIONAL_COLUMNS if name in arrays}
    layer_L = options.numbered(_layers(arrays, path), str(path))
    meta["layers"] = [{"index": m, "experts": arrays["load"].shape[-1], "top_k": top_k} for m in layer_L]
    try:
        return Trace.from_arrays(arrays["load"], counted, top_k, step_S=arrays.get("step"), columns=columns, **meta)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _layers(arrays: dict[str, Any], path: Path) -> list[int]:
    layers = arrays["load"].shape[1] if arrays["load"].ndim == 3 else 0
    layer_L = arrays.get("layer", np.arange(layers))
    if layer_L.shape != (layers,) or layer_L.dtype.kind not in "iu" or (np.diff(layer_L.astype(np.int64)) <= 0).any():
        raise TraceError(
            f"{path}: layer has shape {list(layer_L.shape)} and dtype {layer_L.dtype}, expected the rising numbers of "
            f"{layers} layers"
        )
    return [int(m) for m in layer_L]
