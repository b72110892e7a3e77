"""How much capacity and memory a run needs next: one record, and what it says in sentences.

Axis letters: F factors, L MoE layers, N windows, Q risks, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, counted
from moeload_bench.inspection.needs import (
    LEAST_RISK,
    MOST_RISK,
    PRIOR_WINDOWS,
    Prior,
    dropped_after,
    dropped_parts,
    micro_needs,
    most_need,
    need_quantiles,
    needs,
    prior_for,
    seen,
    totals,
)
from moeload_bench.traces.trace import Trace

STEPS = 1000
RISK = 0.05
RISKS = (0.1, 0.05, 0.01, 0.001)
"""The risks of the table."""
FACTORS = (1.0, 1.25, 1.5, 2.0)
"""The factors of the table of dropped tokens."""
SIZE_ROWS = 100
"""Last rows of which the largest is the size of a step: an epoch's last batch may be small."""


@dataclass(frozen=True)
class Choice:
    """A capacity factor, the risk that a window exceeds it, and the expected part of tokens dropped at it."""

    risk: float
    factor: float
    dropped: float
    extrapolated: bool


@dataclass(frozen=True)
class Drops:
    """Parts of tokens dropped at a factor: of all, of the worst layer, in the worst step; and tokens in all."""

    factor: float
    mean: float
    worst_layer: float
    worst_step: float
    tokens: int


@dataclass(frozen=True)
class Buffers:
    """Tokens of one layer that a buffer must hold at the risk; bytes if those of a token are given."""

    tokens: int
    bytes: int | None
    over_even: float


@dataclass(frozen=True)
class Capacity:
    """What a run needs in the next ``steps`` steps, at a risk; over all layers, and of each by itself.

    ``ceiling``: the factor at which nothing can drop. ``drops``: if the next steps are like the last half window.
    ``busiest``: of ``devices`` devices that hold equally many experts by number, or of each expert if ``devices`` is
    None. ``micro``: of an expert in one micro-batch, if they were recorded. ``own_windows``: past windows of this run
    that the forecast rests on; ``prior_rows``: rows of the windows of other runs, of which those of ``prior_size``
    count most.
    """

    trace: str
    steps: int
    choice: Choice
    choices: tuple[Choice, ...]
    ceiling: float
    drops: tuple[Drops, ...]
    lately: float
    factor_L: tuple[float, ...]
    lately_L: tuple[float, ...]
    layers: tuple[int, ...]
    devices: int | None
    busiest: Buffers
    micro: Buffers | None
    own_windows: int
    prior_rows: int
    prior_size: str
    last_step: int


