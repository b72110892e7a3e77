"""On a season a memory of public runs is worth nothing."""

from __future__ import annotations

from pathlib import Path

from leaderboard.season_tools.closing import season_suite
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt
from leaderboard.season_tools.scoring import frozen_suite
from moeload_bench.evaluation.pairs import Fitted, Pair, Setting, run_pair
from moeload_bench.isolation.hosts import Limits
from moeload_bench.isolation.targets import FileTarget
from moeload_bench.results.run_result import RunResult
from tests.support.memoriser import HONEST, TARGET, memoriser
from tests.support.seasons import open_season, record_made
from tests.support.submitted import make_world


def scored(folder: SeasonFolder, code: str, path: Path, target: str) -> list[RunResult]:
    """A file on every run of the season."""
    path.write_text(code)
    plan, forecaster = folder.plan(), FileTarget(text=target, file=path, class_name=target.partition(":")[2])
    suite = frozen_suite(plan, season_suite(plan), folder.runs(), folder.recordings)
    setting = Setting(suite, "none", Limits(), suite.seed, fresh=True)
    return [
        run_pair(Pair(setting, one, folder.recordings / f"{one.id}.parquet", forecaster, Fitted()))
        for one in suite.traces
    ]


def test_a_memory_of_public_runs_falls_to_its_honest_part(tmp_path: Path) -> None:
    """Every score is that of the same file without its memory, once two questions have shown it other runs."""
    folder = open_season(tmp_path, runs=2)
    with logged_attempt(folder, "record"):
        record_made(folder)
    world = make_world(tmp_path / "public")
    code = memoriser(world.paths, world.suite, every=5)
    known, honest = (
        scored(folder, text, tmp_path / f"{name}.py", target)
        for name, text, target in (("memory", code, TARGET), ("honest", HONEST, "forecaster.py:Mine"))
    )
    for one, other in zip(known, honest, strict=True):
        assert len(one.tasks) > 4
        assert one.tasks[2:] == other.tasks[2:]
