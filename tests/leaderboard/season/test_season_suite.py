"""A season that has closed is a suite: anybody scores a forecaster on it, beside its table and in none of its ranks."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from leaderboard.season.folder import SEASONS, SeasonFolder, file_hashes
from leaderboard.season.scored import ScoredSeason, load_table
from leaderboard.season.task_list import task_list_file, task_list_text
from moeload_bench.errors import ResultError, SuiteError
from moeload_bench.harness.evaluate import as_target, entry_of, evaluate
from moeload_bench.harness.pairs import Fitted, Setting
from moeload_bench.isolation.hosts import Limits
from moeload_bench.results.choice import verdicts
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.entry import Entry, late_names
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.season import beside_season, late_words
from moeload_bench.results.significance import p_values_against
from moeload_bench.results.storage import as_stored
from moeload_bench.results.strata import run_groups
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import HubPlace, check_traces, load_suite, season_of
from tests.conftest import needs_traces
from tests.support.terminal import in_terminal

ROOT = SEASONS.parents[1]
NAME = "2027-02"
RESULTS = SEASONS / NAME / "results"
TRACES = SEASONS / NAME / "traces"
TUTORIAL = ROOT / "docs" / "guide" / "tutorial-forecasting.md"
needs_season = pytest.mark.skipif(not TRACES.is_dir(), reason="needs the recordings of a season")


def as_late(name: str, called: str) -> Results:
    """Return the published result of an entry as if it had been made after the season closed, under another name."""
    (entry,), found = load_results(RESULTS / f"{name}.parquet").entries.values(), load_results(RESULTS)
    target = entry.target if called == name else "mine.py:Mine"
    made = entry.model_copy(update={"name": called, "target": target, "after_close": True})
    return Results({called: made}, found.select([name]).table.assign(forecaster=called), found.facts)


def test_the_package_has_the_task_list_of_a_scored_season() -> None:
    """With the hash that the season's scores name, so that results join; both its names find it."""
    name, folder = NAME, SeasonFolder(SEASONS / NAME)
    suite = load_suite(name)
    assert folder.scores is not None
    assert suite.sha256() == folder.scores.suite_sha256
    assert suite == load_suite(f"season-{name}")
    assert season_of(suite.name, suite.sha256()) == name
    assert season_of(suite.name, "0" * 64) is None
    assert task_list_file(name).read_text() == task_list_text(ScoredSeason(folder, load_table(folder)))


def test_a_task_list_names_the_place_of_the_suite_that_the_season_is_based_on(tmp_path: Path) -> None:
    """Its runs are in the same dataset at the same tag, and its hash stays."""
    folder = SeasonFolder(SEASONS / NAME)
    place = HubPlace(repo="acme/moeload-traces", revision="v3.1")
    folder.__dict__["base"] = folder.base.model_copy(update={"hub": place})
    (tmp_path / "list.toml").write_text(task_list_text(ScoredSeason(folder, load_table(folder))))
    suite = load_suite(tmp_path / "list.toml")
    assert suite.hub == place
    assert suite.sha256() == load_suite(NAME).sha256()


def test_a_result_is_marked_if_its_season_had_closed() -> None:
    """When it is made; results of other suites are not marked, and their files hold no word of it."""

    def made(suite: str) -> Entry:
        setting = Setting(load_suite(suite), "none", Limits(), 0, fresh=False)
        return entry_of(setting, as_target("sw_avg"), Fitted())

    assert made(NAME).after_close
    assert not made("mini").after_close
    assert "after_close" not in made("mini").model_dump_json()


def test_what_came_later_stands_beside_and_in_no_rank_or_correction(tmp_path: Path) -> None:
    """Ranks, corrected tests and verdicts are those of the published table; the committed files keep their bytes."""
    before = file_hashes(SEASONS / NAME, "results")
    late = as_late("online", "mine").save(tmp_path / "mine.parquet")
    published, both = load_results(RESULTS), load_results([RESULTS, late])
    assert (late_names(both.entries), len(both), late_names(published.entries)) == (["mine"], len(published) + 1, [])
    assert_frame_equal(both.ranks(), published.ranks())
    tests = p_values_against(both, "adaptive")
    others = tests[tests["forecaster"] != "mine"].reset_index(drop=True)
    assert_frame_equal(others, p_values_against(published, "adaptive"))
    mine, online = (tests[tests["forecaster"] == name] for name in ("mine", "online"))
    assert mine["p"].tolist() == online["p"].tolist()
    assert mine["p_holm"].isna().all()
    assert p_values_against(both, "mine")["p_holm"].isna().all()
    assert list(verdicts(both, PRIMARY)) == list(verdicts(published, PRIMARY))
    assert "mine" in set(both.summarize()["forecaster"])
    assert f"beside the season's {len(published)} entries" in late_words(both).lower()
    assert file_hashes(SEASONS / NAME, "results") == before


