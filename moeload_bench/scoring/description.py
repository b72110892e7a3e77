"""What a trace looks like: a run in numbers that come first, then its layers: states, imbalance, dead experts, floors.

Axis letters: S rows, L MoE layers, N layers looked at, E experts.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import TraceError, counted
from moeload_bench.files import PACKAGE
from moeload_bench.scoring.floors import floors_from, marks_of, window_starts
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.states.rule import State, StateLabels, state_names, trace_labels
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.meta import COLUMNS, TraceMeta
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace, layer_names, shares
from moeload_bench.words import shown

END_STEPS = 100
"""Training steps at either end of a trace over which imbalance is taken, and the horizon of the floor shown."""
DRIFT_STEPS = (1, 100, 1000)
"""Training steps over which drift is measured."""
CELLS_AT_MOST = 1 << 22
"""Loads that noise and drift are measured on: of a larger trace, evenly spaced layers."""


# ------------------------------------------------------------------------------------------------ the run


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
    sample = trace.of_layers(index_N)
    load_SNE, half_SNE = (_rows_from(start, column) for column in (sample.load_SLE, sample.columns["load_half"]))
    rows = [h // trace.meta.stride if h % trace.meta.stride == 0 else 0 for h in steps]
    square_LK = np.zeros((sample.num_layers, len(rows)))
    variance_LE, share_LE = (np.zeros((sample.num_layers, trace.num_experts)) for _ in range(2))
    for layer in range(sample.num_layers):
        load_SE, half_SE = load_SNE[:, layer], half_SNE[:, layer]
        a_SE, b_SE = shares(half_SE), shares(load_SE - half_SE)
        square_SE = (a_SE - b_SE) ** 2 * _weight(load_SE, half_SE)[:, None]
        variance_LE[layer] = np.nan_to_num(mean_over(square_SE, axis=0))  # 0 where no row is known
        share_LE[layer] = np.nan_to_num(mean_over(shares(load_SE), axis=0))
        square_LK[layer] = [_drift_square(a_SE, b_SE, count) for count in rows]
    seen_LE, has_load_L = share_LE > 0, share_LE.any(axis=1)
    square_LK, variance_LE = square_LK[has_load_L], variance_LE[has_load_L]
    if not has_load_L.any():
        return NoiseAndDrift(np.nan, (np.nan,) * len(rows))
    noise = float(np.median(np.sqrt(variance_LE[seen_LE[has_load_L]]) / share_LE[seen_LE]))
    with np.errstate(invalid="ignore", divide="ignore"):
        drift = np.sqrt(np.maximum(square_LK.mean(axis=0), 0.0) / variance_LE.sum(axis=1).mean())  # NaN stays NaN
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
    finite = np.isfinite(product_SE).all(axis=1)
    return float(product_SE[finite].sum(axis=1).mean()) if finite.any() else np.nan


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
    prefix = f"{counted(threads, 'thread')} of " if isinstance(threads, int) else ""
    return f"{prefix}{hardware['cpu']}" if hardware.get("cpu") else "unknown"


def rounded(number: float) -> str:
    """Return a number of parameters in words: `1.7 million`."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:g}"


def drift_words(facts: RunFacts) -> str:
    """Return drift over noise at each horizon, `0.1 / 0.9 / 3.2`."""
    return " / ".join(shown(value, ".1f") for value in facts.drift)


# ------------------------------------------------------------------------------------------------ its layers


class Onset(NamedTuple):
    """The first stable step of a layer, and the least and largest that varied thresholds give; None for never."""

    step: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        return self.words()

    def band(self) -> str:
        """Return `300-610`, `300-never`."""
        low, high = ("never" if each is None else format(each, ",") for each in (self.low, self.high))
        return f"{low}-{high}"

    def words(self, form: str = "") -> str:
        """Return `390 (300 to 610)`, each number in a format such as ","."""
        step, low, high = ("never" if each is None else format(each, form) for each in self)
        return f"{step} ({low} to {high})"


