"""The capacity factors that a run needs, in Megatron-Core's words: one record, and what it says in sentences.

`--moe-expert-capacity-factor` limits what an expert takes of one micro-batch on one rank; tokens above it are dropped.
`--moe-expert-rank-capacity-factor` sizes the buffer in which a rank receives the tokens of one micro-batch from its
expert-parallel group. A rank above it, in any layer and micro-batch, makes the whole step run once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moeload_bench.errors import TraceError, counted
from moeload_bench.ops.facts.needs import (
    MICRO,
    Loads,
    check_devices,
    effective_steps,
    excess,
    least_factor,
    rank_needs,
    unseen_limit,
)
from moeload_bench.traces.trace import Trace, layer_names

DROP = 0.001
"""Part of the tokens that may be dropped."""
RERUNS = 1.0
"""Of 1,000 steps those that may run once more."""
STEPS = 1000
"""Steps at the end of a run that the answer is read from."""
LADDER = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0)
"""Factors of the table; it ends where nothing drops."""
RATES = (100.0, 10.0, 1.0, 0.0)
"""Re-runs of 1,000 steps in the table of ranks."""
SIZE_ROWS = 100
"""Last rows of which the largest is the size of a step: an epoch's last batch may be small."""


class Bounds(NamedTuple):
    """A number of micro-batches: at ``least`` that of whole steps; at ``most``, None where they were not recorded."""

    least: float
    most: float | None

    @property
    def safe(self) -> float:
        """Return the number to rely on."""
        return self.least if self.most is None else self.most


@dataclass(frozen=True)
class Room:
    """Tokens that a buffer of one layer holds; bytes if those of a token are given."""

    tokens: int
    bytes: int | None


@dataclass(frozen=True)
class Drops:
    """Parts of tokens dropped at a factor: in the steps looked at of all and of the worst layer; in the whole run."""

    factor: float
    part: Bounds
    worst_layer: Bounds
    run: Bounds


@dataclass(frozen=True)
class Reruns:
    """A factor of a rank's buffer, the least that at most ``allowed`` of 1,000 steps exceed.

    ``seen``: steps that would run again at it. ``limit``: where there is none, what re-runs of 1,000 steps stay below
    with 95 % confidence, as of ``effective_steps`` independent ones.
    """

    allowed: float
    factor: Bounds
    seen: int
    limit: float | None
    effective_steps: float
    room: Room


@dataclass(frozen=True)
class Capacity:
    """What a run needs if loads stay as in ``rows`` rows from ``first_step`` to ``last_step``.

    ``factor``: the least that drops at most the part ``drop`` of tokens; ``layer_factors``: of each layer's own;
    ``run_factor``: of the whole run's. ``dropless``: from it on nothing of the run drops. ``passes``: forward passes of
    a step over all ranks, None if micro-batches were not recorded. ``reruns``: as asked for, then of `RATES`; none
    without devices.
    """

    trace: str
    first_step: int
    last_step: int
    rows: int
    drop: float
    factor: Bounds
    layers: tuple[str, ...]
    layer_factors: tuple[Bounds, ...]
    run_factor: Bounds
    dropless: Bounds
    room: Room
    drops: tuple[Drops, ...]
    passes: int | None
    devices: int | None
    reruns: tuple[Reruns, ...]


