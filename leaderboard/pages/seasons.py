"""The page of each season, which leaderboard/season makes from its table, or from its terms while it is open."""

from __future__ import annotations

from leaderboard.pages.parts import Page
from leaderboard.season.open_page import open_files
from leaderboard.season.page import draw_seasons, season_files

SEASONS = Page("seasons", lambda: {**season_files(), **open_files()}, draw_seasons)
