"""The page of each season, which leaderboard/season makes from its table."""

from __future__ import annotations

from leaderboard.pages.parts import Page
from leaderboard.season.page import draw_seasons, season_files

SEASONS = Page("seasons", season_files, draw_seasons)
