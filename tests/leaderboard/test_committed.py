"""What committed results must be: those of the suite, whole, of code that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leaderboard.committed import (
    RESULTS,
    committed_results,
    model_type_of,
    result_path,
    submission_of,
    suites_with_results,
    target_of,
)
from moeload_bench.errors import ResultError
from moeload_bench.isolation.targets import baseline_names
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.results import Results, load_results
from moeload_bench.suites.suite import load_suite

PATHS = sorted(path for path in RESULTS.glob("*/*.parquet") if path.name != "costs.parquet")


def mine(**update: Any) -> Results:
    """Return the committed result of `sw_avg` on mini as that of an entry `mine`, with other fields of the entry."""
    found = load_results(RESULTS / "mini" / "sw_avg.parquet")
    entry = found.entries["sw_avg"].model_copy(update={"name": "mine", **update})
    return replace(found, entries={"mine": entry}, table=found.table.assign(forecaster="mine"))


def with_suite(**update: str) -> Results:
    return mine(suite=mine().suite.model_copy(update=update))


def with_rows(change: Callable[[Any], Any]) -> Results:
    return replace(mine(), table=change(mine().table))


@pytest.mark.parametrize("suite", suites_with_results())
def test_committed_results_are_the_suite_s_in_its_order(suite: str) -> None:
    """Nothing is wrong with any, and every baseline of the suite has one."""
    found, baselines = committed_results(suite), load_suite(suite).baselines
    assert found.names[: len(baselines)] == list(baselines)
    assert found.names[len(baselines) :] == sorted(set(found.names) - set(baselines))
    assert len(found.table) == sum(len(load_results(path).table) for path in PATHS if path.parent.name == suite)


def test_a_suite_that_holds_another_gives_its_numbers() -> None:
    """`shapes-2` has the nine runs of `shapes`: an entry's scores, means by layer and forecasts there are the same."""
    old, new = (committed_results(suite, layers=True) for suite in ("shapes", "shapes-2"))
    both = old.select(new.names, old.traces), new.select(new.names, old.traces)
    for table in ("table", "layers"):
        before, after = (getattr(results, table) for results in both)
        same = ["forecaster", "trace", "state", "horizon", *metric_columns(before)]
        same += ["origin", "forecasts_sha256"] if table == "table" else ["layer"]
        by = [name for name in ("forecaster", "trace", "state", "origin", "layer", "horizon") if name in same]
        frames = [rows[same].sort_values(by).reset_index(drop=True) for rows in (before, after)]
        assert len(frames[0]) > 1000
        pd.testing.assert_frame_equal(*frames, check_exact=True, check_categorical=False)


BAD: dict[str, tuple[Callable[[], Results], str]] = {
    "another suite": (lambda: with_suite(sha256="0" * 64), "scored on suite mini 000000000000, expected mini"),
    "another name": (lambda: with_suite(name="v9"), "scored on suite v9"),
    "unknown code": (lambda: mine(target="no_such"), "its code cannot be found"),
    "another version of scoring": (lambda: mine(scoring_version=0), "scoring version 0"),
    "another seed": (lambda: mine(seed=7), "seed 7, expected 0"),
    "another stratum": (lambda: with_rows(lambda rows: rows.assign(stratum="small")), "recipe and stratum are"),
    "a missing run": (lambda: with_rows(lambda rows: rows[rows["trace"] != rows["trace"].iloc[0]]), "seed1: missing"),
    "an extra run": (
        lambda: with_rows(lambda rows: rows.assign(trace=["a/test/seed9", *rows["trace"][1:]])),
        "a/test/seed9: not in suite mini",
    ),
    "other data": (lambda: with_rows(lambda rows: rows.assign(data_sha256="0" * 64)), "scored on data 000000000000"),
    "a missing task": (lambda: with_rows(lambda rows: rows.iloc[1:]), "tasks at a horizon, expected .* origin 20"),
    "a task twice": (lambda: with_rows(lambda rows: rows.iloc[[0, *range(len(rows))]]), "1 row twice, first .*origin"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_result_that_does_not_belong_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Another suite, unknown code, other runs, other data: the message names the file and what is wrong."""
    made, message = BAD[name]
    made().save(tmp_path / "mini")
    with pytest.raises(ResultError, match=rf"(?s)mine\.parquet: .*{message}"):
        committed_results("mini", tmp_path)


def test_every_wrong_file_is_named(tmp_path: Path) -> None:
    """So is a file that is not named after its entry, and a suite without a result."""
    mine(seed=7).save(tmp_path / "mini")
    (tmp_path / "mini" / "mine.parquet").rename(tmp_path / "mini" / "other.parquet")
    mine(seed=8).save(tmp_path / "mini")
    with pytest.raises(ResultError, match=r"(?s)mine\.parquet: seed 8.*other\.parquet: holds the result of mine"):
        committed_results("mini", tmp_path)
    with pytest.raises(ResultError, match="none is in"):
        committed_results("v3", tmp_path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_committed_result_has_its_submission(path: Path) -> None:
    """A pull request cannot add numbers without the code that gives them: a result belongs to the submission of its
    name on its suite, or to a baseline of this package.
    """
    (entry,) = load_results(path).entries.values()
    folder = submission_of(entry)
    if folder is not None and folder.record.suite.name == path.parent.name:
        assert path == RESULTS.parent / result_path(folder.record.suite.name, entry.name)
        assert target_of(entry).label == entry.name
    else:
        assert entry.target.partition("@")[0] in baseline_names()


def test_what_a_forecaster_is_follows_from_its_submission_or_from_how_it_was_made() -> None:
    """Three tracks: learns nothing, fitted on the open runs, pretrained on other data; and yardsticks."""
    found = committed_results("v3").entries
    folders = {name: submission_of(entry) for name, entry in found.items()}
    types = {name: model_type_of(found[name], folder.record) for name, folder in folders.items() if folder}
    assert (types["adaptive"], types["guarded"], types["fracast"], types["uniform"]) == (
        "statistical", "learned", "pretrained", "yardstick",
    )  # fmt: skip
    assert model_type_of(found["uniform"], None) == "yardstick"
    assert model_type_of(found["adaptive"], None) == "statistical"
