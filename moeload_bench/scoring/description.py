"""What a trace looks like, layer by layer and as a run: states, imbalance, dead experts, over-dispersion, floors.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import TraceError, counted
from moeload_bench.scoring.floors import floors_from, marks_of, window_starts
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.scoring.run_facts import RunFacts, facts_lines, known_number, run_facts
from moeload_bench.states.rule import State, StateLabels, state_names, trace_labels
from moeload_bench.traces.meta import COLUMNS, TraceMeta
from moeload_bench.traces.store import data_sha256, list_traces, read_trace
from moeload_bench.traces.trace import Trace, layer_names
from moeload_bench.words import every

END_STEPS = 100
"""Training steps at either end of a trace over which imbalance is taken, and the horizon of the floor shown."""


class Onset(NamedTuple):
    """The first stable step of a layer, and the least and largest that varied thresholds give; None for never."""

    step: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        return self.words()

    def band(self) -> str:
        """`300-610`, `300-never`."""
        low, high = ("never" if each is None else format(each, ",") for each in (self.low, self.high))
        return f"{low}-{high}"

    def words(self, form: str = "") -> str:
        """`390 (300 to 610)`, each number in a format such as ","."""
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


def answer(trace: Trace, layers: Sequence[LayerDescription]) -> Iterator[str]:
    """Yield what a trace says in short: when it settled, which layer last, dead experts, no load, balance."""
    yield f"{trace.steps:,} steps."
    yield from facts_lines(run_facts(trace))
    said = [_settled(layers), *_dead(layers)]
    known = [layer.imbalance_last for layer in layers if layer.imbalance_last is not None]
    if known:
        said.append(f"at the end the busiest expert of a layer has at most {max(known):.2f} times the mean load")
    yield f"{'; '.join(said)}."


def _dead(layers: Sequence[LayerDescription]) -> Iterator[str]:
    """How many experts are dead, as far as there was load at the end, and how many layers had none."""
    known = [layer.dead_experts for layer in layers if layer.dead_experts is not None]
    if known:
        yield f"{counted(sum(known), 'expert')} dead" if any(known) else "no expert is dead"
    if len(known) < len(layers):
        yield f"{counted(len(layers) - len(known), 'layer')} had no load"


def _settled(layers: Sequence[LayerDescription]) -> str:
    if any(layer.end_state is None for layer in layers):
        return f"States are {layers[0].states}"
    stable = [layer for layer in layers if layer.end_state == "stable"]
    if not stable:
        return f"Not settled: {counted(len(layers), 'layer')} of {len(layers)} transient at the end"
    onsets = {layer.layer: layer.onset.step for layer in stable if layer.onset and layer.onset.step is not None}
    last = max(onsets, key=lambda name: onsets[name])
    again = any(layer.states.count("stable") > 1 for layer in stable)
    if len(stable) == len(layers):
        whole = every(len(layers), "layer") + (f", {_named(last)} last" if len(layers) > 1 else "")
        text = f"Settled at step {onsets[last]:,}: {whole}"
    else:
        # a layer without load is transient for want of a drift: `_dead` says that it had none
        open_ = [each.layer for each in layers if each.end_state != "stable" and each.dead_experts is not None]
        more = f"; still transient: {', '.join(open_[:6])}{', ...' if len(open_) > 6 else ''}" if open_ else ""
        text = f"Settled in {len(stable)} of {len(layers)} layers by step {onsets[last]:,}{more}"
    return f"{text} (some of them were transient again after it: --wide)" if again else text


def _named(layer: str) -> str:
    return f"layer {layer}" if layer.isdecimal() else layer


def steps_at_end(trace: Trace) -> int:
    """Return how many training steps at either end of a trace imbalance is taken over, and the floor's horizon."""
    return _rows(trace, END_STEPS) * trace.meta.stride


