"""Scored seasons: which there are, floors where their runs forked, and their board on the site."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.records import ForkFloor, ForkFloors
from leaderboard.season_tools.scored import FLOOR, SEASONS, ScoredSeason, fork_floors, scored_seasons
from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import board_files, forecaster_files
from moeload_bench.errors import ResultError
from moeload_bench.results.record import load_result
from moeload_bench.suites.suite import Suite
from tests.conftest import need
from tests.support.seasons import open_season, revealed_season
from tests.support.site_world import copy_checkout, shown_metric

HORIZONS = (1, 10, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SeasonFolder:
    """A season, scored and revealed, with floors as if its runs had forked."""
    found = revealed_season(tmp_path_factory.mktemp("season"))
    scores, (trace, *_) = found.scores(), read_record(Suite, found.path / "suite.json").traces
    assert scores is not None
    floors = ForkFloors(
        season=scores.season,
        horizons=HORIZONS[:2],
        futures=4,
        level=0.05,
        power={},
        floors=tuple(
            ForkFloor(trace=trace.id, origin=origin, state="stable", floor_K=(0.02, 0.01), error_K=(0.003, 0.004))
            for origin in (100, 200)
        ),
    )
    found.write(floors, "fork_floors.json")
    forked = scores.model_copy(update={"fork_floors": floors.sha256()})
    (found.path / "scores.json").write_text(forked.to_json())
    return found


@pytest.fixture(scope="module")
def season(folder: SeasonFolder) -> ScoredSeason:
    (found,) = scored_seasons(folder.path.parent)
    return found


def test_a_result_that_was_changed_after_scoring_is_refused(folder: SeasonFolder, tmp_path: Path) -> None:
    """By the hash that scores.json holds."""
    shutil.copytree(folder.path, tmp_path / "2026-12")
    path = tmp_path / "2026-12" / "results" / "mine.json"
    load_result(path).model_copy(update={"notes": ("better",)}).save(path)
    with pytest.raises(ResultError, match="not the result that season 2026-12 was scored with"):
        scored_seasons(tmp_path)


def test_no_season_is_no_headline(tmp_path: Path) -> None:
    """Nor is one that is not scored yet."""
    open_season(tmp_path)
    assert scored_seasons(tmp_path / "seasons") == []
    assert scored_seasons(SEASONS / "not there") == []


def test_the_floor_of_forks_is_known_by_state(season: ScoredSeason) -> None:
    """With its standard error, at the horizons that a fork covers."""
    (one,) = fork_floors(season).values()
    assert one.origins == 2
    assert one.cells() == [pytest.approx((0.02, 0.003 / 2**0.5)), pytest.approx((0.01, 0.004 / 2**0.5)), None]


def test_the_site_shows_the_season_first_and_public_suites_as_public(folder: SeasonFolder, tmp_path: Path) -> None:
    """With the season's entries as verified, `floor_fork` among the floors, and the names on the switch."""
    need("jinja2", "pip install -e '.[site]'")
    need("altair", "pip install -e '.[site]'")
    root = copy_checkout(tmp_path, metrics=("window_tv",))
    shutil.copytree(folder.path, root / "leaderboard" / "seasons" / "2026-12")
    inputs = read_inputs(root)
    assert [board.label for board in inputs.boards] == ["season-2026-12 (runs that nobody had)", "mini (public)"]
    assert {entry.standing for entry in inputs.boards[0].entries} == {"verified"}
    files = dict(board_files(inputs))
    page = files["index.html"].decode()
    assert '<option value="mini">mini (public)</option>' in page
    floors = shown_metric(files, "season-2026-12", "window_tv")["floors"]
    shown = [(key, row) for key, rows in floors.items() for row in rows if row[0] == FLOOR]
    assert shown
    assert all("±" in row[2][0] for _, row in shown)
    pages = dict(forecaster_files(inputs))
    assert b"Suite season-2026-12 (runs that nobody had)" in pages["forecasters/mine.html"]
