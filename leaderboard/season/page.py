"""docs/reports/season-NAME.md: what a season's candidate gains, as tables of its table. Sets are never pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leaderboard.boards import UNLISTED, decision_board, quantile_board
from leaderboard.breadth import breadth_words, season_metas
from leaderboard.committed import REPORTS
from leaderboard.leading import ask_words, lead_table, summary
from leaderboard.season.claims import (
    LEVEL,
    Outcome,
    Test,
    against_others,
    cell_gains,
    claim_lines,
    deciding_recipes,
    ordered_outcomes,
    recipe_means,
    without_families,
)
from leaderboard.season.contrast import contrast_lines
from leaderboard.season.levels import level_words, new_kinds, recipe_levels
from leaderboard.season.records import RecipeSet
from leaderboard.season.scored import ScoredSeason, facts_sentence, scored_seasons, season_facts
from leaderboard.season.scoring import LEAST_ORIGINS
from leaderboard.templates import render_text
from moeload_bench.results.columns import metric_columns, states_of
from moeload_bench.results.formats import signed_percent, three_digits
from moeload_bench.results.leaders import duplicates, ranked
from moeload_bench.results.render import Table, captioned, markdown_table
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.words import listed

if TYPE_CHECKING:
    import pandas as pd

    from leaderboard.pages.openings import Dot

LACKING, DASH = "lacking", "-"
GAIN_HEADS = ("gain, %", "simultaneous 95 % interval")
COVERAGE = "coverage"


def season_files() -> dict[Path, str]:
    """Return the page of every scored season."""
    return {REPORTS / f"season-{season.name}.md": season_page(season) for season in scored_seasons()}


def draw_seasons() -> None:
    """Draw the figure of every scored season: the gains of its candidate by set."""
    from leaderboard.pages.openings import draw_dots

    for scored in scored_seasons():
        dots = {f"set {group.name}": cell_dots(scored, group) for group in scored.season.described}
        draw_dots({title: dots for title, dots in dots.items() if dots}, REPORTS / f"season-{scored.name}.svg")


def season_page(scored: ScoredSeason) -> str:
    """Return the page of a season."""
    season, results = scored.season, scored.results
    errors, described = results.errors(PRIMARY), [*product(season.described, LABELS)]
    ratios = {state: recipe_means(errors, season.reference, state, season.offset) for state in LABELS}
    gains: dict[str, pd.DataFrame] = {state: 1 - (-ratio).apply(np.exp) for state, ratio in ratios.items()}
    cells = [(group, state) for group, state in described if state in states_of(scored.on(scored.strata(group)).table)]
    *sets_say, answer = claim_lines(scored)
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        season=season,
        draw=scored.folder.draw,
        facts=facts_sentence(season_facts(scored.folder)),
        answer=answer,
        sets_say=sets_say,
        recipes=scored.recipes,
        runs=len(results.traces),
        against=[against_table(scored, group, state) for group, state in cells],
        cells=cells_table(scored),
        ranks=[rank_table(scored, group, state) for group, state in described],
        every=[recipe_table(scored, group, gains) for group in season.sets],
        lost=list(lost_lines(scored)),
        coverage=[coverage_table(scored, *cell) for cell in cells] if COVERAGE in metric_columns(results.table) else [],
        leading=[leading(scored, group) for group in season.described],
        ask=ask_words(scored.on(scored.strata(season.tested[0])), scored.folder.shown_results),
        left_out=left_out_table(scored),
        paired=list(contrast_lines(scored.folder)),
        decisions=[*boards_of(scored, cells, decision_board)],
        quantiles=[*boards_of(scored, cells, quantile_board)],
        failures=[" ".join(map(str, row)) for row in scored.table.failures.itertuples(index=False)],
    )


def leading(scored: ScoredSeason, group: RecipeSet) -> tuple[str, str, str, str]:
    """Return of a set its name, who leads on it, the numbers behind that, and how far its runs reach."""
    results, recipes = scored.on(scored.strata(group)), scored.recipes[group.name]
    reach = breadth_words(season_metas(scored, recipes), scored.season.train_levels.get("text", ()))
    return group.name, summary(results), _captioned(lead_table(results)), reach


def boards_of(
    scored: ScoredSeason, cells: Sequence[tuple[RecipeSet, str]], board: Callable[[Results, str], Table | None]
) -> Iterator[tuple[str, str, str]]:
    """Yield the caption, the title and the table of a board on each set in each state that has one."""
    for group, state in cells:
        table = board(scored.on(scored.strata(group)), state)
        if table is not None:
            yield table.caption, f"Set {group.name}, {state}", _captioned(replace(table, caption=""))


def _captioned(table: Table | None) -> str:
    return "" if table is None else captioned(table).strip()


def left_out_table(scored: ScoredSeason) -> str:
    """Return every test of the terms' order with each family of models left out: its gain and p by itself."""
    whole, left = ordered_outcomes(scored), dict(without_families(scored))
    tests = [outcome.test for outcome in whole]
    heads = ("left out", *(f"{test.candidate}, {test.reference}, {test.state}" for test in tests))
    rows = [(name, *map(outcome_cell, outcomes)) for name, outcomes in {"none": whole, **left}.items()]
    decide = [listed([f"`{name}`" for name in names]) if names else DASH
              for names in (deciding_recipes(scored, test) for test in tests)]  # fmt: skip
    return markdown_table(heads, [*rows, ("any of these recipes: fails", *decide)])


