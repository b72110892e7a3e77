"""Measure how much of a future can be known: runs of closed seasons were continued several times from one state.

    git archive 07f6d2b8 leaderboard | tar x -C OLD    # needs the whole history
    python -m leaderboard forks OLD

A part of docs/reports/studies.md, its table and figure. A future of `RECIPE/SPLIT/seedN` is a trace of the folder
`RECIPE/SPLIT_forks`, which begins at the origin; the run's own continuation is one more.

Axis letters: J futures, K horizons, L MoE layers, E experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer

from leaderboard.committed import REPORTS
from leaderboard.pages.parts import Maker, aligned_table
from moeload_bench import style
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError
from moeload_bench.files import write_whole
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.targets import parse_target
from moeload_bench.results.formats import horizon_heads, three_digits
from moeload_bench.scoring.forks import floor_fork, horizon_means, share_distance
from moeload_bench.states.rule import LABELS, state_names, trace_labels
from moeload_bench.style import save_figure
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HORIZONS = (1, 10, 100, 300, 1000)
AVERAGES = (
    *("uniform", "last_value", "ema", "recent_sum", "since_plan"),
    *("sw_avg@window=10", "sw_avg", "sw_avg@window=500", "sw_avg@window=1000"),
)
BEST, FLOOR = "best average", "floor_fork"
SHOWN = {BEST: "the best average", "online": "`online`", FLOOR: "*floor_fork*"}


def fork_errors(base: Trace, futures: Mapping[int, list[Trace]]) -> Iterator[dict[str, Any]]:
    """Yield, for each origin of a run and each horizon, what forecasters misplace and what is left to `floor_fork`.

    A forecaster is asked once at an origin; its `window_tv` is a mean over the futures there, those of ``futures`` and
    the run's own. Horizons that are longer than a future are left out.
    """
    state_S = state_names(trace_labels(base))
    origins = sorted(futures)
    answers = {target: _answers(base, target, origins) for target in ("online", *AVERAGES)}
    for place, origin in enumerate(origins):
        row = int(np.searchsorted(base.step_S, origin))
        loads = [base.load_SLE[row:], *(future.load_SLE for future in futures[origin])]
        asked = [horizon for horizon in HORIZONS if horizon <= min(map(len, loads))]
        future_JKLE = np.stack([horizon_means(load_SLE, asked) for load_SLE in loads])
        error = {
            target: share_distance(future_JKLE, forecast[place][: len(asked)]).mean(axis=0)
            for target, forecast in answers.items()
        }
        error[FLOOR], _ = floor_fork(future_JKLE)
        where = {"run": base.id, "origin": origin, "state": state_S[row], "futures": len(loads)}
        for k, horizon in enumerate(asked):
            yield where | {"horizon": horizon} | {name: float(error_K[k]) for name, error_K in error.items()}


def _answers(base: Trace, target: str, origins: list[int]) -> list[FloatArray]:
    """Return a forecaster's mean shares over each horizon [K, L, E] at each origin."""
    with follow(parse_target(target), base, seed=0, level="none") as feed:
        return [feed.at(origin, HORIZONS).window_means(HORIZONS) for origin in origins]


def forked_runs(folder: Path) -> Iterator[tuple[Trace, dict[int, list[Trace]]]]:
    """Yield each run that was forked, with its futures by origin; raise `ResultError` where there is none."""
    folders = sorted(folder.rglob("*_forks/"))
    if not folders:
        raise ResultError(f"{folder}: no RECIPE/SPLIT_forks in it")
    for forks in folders:
        (base,) = forks.with_name(forks.name.removesuffix("_forks")).glob("*.parquet")
        futures: dict[int, list[Trace]] = defaultdict(list)
        for path in sorted(forks.glob("*.parquet")):
            future = read_trace(path)
            futures[int(future.step_S[0])].append(future)
        yield read_trace(base), futures


