"""docs/reports/season-NAME.md of a season whose recipes were drawn after closing: what was hoped, what came out.

Sets are never pooled. What was measured on a season's runs by a study that has ended stands in `season-NAME.md` beside
this module, as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.pages.drawn_claims import LACKING, Drawn, against_table, cell_words, cells_table, hopes, on_recipes
from leaderboard.pages.openings import Dot
from leaderboard.ranking import PossibleRanks, rank_cell, rank_sets
from leaderboard.season_tools.drawn import drawn_recipes
from leaderboard.season_tools.levels import level_words, new_kinds, recipe_levels
from leaderboard.season_tools.public_value import order_sentence
from leaderboard.season_tools.records import DrawnSet, RunHashes
from leaderboard.season_tools.scored import ScoredSeason
from leaderboard.season_tools.scoring import LEAST_ORIGINS
from leaderboard.season_tools.sets import by_set, recipes_by_stratum
from leaderboard.seeds import run_ratios
from leaderboard.templates import render_text
from moeload_bench.results.captions import failure_lines
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING, Standings, metrics_in
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Interval, run_means, skill_of
from moeload_bench.results.tables import signed_percent, signed_skill, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import STATES

Gains = Mapping[str, Mapping[str, float]]
"""By entry and recipe, the gain over the tuned average."""


def report(season: ScoredSeason, public: Sequence[Result]) -> str:
    """Return the whole page of a season; ``public``: results of its public suite, for demonstrations."""
    found, parts = Drawn(season), by_set(season)
    draws, reference = found.draws, reference_of(season.results)
    assert reference is not None
    gains: dict[str, Gains] = {state: gains_of(found, state) for state in LABELS}
    measured = Path(__file__).with_name(f"season-{season.name}.md")
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        season=season,
        draws=draws,
        order=order_sentence(season.folder),
        commitment=season.folder.commitment(),
        runs=len(season.suite.traces) - len(_imported(found)),
        drawn=sum(one.recipes for one in draws.sets),
        reference=reference.name,
        answer=found.answer,
        sets_say=found.sets_say,
        hopes=list(hopes(found)),
        against=[against_table(found, one, state) for one in draws.sets for state in LABELS],
        cells=cells_table(found, draws.sets),
        cell_words=cell_words(draws),
        ranks=[
            part for one in draws.sets for state in LABELS for part in rank_parts(found, one, state, reference.name)
        ],
        recipes=[recipe_table(found, one, gains) for one in draws.sets],
        lost=list(lost_lines(season.folder.runs(), {trace.id for trace in season.suite.traces})),
        coverage=[table for one in draws.sets for table in coverage_tables(season, one)],
        right=season.suite.quantiles[-1] - season.suite.quantiles[0] if season.suite.quantiles else 0,
        measured=measured.read_text(encoding="utf-8").rstrip() if measured.is_file() else "",
        logs=log_table(found, gains),
        demonstrations=[
            (name, part)
            for name, of_set in parts.items()
            for part in demonstration_parts(of_set, public, reference.name, LABELS)
        ],
        failures=list(failure_lines([*season.results, *season.unranked])),
    )


def rank_parts(found: Drawn, drawn: DrawnSet, state: str, reference: str) -> list[str]:
    """Return the entries in the order of skill on a set in a state with their ranks, and how many pairs are apart."""
    here = on_recipes(found.errors.select(state=state), drawn.stratum_of)
    if not here.state_T:
        return [f"Set {drawn.name}, {state}: {LACKING}, no run has origins in this state."]
    sets = rank_sets(here.by_forecaster, here.tasks)
    known = {name: skill(here, name, reference) for name in here.by_forecaster}
    rows = [
        (f"`{name}`", skill_span(*known[name]), rank_cell(sets, name))
        for name in sorted(known, key=lambda name: -known[name][0])
    ]
    return [
        markdown_table((f"set {drawn.name}, {state}", "skill", "ranks"), rows),
        f"Set {drawn.name}, {state}: {pairs_words(len(known), sets)}",
    ]


def pairs_words(count: int, sets: PossibleRanks | None) -> str:
    """Say how many of all pairs of so many entries can be told apart on a new recipe, from their ranks."""
    apart = f"{sum(low - 1 for low, _ in sets.values())}" if sets else "none"
    lacking = "" if sets else ", for want of runs,"
    return f"of {count * (count - 1) // 2} pairs {apart} on a new recipe{lacking} can be told apart."


def gains_of(found: Drawn, state: str) -> Gains:
    """Return the gain of every entry over the tuned average on each run's recipe, where it has one."""
    here, average = found.errors.select(state=state), found.draws.tuned_average
    return {
        name: {recipe: skill_of(float(runs.mean())) for recipe, runs in run_ratios(here, name, average).items()}
        for name in here.by_forecaster
    }


def recipe_cells(found: Drawn, gains: Gains, recipe: str) -> tuple[str, str]:
    """Return the candidate's gain on a recipe, and the best other entry's with its name."""
    others = {name: known[recipe] for name, known in gains.items() if recipe in known}
    own = others.pop(found.draws.candidate, None)
    best = max(others, key=others.__getitem__, default=None)
    best_words = NOTHING if best is None else f"`{best}` {signed_percent(others[best])}"
    return NOTHING if own is None else signed_percent(own), best_words


