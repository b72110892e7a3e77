"""What a run is, in numbers that come first: its size, its tokens, the noise of a row, how far loads drift for it.

Axis letters: S rows, L MoE layers, N layers looked at, E experts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.files import PACKAGE
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace, shares
from moeload_bench.words import shown

DRIFT_STEPS = (1, 100, 1000)
"""Training steps over which drift is measured."""
CELLS_AT_MOST = 1 << 22
"""Loads that noise and drift are measured on: of a larger trace, evenly spaced layers."""


class NoiseAndDrift(NamedTuple):
    """Of the last two thirds of a run's rows, from half batches; NaN where a horizon does not fit.

    ``noise``: standard deviation of a row's share around its probability, over the share; median over experts.
    ``drift``: root mean square move of the shares over so many steps, over that of a row's noise.
    """

    noise: float
    drift: tuple[float, ...]


@dataclass(frozen=True)
class RunFacts:
    """Size, tokens, noise and hardware of one run; None where it is not known.

    ``sequences`` and ``tokens`` of a step, at the end; ``expert_tokens``: mean load of an expert in a row of the end;
    ``independent_tokens``: how many independent tokens per expert would have this ``noise``; ``passes`` over the text
    that is read most often, within its stage.
    """

    parameters: int | None
    layers: int
    experts: int
    top_k: int | None
    tokens: int
    sequences: int | None
    expert_tokens: float
    noise: float | None
    independent_tokens: float | None
    drift: tuple[float | None, ...]
    passes: float | None
    hardware: str


def run_facts(trace: Trace) -> RunFacts:
    """Return what the metadata and the rows of a trace say of it."""
    meta = trace.meta
    tokens = meta.global_batch_tokens or int(trace.tokens_SL[-1].max())
    measured = noise_and_drift(trace) if "load_half" in trace.columns else None
    noise = None if measured is None else known_number(measured.noise)
    return RunFacts(
        parameters=parameters_of(meta),
        layers=trace.num_layers,
        experts=trace.num_experts,
        top_k=meta.top_k,
        tokens=tokens,
        sequences=tokens // meta.sequence_length if meta.sequence_length else None,
        expert_tokens=float(np.mean(trace.load_SLE[-100:])),
        noise=noise,
        independent_tokens=(1 - (meta.top_k or 1) / trace.num_experts) / noise**2 if noise else None,
        drift=(None,) * len(DRIFT_STEPS) if measured is None else tuple(map(known_number, measured.drift)),
        passes=max((source.passes for source in meta.sources if source.passes is not None), default=None),
        hardware=hardware_words(meta.hardware),
    )


def noise_and_drift(trace: Trace, steps: Sequence[int] = DRIFT_STEPS) -> NoiseAndDrift:
    """Measure both from the shares a, b of the two halves of each step's sequences, whose noise is independent; drift
    over so many ``steps``.

    The noise of a row is (a - b) sqrt(A B) / (A + B), A and B the halves' loads (see `noise.batch_noise`); the mean of
    (a[t+h] - a[t]) (b[t+h] - b[t]) is the mean square of the drift alone, since noise in it cancels.
    """
    start = trace.steps // 3
    most = max(1, CELLS_AT_MOST // max(1, (trace.steps - start) * trace.num_experts))
    index_N = np.unique(np.linspace(0, trace.num_layers - 1, min(most, trace.num_layers)).round().astype(int)).tolist()
    some = trace.of_layers(index_N)
    load_SNE, half_SNE = (_rows_from(start, column) for column in (some.load_SLE, some.columns["load_half"]))
    rows = [h // trace.meta.stride if h % trace.meta.stride == 0 else 0 for h in steps]
    moved = np.zeros((some.num_layers, len(rows)))
    variance_LE, share_LE = (np.zeros((some.num_layers, trace.num_experts)) for _ in range(2))
    for layer in range(some.num_layers):
        load_SE, half_SE = load_SNE[:, layer], half_SNE[:, layer]
        a_SE, b_SE = shares(half_SE), shares(load_SE - half_SE)
        square_SE = (a_SE - b_SE) ** 2 * _weight(load_SE, half_SE)[:, None]
        variance_LE[layer] = np.nan_to_num(mean_over(square_SE, axis=0))  # 0 where no row is known
        share_LE[layer] = np.nan_to_num(mean_over(shares(load_SE), axis=0))
        moved[layer] = [_drift_square(a_SE, b_SE, count) for count in rows]
    seen_LE, has_load_L = share_LE > 0, share_LE.any(axis=1)
    moved, variance_LE = moved[has_load_L], variance_LE[has_load_L]
    if not has_load_L.any():
        return NoiseAndDrift(np.nan, (np.nan,) * len(rows))
    noise = float(np.median(np.sqrt(variance_LE[seen_LE[has_load_L]]) / share_LE[seen_LE]))
    with np.errstate(invalid="ignore", divide="ignore"):
        drift = np.sqrt(np.maximum(moved.mean(axis=0), 0.0) / variance_LE.sum(axis=1).mean())  # NaN stays NaN
    return NoiseAndDrift(noise, tuple(map(float, drift)))


def _rows_from(start: int, column_SLE: Any) -> IntArray:
    """Return the last rows of a column, read part by part."""
    steps = len(column_SLE)
    return np.concatenate(
        [column_SLE[max(start, part.start) : part.stop] for part in parts(column_SLE.shape) if part.stop > start]
        or [column_SLE[steps:]]
    )


def _weight(load_SE: IntArray, half_SE: IntArray) -> FloatArray:
    """Return A B / (A + B)^2 of each row; NaN where a half has no load."""
    a, b = half_SE.sum(axis=1, dtype=np.float64), (load_SE - half_SE).sum(axis=1, dtype=np.float64)
    return np.asarray(np.where((a > 0) & (b > 0), a * b, np.nan) / np.maximum(a + b, 1.0) ** 2)


def _drift_square(a_SE: FloatArray, b_SE: FloatArray, rows: int) -> float:
    """Return the mean square move over so many rows, summed over experts; NaN if none can be seen."""
    if not 0 < rows < len(a_SE):
        return np.nan
    product_SE = (a_SE[rows:] - a_SE[:-rows]) * (b_SE[rows:] - b_SE[:-rows])
    known = np.isfinite(product_SE).all(axis=1)
    return float(product_SE[known].sum(axis=1).mean()) if known.any() else np.nan


def known_number(value: float) -> float | None:
    """Return a number, None where it is not finite."""
    return float(value) if np.isfinite(value) else None


@functools.cache
def recipe_parameters() -> Mapping[str, int]:
    """Return the number of parameters of each recipe's model, `RECIPE version N`; made by `python -m leaderboard`."""
    return dict(json.loads((PACKAGE / "data" / "parameters.json").read_text(encoding="utf-8")))


