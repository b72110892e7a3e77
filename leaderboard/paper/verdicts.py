"""The figures by which each claim is judged, taken from a study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from leaderboard.paper.claims import (
    ABOVE,
    BACK,
    BELOW,
    FACTOR,
    LEAST_ORIGINS,
    NEAR_FLOOR,
    VERDICTS,
    Claim,
    Finding,
    claims,
    judge,
    yes_between,
)
from leaderboard.paper.facts import Setup, paper
from leaderboard.paper.study import (
    METRICS,
    PAPER_FORECASTERS,
    PROTOCOLS,
    STATISTICS,
    WINDOWS,
    LoadStudy,
    Part,
    Protocol,
    RunStudy,
    Study,
    Value,
)
from moeload_bench.scoring.noise import sampling_error

GPT3_TOKENS = 2048
"""Tokens per sequence of GPT-3; the paper does not state its own."""
PART_NAMES: dict[Part, str] = {"all": "all steps", "before": "before the last onset", "after": "after the last onset"}


def findings(study: Study) -> list[Finding]:
    """Every claim in every variant; a mean over fewer than LEAST_ORIGINS origins gives no figure."""
    runs, short, long = study.runs, study.horizons[0], study.horizons[-1]
    everywhere = _protocols(study.horizons)
    return [
        *_states(runs),
        *_first(runs),
        *_transient(runs, short),
        *_order(runs, "sw-arima", "sw_avg", "arima", everywhere),
        *(
            finding
            for window in WINDOWS
            for finding in _order(runs, "sw-arima", f"sw_avg@window={window}", "arima", everywhere[:1])
        ),
        *_order(runs, "arima-lstm", "arima", "lstm", everywhere),
        *_longer(runs, short, long),
        *_size(runs, study.horizons),
        *_floor(runs, short),
    ]


class Summary(NamedTuple):
    """A claim on one line: what its first variant says in each column, and how all variants are judged."""

    claim: Claim
    variant: str
    verdict: str
    counts: str


def summary(study: Study) -> list[Summary]:
    """Every claim on one line; claims without any variant here (other horizons) are left out."""
    found, out = findings(study), []
    for claim in claims():
        mine = [one for one in found if one.claim == claim.key]
        first = [one for one in mine if one.variant == mine[0].variant]
        grouped = (
            f"{verdict}: {', '.join(one.column for one in first if one.verdict == verdict)}"
            for verdict in VERDICTS
            if any(one.verdict == verdict for one in first)
        )
        counted = (f"{name} {n}" for name in VERDICTS if (n := sum(one.verdict == name for one in mine)))
        if mine:
            out.append(Summary(claim, mine[0].variant, "; ".join(grouped), ", ".join(counted)))
    return out


def _states(runs: Sequence[RunStudy]) -> Iterator[Finding]:
    """A layer that never becomes stable counts as transient throughout."""
    back = [max(1.0 if layer.back is None else layer.back for layer in run.states) for run in runs]
    yield judge("settles", "state labels", "all layers", _recipes(runs), back, yes_between(0.0, BACK))
    for statistic, window in STATISTICS:
        falls = [
            ratio(_mean(run.fluctuates(statistic, window, "before")), _mean(run.fluctuates(statistic, window, "after")))
            for run in runs
        ]
        yield judge("calmer", "mean over layers", f"{statistic} w={window}", _recipes(runs), falls, ABOVE)
    onsets = [ratio(run.settled, paper().onset.steps) for run in runs]
    yield judge("onset", "state labels", "last layer", _recipes(runs), onsets, yes_between(1.0 / FACTOR, FACTOR))


def _first(runs: Sequence[RunStudy]) -> Iterator[Finding]:
    for part, name in PART_NAMES.items():
        for statistic, window in STATISTICS:
            leads = [lead(run.fluctuates(statistic, window, part)) for run in runs]
            yield judge("first", name, f"{statistic} w={window}", _recipes(runs), leads, ABOVE)


def _transient(runs: Sequence[RunStudy], horizon: int) -> Iterator[Finding]:
    for name in PAPER_FORECASTERS:
        for metric in METRICS:
            figures = [
                ratio(mean_error(run, name, metric, horizon, state="transient"), mean_error(run, name, metric, horizon))
                for run in runs
            ]
            yield judge("transient", f"{name}, sliding, h = {horizon:,}", metric, _recipes(runs), figures, ABOVE)


def _order(
    runs: Sequence[RunStudy], claim: str, better: str, worse: str, where: Sequence[tuple[Protocol, int]]
) -> Iterator[Finding]:
    for protocol, horizon in where:
        for metric in METRICS:
            figures = [
                ratio(
                    mean_error(run, better, metric, horizon, protocol),
                    mean_error(run, worse, metric, horizon, protocol),
                )
                for run in runs
            ]
            named = f"{better}, " if "@" in better else ""
            yield judge(claim, f"{named}{protocol}, h = {horizon:,}", metric, _recipes(runs), figures, BELOW)


def _longer(runs: Sequence[RunStudy], short: int, long: int) -> Iterator[Finding]:
    for name in PAPER_FORECASTERS:
        for metric in METRICS:
            figures = [ratio(mean_error(run, name, metric, long), mean_error(run, name, metric, short)) for run in runs]
            yield judge("longer", f"{name}, sliding, {long:,} over {short:,}", metric, _recipes(runs), figures, ABOVE)


def _size(runs: Sequence[RunStudy], horizons: Sequence[int]) -> Iterator[Finding]:
    for name in PAPER_FORECASTERS:
        for protocol, horizon in _protocols(horizons):
            reported = paper().reported(name, horizon)
            if not reported:
                continue
            about = [one.value for one in reported if one.bound == "about"]
            bounds = yes_between(min(about, default=0.0) / FACTOR, FACTOR * max(one.value for one in reported))
            for metric in METRICS:
                figures = [mean_error(run, name, metric, horizon, protocol) for run in runs]
                yield judge("size", f"{name}, {protocol}, h = {horizon:,}", metric, _recipes(runs), figures, bounds)


def _floor(runs: Sequence[RunStudy], horizon: int) -> Iterator[Finding]:
    for floor in ("floor_sampling", "floor_batch"):
        for metric in METRICS:
            figures = [
                ratio(
                    mean_error(run, "sw_avg", metric, horizon),
                    run.floor(floor, metric, state="stable", horizon=horizon),
                )
                for run in runs
            ]
            variant = f"sw_avg over {floor}, sliding, h = {horizon:,}"
            yield judge("floor", variant, metric, _recipes(runs), figures, yes_between(-math.inf, NEAR_FLOOR))


def mean_error(
    run: LoadStudy, name: str, metric: str, horizon: int, protocol: Protocol = "sliding", state: str = "stable"
) -> Value:
    """A forecaster's mean error over the origins in a state, None where they are too few."""
    return run.error(name, metric, state=state, horizon=horizon, protocol=protocol, least=LEAST_ORIGINS)


def ratio(top: Value, bottom: Value) -> Value:
    """top / bottom, None where either does not exist or the bottom is 0."""
    return None if top is None or not bottom else top / bottom


def draws_alone(setup: Setup, top_k: int) -> float:
    """Per-step relative error of a forecaster that knows the routing of a balanced setup: what draws alone leave."""
    return sampling_error(setup.experts, GPT3_TOKENS * setup.sequences, top_k)


def _protocols(horizons: Sequence[int]) -> list[tuple[Protocol, int]]:
    return [(protocol, horizon) for protocol in PROTOCOLS for horizon in horizons]


def lead(value_L: Sequence[Value]) -> Value:
    """The first layer's value over the largest of the others."""
    others = [value for value in value_L[1:] if value is not None]
    return ratio(value_L[0], max(others)) if value_L and others else None


def _recipes(runs: Sequence[RunStudy]) -> list[str]:
    return [run.recipe for run in runs]


def _mean(value_L: Sequence[Value]) -> Value:
    known = [value for value in value_L if value is not None]
    return sum(known) / len(known) if known else None
