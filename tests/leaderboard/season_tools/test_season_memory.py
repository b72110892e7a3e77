"""On a season a memory of public runs is worth nothing, and one of the season's own runs is found by its forks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leaderboard.season_tools.closing import close_season, season_suite
from leaderboard.season_tools.drawing import all_drawn
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt
from leaderboard.season_tools.futures import RunForks, run_forks
from leaderboard.season_tools.scoring import Scored, fork_tests, frozen_suite, score_run, score_season
from leaderboard.verifying.memorisers import HONEST, TARGET, memoriser
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting
from moeload_bench.isolation.hosts import Limits
from moeload_bench.isolation.targets import FileTarget
from moeload_bench.suites.suite import Suite
from tests.support.seasons import open_season, planned_season, record_made
from tests.support.submitted import make_world, write_folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeasonFolder, Suite, dict[str, RunForks]]:
    """A season of two runs of each of two recipes, with forks; recorded and not scored."""
    folder = open_season(tmp_path_factory.mktemp("season"), runs=2)
    with logged_attempt(folder, "record"):
        record_made(folder)
    return folder, *suite_and_forks(folder)


def suite_and_forks(folder: SeasonFolder) -> tuple[Suite, dict[str, RunForks]]:
    """The task list of what was recorded, and by run where it forks."""
    plan = folder.plan()
    suite = frozen_suite(plan, season_suite(plan), folder.runs(), folder.recordings)
    draw = folder.draw()
    assert draw is not None
    drawn = all_drawn(plan, folder.secret(), draw.value)
    return suite, {
        f"{one.recipe}/{plan.split}/seed{one.run}": run_forks(folder.recordings, plan, one, suite, plan.forks.futures)
        for one in drawn
    }


def files_of(folder: SeasonFolder, suite: Suite) -> dict[str, Path]:
    return {entry.id: folder.recordings / f"{entry.id}.parquet" for entry in suite.traces}


def scored(
    recorded: tuple[SeasonFolder, Suite, dict[str, RunForks]], code: str, path: Path, target: str
) -> list[Scored]:
    """A file on every run of the season, in which it is asked at the origins of the forks as well."""
    folder, suite, forks = recorded
    path.write_text(code)
    forecaster = FileTarget(text=target, file=path, class_name=target.partition(":")[2])
    setting = Setting(suite, "none", Limits(), suite.seed, fresh=True)
    files = files_of(folder, suite)
    return [score_run(Pair(setting, one, files[one.id], forecaster, Fitted()), forks[one.id]) for one in suite.traces]


def told_order(suite: Suite, forks: dict[str, RunForks]) -> Suite:
    """The suite in whose order a memoriser expects its questions, those at forks among them."""
    entries = [
        entry.model_copy(
            update={
                "transient": (),
                "mixed": (),
                "stable": tuple(sorted({o for o, _ in entry.origins()} | set(forks[entry.id].origins))),
            }
        )
        for entry in suite.traces
    ]
    return suite.model_copy(update={"traces": tuple(entries)})


@pytest.mark.slow
def test_an_entry_that_was_given_the_season_s_futures_is_found_by_its_forks(tmp_path: Path) -> None:
    """Secret and value leak before closing: the memoriser of public runs, with the season's recordings in its place,
    enters, is scored with the others, and is the one whose p is below the level."""
    folder, entries = planned_season(tmp_path, runs=2)
    shutil.copytree(folder.path, tmp_path / "leak")
    leak = SeasonFolder(tmp_path / "leak")
    close_season(leak, entries)
    record_made(leak)
    suite, forks = suite_and_forks(leak)
    code = memoriser(files_of(leak, suite), told_order(suite, forks), every=1)
    world = make_world(tmp_path / "other world")
    entries.append(write_folder(tmp_path, world, name="leak", target=TARGET, code=code, fitted_beyond_train=True,
                                model_type="pretrained", fitted_on=["leak"]))  # fmt: skip
    close_season(folder, entries)
    with logged_attempt(folder, "record"):
        record_made(folder)
    score_season(folder, level="none", published="the test")
    level, tests = folder.plan().forks.level, fork_tests(folder)
    assert {name for name, test in tests.items() if test.p_value <= level} == {"leak"}
    assert set(tests) == {"leak", "mine", "sw_avg"}


def test_a_memory_of_public_runs_falls_to_its_honest_part(
    recorded: tuple[SeasonFolder, Suite, dict[str, RunForks]], tmp_path: Path
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
