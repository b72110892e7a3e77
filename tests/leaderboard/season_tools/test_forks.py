"""The forks of season 2027-01: what was committed of them is checked, and its floors follow from its traces."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leaderboard.season_tools.checking import _forks, _scored_forks
from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.records import ForkFloors, RunHashes
from leaderboard.season_tools.scored import SEASONS
from moeload_bench.evaluation.harness import row_of
from moeload_bench.scoring.forks import floor_fork, horizon_means
from moeload_bench.traces.store import read_trace

SEASON = SEASONS / "2027-01"


@pytest.fixture(scope="module")
def season() -> Any:
    folder = SeasonFolder(SEASON)
    return SimpleNamespace(folder=folder, plan=folder.plan())


def forked_run(name: str) -> RunHashes:
    return read_record(RunHashes, SEASON / "runs" / f"{name}.0.json")


def test_the_published_floors_follow_from_the_published_forks(season: Any) -> None:
    """At each origin, of the recorded future and its four forks."""
    published = read_record(ForkFloors, SEASON / "fork_floors.json")
    for number, one in enumerate(published.floors):
        trace = read_trace(season.folder.traces / f"{one.trace}.parquet")
        row, first = row_of(trace, one.origin), 4 * (number % 2)
        place = season.folder.traces / one.trace.split("/")[0] / "s2027_01_forks"
        forks = [read_trace(place / f"seed{first + j}.parquet") for j in range(4)]
        assert {int(fork.step_S[0]) for fork in forks} == {one.origin}
        futures = [trace.load_SLE[row : row + 1000], *(fork.load_SLE[:1000] for fork in forks)]
        floor_K, error_K = floor_fork(np.stack([horizon_means(load, published.horizons) for load in futures]))
        np.testing.assert_allclose(floor_K, one.floor_K, rtol=1e-5)
        np.testing.assert_allclose(error_K, one.error_K, rtol=1e-5)


def test_a_fork_that_was_left_out_or_changed_is_named(season: Any) -> None:
    """By its number, its origin and its run; what is as committed is not."""
    run = forked_run("2027-01a-s00")
    assert list(_forks(season, run)) == []
    changed = run.forks[0].model_copy(update={"data_sha256": "0" * 64})
    said = list(_forks(season, run.model_copy(update={"forks": (changed, *run.forks[1:-1])})))
    assert said[0] == "2027-01a-s00 run 0: 1 forks left out: they have no hashes"
    assert said[1].startswith("fork 0 of origin 0 of 2027-01a-s00 run 0 has changed: its hash is ")
    assert len(said) == 2


@pytest.mark.parametrize("name", ["forks/ema.json", "fork_floors.json"])
def test_losses_and_floors_of_forks_that_were_changed_are_named(name: str, season: Any, tmp_path: Path) -> None:
    """As is a file that is gone."""
    shutil.copytree(SEASON / "forks", tmp_path / "forks")
    shutil.copy(SEASON / "fork_floors.json", tmp_path)
    folder, scores = SeasonFolder(tmp_path), season.folder.scores()
    assert list(_scored_forks(folder, scores)) == []
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("0.0", "0.1", 1))
    assert list(_scored_forks(folder, scores)) == [f"{name} has changed since it was scored"]
    (tmp_path / name).unlink()
    assert list(_scored_forks(folder, scores)) == [f"{name} has changed since it was scored"]