def outcome_cell(outcome: Outcome) -> str:
    """Return the gain in percent with the p of the test, bold where it fails by itself."""
    if outcome.estimate is None:
        return LACKING
    text = f"{signed_percent(outcome.estimate.gain)} (p {outcome.p:.2g})"
    return f"**{text}**" if outcome.p >= LEVEL else text


def gain_cells(test: Test) -> tuple[str, str]:
    """Return a gain in percent with its interval."""
    if test.estimate is None:
        return LACKING, LACKING
    interval = DASH if test.interval is None else f"[{', '.join(map(signed_percent, test.interval))}]"
    return signed_percent(test.estimate.gain), interval


def against_table(scored: ScoredSeason, group: RecipeSet, state: str) -> str:
    """Return the candidate against every other entry on a set in a state, the nearest rival first.

    Without an interval, of fewer than five units, the ranks say as much: then it is empty.
    """
    tests = [test for test in against_others(scored, group, state) if test.what not in UNLISTED]
    if not any(test.interval for test in tests):
        return ""
    tests.sort(key=lambda test: test.estimate.gain if test.estimate else -math.inf)
    rows = [(f"`{test.what}`", *gain_cells(test)) for test in tests]
    return markdown_table((f"set {group.name}, {state}", *GAIN_HEADS), rows)


def cells_table(scored: ScoredSeason) -> str:
    """Return the gain over the reference in each cell of size of batch and state."""
    rows = []
    for group in scored.season.described:
        for test in cell_gains(scored, group):
            effect = test.estimate
            cells = (LACKING, DASH, DASH) if effect is None else (str(effect.units), *gain_cells(test))
            rows.append((group.name, test.what, *cells))
    return markdown_table(("set", "cell", scored.season.units, *GAIN_HEADS), rows)


def rank_table(scored: ScoredSeason, group: RecipeSet, state: str) -> str:
    """Return the entries in the order of skill on a set in a state, with the ranks that they can have."""
    results = scored.on(scored.strata(group))
    if state not in states_of(results.table):
        return f"Set {group.name}, {state}: {LACKING}, no run has origins in this state."
    summary = results.summarize(["state"])
    same = duplicates(results)
    ranks = ranked(results).ranks(["state"]).query("state == @state").set_index("forecaster")
    rows = []
    for row in summary[(summary["state"] == state) & ~summary["forecaster"].isin(UNLISTED)].to_dict("records"):
        name = row["forecaster"]
        rank = f"{ranks.rank_low[name]} to {ranks.rank_high[name]}" if name in ranks.index else DASH
        rank = f"is `{same[name]}`" if name in same else rank
        rows.append((f"`{name}`", f"{row['skill']:+.3f}", rank))
    return markdown_table((f"set {group.name}, {state}", "skill", "ranks"), rows)


