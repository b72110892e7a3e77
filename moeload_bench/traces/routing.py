"""True routing of single steps: which experts every token went to, in files beside the trace.

The folder `seedN.routing/` next to `seedN.parquet` has one archive for each chosen step and rank. A trace holds how
many tokens each expert got; here it is which ones, so co-activation, bursts and the traffic between ranks are real.
Axis letters: L MoE layers, T tokens of a step on one rank, K choices per token, M micro-batches.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, IntArray
from moeload_bench.errors import TraceError
from moeload_bench.files import replacing
from moeload_bench.traces.archives import read_arrays

CATALOGUE = "routing-cases/cases.parquet"
"""The one file of a published folder of traces that is none: routing of steps worth testing with."""
MAX_STEPS = 64
"""Steps of a recording that may be kept."""
MAX_PAIRS = 2**29
"""Routed pairs of one step on one rank: a file of at most 2 GiB of int16 and float16."""
_MAX_BYTES = 4 << 30
_ARRAYS = ("step", "rank", "layer", "micro_batch_end", "topk_ids", "weights")
_FILE = re.compile(r"step(?P<step>\d{9})-rank(?P<rank>\d{4,6})\.npz")


class StepRouting(NamedTuple):
    """One step on one rank.

    ``layer_L``: the blocks. ``topk_ids_LTK``: the experts of each token, in the router's order and before any drop.
    ``weights_LTK``: their weights as float16; None if the router's adapter gives none. ``end_M``: micro-batch m has the
    tokens up to end_M[m], from end_M[m - 1] on.
    """

    step: int
    rank: int
    layer_L: IntArray
    end_M: IntArray
    topk_ids_LTK: Array
    weights_LTK: Array | None = None


def routing_folder(trace: Path) -> Path:
    """Return the folder of a trace's routing, there or not."""
    return trace.with_suffix(".routing")


def routing_files(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the files of a folder by (step, rank), in this order."""
    matches = {path: _FILE.fullmatch(path.name) for path in folder.glob("*.npz")}
    return dict(sorted(((int(m["step"]), int(m["rank"])), path) for path, m in matches.items() if m is not None))


def write_routing(folder: Path, routing: StepRouting) -> Path:
    """Write a step at once or not at all, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step{routing.step:09d}-rank{routing.rank:04d}.npz"
    pairs = zip(_ARRAYS, routing, strict=True)
    arrays = {name: np.asarray(value) for name, value in pairs if value is not None}
    with replacing(target, durable=True) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return target


def read_routing(path: Path) -> StepRouting:
    """Return a step that `write_routing` wrote; raise `TraceError` for any other file. Nothing is unpickled."""
    if not path.is_file():  # a pipe would be waited for
        raise TraceError(f"{path}: expected a file")
    arrays = read_arrays(path, _ARRAYS, _MAX_BYTES)
    missing = [name for name in _ARRAYS[:-1] if name not in arrays]
    if missing:
        raise TraceError(f"{path}: no array {missing[0]!r}, expected {', '.join(_ARRAYS[:-1])}")
    ids_LTK, weights_LTK, end_M = arrays["topk_ids"], arrays.get("weights"), arrays["micro_batch_end"]
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    integers = all(arrays[name].dtype.kind == "i" for name in _ARRAYS[:-1])
    fits = ids_LTK.ndim == 3 and arrays["layer"].shape == ids_LTK.shape[:1] and end_M.ndim == 1
    one_number = arrays["step"].shape == arrays["rank"].shape == ()
    same_shape = weights_LTK is None or (weights_LTK.shape == ids_LTK.shape and weights_LTK.dtype.kind == "f")
    if not (integers and fits and one_number and same_shape):
        raise TraceError(f"{path}: got shapes {shapes}, expected whole numbers topk_ids [L, T, K], layer [L], step []")
    if end_M[-1] != ids_LTK.shape[1] or (np.diff(end_M, prepend=0) < 1).any() or ids_LTK.min() < 0:
        raise TraceError(f"{path}: micro-batches end at {end_M.tolist()[:8]}, expected to rise to {ids_LTK.shape[1]}")
    if weights_LTK is not None and not (np.isfinite(weights_LTK) & (weights_LTK >= 0)).all():
        raise TraceError(f"{path}: a weight is negative or not finite, expected finite ones from 0")
    return StepRouting(
        int(arrays["step"]), int(arrays["rank"]), arrays["layer"], end_M.astype(np.int64), ids_LTK, weights_LTK
    )
