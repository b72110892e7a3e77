"""Two ladders in docs/reports/regimes.md: one model and seed at three sizes of batch, and at three sequence lengths."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from leaderboard.committed import TRACES
from leaderboard.pages.parts import aligned_table, parts_from
from moeload_bench.publishing.card_tables import layer_mean, onset_summary
from moeload_bench.scoring.description import LayerDescription, describe_layers
from moeload_bench.scoring.run_facts import noise_and_drift, run_facts
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.summed import sum_rows
from moeload_bench.traces.trace import Trace

BATCHES = ("batch-2k", "batch-8k", "qwen3moe-16e-large")
LENGTHS = ("length-32", "length-128", "length-512")
SEED = 201
SUM = 4
"""The batches of two neighbours are that many times apart: so many steps of the smaller one are as many tokens."""
ROWS = 100
"""Rows over which drift is measured."""


class Rung(NamedTuple):
    """One run of a ladder, or sums of its steps. ``noise`` and ``independent`` tokens per expert: see `RunFacts`;
    ``drift``: over `ROWS`, as a part of a share, and ``probed`` by the run's probe.
    """

    name: str
    tokens: int
    sequence_length: int
    expert_tokens: float
    noise: float
    independent: float
    drift: float
    probed: float | None
    layers: Sequence[LayerDescription]

    @property
    def per_noise(self) -> float:
        return self.drift / self.noise


def _rung(name: str, trace: Trace, probe: Trace | None = None) -> Rung:
    facts, steps = run_facts(trace), ROWS * trace.meta.stride
    assert facts.noise  # half batches are recorded
    assert facts.independent_tokens
    return Rung(
        name, int(trace.tokens_SL[-1, 0]), trace.meta.sequence_length or 0, facts.expert_tokens, facts.noise,
        facts.independent_tokens, _moved(trace, steps), None if probe is None else _moved(probe, steps),
        describe_layers(trace),
    )  # fmt: skip


def _moved(trace: Trace, steps: int) -> float:
    """Return the drift over so many steps as a part of a share."""
    noise, (drift,) = noise_and_drift(trace, [steps])
    return noise * drift


def _read(recipe: str) -> Trace:
    return read_trace(TRACES / recipe / "test" / f"seed{SEED}.parquet")


@functools.cache
def batches() -> tuple[Rung, ...]:
    """Return the ladder of batches; behind each run but the last the sums that have the next one's tokens."""
    rungs = []
    for recipe in BATCHES:
        trace = _read(recipe)
        rungs.append(_rung(f"`{recipe}`", trace, _read(f"{recipe}.probe")))
        if recipe != BATCHES[-1]:
            rungs.append(_rung(f"`{recipe}`, {SUM} steps a row", sum_rows(trace, SUM)))
    return tuple(rungs)


@functools.cache
def lengths() -> tuple[Rung, ...]:
    """Return the ladder of sequence lengths."""
    return tuple(_rung(f"`{recipe}`", _read(recipe)) for recipe in LENGTHS)


def _table(rungs: Sequence[Rung]) -> str:
    heads = (
        "run", "tokens a row", "tokens a sequence", "tokens per expert", "noise of a row", "independent tokens",
        f"drift / noise, {ROWS} rows", "drift", "by probes", "onset, steps: median (by layer; band)",
        "imbalance, last 100",
    )  # fmt: skip
    rows = [
        (
            one.name, f"{one.tokens:,}", f"{one.sequence_length}", f"{one.expert_tokens:,.0f}", f"{one.noise:.2%}",
            f"{one.independent:,.0f}", f"{one.per_noise:.2f}", f"{one.drift:.1%}",
            "-" if one.probed is None else f"{one.probed:.1%}", onset_summary(one.layers),
            layer_mean(layer.imbalance_last for layer in one.layers),
        )
        for one in rungs
    ]  # fmt: skip
    return aligned_table(heads, rows, 1)


def batch_ladder(rungs: Sequence[Rung]) -> str:
    """Return what a larger batch of the same model changes, and how far sums of steps are from it."""
    first, first_sum, second, second_sum, last = rungs
    more = last.tokens / first.tokens
    return (
        f"With {more:.0f} times the tokens a step the noise of a row is {first.noise / last.noise:.1f} times less "
        f"(tokens drawn one by one at equal shares: {more**0.5:.0f} times), and over {ROWS} rows the loads move "
        f"{last.per_noise:.1f} times that noise instead of {first.per_noise:.1f}. They move less, {first.drift:.1%}, "
        f"{second.drift:.1%} and {last.drift:.1%} of a share; probes find {first.probed:.1%}, {second.probed:.1%} and "
        f"{last.probed:.1%}. {SUM} steps of a smaller batch as one row have {first_sum.noise / second.noise:.2f} and "
        f"{second_sum.noise / last.noise:.2f} times the noise of a step of the batch above, and over {ROWS} rows move "
        f"{first_sum.drift / second.drift:.1f} and {second_sum.drift / last.drift:.1f} times as far.\n\n"
        f"{_table(rungs)}"
    )


def length_ladder(rungs: Sequence[Rung]) -> str:
    """Return what longer sequences change, at as many tokens a step."""
    first, *_, last = rungs
    return (
        f"With {last.sequence_length} tokens a sequence instead of {first.sequence_length} the noise of a row is "
        f"{last.noise / first.noise:.2f} times as large: its {last.expert_tokens:,.0f} tokens per expert are worth "
        f"{last.independent:,.0f} independent ones instead of {first.independent:,.0f}.\n\n{_table(rungs)}"
    )


PARTS = parts_from(batches, batches=batch_ladder) | parts_from(lengths, lengths=length_ladder)
