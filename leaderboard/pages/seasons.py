"""The pages of all scored seasons: one form where the recipes were known before closing, one where they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.pages import drawn_season, season
from leaderboard.pages.headline import public_results
from leaderboard.pages.openings import REPORTS, draw_dots, state_dots
from leaderboard.pages.parts import Page
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from moeload_bench.results.record import Result


def files_of(found: ScoredSeason, public: Sequence[Result]) -> dict[Path, str]:
    """Return the page of a season beside the results of its public suite, and what was measured for it."""
    form = season if found.draws is None else drawn_season
    page = {REPORTS / f"season-{found.name}.md": form.report(found, public)}
    return page if found.draws is None else page | drawn_season.kept_texts(found)


def season_files() -> dict[Path, str]:
    """Return the files of every scored season."""
    return {path: text for one in scored_seasons() for path, text in files_of(one, public_results(one)).items()}


def draw_seasons() -> None:
    """Draw the figure of every scored season: all standings, or the gains of a candidate by set."""
    for one in scored_seasons():
        dots = state_dots(one.results) if one.draws is None else drawn_season.cell_dots(one)
        if dots:
            draw_dots(dots, REPORTS / f"season-{one.name}.svg")


SEASONS = Page("seasons", season_files, draw_seasons)