@dataclass(frozen=True)
class LayerDescription:
    """One MoE layer of a trace; None where there is nothing to say.

    ``layer`` is its name, with stack and kind where the index in the stack is not enough.
    ``states`` the spans in training steps, or why there are none, and ``end_state`` the state of the last one;
    ``onset`` the first stable step, with the band that the rule's thresholds
    give when they are varied by ``StateRule.band``. ``imbalance_first`` and ``_last``: largest over mean share of the
    first and last END_STEPS steps, ``max_vio`` (MaxVio) the last one less 1; ``dead_experts``: experts below
    DEAD_SHARE / E in the last ones.
    ``over_dispersion``: size of the per-step noise over that of top-k draws alone. ``floor_window_tv`` at a horizon of
    END_STEPS steps and ``floor_tv`` per step, both in the layer's stable rows (in all, if there are none);
    ``floor`` says which floor that is.
    """

    layer: str
    states: str
    end_state: State | None
    onset: Onset | None
    imbalance_first: float | None
    imbalance_last: float | None
    max_vio: float | None
    dead_experts: int | None
    over_dispersion: float | None
    floor: str
    floor_window_tv: float | None
    floor_tv: float | None


def _rows(trace: Trace, steps: int) -> int:
    """Return the rows that make so many training steps; one at least, and no more than the trace has."""
    return max(1, min(steps // trace.meta.stride, trace.steps))


def describe_layers(trace: Trace) -> list[LayerDescription]:
    """Describe every layer. A trace whose stride the state rule cannot work with is described without states."""
    try:
        labels: StateLabels | None = trace_labels(trace)
        refusal = ""
    except TraceError as error:
        labels, refusal = None, f"not defined: {error}"
    rows, E = _rows(trace, END_STEPS), trace.num_experts
    ends = ((0, rows), (trace.steps - rows, trace.steps))
    first_LE, last_LE = (shares(trace.load_SLE[start:stop].sum(axis=0)) for start, stop in ends)
    floors, names = _floors(trace, labels), layer_names(trace)
    described = []
    for layer, (first_E, last_E) in enumerate(zip(first_LE, last_LE, strict=True)):
        floor, window_tv, tv, over = floors[layer]
        described.append(
            LayerDescription(
                layer=names[layer],
                states=refusal if labels is None else _spans(trace, labels, layer),
                end_state=None if labels is None else labels.spans(layer)[-1].state,
                onset=None if labels is None else _onset(trace, labels, layer),
                imbalance_first=known_number(first_E.max() * E),
                imbalance_last=known_number(last_E.max() * E),
                max_vio=known_number(last_E.max() * E - 1),
                dead_experts=int((last_E < DEAD_SHARE / E).sum()) if np.isfinite(last_E).all() else None,
                over_dispersion=over,
                floor=floor,
                floor_window_tv=window_tv,
                floor_tv=tv,
            )
        )
    return described


def _spans(trace: Trace, labels: StateLabels, layer: int) -> str:
    stride = trace.meta.stride
    return "; ".join(
        f"{span.state} {trace.step_S[span.start]}-{int(trace.step_S[span.stop - 1]) + stride - 1}"
        for span in labels.spans(layer)
    )


def _onset(trace: Trace, labels: StateLabels, layer: int) -> Onset | None:
    rows = (int(labels.onset_L[layer]), *map(int, labels.onset_band_L2[layer]))
    onset = Onset(*(None if row < 0 else int(trace.step_S[row]) for row in rows))
    return None if onset.step is None and onset.low is None else onset


def _floors(trace: Trace, labels: StateLabels | None) -> list[tuple[str, float | None, float | None, float | None]]:
    """Return for each layer the name of the floor, its window_tv and tv, and the over-dispersion."""
    rows = _rows(trace, END_STEPS)
    every_W = window_starts(np.ones(trace.steps, dtype=np.bool_), rows)
    first_LW = {}
    for layer in range(trace.num_layers):
        stable_W = every_W if labels is None else window_starts(~labels.transient_SL[:, layer], rows)
        first_LW[layer] = stable_W if stable_W.size else every_W
    name = "floor_level" if marks_of(trace)["floor_batch"][0] == "not given" else "floor_batch"
    floors = floors_from(trace, first_LW, (rows,), ("window_tv", "tv"), (name, "floor_sampling"))
    floor, sampling = floors[name], floors["floor_sampling"].values
    described = []
    for layer in range(trace.num_layers):
        window_tv, tv = (known_number(floor.values[metric][0, layer]) for metric in ("window_tv", "tv"))
        draws = known_number(sampling["tv"][0, layer]) if sampling else None  # none if counts are made from shares
        over = tv / draws if tv is not None and draws else None
        described.append((f"{name} ({floor.mark})", window_tv, tv, over))
    return described


# ------------------------------------------------------------------------------------------------ its record


@dataclass(frozen=True)
class Run:
    """What the tables say about one trace. ``tokens``: of a step, of the last one where the batch grows from
    ``tokens_first`` on."""

    id: str
    meta: TraceMeta
    steps: int
    tokens_first: int
    tokens: int
    columns: tuple[str, ...]
    bytes: int
    data_sha256: str
    facts: RunFacts
    spans: tuple[str, ...]
    layers: tuple[LayerDescription, ...]

    @property
    def recipe(self) -> str:
        return self.id.split("/")[0]

    @property
    def split(self) -> str:
        return self.id.split("/")[1]

    @property
    def step_tokens(self) -> str:
        """Return the tokens per step in words; of a batch that grows, from the first to the last."""
        return f"{self.tokens:,}" if self.tokens_first >= self.tokens else f"{self.tokens_first:,} to {self.tokens:,}"


def read_run(path: Path) -> Run:
    """Return the description of a trace's file, verified."""
    return make_run(read_trace(path), path.stat().st_size)


def read_runs(folder: str | Path, read: Callable[[Path], Run] = read_run) -> list[Run]:
    """Return all traces of a folder, verified, in the order of recipe, split and number."""
    return sorted(
        (read(ref.path) for ref in list_traces(folder)), key=lambda run: (run.recipe, run.split, run.meta.run)
    )


def make_run(trace: Trace, size: int) -> Run:
    """Return the description of one trace; ``size`` is that of its file in bytes."""
    bare = undescribed_run(trace, size)
    return replace(bare, spans=run_spans(trace), layers=tuple(describe_layers(trace)))


def undescribed_run(trace: Trace, size: int) -> Run:
    """Return the description of a trace without what has to be computed of its loads: no spans of states, no layers."""
    first_L, last_L = trace.tokens_SL[0], trace.tokens_SL[-1]
    tokens = trace.meta.global_batch_tokens or int(last_L.max())
    return Run(
        id=trace.id,
        meta=trace.meta,
        steps=trace.steps,
        tokens_first=int(first_L.max()) if (first_L < last_L).all() else tokens,
        tokens=tokens,
        columns=tuple(name for name in COLUMNS if name in ("run", "step", "tokens", "load", *trace.columns)),
        bytes=size,
        data_sha256=data_sha256(trace),
        facts=run_facts(trace),
        spans=(),
        layers=(),
    )


def run_spans(trace: Trace) -> tuple[str, ...]:
    """Return the states of the run (stable or transient: every layer is; mixed: they differ) as "state first-last"."""
    try:
        labels = trace_labels(trace)
    except TraceError as error:
        return (f"not defined: {error}",)
    spans, row = [], 0
    for state, group in itertools.groupby(state_names(labels)):
        count = len(list(group))
        last = int(trace.step_S[row + count - 1]) + trace.meta.stride - 1
        spans.append(f"{state} {trace.step_S[row]}-{last}")
        row += count
    return tuple(spans)
