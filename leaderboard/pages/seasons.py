"""The pages of all scored seasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.pages.drawn_season import cell_dots, report
from leaderboard.pages.openings import REPORTS, draw_dots
from leaderboard.pages.parts import Page
from leaderboard.pages.results import public_results
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from moeload_bench.results.record import Result


def files_of(found: ScoredSeason, public: Sequence[Result]) -> dict[Path, str]:
    """Return the page of a season beside the results of its public suite."""
    return {REPORTS / f"season-{found.name}.md": report(found, public)}


def season_files() -> dict[Path, str]:
    """Return the files of every scored season."""
    return {path: text for one in scored_seasons() for path, text in files_of(one, public_results(one)).items()}


def draw_seasons() -> None:
    """Draw the figure of every scored season: the gains of its candidate by set."""
    for one in scored_seasons():
        if dots := cell_dots(one):
            draw_dots(dots, REPORTS / f"season-{one.name}.svg")


SEASONS = Page("seasons", season_files, draw_seasons)
