"""The data that the leaderboard's page holds: every number as the text that is shown.

The page only picks texts by the choice made: no number is computed in the browser.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leaderboard.ranking import rank_text
from leaderboard.season_tools.scored import FLOOR, fork_floors
from leaderboard.site.charts import chart_specs
from leaderboard.site.inputs import Board, Entry
from leaderboard.site.views import Skills, View, metrics_of, primary_views, scores_of, states_of, views_of
from leaderboard.site.words import NOT_GIVEN, interval_text, named, percent, skill_text, three_digits
from moeload_bench.errors import counted
from moeload_bench.files import file_name
from moeload_bench.results.comparison import best_window, with_runs_of
from moeload_bench.results.grid import ALL
from moeload_bench.results.html import MINUS, NONE, number
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import MIN_RECIPES
from moeload_bench.results.tables import marked_floor
from moeload_bench.scoring.catalogue import PRIMARY, describe_metric, lower_is_better, ratio_metric
from moeload_bench.submissions.record import MODEL_TYPES
from moeload_bench.suites.suite import CROSSING

FIELDS = ("value", "excess", "skill", "new_recipe", "new_seeds", "win_rate", "ranks", "regret", "front")
"""What a row of a view holds, in this order."""
Json = dict[str, Any]


def view_key(state: str, recipe: str, horizon: int | None) -> str:
    """Return a view's key, what the page's switches hold: `STATE RECIPE HORIZON`."""
    return f"{state} {recipe} {horizon or ALL}"


DEFAULT = view_key(ALL, ALL, None)


def board_payload(board: Board, places: Mapping[str, int]) -> Json:
    """Return what does not depend on the metric: the switches of a suite, its forecasters, their cost, its notes.

    ``places``: by forecaster which colour and mark are its own, in every chart.
    """
    return {
        "name": board.suite.name,
        "label": board.label,
        "types": types_of(board),
        "about": suite_about(board),
        "horizons": list(board.suite.horizons),
        "states": states_of(board),
        "recipes": board.recipes,
        "choices": choices(board),
        "metrics": [
            {
                "name": name,
                "named": named(name),
                "about": describe_metric(name),
                "file": data_file(board.suite.name, name),
            }
            for name in metrics_of(board)
        ],
        "forecasters": [{**forecaster_row(entry), "place": places[entry.name]} for entry in board.entries],
        "strata": strata(board),
        "cost": {
            recipe: [cost_row(result) for result in with_runs_of(board.results, board.runs_in(recipe))]
            for recipe in (ALL, *board.choices)
        },
        "hindsight": hindsight(board),
        "claims": claims(board),
        "unmeasured": unmeasured(board),
    }


def strata(board: Board) -> list[str]:
    """Return the choices of runs by the size of their batches; none where the suite has one size."""
    return [one.id for one in board.slices]


def choices(board: Board) -> list[tuple[str, str]]:
    """(value, text) of the switch that chooses runs: all, by size of batch, by recipe."""
    slices = [(one.id, one.title) for one in board.slices]
    return [(ALL, "all recipes"), *slices, *((recipe, recipe) for recipe in board.recipes)]


@functools.lru_cache(maxsize=256)  # each view says it
def runs_words(board: Board, choice: str) -> str:
    """Return which runs are meant, in words."""
    if choice in board.recipes:
        return f"recipe {choice}"
    recipes = counted(len({name.split("/")[0] for name in board.runs_in(choice)}), "recipe")
    title = next((one.title for one in board.slices if one.id == choice), "")
    return f"{recipes} with {title}" if title else recipes


def suite_about(board: Board) -> str:
    """Return what a suite is: its description, how much it holds, its hash."""
    suite = board.suite
    origins = sum(len(trace.origins()) for trace in suite.traces)
    runs = f"{counted(len(suite.traces), 'test run')} of {counted(len(board.recipes), 'recipe')}"
    size = f"{runs}, {counted(origins, 'origin')}, {len(suite.horizons)} horizons"
    description = f"{suite.description.rstrip('.')}. " if suite.description else ""
    return f"{description}{size}; SHA-256 {suite.sha256()[:16]}."


def forecaster_row(entry: Entry) -> Json:
    """Name, page, standing, level and number of failed tasks of an entry."""
    failed = len(entry.result.failures)
    return {
        "name": entry.name,
        "page": f"forecasters/{file_name(entry.name)}.html",
        "standing": entry.standing,
        "type": entry.model_type,
        "elsewhere": entry.fitted_on,
        "level": entry.result.isolation,
        "failed": counted(failed, "failed task") if failed else "",
    }


def types_of(board: Board) -> list[str]:
    """Return what the entries of a suite are, in the order in which the words are explained."""
    found = {entry.model_type for entry in board.entries}
    return [name for name in MODEL_TYPES if name in found]


def cost_row(result: Result) -> list[str]:
    """Milliseconds per forecast, per cent of the training time, and CPU milliseconds per forecast."""
    training = None if result.of_training is None else 100 * result.of_training
    return [three_digits(1e3 * result.per_forecast_s), three_digits(training), three_digits(result.cpu_ms)]


def unmeasured(board: Board) -> str:
    """Return which forecasters the chart of costs cannot show; empty for none."""
    names = [result.name for result in board.results if result.cpu_ms is None]
    return f"CPU time not measured: {', '.join(names)}." if names else ""


def hindsight(board: Board) -> str:
    """Return the best fixed window in hindsight, in words."""
    best = best_window(board.results, PRIMARY)
    if best is None:
        return f"Best fixed window in hindsight: {NOT_GIVEN}, no fixed window is among the results."
    name, windows = best
    if windows == 1:
        return f"Best fixed window in hindsight: {NOT_GIVEN}, {name} is the only fixed window among the results."
    return (
        f"Best fixed window in hindsight: {name}, of {windows} windows. It was chosen on these very scores: a "
        "yardstick, not a fair entry."
    )


def metric_payload(board: Board, metric: str) -> Json:
    """Return every view of a metric, its floors by state and recipe, its charts."""
    views = primary_views(board) if metric == PRIMARY else list(views_of(board, metric))
    names, ratio = [entry.name for entry in board.entries], ratio_metric(metric) or metric
    values = [value for view in views for value in view.value_F if not np.isnan(value)]
    return {
        "about": describe_metric(metric),
        "lower": lower_is_better(metric),
        "skill": ratio_metric(metric) is not None,
        "skill_note": skill_note(board, metric),
        "views": {
            view_key(view.state, view.recipe, view.horizon): view_payload(view, board, names, ratio) for view in views
        },
        "floors": floors_payload(board, metric),
        "charts": chart_specs(metric, min(values, default=math.inf), board.suite.horizons),
    }


def view_payload(view: View, board: Board, names: Sequence[str], ratio: str) -> Json:
    """Return the rows of a view in the order of the entries, its floor, and over what its numbers are means."""
    return {
        "rows": view_rows(view, names, ratio, view.recipe in board.recipes),
        "floor": three_digits(view.floor),
        "over": averaged_over(view, board),
        "size": f"{counted(view.runs, 'run')}, {counted(view.origins, 'origin')}",
    }


def view_rows(view: View, names: Sequence[str], ratio: str, single: bool) -> list[list[str]]:
    """Return a row for each entry, the texts of `FIELDS`, skill in the metric that it is a ``ratio`` of; nothing is
    concluded from a ``single`` recipe.
    """
    skill, new_recipe, new_seeds, ranks = skill_columns(view.skills, tuple(names), ratio, single)
    columns = (
        map(three_digits, view.value_F.tolist()),
        map(three_digits, view.excess_F.tolist()),
        skill,
        new_recipe,
        new_seeds,
        map(percent, view.win_rate_F.tolist()),
        ranks,
        map(three_digits, view.regret_F.tolist()),
        ("front" if front else "" for front in view.front_F.tolist()),
    )
    return list(map(list, zip(*columns, strict=True)))


@functools.lru_cache(maxsize=1 << 13)  # all looks at a board, by each of the metrics of plans that have one ratio
def skill_columns(skills: Skills, names: tuple[str, ...], ratio: str, single: bool) -> list[list[str]]:
    """Return the texts of skill, its two intervals and the ranks, a row of each for each forecaster."""
    told = [math.isfinite(skill) and not single for skill in skills.skill_F.tolist()]
    given = (rank_text(skills.ranks[name]) if skills.ranks else NOT_GIVEN for name in names)
    return [
        [skill_text(skill, ratio) for skill in skills.skill_F.tolist()],
        *(
            [interval_text(*ends) if known else NONE for ends, known in zip(ends_F2.tolist(), told, strict=True)]
            for ends_F2 in (skills.new_recipe_F2, skills.new_seeds_F2)
        ),
        [text if known else NONE for text, known in zip(given, told, strict=True)],
    ]


def averaged_over(view: View, board: Board) -> str:
    """Return over what the values of a view are means."""
    states = {ALL: "whatever the state", CROSSING: "whose window crosses a change of state"}.get(
        view.state, f"in the {view.state} state"
    )
    recipes = runs_words(board, view.recipe)
    if not view.origins:
        return f"no value: in {recipes} the suite has no origin {states}"
    horizons = (
        f"the {len(board.suite.horizons)} horizons ({board.suite.horizons[0]:,} to {board.suite.horizons[-1]:,} steps)"
        if view.horizon is None
        else f"horizon {view.horizon:,}"
    )
    if np.isnan(view.value_F).all():
        return f"no value: {recipes} has none {states}, at {horizons}"
    return (
        f"mean over {counted(view.runs, 'run')} of {recipes}, "
        f"of means over {counted(view.origins, 'origin')} {states}, over layers, at {horizons}"
    )


def floors_payload(board: Board, metric: str) -> dict[str, list[list[Any]]]:
    """`STATE RECIPE` to rows of (floor, its name with how far it can be trusted, [K] texts)."""
    found: dict[str, list[list[Any]]] = {}
    for recipe in (ALL, *board.choices):
        scores = scores_of(board, metric).on(board.runs_in(recipe))
        for (state, floor), value_K in scores.floors().items():
            rows = found.setdefault(f"{state} {recipe}", [])
            rows.append([floor, marked_floor(floor, scores.marks), list(map(three_digits, value_K))])
        if board.season is not None and metric == PRIMARY:
            for state, one in fork_floors(board.season, recipe).items():
                texts = list(map(number, one.texts(zeros=True)))
                rows = found.setdefault(f"{state} {recipe}", [])
                rows.append([FLOOR, f"{FLOOR} ({counted(one.origins, 'origin')})", texts])
    return found


def data_file(suite: str, metric: str) -> str:
    """Return where the data of a metric lie."""
    return f"data/{file_name(suite)}.{file_name(metric.replace('@', '.'))}.js"


def claims(board: Board) -> str:
    """Return what the two intervals claim, and when there are none."""
    text = (
        'Two 95 % t intervals, each for its own claim: "a new recipe" (would it hold for a run unlike these?) from the '
        'spread of recipe means, "these recipes, new seeds" (would another seed say the same?) from the spread of runs '
        "within recipes."
    )
    if board.known:
        text += (
            " A season has mostly one run of a recipe; the spread of the public runs within recipes is taken with it."
        )
    few = len(board.recipes) < MIN_RECIPES
    if few:
        have = counted(len(board.recipes), "recipe")
        return f"{text} With {have} there are none and no ranks ({NOT_GIVEN}): that takes {MIN_RECIPES}."
    return (
        f"{text} Ranks: those that a forecaster can have on a new recipe. All pairs are tested, Holm over them: in 95 "
        "of 100 such tables every set holds the true rank. Over all recipes only."
    )


def skill_note(board: Board, metric: str) -> str:
    """Return what skill is a ratio of and to whom; where there is none, why."""
    name, ratio = board.reference.name if board.reference else board.suite.reference, ratio_metric(metric)
    if ratio is None:
        return f"No skill: {metric} is no positive error of which a ratio could be taken."
    of = "the error" if ratio == metric else ratio
    note = (
        f"Skill: 1 - geometric mean over tasks of the ratio of {of} to that of {name}, ratios kept within 1/20 "
        "and 20; 0 is as good as the reference, more is better."
    )
    if "@" in metric:
        note += f" In parentheses: the imbalance of its plans against that of {name}'s, in percent; less is better."
    return note if ratio == metric else f"{note} Its intervals and ranks are of {ratio} as well."


def default_rows(board: Board, metric: Mapping[str, Any]) -> list[Json]:
    """Return the rows of the default view for a browser without scripts, by skill."""
    rows = metric["views"][DEFAULT]["rows"]
    cost = [cost_row(result) for result in board.results]
    joined = [
        {**forecaster_row(entry), **dict(zip(FIELDS, row, strict=True)), "ms": ms, "training": training}
        for entry, row, (ms, training, _) in zip(board.entries, rows, cost, strict=True)
    ]
    return sorted(joined, key=lambda row: -_sortable(row["skill"]))


def _sortable(text: str) -> float:
    return float("-inf") if text in (NONE, NOT_GIVEN) else float(text.replace(MINUS, "-"))
