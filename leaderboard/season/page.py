"""docs/reports/season-NAME.md: what a season's candidate gains, as tables of its table. Sets are never pooled.

What was measured on a season's runs by a study that has ended stands in `season-NAME.md` beside this module, as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.season.claims import Estimate, against_others, cell_gains, claim_lines, recipe_means
from leaderboard.season.levels import level_words, new_kinds, recipe_levels
from leaderboard.season.records import RecipeSet
from leaderboard.season.scored import ScoredSeason, facts_sentence, scored_seasons, season_facts
from leaderboard.season.scoring import LEAST_ORIGINS
from leaderboard.templates import render_text
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import signed_percent, skill_span, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

if TYPE_CHECKING:
    import pandas as pd

    from leaderboard.pages.openings import Dot

REPORTS = ROOT / "docs" / "reports"
LACKING, DASH = "lacking", "-"
GAIN_HEADS = ("gain, %", "at least, %", "95 % interval")
COVERAGE = "coverage"


def season_files() -> dict[Path, str]:
    """Return the page of every scored season."""
    return {REPORTS / f"season-{one.name}.md": season_page(one) for one in scored_seasons()}


def draw_seasons() -> None:
    """Draw the figure of every scored season: the gains of its candidate by set."""
    from leaderboard.pages.openings import draw_dots

    for scored in scored_seasons():
        dots = {f"set {one.name}": cell_dots(scored, one) for one in scored.season.sets}
        draw_dots({title: found for title, found in dots.items() if found}, REPORTS / f"season-{scored.name}.svg")


def season_page(scored: ScoredSeason) -> str:
    """Return the page of a season."""
    season, results = scored.season, scored.results
    measured = Path(__file__).with_name(f"season-{scored.name}.md")
    ratios = {state: recipe_means(results.errors(PRIMARY), season.reference, state) for state in LABELS}
    gains: dict[str, pd.DataFrame] = {state: 1 - (-ratio).apply(np.exp) for state, ratio in ratios.items()}
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
        against=[against_table(scored, one, state) for one, state in product(season.sets, LABELS)],
        cells=cells_table(scored),
        ranks=[rank_table(scored, one, state) for one, state in product(season.sets, LABELS)],
        every=[recipe_table(scored, one, gains) for one in season.sets],
        lost=list(lost_lines(scored)),
        coverage=[coverage_table(scored, one, state) for one, state in product(season.sets, LABELS)]
        if COVERAGE in results.metrics
        else [],
        measured=measured.read_text(encoding="utf-8").rstrip() if measured.is_file() else "",
        failures=[" ".join(map(str, row)) for row in scored.table.failures.itertuples(index=False)],
    )


def gain_cells(one: Estimate) -> tuple[str, str, str]:
    """Return a gain, its one-sided lower end and its interval, in percent."""
    return signed_percent(one.gain), signed_percent(one.low), f"[{', '.join(map(signed_percent, one.interval))}]"


def against_table(scored: ScoredSeason, one: RecipeSet, state: str) -> str:
    """Return the candidate against every other entry on a set in a state, the nearest rival first."""
    rows: list[tuple[str, ...]] = []
    tests = against_others(scored, one, state)
    for test in sorted(tests, key=lambda test: test.estimate.gain if test.estimate else -math.inf):
        found = test.estimate
        if found is None:
            rows.append((f"`{test.what}`", *[LACKING] * 3, *[DASH] * 3))
            continue
        needed = DASH if test.significant or found.recipes_needed is None else f"{found.recipes_needed:,}"
        answer = "yes" if test.significant else "**no**"
        rows.append((f"`{test.what}`", *gain_cells(found), f"{test.p_holm:.2g}", answer, needed))
    return markdown_table((f"set {one.name}, {state}", *GAIN_HEADS, "Holm p", "significant", "recipes needed"), rows)


def cells_table(scored: ScoredSeason) -> str:
    """Return the gain over the reference in each cell of size of batch and state."""
    rows: list[tuple[str, ...]] = []
    for one in scored.season.sets:
        for test in cell_gains(scored, one):
            found = test.estimate
            cells = [LACKING, *[DASH] * 5] if found is None else [
                str(found.recipes), *gain_cells(found), f"{found.p:.2g}", f"{test.p_holm:.2g}"
            ]  # fmt: skip
            rows.append((one.name, test.what, *cells))
    return markdown_table(("set", "cell", "recipes", *GAIN_HEADS, "p", "Holm p"), rows)


def rank_table(scored: ScoredSeason, one: RecipeSet, state: str) -> str:
    """Return the entries in the order of skill on a set in a state, with the ranks that they can have."""
    found = scored.on(scored.strata(one))
    if state not in found.states:
        return f"Set {one.name}, {state}: {LACKING}, no run has origins in this state."
    summary = found.summarize(["state"])
    ranks = found.ranks(["state"]).query("state == @state").set_index("forecaster")
    rows = []
    for row in summary[summary["state"] == state].to_dict("records"):
        name = row["forecaster"]
        rank = f"{ranks.rank_low[name]} to {ranks.rank_high[name]}" if name in ranks.index else DASH
        rows.append((f"`{name}`", skill_span(row["skill"], row["low"], row["high"]), rank))
    return markdown_table((f"set {one.name}, {state}", "skill", "ranks"), rows)


def recipe_table(scored: ScoredSeason, one: RecipeSet, gains: Mapping[str, pd.DataFrame]) -> str:
    """Return every recipe of a set: its size, what is new in it, and the gains on it."""
    tokens = {trace.id.split("/")[0]: f"{trace.expert_tokens or 0:,.0f}" for trace in scored.suite.traces}
    rows = []
    for part in (part for part in scored.parts if part.of == one):
        for name in part.recipes:
            new = level_words(new_kinds(recipe_levels(scored.recipes[one.name][name]), scored.season.train_levels))
            cells = (cell for state in LABELS for cell in recipe_cells(gains[state], name, scored.season.candidate))
            rows.append((f"`{name}`", part.stratum, tokens.get(name, DASH), new, *cells))
    heads = [f"{state}, {what}" for state in LABELS for what in ("candidate, %", "best other, %")]
    return markdown_table((f"set {one.name}", "batches", "tokens per expert", "new levels", *heads), rows)


def recipe_cells(gains: pd.DataFrame, recipe: str, candidate: str) -> tuple[str, str]:
    """Return the candidate's gain on a recipe, and the best other entry's with its name."""
    known = gains.loc[recipe].dropna().to_dict() if recipe in gains.index else {}
    own = known.pop(candidate, None)
    best = max(known, key=known.__getitem__, default=None)
    best_words = DASH if best is None else f"`{best}` {signed_percent(known[best])}"
    return DASH if own is None else signed_percent(own), best_words


def lost_lines(scored: ScoredSeason) -> Iterator[str]:
    """Yield a line for each run that diverged, could not be recorded, or has too few origins."""
    scored_recipes = {trace.id.split("/")[0] for trace in scored.suite.traces}
    for name, recording in scored.folder.recordings.items():
        few = f"unscored, fewer than {LEAST_ORIGINS} origins in each state"
        how = "scored up to there" if name in scored_recipes else few
        if recording.ended is not None or name not in scored_recipes:
            yield f"`{name}`: {'; '.join([*([recording.ended] if recording.ended else []), how])}"


def coverage_table(scored: ScoredSeason, one: RecipeSet, state: str) -> str:
    """Return by size of batch how much of the loads lies between the outer quantiles of entries that give some."""
    columns = {}
    for part in (part for part in scored.parts if part.of == one):
        found = scored.on(part.recipes)
        rows = found.table[(found.table["state"] == state) & found.table[COVERAGE].notna()]
        columns[f"{part.stratum} batches"] = (
            rows.groupby(["forecaster", "trace"])[COVERAGE].mean().groupby(level=0).mean()
        )
    names = [name for name in scored.results.names if any(name in column for column in columns.values())]
    cells = [(f"`{name}`", *(three_digits(column.get(name)) for column in columns.values())) for name in names]
    return markdown_table((f"set {one.name}, {state}", *columns), cells)


def cell_dots(scored: ScoredSeason, one: RecipeSet) -> list[Dot]:
    """Return a dot for each cell of a set that is not lacking: the gain over the reference, and its 95 % interval."""
    from leaderboard.pages.openings import Dot, Span

    cells = [(test.what, test.estimate) for test in cell_gains(scored, one) if test.estimate is not None]
    return [Dot(what, scored.season.candidate, at.gain, Span(*at.interval)) for what, at in cells]