class CapacityTable(NamedTuple):
    """A table to print or draw: names of columns, cells by row, and what they are."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str


def capacity_of(
    trace: Trace, steps: int = STEPS, risk: float = RISK, devices: int | None = None, token_bytes: float | None = None
) -> Capacity:
    """Return what the run needs in its next steps.

    Raise `PlacementError` for devices that do not divide the experts, and `TraceError` for a risk outside 0.001 to 0.5
    and for a run of fewer than two rows.
    """
    rows = max(1, round(steps / trace.meta.stride))
    if not RISKS[-1] <= risk <= MOST_RISK:
        raise TraceError(
            f"--risk is {risk:g}, expected {RISKS[-1]:g} to {MOST_RISK:g}: the part of windows, not percent"
        )
    if trace.steps < 2:
        raise TraceError(f"{trace.id}: {counted(trace.steps, 'row')}, expected 2 or more to forecast from")
    E = trace.num_experts
    ceiling = most_need(trace, E)
    risks = tuple(sorted({*RISKS, risk}, reverse=True))
    chosen = risks.index(risk)
    even = float(totals(trace.load_SLE[-SIZE_ROWS:]).max()) / E
    prior = prior_for(rows, even)
    need_SL = needs(trace)
    need_S = need_SL.max(axis=1)
    level, own_N = seen(need_S, rows)

    def factors(need_S: FloatArray, most: float) -> FloatArray:
        return np.minimum(need_quantiles(need_S, rows, risks, prior), most)

    def buffers(need_SL: FloatArray, sharers: int) -> Buffers:
        factor = float(factors(need_SL.max(axis=1), most_need(trace, sharers))[chosen])
        tokens = int(np.ceil(round(factor * even * E / sharers, 6)))
        return Buffers(tokens, None if token_bytes is None else tokens * round(token_bytes), factor)

    factor_Q = factors(need_S, ceiling)
    asked = np.concatenate([factor_Q, np.clip(FACTORS, factor_Q.min(), ceiling)])
    dropped = np.where(asked < ceiling, _dropped(trace, need_S, rows, asked, prior), 0.0)
    choices = tuple(
        Choice(one, float(factor), float(dropped), one < LEAST_RISK)
        for one, factor, dropped in zip(risks, factor_Q, dropped, strict=False)
    )
    model_factor = choices[chosen].factor  # the one that is tested; a layer alone cannot need more
    micro_SL = micro_needs(trace)
    micro = None if micro_SL is None else buffers(micro_SL, E)
    return Capacity(
        trace=trace.id,
        steps=rows * trace.meta.stride,
        choice=choices[chosen],
        choices=choices,
        ceiling=ceiling,
        drops=_drops(trace, rows, dropped[len(risks) :]),
        lately=level,
        factor_L=tuple(float(factors(need_S, model_factor)[chosen]) for need_S in need_SL.T),
        lately_L=tuple(seen(need_S, rows)[0] for need_S in need_SL.T),
        layers=tuple(layer.index for layer in trace.meta.layers),
        devices=devices,
        busiest=buffers(need_SL if devices is None else needs(trace, devices), devices or E),
        micro=micro if micro is not None and micro.tokens else None,
        own_windows=len(own_N),
        prior_rows=prior.rows,
        prior_size=prior.size,
        last_step=int(trace.step_S[-1]),
    )


def _dropped(trace: Trace, need_S: FloatArray, rows: int, factor_F: FloatArray, prior: Prior) -> FloatArray:
    """Return the expected part of tokens dropped in the next window at factors that are seldom exceeded [F].

    As for the need, it is the mean over the run's own past windows and those of other runs.
    """
    times_F = factor_F / seen(need_S, rows)[0]
    own_NF = dropped_after(trace, need_S, rows, times_F)
    others_F = prior.dropped(times_F)
    return np.asarray((own_NF.sum(axis=0) + PRIOR_WINDOWS * others_F) / (len(own_NF) + PRIOR_WINDOWS))


def _drops(trace: Trace, rows: int, least_F: FloatArray) -> tuple[Drops, ...]:
    """Return what each of `FACTORS` drops in the next window of ``rows`` rows, if it is like the last half window.

    ``least_F``: parts that are dropped at least, as spikes to come do.
    """
    lately = range(max(0, trace.steps - max(1, rows // 2)), trace.steps)
    part_SFL = np.stack([dropped_parts(trace.load_SLE[row], np.array(FACTORS)) for row in lately])
    tokens = float(totals(trace.load_SLE[lately.start :]).sum(axis=1).mean()) * rows * trace.meta.stride
    mean_F = np.maximum(part_SFL.mean(axis=(0, 2)), least_F)
    layer_F = np.maximum(part_SFL.mean(axis=0).max(axis=1), mean_F)
    step_F = np.maximum(part_SFL.mean(axis=2).max(axis=0), mean_F)
    parts = zip(FACTORS, mean_F.tolist(), layer_F.tolist(), step_F.tolist(), strict=True)
    return tuple(Drops(factor, part, layer, step, round(part * tokens)) for factor, part, layer, step in parts)


def percent(part: float) -> str:
    """Return a part in percent: `5 %`, `0.1 %`, `0.0012 %`, `under 0.0001 %`."""
    return "0 %" if part == 0 else "under 0.0001 %" if part < 1e-6 else f"{100 * part:.2g} %"


def capacity_sentences(found: Capacity) -> list[str]:
    """Return the answer: the factor with its risk, dropped tokens, memory."""
    choice, busiest = found.choice, found.busiest
    sure = ", extrapolated" if choice.extrapolated else ""
    what = "expert" if found.devices is None else f"of {found.devices} devices"
    factor = f"Keep a capacity factor of {choice.factor:.2f} for the next {found.steps:,} steps"
    if choice.factor < found.ceiling:
        sentences = [
            f"{factor} (risk {percent(choice.risk)}{sure} that the window exceeds it: some expert in some step of some "
            "layer).",
            f"Expected part of tokens dropped at {choice.factor:.2f}: {percent(choice.dropped)}. From "
            f"{found.ceiling:g} on nothing can drop.",
        ]
    else:
        sentences = [f"{factor}: nothing can drop at it, since routing gives no expert more."]
    sentences.append(
        f"Busiest {what}: up to {_room(busiest)} of one layer in one step, {busiest.over_even:.2f} x the even share."
    )
    if found.micro is not None:
        sentences.append(f"Busiest expert in one micro-batch: up to {_room(found.micro)} of one layer.")
    return sentences


def _room(need: Buffers) -> str:
    return f"{need.tokens:,} tokens" + ("" if need.bytes is None else f" ({need.bytes / 1e6:,.1f} MB)")


def evidence(found: Capacity) -> str:
    """Return what the forecast rests on."""
    own = counted(found.own_windows, "earlier window") if found.own_windows else "no earlier window"
    return (
        f"Rests on {own} of this run and on windows of {found.prior_rows:,} rows of other runs, above all with "
        f"{found.prior_size} batches. Largest lately: {found.lately:.2f}. From step {found.last_step + 1:,} on; a "
        "planned switch of data or learning rate is not foreseen."
    )


def capacity_tables(found: Capacity) -> list[CapacityTable]:
    """Return the tables below the answer: by factor, by risk, by layer."""
    drops = [
        (f"{one.factor:.2f}", percent(one.mean), percent(one.worst_layer), percent(one.worst_step), f"{one.tokens:,}")
        for one in found.drops
    ]
    risks = [
        (percent(one.risk) + (" *" if one.extrapolated else ""), f"{one.factor:.2f}", percent(one.dropped))
        for one in found.choices
    ]
    layers = [
        (str(index), f"{factor:.2f}", f"{lately:.2f}")
        for index, factor, lately in zip(found.layers, found.factor_L, found.lately_L, strict=True)
    ]
    return [
        CapacityTable(
            ("factor", "dropped", "worst layer", "worst step", "tokens"),
            drops,
            f"Part of tokens dropped in the next {found.steps:,} steps, and how many in all layers, if loads stay as "
            "they were lately.",
        ),
        CapacityTable(
            ("risk", "factor", "dropped"),
            risks,
            f"Dropped: expected part of tokens. *: extrapolated, its risk is not tested. {evidence(found)}",
        ),
        CapacityTable(
            ("layer", "factor", "lately"),
            layers,
            "Factor: of the layer by itself, at the same risk. Lately: its largest need in the last half window.",
        ),
    ]