def parameters_of(meta: TraceMeta) -> int | None:
    """Return what the metadata say, else what is known of the recipe, by name and version."""
    name = meta.recipe.removesuffix(".probe")
    return meta.parameters or recipe_parameters().get(f"{name} version {meta.recipe_version}")


def hardware_words(hardware: Mapping[str, object]) -> str:
    """Return the accelerator, else the processor with the threads that were used; `unknown` for none."""
    if hardware.get("gpu"):
        return str(hardware["gpu"])
    threads = hardware.get("threads")
    used = f"{counted(threads, 'thread')} of " if isinstance(threads, int) else ""
    return f"{used}{hardware['cpu']}" if hardware.get("cpu") else "unknown"


def rounded(number: float) -> str:
    """Return a number of parameters in words: `1.7 million`."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:g}"


def drift_words(facts: RunFacts) -> str:
    """Return drift over noise at each horizon, `0.1 / 0.9 / 3.2`."""
    return " / ".join(shown(value, ".1f") for value in facts.drift)


def facts_lines(facts: RunFacts) -> Iterator[str]:
    """Yield what a run is, in sentences: the model, a step, the noise of a row, the hardware."""
    size = "" if facts.parameters is None else f"{rounded(facts.parameters)} parameters, "
    top_k, what = ("not known", "tokens or loads") if facts.top_k is None else (facts.top_k, "tokens")
    sequences = "" if facts.sequences is None else f" in {counted(facts.sequences, 'sequence')}"
    yield (
        f"{size}{counted(facts.layers, 'layer')} of {counted(facts.experts, 'expert')}, top-k {top_k}; "
        f"{facts.tokens:,} {what} a step{sequences}, {facts.expert_tokens:,.0f} per expert; on {facts.hardware}."
    )
    if facts.noise is not None and facts.independent_tokens is not None:
        horizons = " / ".join(f"{steps:,}" for steps in DRIFT_STEPS)
        yield (
            f"Noise of a row {facts.noise:.1%} of a share, as of {facts.independent_tokens:,.0f} independent tokens "
            f"per expert; drift over {horizons} steps is {drift_words(facts)} times as large."
        )
