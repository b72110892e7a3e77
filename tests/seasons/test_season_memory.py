"""On a season a memory of public runs is worth nothing, and one of the season's own runs is found by its forks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leaderboard.verifying.memorisers import HONEST, TARGET, memoriser
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting
from moeload_bench.isolation.hosts import Limits
from moeload_bench.isolation.targets import FileTarget
from moeload_bench.seasons.closing import season_suite
from moeload_bench.seasons.drawing import all_drawn
from moeload_bench.seasons.folder import Folder, logged_attempt
from moeload_bench.seasons.forks import ForkTest, permutation_test
from moeload_bench.seasons.scoring import RunForks, Scored, frozen_suite, run_forks, score_run
from moeload_bench.suites.suite import Suite
from tests.support.seasons import VALUE, open_season, record_made
from tests.support.submitted import make_world


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Suite, dict[str, RunForks]]:
    """A season of two runs of each of two recipes, with forks; recorded and not scored."""
    folder = open_season(tmp_path_factory.mktemp("season"), runs=2)
    with logged_attempt(folder, "record"):
        record_made(folder)
    plan = folder.plan()
    suite = frozen_suite(plan, season_suite(plan), folder.runs(), folder.recordings)
    drawn = all_drawn(plan, folder.secret(), VALUE)
    forks = {
        f"{one.recipe}/{plan.split}/seed{one.run}": run_forks(folder.recordings, plan, one, suite) for one in drawn
    }
    return folder, suite, forks


def files_of(folder: Folder, suite: Suite) -> dict[str, Path]:
    return {entry.id: folder.recordings / f"{entry.id}.parquet" for entry in suite.traces}


def scored(recorded: tuple[Folder, Suite, dict[str, RunForks]], code: str, path: Path, target: str) -> list[Scored]:
    """A file on every run of the season, in which it is asked at the origins of the forks as well."""
    folder, suite, forks = recorded
    path.write_text(code)
    forecaster = FileTarget(text=target, file=path, class_name=target.partition(":")[2])
    setting = Setting(suite, "none", Limits(), suite.seed, fresh=True)
    files = files_of(folder, suite)
    return [score_run(Pair(setting, one, files[one.id], forecaster, Fitted()), forks[one.id]) for one in suite.traces]


def fork_test_of(found: list[Scored]) -> ForkTest:
    losses = [loss for one in found for loss in one.forks]
    return permutation_test([(one.recipe, one.run, np.array(one.loss_JK)) for one in losses])


def test_one_that_was_given_the_season_s_futures_is_found_by_its_forks(
    recorded: tuple[Folder, Suite, dict[str, RunForks]], tmp_path: Path
) -> None:
    """The memoriser of public runs with the recordings in its place, told the order of the questions too; the same file
    without its memory is not."""
    folder, suite, forks = recorded
    asked = {entry.id: sorted({o for o, _ in entry.origins()} | set(forks[entry.id].origins)) for entry in suite.traces}
    entries = tuple(
        entry.model_copy(update={"transient": (), "mixed": (), "stable": tuple(asked[entry.id])})
        for entry in suite.traces
    )
    told = suite.model_copy(update={"traces": entries})
    level = folder.plan().forks.level
    cheat = memoriser(files_of(folder, suite), told, every=1)
    assert fork_test_of(scored(recorded, cheat, tmp_path / "cheat.py", TARGET)).p_value <= level
    assert fork_test_of(scored(recorded, HONEST, tmp_path / "honest.py", "forecaster.py:Mine")).p_value > level


def test_a_memory_of_public_runs_falls_to_its_honest_part(
    recorded: tuple[Folder, Suite, dict[str, RunForks]], tmp_path: Path
) -> None:
    """Every score is that of the same file without its memory, once two questions have shown it other runs."""
    world = make_world(tmp_path / "world")
    code = memoriser(world.paths, world.suite, every=5)
    known, honest = (
        scored(recorded, text, tmp_path / f"{name}.py", target)
        for name, text, target in (("memory", code, TARGET), ("honest", HONEST, "forecaster.py:Mine"))
    )
    for one, other in zip(known, honest, strict=True):
        assert len(one.result.tasks) > 4
        assert one.result.tasks[2:] == other.result.tasks[2:]
