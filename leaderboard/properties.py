"""What a trace is, and runs sliced by it: drift, over-dispersion, imbalance, experts, top-k, balancing, schedule.

A slice is a group of a suite's runs that share a property, whatever their recipe. Numbers are split where half of the
runs lie below, so that no bound is chosen by hand; a property of all runs, or of one recipe alone, makes no slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moeload_bench import cache
from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.results.grid import present_mean
from moeload_bench.schema import Record
from moeload_bench.scoring.description import Run, make_run
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.states.rule import StateLabels, label_states
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import read_trace, stored_hash
from moeload_bench.traces.trace import Trace

BALANCING = {
    ("none", "none"): "none",
    ("aux_loss", "per_layer"): "auxiliary loss",
    ("aux_loss", "pooled_over_layers"): "auxiliary loss, pooled",
    ("aux_loss", "per_micro_batch"): "auxiliary loss, per micro-batch",
    ("loss_free_bias", "per_layer"): "loss-free bias",
    ("quantile", "per_layer"): "quantile balancing",
    ("hash", "none"): "hash routing",
}
DECAYS = "rate decays"


class Properties(Record):
    """Of one trace. ``parameters``, ``expert_tokens`` and ``noise``: see `scoring.run_facts.RunFacts`.

    ``drift``: median over stable steps of the state rule's X; ``imbalance``: largest over mean share of the last 100
    steps; both, and ``over_dispersion``, means over layers; None where there is none. ``schedule``: of the learning
    rate; ``changes``: what else or what of it is another at the end than at the beginning.
    """

    parameters: int | None
    expert_tokens: float
    noise: float | None
    drift: float | None
    over_dispersion: float | None
    imbalance: float | None
    experts: int
    top_k: int | None
    balancing: str
    schedule: str
    changes: tuple[str, ...]


class Slice(NamedTuple):
    """Runs that share a property; ``id`` is none that a recipe can have."""

    id: str
    title: str
    traces: frozenset[str]


class Measure(NamedTuple):
    """A property that is a number, its title, and how its bounds are written."""

    field: str
    title: str
    form: str


MEASURES = (
    Measure("parameters", "parameters", ",d"),
    Measure("expert_tokens", "tokens per expert and step", ",.0f"),
    Measure("noise", "noise of a row", ".1%"),
    Measure("drift", "drift", ".2%"),
    Measure("over_dispersion", "over-dispersion", ".2f"),
    Measure("imbalance", "imbalance", ".2f"),
    Measure("experts", "experts", "d"),
    Measure("top_k", "top-k", "d"),
)


def properties_of(path: Path, described: tuple[Trace, Run, StateLabels] | None = None) -> Properties:
    """Return the properties of a trace's file: from the cache by the hash of its content, else computed, from what was
    ``described`` of it where somebody has done so.
    """
    key = cache.task_key(kind="properties", trace_sha256=stored_hash(path), scoring_version=SCORING_VERSION, version=3)
    stored = cache.load(key)
    if stored is not None:
        return Properties.model_validate(stored)
    if described is None:
        trace = read_trace(path)
        described = trace, make_run(trace, 0), label_states(trace.load_SLE, stride=trace.meta.stride)
    trace, run, labels = described
    facts = run.facts
    found = Properties(
        parameters=facts.parameters,
        expert_tokens=facts.expert_tokens,
        noise=facts.noise,
        drift=present_mean(layer_medians(labels.drift_SL, ~labels.transient_SL)),
        over_dispersion=present_mean([layer.over_dispersion for layer in run.layers]),
        imbalance=present_mean([layer.imbalance_last for layer in run.layers]),
        experts=trace.num_experts,
        top_k=trace.meta.top_k,
        balancing=balancing_of(trace.meta),
        schedule=str(trace.meta.schedule.get("kind", "unknown")).replace("_", " "),
        changes=tuple(changes_of(trace)),
    )
    cache.save(key, found.model_dump(mode="json"))
    return found


def layer_medians(drift_SL: FloatArray, keep_SL: BoolArray) -> list[float | None]:
    """Return each layer's median drift over the rows to keep; None for a layer without any."""
    by_layer = (drift_S[keep_S & np.isfinite(drift_S)] for drift_S, keep_S in zip(drift_SL.T, keep_SL.T, strict=True))
    return [float(np.median(values)) if len(values) else None for values in by_layer]


def balancing_of(meta: TraceMeta) -> str:
    """Return the method of balancing, in the words of a slice."""
    return BALANCING.get((meta.balancing.method, meta.balancing.scope), meta.balancing.method.replace("_", " "))


def changes_of(trace: Trace) -> Iterator[str]:
    """Yield what happens on the way: to the learning rate after its warm-up, to the data, to the batch."""
    if trace.meta.schedule.get("kind", "constant") != "constant":
        yield DECAYS
    if len({source.stage for source in trace.meta.sources}) > 1:
        yield "data change"
    if trace.tokens_SL[-1, 0] > trace.tokens_SL[0, 0]:
        yield "batch grows"


def slices_of(properties: Mapping[str, Properties]) -> list[Slice]:
    """Return the slices of runs by their trace's id, property by property; none of all runs, or of those of one
    recipe.
    """
    recipes: dict[str, set[str]] = {}
    for name in properties:
        recipes.setdefault(name.split("/")[0], set()).add(name)
    known = [set(), set(properties), *recipes.values()]
    return [one for one in (*_halves(properties), *_kinds(properties)) if one.traces not in known]


def _halves(properties: Mapping[str, Properties]) -> Iterator[Slice]:
    for measure in MEASURES:
        value_of = {
            name: value for name, own in properties.items() if (value := getattr(own, measure.field)) is not None
        }
        if len(set(value_of.values())) < 2:
            continue
        bound = lower_bound(list(value_of.values()))
        low = frozenset(name for name, value in value_of.items() if value <= bound)
        yield Slice(f"{measure.field}:low", f"{measure.title} up to {bound:{measure.form}}", low)
        high = frozenset(value_of) - low
        yield Slice(f"{measure.field}:high", f"{measure.title} above {bound:{measure.form}}", high)


def lower_bound(values: list[float]) -> float:
    """Return the largest value of the lower part: of all cuts between different values, the one nearest to halves."""
    distinct = sorted(set(values))[:-1]
    return min(distinct, key=lambda bound: abs(2 * sum(value <= bound for value in values) - len(values)))


def _kinds(properties: Mapping[str, Properties]) -> Iterator[Slice]:
    balancing = {name: {own.balancing} for name, own in properties.items()}
    schedule = {name: set(own.changes) or {"constant"} for name, own in properties.items()}
    for title, kinds in (("balancing", balancing), ("schedule", schedule)):
        for kind in sorted(set().union(*kinds.values())):
            names = frozenset(name for name, own in kinds.items() if kind in own)
            yield Slice(f"{title}:{kind.replace(' ', '-').replace(',', '')}", f"{title}: {kind}", names)
