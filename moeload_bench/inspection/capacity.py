"""How much capacity and memory a run needs next: one record, and what it says in sentences.

Axis letters: S steps, L MoE layers, N windows, Q risks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, counted
from moeload_bench.inspection.capacity_forecast import (
    LEAST_RISK,
    MOST_RISK,
    PRIOR_WINDOWS,
    Prior,
    bounded,
    need_quantiles,
    prior_for,
    seen,
)
from moeload_bench.inspection.needs import device_needs, dropped_after, expert_needs, micro_needs, most_need, totals
from moeload_bench.placement.plans import default_shape
from moeload_bench.traces.trace import Trace

STEPS = 1000
RISK = 0.05
RISKS = (0.1, 0.05, 0.01, 0.001)
"""The risks of the table."""
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
class Buffers:
    """Tokens of one layer that a buffer must hold at the risk; bytes if those of a token are given."""

    tokens: int
    bytes: int | None
    over_even: float


@dataclass(frozen=True)
class Capacity:
    """What a run needs in the next ``steps`` steps, at a risk; over all layers, and of each by itself.

    ``busiest``: of ``devices`` devices that hold equally many experts by number, or of each expert if ``devices`` is
    None. ``micro``: of an expert in one micro-batch, if they were recorded. ``own_windows``: past windows of this run
    that the forecast rests on; ``prior_rows``: rows of the windows of other runs, of which those of ``prior_size``
    count most.
    """

    trace: str
    steps: int
    choice: Choice
    choices: tuple[Choice, ...]
    lately: float
    factor_L: tuple[float, ...]
    lately_L: tuple[float, ...]
    layers: tuple[int, ...]
    devices: int | None
    devices_assumed: bool
    busiest: Buffers
    micro: Buffers | None
    own_windows: int
    prior_rows: int
    prior_size: str
    last_step: int


def capacity_of(
    trace: Trace, steps: int = STEPS, risk: float = RISK, devices: int | None = None, token_bytes: int | None = None
) -> Capacity:
    """Return what the run needs in its next steps.

    ``devices`` None: those of the cluster that `plan` assumes, if there is one. Raise `PlacementError` for devices that
    do not divide the experts, and `TraceError` for a risk outside 0.001 to 0.5 and for a run of fewer than two rows.
    """
    rows = max(1, round(steps / trace.meta.stride))
    if not RISKS[-1] <= risk <= MOST_RISK:
        raise TraceError(
            f"--risk is {risk:g}, expected {RISKS[-1]:g} to {MOST_RISK:g}: the part of windows, not percent"
        )
    if trace.steps < 2:
        raise TraceError(f"{trace.id}: {counted(trace.steps, 'row')}, expected 2 or more to forecast from")
    assumed = devices is None
    if devices is None and (shape := default_shape(trace.num_experts)) is not None:
        devices = shape.devices
    need_SL = expert_needs(trace)
    need_S = need_SL.max(axis=1)
    level, own_N = seen(need_S, rows)
    risks = tuple(sorted({*RISKS, risk}, reverse=True))
    even = float(totals(trace.load_SLE[-SIZE_ROWS:]).max())
    prior = prior_for(rows, even / trace.num_experts)

    def factors(need_S: FloatArray, risks: Sequence[float], sharers: int) -> FloatArray:
        return bounded(need_quantiles(need_S, rows, risks, prior), need_S, most_need(trace, sharers))

    def buffers(need_SL: FloatArray, sharers: int) -> Buffers:
        factor = float(factors(need_SL.max(axis=1), (risk,), sharers)[0])
        tokens = int(np.ceil(round(factor * even / sharers, 6)))
        return Buffers(tokens, None if token_bytes is None else tokens * token_bytes, factor)

    E = trace.num_experts
    factor_Q = factors(need_S, risks, E)
    dropped_Q = _dropped(trace, need_S, rows, factor_Q / level, prior)
    choices = tuple(
        Choice(one, float(factor), float(dropped), one < LEAST_RISK)
        for one, factor, dropped in zip(risks, factor_Q, dropped_Q, strict=True)
    )
    chosen = choices[risks.index(risk)]
    shared = need_SL if devices is None else device_needs(trace, devices)
    micro_SL = micro_needs(trace)
    micro = None if micro_SL is None else buffers(micro_SL, E)
    return Capacity(
        trace=trace.id,
        steps=rows * trace.meta.stride,
        choice=chosen,
        choices=choices,
        lately=level,
        factor_L=tuple(float(factors(need_S, (risk,), E)[0]) for need_S in need_SL.T),
        lately_L=tuple(seen(need_S, rows)[0] for need_S in need_SL.T),
        layers=tuple(layer.index for layer in trace.meta.layers),
        devices=devices,
        devices_assumed=assumed and devices is not None,
        busiest=buffers(shared, devices or E),
        micro=micro if micro is not None and micro.tokens else None,
        own_windows=len(own_N),
        prior_rows=prior.rows,
        prior_size=prior.size,
        last_step=int(trace.step_S[-1]),
    )


def _dropped(trace: Trace, need_S: FloatArray, rows: int, times_Q: FloatArray, prior: Prior) -> FloatArray:
    """Return the expected part of tokens dropped in the next window at so many times the level [Q].

    As for the need, it is the mean over the run's own past windows and those of other runs.
    """
    own_NQ = dropped_after(trace, need_S, rows, times_Q)
    others_Q = prior.dropped(times_Q)
    return np.asarray((own_NQ.sum(axis=0) + PRIOR_WINDOWS * others_Q) / (len(own_NQ) + PRIOR_WINDOWS))


def percent(part: float) -> str:
    """Return a part in percent: `5 %`, `0.1 %`, `0.0012 %`, `under 0.0001 %`."""
    return "0 %" if part == 0 else "under 0.0001 %" if part < 1e-6 else f"{100 * part:.2g} %"


def capacity_sentences(found: Capacity) -> list[str]:
    """Return the answer: the factor with its risk, dropped tokens, memory."""
    choice, busiest = found.choice, found.busiest
    sure = ", extrapolated" if choice.extrapolated else ""
    assumed = " (ASSUMED: --devices)" if found.devices_assumed else ""
    who = "expert" if found.devices is None else f"of {found.devices} devices{assumed}"
    said = [
        f"Keep a capacity factor of {choice.factor:.2f} for the next {found.steps:,} steps (risk {percent(choice.risk)}"
        f"{sure} that the window exceeds it: some expert in some step of some layer).",
        f"Expected part of tokens dropped at {choice.factor:.2f}: {percent(choice.dropped)}.",
        f"Busiest {who}: up to {_room(busiest)} of one layer in one step, {busiest.over_even:.2f} x the even share.",
    ]
    if found.micro is not None:
        said.append(f"Busiest expert in one micro-batch: up to {_room(found.micro)} of one layer.")
    return said


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


def choice_rows(choices: Sequence[Choice]) -> list[tuple[str, str, str]]:
    """Return a row for each risk: risk, factor, dropped; extrapolated ones are marked."""
    return [
        (percent(one.risk) + (" *" if one.extrapolated else ""), f"{one.factor:.2f}", percent(one.dropped))
        for one in choices
    ]
