"""The board of suite `shapes`: each run by itself, since one seed of unlike models has neither mean nor rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.pages.parts import aligned_table
from leaderboard.shapes.page import short_name
from moeload_bench import style
from moeload_bench.results.results import Results
from moeload_bench.results.savings import OFFSET
from moeload_bench.results.tables import horizon_heads, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

REFERENCE = "adaptive"
SHOWN = ("sw_avg", "last_value", "guarded", "online", "online.guarded")
"""Forecasters of the figure."""
HORIZONS = (10, 100, 1000)
"""Horizons of the figure."""
SAME_HERE = {"lstm": "lstm.online"}
"""Entries that forecast here as another one does: `lstm` was fitted on no run of these recipes, so it learns online."""
LEAST_SAVED = -0.5
"""A dot further left is drawn here: that forecaster makes 1.5 times the error of `REFERENCE`, or more."""


def run_errors(results: Results) -> pd.DataFrame:
    """Return the mean error of each run, in each state and at each horizon: a column per forecaster."""
    errors = results.errors(PRIMARY)
    errors = errors[errors.index.get_level_values("state").isin(LABELS)]
    return errors.groupby(["trace", "state", "horizon"], sort=False).mean().dropna(how="all")


def board_table(errors: pd.DataFrame) -> str:
    """Return a row per run and state: the best forecaster at each horizon, its error and that of `REFERENCE`."""
    horizons = sorted(errors.index.unique("horizon"))
    rows = [
        (f"`{run}`", str(state), *(_best(found.droplevel(["trace", "state"]), horizon) for horizon in horizons))
        for (run, state), found in errors.groupby(["trace", "state"], sort=False)
    ]
    return aligned_table(("run", "state", *horizon_heads(horizons)), rows, 2)


def _best(by_horizon: pd.DataFrame, horizon: int) -> str:
    if horizon not in by_horizon.index:
        return "-"
    row: Any = by_horizon.loc[horizon]
    return f"`{row.idxmin()}` {three_digits(float(row.min()))} ({three_digits(float(row[REFERENCE]))})"


def draw_board(errors: pd.DataFrame) -> Figure:
    """Draw a panel per state and horizon, a row per run: what each of `SHOWN` saves of the error of `REFERENCE`."""
    shifted = errors + OFFSET
    saved = (1 - shifted.div(shifted[REFERENCE], axis=0))[list(SHOWN)].clip(lower=LEAST_SAVED)
    looks = style.forecaster_looks(SHOWN)
    runs = list(errors.index.unique("trace"))
    cells = [(state, horizon) for state in LABELS for horizon in HORIZONS]
    with style.style():
        figure, axes = style.panels(len(cells), height=0.5 + 0.12 * len(runs), columns=len(HORIZONS))
        for ax, (state, horizon) in zip(axes, cells, strict=True):
            there = saved.xs((state, horizon), level=("state", "horizon")).reindex(runs)
            for name in SHOWN:
                ax.plot(there[name], range(len(runs)), linestyle="none", markersize=3, **looks[name])
            ax.axvline(0, color=style.GREY, linewidth=0.8)
            ax.set(title=f"{state}, h = {horizon:,}", ylim=(len(runs) - 0.5, -0.5))
            ax.set_xlim(LEAST_SAVED - 0.03, float(np.nanmax(saved.to_numpy())) + 0.03)
            ax.set_yticks(range(len(runs)), list(map(short_name, runs)))
            ax.grid(axis="x")
        lines = [style.legend_line(name, looks[name]["color"], "none", marker=looks[name]["marker"]) for name in SHOWN]
        figure.legend(handles=lines, loc="outside upper center", ncols=len(lines))
        figure.supxlabel(f"part of the error of {REFERENCE} that is saved; more is better")
    return figure


def board_words(here: Results, elsewhere: Results) -> dict[str, Any]:
    """Return what page.md.j2 says of the forecasters, and which entries of another suite are left out ``here``.

    ``wins``: in how many of the ``cells`` of run, state and horizon each of `SHOWN` errs less than `REFERENCE`.
    """
    errors = run_errors(here)
    hours = hours_left_out(elsewhere, here)
    same = {name: other for name, other in SAME_HERE.items() if name in hours and other in here.names}
    dear = sorted(hours.keys() - same.keys(), key=lambda name: -hours[name])
    return {
        "table": board_table(errors),
        "reference": REFERENCE,
        "forecasters": len(here),
        "cells": len(errors),
        "wins": {name: int((errors[name] < errors[REFERENCE]).sum()) for name in SHOWN},
        "elsewhere": elsewhere.suite.name,
        "left_out": {name: three_digits(hours[name]) for name in dear},
        "same": same,
    }


def hours_left_out(elsewhere: Results, here: Results) -> dict[str, float]:
    """Return the core-hours that entries of another suite would take here, of those that were not run.

    They scale by layers times experts: what observing takes by rows, what forecasting takes by forecasts.
    """
    size = here.costs.groupby("trace").first()
    hours = {}
    for name in sorted({*elsewhere.names} - {*here.names}):
        costs = elsewhere.costs[elsewhere.costs["forecaster"] == name]
        hours[name] = sum(
            costs[f"{part}_cpu_s"].sum() * _series(size, count) / _series(costs, count) / 3600
            for part, count in (("observe", "observed_rows"), ("forecast", "forecasts"))
        )
    return hours


def _series(costs: pd.DataFrame, count: str) -> float:
    return float((costs["layers"] * costs["experts"] * costs[count]).sum())