def recipe_table(scored: ScoredSeason, group: RecipeSet, gains: Mapping[str, pd.DataFrame]) -> str:
    """Return every recipe of a set: its size, what is new in it, and the gains on it."""
    tokens = {trace.id.split("/")[0]: f"{trace.expert_tokens or 0:,.0f}" for trace in scored.suite.traces}
    rows = []
    for part in (part for part in scored.parts if part.of == group):
        for name in part.recipes:
            new = level_words(new_kinds(recipe_levels(scored.recipes[group.name][name]), scored.season.train_levels))
            cells = (cell for state in LABELS for cell in recipe_cells(gains[state], name, scored.season.candidate))
            rows.append((f"`{name}`", part.stratum, tokens.get(name, DASH), new, *cells))
    heads = [f"{state}, {what}" for state in LABELS for what in ("candidate, %", "best other, %")]
    return markdown_table((f"set {group.name}", "batches", "tokens per expert", "new levels", *heads), rows)


def recipe_cells(gains: pd.DataFrame, recipe: str, candidate: str) -> tuple[str, str]:
    """Return the candidate's gain on a recipe, and the best other entry's with its name."""
    gain_by_entry = gains.loc[recipe].dropna().to_dict() if recipe in gains.index else {}
    own = gain_by_entry.pop(candidate, None)
    best = max(gain_by_entry, key=gain_by_entry.__getitem__, default=None)
    best_words = DASH if best is None else f"`{best}` {signed_percent(gain_by_entry[best])}"
    return DASH if own is None else signed_percent(own), best_words


def lost_lines(scored: ScoredSeason) -> Iterator[str]:
    """Yield a line for each run that diverged, could not be recorded, or has too few origins."""
    scored_recipes = {trace.id.split("/")[0] for trace in scored.suite.traces}
    for name, recording in scored.folder.recordings.items():
        few = f"unscored, fewer than {LEAST_ORIGINS} origins in each state"
        how = "scored up to there" if name in scored_recipes else few
        if recording.ended is not None or name not in scored_recipes:
            yield f"`{name}`: {'; '.join([*([recording.ended] if recording.ended else []), how])}"


def coverage_table(scored: ScoredSeason, group: RecipeSet, state: str) -> str:
    """Return by size of batch how much of the loads lies between the outer quantiles of entries that give some."""
    columns = {}
    for part in (part for part in scored.parts if part.of == group):
        results = scored.on(part.recipes)
        rows = results.table[(results.table["state"] == state) & results.table[COVERAGE].notna()]
        columns[f"{part.stratum} batches"] = (
            rows.groupby(["forecaster", "trace"])[COVERAGE].mean().groupby(level=0).mean()
        )
    names = [name for name in scored.results.names if any(name in column for column in columns.values())]
    cells = [(f"`{name}`", *(three_digits(column.get(name)) for column in columns.values())) for name in names]
    return markdown_table((f"set {group.name}, {state}", *columns), cells)


def cell_dots(scored: ScoredSeason, group: RecipeSet) -> list[Dot]:
    """Return a dot for each cell that is not lacking: the gain over the reference, and its 95 % interval, if any."""
    from leaderboard.pages.openings import Dot, Span

    return [
        Dot(test.what, scored.season.candidate, test.estimate.gain, Span(*test.interval) if test.interval else None)
        for test in cell_gains(scored, group)
        if test.estimate is not None
    ]
