"""The newest season is the headline; public suites stand beside it, with what each entry loses between them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from leaderboard.pages.headline import brief_part, public_results, season_parts
from leaderboard.pages.results import largest_suite, results_of
from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.season_tools.scored import FLOOR, SEASONS, ScoredSeason, drops_of, fork_floors, scored_seasons
from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import board_files, forecaster_files
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.tables import three_digits
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import need, synthetic_trace
from tests.support.seasons import open_season, revealed_season
from tests.support.site_world import copy_checkout, shown_metric

HORIZONS = (1, 10, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SeasonFolder:
    """A season with forks, scored and revealed."""
    return revealed_season(tmp_path_factory.mktemp("season"))


@pytest.fixture(scope="module")
def season(folder: SeasonFolder) -> ScoredSeason:
    (found,) = scored_seasons(folder.path.parent)
    return found


@pytest.fixture(scope="module")
def public(season: ScoredSeason, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Results of the same entries on public runs of one of the season's recipes."""
    root, paths, entries = tmp_path_factory.mktemp("public"), {}, []
    for run in (1, 2):
        trace = synthetic_trace(400, seed=run, run=run, recipe="small", split="test")
        paths[trace.id] = write_trace(trace, root / f"{trace.id}.parquet")
        origins = {"transient": tuple(range(20, 120, 10)), "stable": tuple(range(200, 300, 10))}
        entries.append(SuiteTrace.model_validate({"id": trace.id, "data_sha256": data_sha256(trace), **origins}))
    suite = Suite(name="open", horizons=HORIZONS, traces=tuple(entries))
    mine = f"{season.folder.entries / 'mine' / 'forecaster.py'}:Mine@window=50"
    own, reference = evaluate([mine, "sw_avg"], suite, paths=paths, level="none")
    made = own.forecaster.model_copy(update={"name": "mine"})
    return [own.model_copy(update={"forecaster": made}), reference]


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


def test_the_floor_of_forks_stands_in_the_season_s_table(season: ScoredSeason) -> None:
    """With its standard error, at the horizons that a fork covers."""
    floors = fork_floors(season)
    assert floors
    for one in floors.values():
        assert len(one.cells()) == len(season.suite.horizons)
        assert all(floor > 0 and np.isfinite(error) for floor, error in filter(None, one.cells()))
    text = "\n".join(season_parts(season, list(season.results), "window_tv"))
    state = next(iter(floors))
    floor, error = floors[state].cells()[0] or (0.0, 0.0)
    assert f"*{FLOOR}* | {three_digits(floor)} ± {three_digits(error)}" in " ".join(text.split())
    assert "Fork test" in text


@pytest.mark.slow
def test_the_brief_table_is_the_season_s_first(season: ScoredSeason) -> None:
    """README.md's: then the public suite's, which is called so, where the two share no recipe."""
    text = brief_part("window_tv", [season])
    first, second = text.index(f"Season `{season.name}`"), text.index(f"of suite `{largest_suite().name}`, *public*")
    assert first < second
    assert "`mine`" in text[:first]


@pytest.mark.slow
def test_the_brief_table_has_each_entry_s_drop_from_the_public_runs() -> None:
    """Of the first season as it is committed: skill there and on v1, and the drop, of every row but the reference."""
    (season,) = (one for one in scored_seasons() if one.name == "2026-12")
    text = brief_part("window_tv", [season])
    assert {result.suite.name for result in public_results(season)} == {"v1"}, "whose open runs it was fitted on"
    (mine,) = (one for one in drops_of(season, results_of("v1")) if one.forecaster == "gated")
    (row,) = (line for line in text.splitlines() if line.startswith("| `gated` |"))
    assert f"| {mine.season:+.3f} | {mine.public:+.3f} | {mine.beyond:+.3f} |" in row
    assert "skill, v1 *public*" in text
    assert text.count("| forecaster |") == 1


def test_what_an_entry_loses_is_over_the_shared_recipes(season: ScoredSeason, public: list[Result]) -> None:
    """And stands in the headline with the p of the fork test; a season of other recipes has no drops."""
    (mine,) = drops_of(season, public)
    assert (mine.forecaster, mine.recipes) == ("mine", 1)
    assert mine.beyond == pytest.approx(np.log((1 - mine.season) / (1 - mine.public)))
    text = "\n".join(season_parts(season, public, "window_tv"))
    assert f"| {mine.season:+.3f} | {mine.public:+.3f} | {mine.beyond:+.3f} |" in " ".join(text.split())
    assert f"{season.tests['mine'].p_value:.2g}" in text
    others = [one.model_copy(update={"trace": one.trace.replace("small", "elsewhere")}) for one in public[0].runs]
    assert drops_of(season, [public[0].model_copy(update={"runs": tuple(others)}), public[1]]) == []


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