def test_what_came_later_has_no_rank_where_it_is_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a checkout there is no table to stand beside: it is said where that is."""
    monkeypatch.chdir(tmp_path)
    alone = as_late("online", "mine")
    assert beside_season(alone) is alone
    assert alone.ranks().empty
    assert "leaderboard/seasons/2027-02/results of a checkout" in late_words(alone)
    assert late_words(load_results(RESULTS)) == ""


def test_an_entry_that_is_run_again_stands_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run my.py:Mine sw_avg` joins; another forecaster of an entry's name is refused."""
    monkeypatch.chdir(ROOT)
    again = as_late("sw_avg", "sw_avg")
    moved = replace(again, table=again.table.assign(**{PRIMARY: 0.5}))
    both = beside_season(Results(**{name: value for name, value in vars(moved).items() if name != "_errors"}))
    assert late_names(both.entries) == []
    assert_frame_equal(both.summarize(), load_results(RESULTS).summarize())
    with pytest.raises(ResultError, match="two results of online"):
        beside_season(as_late("sw_avg", "online"))


def test_sets_of_a_season_are_not_pooled() -> None:
    """A table for each set, and for each run of a set whose runs are reported one by one."""
    parts = {title: len(part.traces) for title, part in run_groups(load_results(RESULTS / "sw_avg.parquet")).items()}
    shapes = dict.fromkeys(("set s, shape-gptoss-20b-w64-2000", "set s, shape-olmoe-w64"), 1)
    assert parts == {"set b2": 20, "set o": 4, **shapes}


def test_without_its_traces_it_is_said_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a pip install, before any work."""
    monkeypatch.chdir(tmp_path)
    where = r"leaderboard/seasons/2027-02/traces/ and traces/ of the project's repository"
    with pytest.raises(SuiteError, match=where):
        check_traces(load_suite(NAME))
    with pytest.raises(SuiteError, match=where):
        evaluate("sw_avg", NAME, level="none")


@needs_season
def test_a_season_s_run_is_scored_as_it_was_published() -> None:
    """An entry that learns nothing gets the published rows on a run, to the rounding of files."""
    suite = load_suite(NAME)
    entry = min(suite.traces, key=lambda one: (TRACES / f"{one.id}.parquet").stat().st_size)
    one = suite.model_copy(update={"traces": (entry,), "fit": (), "tables": {}})
    made = evaluate("sw_avg", one, paths={entry.id: TRACES / f"{entry.id}.parquet"}, level="none")
    published = load_results(RESULTS / "sw_avg.parquet").select(traces={entry.id})
    keys = ["state", "origin", "horizon"]
    metrics = [name for name in metric_columns(published.table) if name in metric_columns(made.table)]
    assert PRIMARY in metrics
    first, second = (
        as_stored(frame)[[*keys, *metrics]].sort_values(keys, ignore_index=True)
        for frame in (made.table, published.table)
    )
    assert_frame_equal(first, second, rtol=1e-6)


@pytest.mark.slow
@needs_traces
@needs_season
@pytest.mark.usefixtures("shared_cache")
def test_a_stranger_s_forecaster_is_scored_by_one_command_and_joins_the_table(tmp_path: Path) -> None:
    """The tutorial's, by the tutorial's command, in what a checkout has: beside every entry, marked, in no rank."""
    text = TUTORIAL.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# my\.py\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(rf"`moeload-bench (run my\.py:Mine --suite {NAME} --out mine\.parquet)`", text)
    assert len(code.splitlines()) <= 30
    (tmp_path / "my.py").write_text(code, encoding="utf-8")
    for name in ("leaderboard", "traces"):
        (tmp_path / name).symlink_to(ROOT / name)
    before = file_hashes(SEASONS / NAME, "results")
    words = [sys.executable, "-m", "moeload_bench", *shlex.split(command)]
    done = in_terminal(words, width=100, cwd=tmp_path, timeout=900)
    assert done.status == 0, done.text[-2000:]
    rows = done.text[done.text.index("set b2") : done.text.index("set o")]
    published = load_results(RESULTS)
    for name in (*published.names, "my.py:Mine+"):
        assert len(re.findall(rf"^{re.escape(name)} +[0-9]", rows, re.MULTILINE)) == 2, name
    joined = load_results([RESULTS, tmp_path / "mine.parquet"])
    assert late_names(joined.entries) == ["my.py:Mine"]
    assert_frame_equal(joined.ranks(), published.ranks())
    assert file_hashes(SEASONS / NAME, "results") == before
