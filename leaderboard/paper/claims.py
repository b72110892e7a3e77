"""Where the measured numbers agree with the paper's claims.

A claim becomes a figure per run, mostly a ratio, for every variant and every reading of the error. Bounds turn the
figure into a vote: yes, no, or neither when it lies between them. Runs of one recipe share one vote, so that more seeds
of a recipe do not outvote the others. A claim holds when at least MAJORITY of the votes say yes, it does not when as
many say no. Nothing is tested for significance: windows of one run are not independent, and the recipes are few.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from leaderboard.paper.facts import paper
from leaderboard.paper.measuring import METRICS, OTHER_WINDOWS, PREDICTORS, STATISTICS

Verdict = Literal["holds", "does not hold", "cannot tell"]

MAJORITY = 0.8
"""Fraction of the votes that decides."""
MARGIN = 1.05
"""Factor by which two numbers must differ to count as different."""
FACTOR = 2.0
"""Factor within which a magnitude counts as that of the paper."""
NEAR_FLOOR = 1.25
"""An error of at most so many times its floor counts as at the floor."""
BACK = 0.05
"""Fraction of the steps after its onset that a stable layer may spend transient."""
LEAST_ORIGINS = 3
"""Origins that a mean error must rest on to count."""


class Study(NamedTuple):
    """What was measured: a row per run, and a row per run, protocol, horizon, state and forecaster."""

    runs: pd.DataFrame
    errors: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write both tables as CSV, with six significant digits."""
        folder.mkdir(parents=True, exist_ok=True)
        self.runs.to_csv(folder / "runs.csv", float_format="%.6g")
        self.errors.to_csv(folder / "errors.csv", float_format="%.6g", index=False)

    def only(self, runs: Collection[str]) -> Study:
        """Return the rows of those of ``runs`` that the study has."""
        return Study(self.runs[self.runs.index.isin(runs)], self.errors[self.errors["run"].isin(runs)])

    @property
    def horizons(self) -> list[int]:
        """Return the horizons, the shortest first."""
        return sorted(int(horizon) for horizon in self.errors["horizon"].unique())

    def error(
        self, forecaster: str, column: str, horizon: int, protocol: str = "sliding", state: str = "stable"
    ) -> pd.Series[float]:
        """Return a mean error, or a floor, of every run; NaN where it rests on fewer than LEAST_ORIGINS origins."""
        rows = self.errors[
            (self.errors["forecaster"] == forecaster)
            & (self.errors["horizon"] == horizon)
            & (self.errors["protocol"] == protocol)
            & (self.errors["state"] == state)
            & (self.errors["origins"] >= LEAST_ORIGINS)
        ]
        return rows.set_index("run")[column].reindex(self.runs.index)


def read_study(folder: Path) -> Study:
    """Return the study that `Study.write` wrote."""
    return Study(pd.read_csv(folder / "runs.csv", index_col="run"), pd.read_csv(folder / "errors.csv"))


class Bounds(NamedTuple):
    """A figure within [low, high] is a yes, one outside (no_low, no_high) a no, one between them a vote for neither."""

    low: float
    high: float
    no_low: float
    no_high: float


ABOVE = Bounds(MARGIN, math.inf, 1 / MARGIN, math.inf)
BELOW = Bounds(-math.inf, 1 / MARGIN, -math.inf, MARGIN)


def within(low: float, high: float) -> Bounds:
    """Return bounds without a gap: yes inside, no outside."""
    return Bounds(low, high, low, high)


class Finding(NamedTuple):
    """A claim in one variant and reading: the figures of the runs that have one, how many vote yes, and the verdict."""

    claim: str
    variant: str
    reading: str
    figures: pd.Series[float]
    yes: int
    verdict: Verdict


def judge(claim: str, variant: str, reading: str, figures: pd.Series[float], bounds: Bounds) -> Finding:
    """Return what the runs' figures say; the index of ``figures`` is the runs' ids."""
    finite = figures.dropna()
    yes = finite.between(bounds.low, bounds.high)
    no = ~yes & ~finite.between(bounds.no_low, bounds.no_high, inclusive="neither")
    vote = 1 / finite.groupby([run.split("/")[0] for run in finite.index]).transform("size")
    needed = MAJORITY * vote.sum() - 1e-9
    verdict: Verdict = "cannot tell"
    if len(finite) and vote[yes].sum() >= needed:
        verdict = "holds"
    elif len(finite) and vote[no].sum() >= needed:
        verdict = "does not hold"
    return Finding(claim, variant, reading, finite, int(yes.sum()), verdict)


def findings(study: Study) -> Iterator[Finding]:
    """Yield every claim in every variant and reading, in the order of the page."""
    yield from _of_loads(study.runs)
    for metric in METRICS:
        yield from _of_errors(study, metric)


def _of_loads(runs: pd.DataFrame) -> Iterator[Finding]:
    yield judge("settles", "state labels", "", runs["back"], within(0.0, BACK))
    for statistic, window in STATISTICS:
        name = f"{statistic} w={window}"
        yield judge("calmer", name, "", runs[f"falls {name}"], ABOVE)
    yield judge("onset", "state labels", "", runs["onset"] / paper().onset.steps, within(1 / FACTOR, FACTOR))
    for statistic, window in STATISTICS:
        name = f"{statistic} w={window}"
        yield judge("first", name, "", runs[f"first {name}"], ABOVE)


def _of_errors(study: Study, metric: str) -> Iterator[Finding]:
    short, long = study.horizons
    everywhere = [(horizon, protocol) for protocol in ("sliding", "blocks") for horizon in study.horizons]
    for name in PREDICTORS:
        harder = study.error(name, metric, short, state="transient") / study.error(name, metric, short)
        yield judge("transient", f"{name}, sliding, {short:,}", metric, harder, ABOVE)
    orders = [("sw-arima", "sw_avg", "arima", *where) for where in everywhere]
    orders += [("sw-arima", name, "arima", short, "sliding") for name in OTHER_WINDOWS]
    orders += [("arima-lstm", "arima", "lstm", *where) for where in everywhere]
    for claim, better, worse, horizon, protocol in orders:
        order = study.error(better, metric, horizon, protocol) / study.error(worse, metric, horizon, protocol)
        yield judge(claim, f"{better}, {protocol}, {horizon:,}", metric, order, BELOW)
    for name in PREDICTORS:
        longer = study.error(name, metric, long) / study.error(name, metric, short)
        yield judge("longer", f"{name}, sliding", metric, longer, ABOVE)
    for name in PREDICTORS:
        for horizon, protocol in everywhere:
            reported = paper().reported(name, horizon)
            if reported:
                about = [error.value for error in reported if error.bound == "about"]
                bounds = within(min(about, default=0.0) / FACTOR, FACTOR * max(error.value for error in reported))
                size = study.error(name, metric, horizon, protocol)
                yield judge("size", f"{name}, {protocol}, {horizon:,}", metric, size, bounds)
    for floor in ("floor_sampling", "floor_batch"):
        over = study.error("sw_avg", metric, short) / study.error("sw_avg", f"{floor}.{metric}", short)
        yield judge("floor", f"sw_avg over {floor}, sliding, {short:,}", metric, over, within(-math.inf, NEAR_FLOOR))
