"""The figures by which each claim is judged, taken from a study."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from leaderboard.paper import study as records
from leaderboard.paper.claims import (
    ABOVE,
    BACK,
    BELOW,
    FACTOR,
    LEAST_ORIGINS,
    NEAR_FLOOR,
    VERDICTS,
    Bounds,
    Claim,
    Finding,
    claims,
    judge,
    yes_between,
)
from leaderboard.paper.facts import Setup, paper
from leaderboard.paper.study import LoadStudy, Part, Protocol, RunStudy, Study, Value
from moeload_bench.scoring.noise import sampling_error

Mean = Callable[[RunStudy, str], Value]
"""A mean of a run, by metric."""
GPT3_TOKENS = 2048
"""Tokens per sequence of GPT-3; the paper does not state its own."""
PART_NAMES: dict[Part, str] = {"all": "all steps", "before": "before the last onset", "after": "after the last onset"}


def findings(study: Study) -> list[Finding]:
    """Return every claim in every variant; a mean over fewer than LEAST_ORIGINS origins gives no figure."""
    runs, short, long = study.runs, study.horizons[0], study.horizons[-1]
    found = [*_states(runs), *_first(runs)]

    def judged(claim: str, variant: str, figure: Callable[[RunStudy, str], Value], bounds: Bounds) -> None:
        for metric in records.METRICS:
            figures = [figure(run, metric) for run in runs]
            found.append(judge(claim, variant, metric, _recipes(runs), figures, bounds))

    def over(top: Mean, bottom: Mean) -> Callable[[RunStudy, str], Value]:
        return lambda run, metric: ratio(top(run, metric), bottom(run, metric))

    everywhere = [(protocol, horizon) for protocol in records.PROTOCOLS for horizon in study.horizons]
    for name in records.PAPER_FORECASTERS:
        harder = over(_mean_of(name, short, state="transient"), _mean_of(name, short))
        judged("transient", f"{name}, sliding, h = {short:,}", harder, ABOVE)
    orders = [("sw-arima", "sw_avg", "arima", everywhere)]
    orders += [("sw-arima", f"sw_avg@window={window}", "arima", everywhere[:1]) for window in records.WINDOWS]
    for claim, better, worse, where in [*orders, ("arima-lstm", "arima", "lstm", everywhere)]:
        for protocol, horizon in where:
            named = f"{better}, " if "@" in better else ""
            order = over(_mean_of(better, horizon, protocol), _mean_of(worse, horizon, protocol))
            judged(claim, f"{named}{protocol}, h = {horizon:,}", order, BELOW)
    for name in records.PAPER_FORECASTERS:
        longer = over(_mean_of(name, long), _mean_of(name, short))
        judged("longer", f"{name}, sliding, {long:,} over {short:,}", longer, ABOVE)
    for name in records.PAPER_FORECASTERS:
        for protocol, horizon in everywhere:
            reported = paper().reported(name, horizon)
            if reported:
                about = [one.value for one in reported if one.bound == "about"]
                bounds = yes_between(min(about, default=0.0) / FACTOR, FACTOR * max(one.value for one in reported))
                size = _mean_of(name, horizon, protocol)
                judged("size", f"{name}, {protocol}, h = {horizon:,}", size, bounds)
    for floor in ("floor_sampling", "floor_batch"):
        near = over(_mean_of("sw_avg", short), functools.partial(_floor_of, floor=floor, horizon=short))
        judged("floor", f"sw_avg over {floor}, sliding, h = {short:,}", near, yes_between(-math.inf, NEAR_FLOOR))
    return found


def _mean_of(name: str, horizon: int, protocol: Protocol = "sliding", state: str = "stable") -> Mean:
    return lambda run, metric: mean_error(run, name, metric, horizon, protocol, state)


def _floor_of(run: RunStudy, metric: str, *, floor: str, horizon: int) -> Value:
    return run.floor(floor, metric, state="stable", horizon=horizon)


class Summary(NamedTuple):
    """A claim on one line: what its first variant says in each column, and how all variants are judged."""

    claim: Claim
    variant: str
    verdict: str
    counts: str


def summary(study: Study) -> list[Summary]:
    """Return every claim on one line; claims without any variant here (other horizons) are left out."""
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
    """Judge what the labels say; a layer that never becomes stable counts as transient throughout."""
    back = [max(1.0 if layer.back is None else layer.back for layer in run.states) for run in runs]
    yield judge("settles", "state labels", "all layers", _recipes(runs), back, yes_between(0.0, BACK))
    for statistic, window in records.STATISTICS:
        falls = [
            ratio(_mean(run.fluctuates(statistic, window, "before")), _mean(run.fluctuates(statistic, window, "after")))
            for run in runs
        ]
        yield judge("calmer", "mean over layers", f"{statistic} w={window}", _recipes(runs), falls, ABOVE)
    onsets = [ratio(run.settled, paper().onset.steps) for run in runs]
    yield judge("onset", "state labels", "last layer", _recipes(runs), onsets, yes_between(1.0 / FACTOR, FACTOR))


def _first(runs: Sequence[RunStudy]) -> Iterator[Finding]:
    for part, name in PART_NAMES.items():
        for statistic, window in records.STATISTICS:
            leads = [lead(run.fluctuates(statistic, window, part)) for run in runs]
            yield judge("first", name, f"{statistic} w={window}", _recipes(runs), leads, ABOVE)


def mean_error(
    run: LoadStudy, name: str, metric: str, horizon: int, protocol: Protocol = "sliding", state: str = "stable"
) -> Value:
    """Return a forecaster's mean error over the origins in a state, None where they are too few."""
    return run.error(name, metric, state=state, horizon=horizon, protocol=protocol, least=LEAST_ORIGINS)


def ratio(top: Value, bottom: Value) -> Value:
    """Return top / bottom, None where either does not exist or the bottom is 0."""
    return None if top is None or not bottom else top / bottom


def draws_alone(setup: Setup, top_k: int) -> float:
    """Return the per-step relative error of a forecaster that knows the routing of a balanced setup: draws alone."""
    return sampling_error(setup.experts, GPT3_TOKENS * setup.sequences, top_k)


def lead(value_L: Sequence[Value]) -> Value:
    """Return the first layer's value over the largest of the others."""
    others = [value for value in value_L[1:] if value is not None]
    return ratio(value_L[0], max(others)) if value_L and others else None


def _recipes(runs: Sequence[RunStudy]) -> list[str]:
    return [run.recipe for run in runs]


def _mean(value_L: Sequence[Value]) -> Value:
    known = [value for value in value_L if value is not None]
    return sum(known) / len(known) if known else None