class CapacityTable(NamedTuple):
    """A table to print or draw: names of columns, cells by row, and what they are."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str


def capacity_of(
    trace: Trace,
    drop: float = DROP,
    reruns: float = RERUNS,
    devices: int | None = None,
    token_bytes: float | None = None,
    rows: range | None = None,
) -> Capacity:
    """Return the factors that some rows of a run need, those of its last 1,000 steps by default.

    Raise `PlacementError` for devices that do not divide the experts, and `TraceError` for loads after drops, for a
    part or a number of re-runs that is none, and for rows without load.
    """
    _check(trace, drop, reruns)
    if devices is not None:
        check_devices(trace.num_experts, devices)
    rows = rows or range(max(0, trace.steps - math.ceil(STEPS / trace.meta.stride)), trace.steps)
    passes = _passes(trace)
    loads = [Loads(trace, "load", 1)] + ([] if passes is None else [Loads(trace, MICRO, passes)])
    layers = [excess(load, rows) for load in loads]
    if not layers[0].tokens_L.any():
        raise TraceError(f"{trace.id}: no load in steps {trace.step_S[rows[0]]} to {trace.step_S[rows[-1]]}")
    chosen = [layer.pooled() for layer in layers]
    every_row = range(trace.steps)
    run = chosen if rows == every_row else [excess(load, every_row).pooled() for load in loads]
    factor = _bounds([side.factors(drop)[0] for side in chosen])
    dropless = _bounds([side.factors(0)[0] for side in run])
    pairs = _pairs(trace)
    pass_pairs = pairs / (passes or 1)

    def room(tokens: int) -> Room:
        return Room(tokens, None if token_bytes is None else round(tokens * token_bytes))

    return Capacity(
        trace=trace.id,
        first_step=int(trace.step_S[rows[0]]),
        last_step=int(trace.step_S[rows[-1]]),
        rows=len(rows),
        drop=drop,
        factor=factor,
        layers=tuple(layer_names(trace)),
        layer_factors=tuple(_bounds(both) for both in zip(*(layer.factors(drop) for layer in layers), strict=True)),
        run_factor=_bounds([side.factors(drop)[0] for side in run]),
        dropless=dropless,
        room=room(math.ceil(round(pass_pairs / trace.num_experts * factor.safe, 6))),
        drops=tuple(
            Drops(one, *(_bounds([side.dropped(one) for side in sides]) for sides in (chosen, layers, run)))
            for one in (*(one for one in LADDER if one < dropless.safe), dropless.safe)
        ),
        passes=passes,
        devices=devices,
        reruns=() if devices is None else _reruns(loads, rows, devices, reruns, pairs / (passes or devices), room),
    )


def _check(trace: Trace, drop: float, reruns: float) -> None:
    if not 0 <= drop < 1:
        raise TraceError(f"--drop is {percent(drop)}, expected at least 0 % and less than 100 %")
    if not 0 <= reruns <= 1000:
        raise TraceError(f"--reruns is {reruns:g}, expected 0 to 1,000: of 1,000 steps")
    if trace.meta.count_semantics == "post_drop":
        raise TraceError(
            f"{trace.id}: its loads are counted after drops, so that it does not show what a larger capacity needs; "
            "expected loads before drops"
        )


def _passes(trace: Trace) -> int | None:
    """Return the forward passes of a step over all ranks, None if the loads of micro-batches are not in the trace."""
    passes = trace.meta.parallel.get("passes")
    return passes if MICRO in trace.columns and isinstance(passes, int) and passes > 0 else None


def _pairs(trace: Trace) -> int:
    """Return the load of a layer in a full step."""
    return int(trace.load_SLE[max(0, trace.steps - SIZE_ROWS) : trace.steps].sum(axis=2).max())


def _bounds(values: Sequence[float]) -> Bounds:
    """Return one value as the lower bound alone, two as both."""
    return Bounds(values[0], values[1] if len(values) > 1 else None)


def _reruns(
    loads: Sequence[Loads], rows: range, devices: int, reruns: float, pass_pairs: float, room: Callable[[int], Room]
) -> tuple[Reruns, ...]:
    """Return the factor of a rank's buffer at the number of re-runs asked for, and at those of the table."""
    needs = [rank_needs(load, rows, devices) for load in loads]
    safe_S = needs[-1]
    independent = effective_steps(safe_S)

    def buffer(allowed: float) -> Reruns:
        factor = _bounds([least_factor(need_S, int(allowed * len(rows) / 1000)) for need_S in needs])
        seen = int((safe_S > factor.safe).sum())
        limit = None if seen else 1000 * unseen_limit(independent)
        return Reruns(allowed, factor, seen, limit, independent, room(int(pass_pairs * factor.safe)))

    return tuple(buffer(allowed) for allowed in (reruns, *RATES))


# ---------------------------------------------------------------- in words


def percent(part: float) -> str:
    """Return a part in percent: `5 %`, `0.1 %`, `0.0012 %`, `under 0.0001 %`."""
    return "0 %" if part == 0 else "under 0.0001 %" if part < 1e-6 else f"{100 * part:.2g} %"


def _of_tokens(parts: Bounds) -> str:
    """Return a part of tokens in percent, as a range where the bounds differ in print."""
    ends = list(dict.fromkeys(percent(part) for part in (parts.least, parts.safe)))
    return ends[0] if len(ends) == 1 else f"{ends[0].removesuffix(' %')} to {ends[1]}"


def _range(factors: Bounds) -> str:
    """Return a factor, as a range where the bounds differ."""
    if factors.safe == factors.least:
        return f"{factors.safe:.2f}"
    return f"{factors.least:.2f} to {factors.safe:.2f}"


