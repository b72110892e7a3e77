"""Ranks of a season are the same wherever they are shown; a participant has one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.ranking import rank_text
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_set
from moeload_bench.results.comparison import reference_of
from moeload_bench.results.grid import Standings
from moeload_bench.scoring.catalogue import PRIMARY

DOCS = Path(__file__).parents[2] / "docs"


def ranks_on(page: str, state: str, column: str, after: str = "# ") -> dict[str, str]:
    """The texts of a column of the first table that has it, below some words of a page, and is headed by the state."""
    _, text = (DOCS / "reports" / page).read_text(encoding="utf-8").split(after, 1)
    tables = (table.splitlines() for table in text.split("\n\n") if table.strip())
    rows = next(table for table in tables if table[0].startswith(f"| {state} |") and f" {column} |" in table[0])
    heads, _, *cells = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    return {row[0].strip("`"): row[heads.index(column)] for row in cells if row[0].startswith("`")}


def ranks_by_site(season: ScoredSeason, state: str) -> dict[str, str]:
    """The set of ranks of each entry on a new recipe, as the site computes it."""
    scores = Standings(season.results, PRIMARY, reference_of(season.results))
    return {name: rank_text(ranks) for name, ranks in scores.ranks(state).items()}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["transient", "stable"])
def test_one_claim_has_one_rank_wherever_it_is_shown(state: str) -> None:
    """Ranks on a new recipe: as the site computes them, and on the season's page for each of its sets."""
    newest, *_ = scored_seasons()
    for name, part in by_set(newest).items():
        on_page = ranks_on(f"season-{newest.name}.md", f"set {name}, {state}", "ranks")
        assert on_page == ranks_by_site(part, state)
        assert len(on_page) > 10


def test_a_participant_finds_on_one_page_how_to_enter_and_what_comes_of_it() -> None:
    """How, by when, what is frozen, shown and got, in this order; running a season is a page of its own."""
    text = (DOCS / "guide" / "seasons.md").read_text(encoding="utf-8")
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["How to enter", "By when", "What is frozen", "What is shown", "What you get"]
    assert "moeload-bench submit" in text
    assert "draw.json" not in text
    assert "draw.json" in (DOCS / "guide" / "seasons-manual.md").read_text(encoding="utf-8")
