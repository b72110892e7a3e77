"""The paired test of a season: what one balancing leaves to forecast, against another within each family of models.

Rows are made when a season is scored, from the copy of the entry that the terms name. Origins are fixed: states are
outcomes of the balancing, so that origins chosen by state would not be those of the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from leaderboard.balancing.forecasts import FLOOR
from leaderboard.season.claims import LEVEL, Estimate, estimate
from leaderboard.season.drawing import season_recipes
from leaderboard.season.entries import copies_on_path, read_entry
from leaderboard.season.folder import PAIRED, SeasonFolder
from leaderboard.season.records import PairedTest, Season
from leaderboard.verifying.agreement import mean_bound
from moeload_bench.errors import printable
from moeload_bench.generator.draws import shared_name
from moeload_bench.generator.recipe import Recipe
from moeload_bench.harness.pairs import Fitted, Pair, Setting, run_pair
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import trace_floors
from moeload_bench.suites.suite import SuiteTrace
from moeload_bench.traces.store import data_sha256, read_trace

ROUNDED = 1e-5
"""How far a number is apart from itself with the six digits of the file."""


def write_contrast(folder: SeasonFolder, setting: Setting) -> None:
    """Write the rows of the paired test; nothing where the terms have none."""
    paired = folder.season.paired
    if paired is None:
        return
    (tested,) = folder.season.tested
    drawn = season_recipes(folder, folder.draw.value)[tested.name].values()
    recipes = [recipe for recipe in drawn if recipe.balancing.method in (paired.balancing, paired.against)]
    rows = [row for recipe in recipes for row in contrast_rows(folder, recipe, paired, setting)]
    columns = ["recipe", "family", "pair", "balancing", "window", "error", "floor"]
    pd.DataFrame(rows, columns=columns).to_csv(folder.path / PAIRED, index=False, float_format="%.6g")


def contrast_rows(
    folder: SeasonFolder, recipe: Recipe, paired: PairedTest, setting: Setting
) -> Iterator[dict[str, Any]]:
    """Yield of a run, by window, the mean error of the entry and the floor; none where it ends too early.

    ``setting``: how the season's entries run; its suite gives the horizons.
    """
    path = folder.trace(recipe.name)
    trace = read_trace(path) if path.is_file() else None
    windows = {name: paired.origins(name) for name in paired.windows}
    kept = {name: origins for name, origins in windows.items() if trace and origins[-1] + paired.horizon <= trace.steps}
    if trace is None or not kept:
        return
    scored_run = SuiteTrace(
        id=folder.trace_id(recipe.name),
        data_sha256=data_sha256(trace),
        mixed=tuple(sorted({origin for origins in kept.values() for origin in origins})),
        horizon=paired.horizon,
    )
    entry = read_entry(folder.entries / paired.forecaster)
    suite = setting.suite.model_copy(update={"traces": (scored_run,)})
    with copies_on_path(folder.entries):
        rows = run_pair(
            Pair(replace(setting, suite=suite, shapes=()), scored_run, path, entry.target(), Fitted(entry.fitted))
        )
    errors = {row["origin"]: row[PRIMARY] for row in rows if row.get("horizon") == paired.horizon and "origin" in row}
    given = {name: [np.asarray(origins, dtype=np.int64)] for name, origins in kept.items()}
    floors = trace_floors(trace, None, (paired.horizon,), states=(), given=given).by_state(1)
    for name, origins in kept.items():
        yield {
            "recipe": recipe.name,
            "family": recipe.model.family,
            "pair": shared_name(recipe),
            "balancing": recipe.balancing.method,
            "window": name,
            "error": float(np.mean([errors[origin] for origin in origins])),
            "floor": float(floors[name][FLOOR][PRIMARY][0]),
        }


def contrast_problems(folder: SeasonFolder, recipes: Iterable[Recipe], setting: Setting) -> Iterator[str]:
    """Say which row of the paired test a re-run contradicts, of the runs of some recipes; raise what a run raises."""
    paired = folder.season.paired
    if paired is None:
        return
    try:
        stated = pd.read_csv(folder.path / PAIRED).set_index(["recipe", "window"])[["error", "floor"]].astype(float)
    except (OSError, ValueError, KeyError) as error:
        yield f"{PAIRED}: cannot be read: {printable(str(error))[:200]}"
        return
    relative, absolute = mean_bound(PRIMARY)
    for recipe in (drawn for drawn in recipes if drawn.balancing.method in (paired.balancing, paired.against)):
        again = {row["window"]: (row["error"], row["floor"]) for row in contrast_rows(folder, recipe, paired, setting)}
        windows = [window for name, window in stated.index if name == recipe.name]
        if sorted(windows) != sorted(again):
            yield f"{PAIRED}: {recipe.name} has the windows {windows}, expected {[*again]}"
            continue
        for window, numbers in again.items():
            got = stated.loc[recipe.name, window].to_numpy().ravel()
            if not np.allclose(got, numbers, rtol=max(relative, ROUNDED), atol=absolute):
                yield f"{PAIRED}: {recipe.name}, {window}: got {got.tolist()}, a re-run gives {list(numbers)}"


def contrasts(season: Season, rows: pd.DataFrame) -> Mapping[str, Estimate]:
    """Return by window the mean over families of the logarithm of what one balancing leaves over what the other does.

    A run leaves its error over its floor; a family has the mean of its pairs. One without a pair in the window counts
    with 0, no difference.
    """
    paired = season.paired
    assert paired is not None, "asked for of seasons with a paired test alone"
    values = rows.assign(value=np.log(rows["error"] / rows["floor"]))
    by_window = {}
    for name in paired.windows:
        errors = values[values["window"] == name].pivot(index=["family", "pair"], columns="balancing", values="value")
        both = errors.reindex(columns=[paired.balancing, paired.against])
        difference = (both[paired.balancing] - both[paired.against]).dropna().groupby(level="family").mean()
        mean = estimate(difference.reindex(list(season.families), fill_value=0.0))
        if mean is not None:
            by_window[name] = mean
    return by_window


def contrast_lines(folder: SeasonFolder) -> Iterator[str]:
    """Yield the paired test in words, a line for each window; intervals hold for all windows at once (Bonferroni)."""
    paired = folder.season.paired
    if paired is None or not (folder.path / PAIRED).is_file():
        return
    for window, effect in contrasts(folder.season, pd.read_csv(folder.path / PAIRED)).items():
        low, high = (100 * end for end in effect.interval_at(1 - LEVEL / len(paired.windows)))
        apart = "differ" if low > 0 or high < 0 else "cannot be told apart"
        where = f"{window} ({window_words(paired, window)})"
        yield (
            f"`{paired.balancing}` against `{paired.against}`, {where}: they {apart}; "
            f"the error of `{paired.forecaster}` over the floor is {100 * effect.gain:.1f} % less under the first "
            f"({low:.1f} to {high:.1f} %, {effect.units} families)"
        )


def window_words(paired: PairedTest, window: str) -> str:
    """Return the steps of a window and how far ahead is forecast, in words."""
    first, last = paired.windows[window]
    return f"origins {first:,} to {last:,}, {paired.horizon:,} steps ahead"