def capacity_sentences(needs: Capacity) -> list[str]:
    """Return the answer: each factor as an option to paste, what it costs, and what it rests on."""
    worst, layer = max(zip(needs.layer_factors, needs.layers, strict=True), key=lambda pair: pair[0].safe)
    steps, run = f"steps {needs.first_step:,} to {needs.last_step:,}", _range(needs.run_factor)
    return [
        f"--moe-expert-capacity-factor {needs.factor.safe:.2f}",
        f"At most {percent(needs.drop)} of the tokens are dropped at it, if loads stay as in {steps}. Layer {layer} "
        f"needs {_range(worst)} for as much of its own tokens, the whole run {run}; from {_range(needs.dropless)} on "
        "nothing drops.",
        f"An expert then takes up to {_tokens(needs.room)} of one layer in one "
        f"{'micro-batch' if needs.passes else 'step'}.",
        _about_passes(needs),
        *(_rerun_sentences(needs, needs.reruns[0]) if needs.reruns else ()),
    ]


def _about_passes(needs: Capacity) -> str:
    """Return whether the factors are those of micro-batches, in which capacity acts."""
    if needs.passes is None:
        return (
            "Capacity acts in each micro-batch on each rank, which is less even than a whole step, and this run has "
            "whole steps alone: expect to need more. record(..., micro_max=True) gives an upper bound."
        )
    return (
        f"Capacity acts in each micro-batch on each rank, of which a step has {needs.passes:,}. By the sum over a step "
        f"{needs.factor.least:.2f} would do; by each expert's largest micro-batch {needs.factor.safe:.2f} is enough."
    )


def _rerun_sentences(needs: Capacity, rank: Reruns) -> list[str]:
    by_sum = "" if rank.factor.most is None else f" By the sum over a step {rank.factor.least:.2f} would do."
    return [
        f"--moe-expert-rank-capacity-factor {rank.factor.safe:.2f}",
        f"The least for at most {rank.allowed:g} of 1,000 steps that run again, with EP {needs.devices} and experts in "
        f"the order of their numbers: {_seen(needs, rank)}. A rank's buffer holds {_tokens(rank.room)} of one layer."
        f"{by_sum}",
    ]


def _seen(needs: Capacity, rank: Reruns) -> str:
    """Return how many steps would have run again; where none would, how many of 1,000 it may be."""
    if rank.limit is None:
        return f"{rank.seen:,} of {needs.rows:,} would run again"
    return (
        f"none of {needs.rows:,} would run again, which shows with 95 % confidence that under {_rate(rank.limit)} of "
        f"1,000 do (they count as {rank.effective_steps:,.0f} independent ones)"
    )


def _rate(rate: float) -> str:
    return f"{rate:.2g}" if rate < 100 else f"{rate:.0f}"


def _tokens(room: Room) -> str:
    return f"{room.tokens:,} tokens" + ("" if room.bytes is None else f" ({room.bytes / 1e6:,.1f} MB)")


def capacity_tables(needs: Capacity) -> list[CapacityTable]:
    """Return the tables below the answer: by factor, by layer, by number of re-runs."""
    bounds = "" if needs.passes is None else " From, to: by the sums over steps, by the largest micro-batches."
    tables = [
        CapacityTable(
            ("factor", "dropped", "worst layer", "whole run"),
            [(f"{row.factor:.2f}", *map(_of_tokens, (row.part, row.worst_layer, row.run))) for row in needs.drops],
            f"Part of tokens above --moe-expert-capacity-factor in {counted(needs.rows, 'row')} looked at, and in the "
            f"whole run.{bounds}",
        ),
        CapacityTable(
            ("layer", "factor"),
            [(layer, _range(factor)) for layer, factor in zip(needs.layers, needs.layer_factors, strict=True)],
            f"Least factor that drops at most {percent(needs.drop)} of the layer's own tokens.",
        ),
    ]
    if needs.reruns:
        rows = [
            (f"{row.allowed:g}", _range(row.factor), f"{row.seen:,}" if row.limit is None else f"< {_rate(row.limit)}",
             _tokens(row.room))
            for row in needs.reruns[1:]
        ]  # fmt: skip
        tables.append(
            CapacityTable(
                ("re-runs", "factor", "seen", "buffer"),
                rows,
                "Least --moe-expert-rank-capacity-factor for so many re-runs of 1,000 steps. Seen: steps of "
                f"{needs.rows:,} above it; <: none was, at 95 % re-runs of 1,000 stay below.",
            )
        )
    return tables
