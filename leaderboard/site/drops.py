"""The newest season beside the largest public suite: how much each entry loses on runs that nobody had."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.seasons import drop_words, drops_of
from leaderboard.site.grids import Table
from leaderboard.site.inputs import Board
from leaderboard.site.words import NONE, figure, signed


def drops_table(boards: Sequence[Board]) -> Table | None:
    """Texts by entry; None without a season, or where no public suite shares a recipe with it."""
    season = next((board.season for board in boards if board.season is not None), None)
    public = next((board for board in boards if board.season is None), None)
    if season is None or public is None:
        return None
    found = drops_of(season, public.compared)
    known = f"skill, {public.suite.name} (public)"
    heads = ("forecaster", "skill, season", known, "drop beyond the unfitted", "Holm p", "fork test p", "")
    rows = [
        (one.forecaster, signed(one.season), signed(one.public), signed(one.beyond), figure(one.p_holm),
         figure(season.tests[one.forecaster].p_value) if one.forecaster in season.tests else NONE,
         "flagged" if one.flagged else "")
        for one in found
    ]  # fmt: skip
    return Table(drop_words(season, public.suite.name), heads, tuple(rows), 1, 6) if rows else None
