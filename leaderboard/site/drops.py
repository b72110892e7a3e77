"""The newest season beside its public suite: how much each entry loses on runs that nobody had."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.season_tools.scored import ScoredSeason, drop_words, drops_of
from leaderboard.site.grids import Table
from leaderboard.site.inputs import Board
from leaderboard.site.words import NONE, signed_skill, three_digits
from moeload_bench.results.drops import Drop


def drops_table(boards: Sequence[Board]) -> Table | None:
    """Texts by entry; None without a season, or where its public suite shares no recipe with it."""
    season, public = next(((board.season, board.known) for board in boards if board.season is not None), (None, ()))
    if season is None or not public:
        return None
    found = drops_of(season, public)
    suite = public[0].suite.name
    known = f"skill, {suite} (public)"
    heads = ("forecaster", "skill, season", known, "drop beyond the unfitted", "Holm p", "fork test p", "")
    rows = [_row(season, one) for one in found]
    return Table(drop_words(season, suite), heads, tuple(rows), 1, 6) if rows else None


def _row(season: ScoredSeason, one: Drop) -> tuple[str, ...]:
    skills = [signed_skill(value) for value in (one.season, one.public, one.beyond)]
    test = season.tests.get(one.forecaster)
    fork = NONE if test is None else three_digits(test.p_value)
    return (one.forecaster, *skills, three_digits(one.p_holm), fork, "flagged" if one.flagged else "")