def about_columns(trace: Trace) -> str:
    """Over which steps and at which horizon the numbers of a `LayerDescription` are taken, in words."""
    ends = steps_at_end(trace)
    return (
        f"imbalance: largest / mean load of the first and of the last {ends} steps; max_vio (MaxVio): the last less 1. "
        f"dead_experts: below {DEAD_SHARE:g} / E of the load in the last {ends} steps. over_dispersion: per-step noise "
        f"over that of top-k draws alone. Floors are of the layer's stable rows (of all, where there are none): "
        f"floor_window_tv at h = {ends} steps, floor_tv per step."
    )


def _rows(trace: Trace, steps: int) -> int:
    """Rows that make so many training steps; one at least, and no more than the trace has."""
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
    first_LE, last_LE = (_mean_share(trace.load_SLE[start:stop].sum(axis=0)) for start, stop in ends)
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


def _mean_share(load_LE: IntArray) -> FloatArray:
    """Return shares of the sum of several rows; NaN for a layer without load in them."""
    total_L1 = load_LE.sum(axis=1, keepdims=True)
    return np.asarray(load_LE / np.where(total_L1 > 0, total_L1, np.nan))


def _spans(trace: Trace, labels: StateLabels, layer: int) -> str:
    stride = trace.meta.stride
    return "; ".join(
        f"{span.state} {trace.step_S[span.start]}-{int(trace.step_S[span.stop - 1]) + stride - 1}"
        for span in labels.spans(layer)
    )


def _onset(trace: Trace, labels: StateLabels, layer: int) -> Onset | None:
    rows = (int(labels.onset_L[layer]), *map(int, labels.onset_band_L2[layer]))
    found = Onset(*(None if row < 0 else int(trace.step_S[row]) for row in rows))
    return None if found.step is None and found.low is None else found


def _floors(trace: Trace, labels: StateLabels | None) -> list[tuple[str, float | None, float | None, float | None]]:
    """Of each layer: name of the floor, its window_tv and tv, and the over-dispersion."""
    rows = _rows(trace, END_STEPS)
    every_W = window_starts(np.ones(trace.steps, dtype=np.bool_), rows)
    first_LW = {}
    for layer in range(trace.num_layers):
        stable_W = every_W if labels is None else window_starts(~labels.transient_SL[:, layer], rows)
        first_LW[layer] = stable_W if stable_W.size else every_W
    name = "floor_level" if marks_of(trace)["floor_batch"][0] == "not given" else "floor_batch"
    floors = floors_from(trace, first_LW, (rows,), ("window_tv", "tv"), (name, "floor_sampling"))
    found, sampling = floors[name], floors["floor_sampling"].values
    described = []
    for layer in range(trace.num_layers):
        window_tv, tv = (known_number(found.values[metric][0, layer]) for metric in ("window_tv", "tv"))
        draws = known_number(sampling["tv"][0, layer]) if sampling else None  # none if counts are made from shares
        over = tv / draws if tv is not None and draws else None
        described.append((f"{name} ({found.mark})", window_tv, tv, over))
    return described


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
        """Tokens per step in words; of a batch that grows, from the first to the last."""
        return f"{self.tokens:,}" if self.tokens_first >= self.tokens else f"{self.tokens_first:,} to {self.tokens:,}"


def read_run(path: Path) -> Run:
    """Return the record of a trace's file, verified."""
    return make_run(read_trace(path), path.stat().st_size)


def read_runs(folder: str | Path, read: Callable[[Path], Run] = read_run) -> list[Run]:
    """All traces of a folder, verified, in the order of recipe, split and number."""
    return sorted(
        (read(ref.path) for ref in list_traces(folder)), key=lambda run: (run.recipe, run.split, run.meta.run)
    )


def make_run(trace: Trace, size: int) -> Run:
    """Return the record of one trace; ``size`` is that of its file in bytes."""
    bare = undescribed_run(trace, size)
    return replace(bare, spans=run_spans(trace), layers=tuple(describe_layers(trace)))


def undescribed_run(trace: Trace, size: int) -> Run:
    """Return the record of a trace without what has to be computed of its loads: no spans of states, no layers."""
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
    """States of the run (stable or transient: every layer is; mixed: they differ) as "state first-last" step."""
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