GAIN_HEADS = tuple(f"{state}, {what}" for state in LABELS for what in ("candidate, %", "best other, %"))


def recipe_table(found: Drawn, drawn: DrawnSet, gains: Mapping[str, Gains]) -> str:
    """Return every recipe of a set: what it is, what is new in it, and the gains on it."""
    folder, draw = found.season.folder, found.season.folder.draw()
    assert draw is not None
    tokens = _tokens(found.season)
    rows = []
    made = {one.name: one for one in drawn_recipes(folder, draw.value)[drawn.name]}
    for recipe in (made[name] for names in recipes_by_stratum(drawn).values() for name in names):
        new = level_words(new_kinds(recipe_levels(recipe), found.draws.train_levels))
        cells = (cell for state in LABELS for cell in recipe_cells(found, gains[state], recipe.name))
        rows.append((f"`{recipe.name}`", drawn.stratum_of[recipe.name], tokens.get(recipe.name, NOTHING), new, *cells))
    return markdown_table((f"set {drawn.name}", "batches", "tokens per expert", "new levels", *GAIN_HEADS), rows)


def log_table(found: Drawn, gains: Mapping[str, Gains]) -> str:
    """Return every imported log with the gains on it; "" without any."""
    tokens = _tokens(found.season)
    rows = [
        (f"`{name}`", tokens[name], *(cell for state in LABELS for cell in recipe_cells(found, gains[state], name)))
        for name in _imported(found)
    ]
    return markdown_table(("log", "tokens per expert", *GAIN_HEADS), rows) if rows else ""


def _tokens(season: ScoredSeason) -> dict[str, str]:
    return {trace.id.split("/")[0]: f"{trace.expert_tokens or 0:,.0f}" for trace in season.suite.traces}


def _imported(found: Drawn) -> list[str]:
    """Return the names of the imported logs that are scored."""
    scored = {trace.id for trace in found.season.suite.traces}
    return [log.trace.split("/")[0] for log in found.draws.imported if log.trace in scored]


def lost_lines(runs: Sequence[RunHashes], scored: set[str]) -> Iterator[str]:
    """Yield a line for each run that diverged, could not be recorded, or has too few origins."""
    few = f"unscored, fewer than {LEAST_ORIGINS} origins in each state"
    for run in runs:
        kept = "scored up to there" if run.trace in scored else few
        if run.failure is not None:
            yield f"`{run.recipe}`: not recorded: {run.failure}"
        elif run.diverged is not None:
            yield f"`{run.recipe}`: {run.diverged}; {kept}"
        elif run.trace not in scored:
            yield f"`{run.recipe}`: {few}"


def coverage_tables(season: ScoredSeason, drawn: DrawnSet) -> Iterator[str]:
    """Yield by state how much of the loads lies between the outer quantiles of each entry that gives some."""
    results = [result for result in season.results if "coverage" in metrics_in([result])]
    if not results:
        return
    cover, strata = errors_of(results, "coverage"), recipes_by_stratum(drawn)
    for state in LABELS:
        here = cover.select(state=state)
        cells = [on_recipes(here, recipes) for recipes in strata.values()]
        rows = [
            (f"`{name}`", *(three_digits(run_mean(one, name)) if one.state_T else LACKING for one in cells))
            for name in here.by_forecaster
        ]
        yield markdown_table((f"set {drawn.name}, {state}", *(f"{stratum} batches" for stratum in strata)), rows)


def run_mean(errors: Errors, name: str) -> float:
    """Return the mean over runs of the run's mean over its tasks, of those with a value; NaN where none has one."""
    mean_R = np.concatenate([*run_means(errors.by_forecaster[name], errors.tasks).values(), []])
    return float(mean_R.mean()) if mean_R.size else float("nan")


def cell_dots(season: ScoredSeason) -> dict[str, list[Dot]]:
    """Return by set a dot for each cell not lacking: the gain over the tuned average, and its 95 % interval."""
    found = Drawn(season)
    dots = {
        f"set {one.name}": [
            Dot(test.what, found.draws.candidate, at.gain,
                Interval("a new recipe", at.gain, *at.interval, 0.95, at.recipes, at.recipes))
            for test in found.cells(one) if (at := test.estimate) is not None
        ]
        for one in found.draws.sets
    }  # fmt: skip
    return {title: cells for title, cells in dots.items() if cells}


def demonstration_parts(
    season: ScoredSeason, public: Sequence[Result], reference: str, states: Sequence[str]
) -> list[str]:
    """Return skill of the unranked here and on public runs; [] without any."""
    if not season.unranked:
        return []
    lines = []
    for result in season.unranked:
        here, shown = _skills(result, season.results, reference), season.shown.get(result.name)
        there = {} if shown is None else _skills(shown, public, reference)
        cells = [side.get(state, NOTHING) for state in states for side in (there, here)]
        lines.append((f"`{result.name}`", *cells))
    name = public[0].suite.name if public else "public"
    heads = [head for state in states for head in (f"{state}, {name}", f"{state}, season")]
    return [markdown_table(("skill", *heads), lines)]


def _skills(result: Result, beside: Sequence[Result], reference: str) -> dict[str, str]:
    """Return it by state, on the runs of the results beside it; raise `ResultError` for another suite."""
    scores = Standings([result], PRIMARY, next(one for one in beside if one.name == reference))
    return {state: signed_skill(scores.rows(state)[0].skill) for state in STATES}
