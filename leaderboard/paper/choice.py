"""Which traces stand in for the paper's runs: the rule, and for every other trace the reason why it does not."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moeload_bench.errors import SuiteError, not_found
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.store import TraceRef, find_trace, list_traces, read_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import ordinal

HORIZONS = (1000, 2000)
"""The paper's."""
COEFFICIENT = 0.01
TOP_K = (1, 2)
EXPERTS = (8, 128)
EVEN_EXPERTS = 16
"""Experts of the paper's smaller setup, from which closeness is measured."""
RULE = (
    f"a test run with an auxiliary loss of {COEFFICIENT:g} per layer, top-1 or top-2, {EXPERTS[0]} to {EXPERTS[1]} "
    "experts, every step recorded, no planned shift of data or learning rate"
)
ORDER = (
    f"closest first: decoder-only models before others, then by the ratio of the number of experts to {EVEN_EXPERTS}, "
    "then the larger batch, then the longer run"
)


@dataclass(frozen=True)
class Chosen:
    """A run to be scored, and the `train` runs of its recipe that the LSTM may learn from (at most one is used)."""

    id: str
    path: Path
    train: tuple[TraceRef, ...]


@dataclass(frozen=True)
class Choice:
    """The runs, closest first, and (id, reason) of those passed over."""

    runs: tuple[Chosen, ...]
    passed_over: tuple[tuple[str, str], ...]


def needed_steps(horizons: Sequence[int] = HORIZONS) -> int:
    """Return steps that a trace must have: as many before the last window as in it."""
    return 2 * max(horizons)


def choose_runs(
    folder: str | os.PathLike[str] | None = None, named: Sequence[str] = (), horizons: Sequence[int] = HORIZONS
) -> Choice:
    """Return the traces of a folder (by default all that are found on this machine) that the rule allows, or those
    ``named``.

    Named traces (ids or .parquet files) need not meet the rule, but must be long enough and recorded at every step.
    Raises `SuiteError` for a named trace that is not, or when the rule leaves none, listing each with its reasons.
    """
    refs = list_traces(folder)
    if named:
        return Choice(tuple(_named(one, refs, horizons) for one in dict.fromkeys(named)), ())
    if folder is not None and not refs:
        raise SuiteError(f"{os.fspath(folder)}: no trace there; expected RECIPE/SPLIT/seedN.parquet below it")
    chosen, passed = [], []
    for ref in refs:
        if "/test/" not in ref.id:
            continue
        trace = read_trace(ref.path, verify=False)
        reasons = [*misfits(trace), *too_short(trace, horizons)]
        if reasons:
            passed.append((ref.id, "; ".join(reasons)))
        else:
            chosen.append((closeness(trace), Chosen(ref.id, ref.path, _train(ref.id, refs))))
    if not chosen:
        listed = ", ".join(f"{name} ({reason})" for name, reason in passed) or "there are no test runs"
        raise SuiteError(f"no trace is close enough to the paper's setup ({RULE}); name one with --trace: {listed}")
    chosen.sort(key=lambda pair: (pair[0], pair[1].id))
    return Choice(tuple(run for _, run in chosen), tuple(passed))


def misfits(trace: Trace) -> list[str]:
    """Return what keeps a run from standing in for the paper's."""
    meta, balancing = trace.meta, trace.meta.balancing
    found = []
    within_layers = balancing.scope in ("per_layer", "per_micro_batch")
    if (balancing.method, balancing.coefficient, within_layers) != ("aux_loss", COEFFICIENT, True):
        found.append(f"balancing is {balancing.method} {balancing.coefficient:g} ({balancing.scope})")
    if meta.top_k not in TOP_K:
        found.append(f"top-k is {meta.top_k or 'not the same in all layers, or unknown'}")
    if not EXPERTS[0] <= meta.experts <= EXPERTS[1]:
        found.append(f"{meta.experts} experts")
    if any(note.startswith("auxiliary loss off") for note in meta.notes):
        found.append("the auxiliary loss is switched off on the way")
    if planned_shifts(trace):
        found.append("the recipe plans a shift")
    return found


def too_short(trace: Trace, horizons: Sequence[int] = HORIZONS) -> list[str]:
    """Return what keeps a run from being scored at the paper's horizons at all."""
    found = []
    if trace.meta.stride != 1:
        found.append(f"only every {ordinal(trace.meta.stride)} step is recorded, needed is every one")
    if trace.steps < needed_steps(horizons):
        found.append(
            f"too short: {trace.steps:,} steps, needed are {needed_steps(horizons):,} "
            f"(a horizon of {max(horizons):,} and as many before it)"
        )
    return found


def closeness(trace: Trace) -> tuple[int, float, int, int]:
    """Smaller is closer to the paper's smaller setup; see ORDER."""
    stacks = {layer.stack for layer in trace.meta.layers}
    apart = abs(math.log2(trace.num_experts / EVEN_EXPERTS))
    return (int(stacks != {"decoder"}), apart, -int(trace.tokens_SL.max()), -trace.steps)


def _named(name: str, refs: Sequence[TraceRef], horizons: Sequence[int]) -> Chosen:
    found = {ref.id: ref.path for ref in refs}
    path = found[name] if name in found else find_trace(name)
    if not path.is_file():
        raise not_found("trace", name, list(found))
    trace = read_trace(path, verify=False)
    reasons = too_short(trace, horizons)
    if reasons:
        raise SuiteError(f"{name}: {'; '.join(reasons)}")
    return Chosen(trace.id, path, _train(trace.id, refs))


def _train(trace_id: str, refs: Sequence[TraceRef]) -> tuple[TraceRef, ...]:
    """Return the first `train` run of the recipe: the paper's LSTM learns from one independent run."""
    recipe = trace_id.split("/")[0]
    return tuple(ref for ref in refs if ref.id.startswith(f"{recipe}/train/"))[:1]