def mean_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Return means over runs by state and horizon, of the average that is best there, of `online` and of the floor."""
    means = errors.groupby(["state", "horizon", "run"]).mean(numeric_only=True).groupby(["state", "horizon"]).mean()
    means[BEST] = means[list(AVERAGES)].min(axis=1)
    return means[list(SHOWN)]


def forks_table() -> str:
    """Return the study's table: a row per state and forecaster, and the floor's part of the error of `online`."""
    errors = pd.read_csv(REPORTS / "forks.csv")
    means = mean_errors(errors)
    rows = []
    for state in LABELS:
        of_state = means.loc[state]
        rows += [(state, words, *map(three_digits, of_state[name])) for name, words in SHOWN.items()]
        left = 100 * of_state[FLOOR] / of_state["online"]
        rows.append((state, f"{SHOWN[FLOOR]} / {SHOWN['online']}", *(f"{part:.0f} %" for part in left)))
    return f"{aligned_table(('state', 'what', *horizon_heads(HORIZONS)), rows, 2)}\n\n{_counted(errors)}"


def _counted(errors: pd.DataFrame) -> str:
    """Say on how many runs and origins the means rest, and on how many of those at the longest horizon."""
    futures = errors["futures"]
    rests = []
    for part in (errors, errors[errors["horizon"] == HORIZONS[-1]]):
        states = part.groupby(["run", "origin"])["state"].first().value_counts()
        of_state = ", ".join(f"{count} {state}" for state, count in states.items())
        rests.append(f"{states.sum()} origins of {part['run'].nunique()} runs ({of_state})")
    far = f"at h = {HORIZONS[-1]:,} {rests[1]}"
    return f"Means over runs. {rests[0]}, {futures.min()} or {futures.max()} futures each; {far}."


def forks_lead() -> str:
    """Say what part of the error of `online` is the floor's, over the shortest and the longest horizon."""
    means = mean_errors(pd.read_csv(REPORTS / "forks.csv"))
    part = 100 * means[FLOOR] / means["online"]
    near, far = (
        " and ".join(f"{part[state, horizon]:.0f} % ({state})" for state in LABELS)
        for horizon in (HORIZONS[0], HORIZONS[-1])
    )
    return (
        f"Of the error of `online` over the next step, {near} remains even for one that knows the whole state of "
        f"training; over the next {HORIZONS[-1]:,} steps {far}. The rest comes from what forecasts make of the past."
    )


PARTS: Mapping[str, Maker] = {"forks": forks_table, "forks-lead": forks_lead}


def draw_forks(errors: pd.DataFrame) -> Figure:
    """Draw mean error against horizon, a panel per state."""
    means = mean_errors(errors)
    looks = style.forecaster_looks(list(SHOWN))
    with style.style():
        figure, axes = style.panels(len(LABELS), height=2.2, columns=2)
        for ax, state in zip(axes, LABELS, strict=True):
            for name in SHOWN:
                line = "--" if name == FLOOR else "-"
                ax.plot(HORIZONS, means.loc[state][name], linestyle=line, **looks[name])
            ax.set(title=state, xscale="log", yscale="log")
            ax.grid(axis="y")
        lines = [style.legend_line(name, looks[name]["color"], marker=looks[name]["marker"]) for name in SHOWN]
        style.legend_above(figure, "", lines)
        figure.supxlabel("horizon, steps")
        figure.supylabel("misplaced tokens, as a fraction")
    return figure


def forks(
    folder: Annotated[Path, typer.Argument(help="Forked runs, anywhere in it: RECIPE/SPLIT/ and RECIPE/SPLIT_forks/.")],
) -> None:
    """Measure how much of a future can be known, where runs were continued several times from one state.

    Writes forks.csv and forks.svg in docs/reports; `python -m leaderboard pages studies` makes the table from it.
    """
    rows = [row for base, futures in forked_runs(folder) for row in fork_errors(base, futures)]
    write_whole(REPORTS / "forks.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
    save_figure(draw_forks(pd.read_csv(REPORTS / "forks.csv")), REPORTS / "forks.svg")
