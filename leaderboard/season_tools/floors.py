"""What forks say of the predictable share, and of the power of the test that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.season_tools.forks import ForkTask, detection_power, floor_fork
from leaderboard.season_tools.futures import futures, run_forks
from leaderboard.season_tools.records import Drawn, ForkFloor, ForkFloors, Plan
from moeload_bench.evaluation.harness import row_of
from moeload_bench.scoring.scores import mean_over
from moeload_bench.states.rule import State, label_states, state_names
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares

WEIGHTS = (0.1, 0.3, 1.0)  # of memories whose power is published
REFERENCE_ROWS = 100  # the reference `sw_avg`: what a memory is mixed with to measure power


@dataclass(frozen=True, eq=False)
class ForkPoint:
    """Where a run forks: the recorded run, the row and its state, all futures beside the reference's forecast."""

    trace: Trace
    row: int
    state: State
    horizons: tuple[int, ...]
    task: ForkTask

    @property
    def origin(self) -> int:
        """The training step."""
        return int(self.trace.step_S[self.row])


def fork_points(root: Path, plan: Plan, suite: Suite, values: Sequence[Drawn], count: int) -> Iterator[ForkPoint]:
    """Every origin of forks of the runs that were recorded, with the traces of ``count`` forks below ``root``."""
    recorded = {entry.id for entry in suite.traces}
    for one in values:
        trace_id = f"{one.recipe}/{plan.split}/seed{one.run}"
        if trace_id not in recorded or not one.fork_origins:
            continue
        trace = read_trace(root / f"{trace_id}.parquet")
        names = state_names(label_states(trace.load_SLE, stride=trace.meta.stride, rule=suite.rule))
        forks = run_forks(root, plan, one, suite, count)
        for i, origin in enumerate(forks.origins):
            future_JKLE, row = futures(trace, forks, i), row_of(trace, origin)
            last_LE = mean_over(shares(trace.load_SLE[max(0, row - REFERENCE_ROWS) : row]), axis=0)
            task = ForkTask(one.recipe, one.run, np.stack([last_LE] * len(forks.horizons)), future_JKLE)
            yield ForkPoint(trace, row, names[row], forks.horizons, task)


def fork_floors(
    folder: SeasonFolder, plan: Plan, suite: Suite, values: Sequence[Drawn], count: int
) -> ForkFloors | None:
    """What the forks say of the predictable share, and the power of the test; None where nothing forks."""
    points = list(fork_points(folder.recordings, plan, suite, values, count))
    if not points:
        return None
    tasks = [point.task for point in points]
    found = {f"{weight:g}": detection_power(tasks, weight, plan.forks.level) for weight in WEIGHTS}
    made = ForkFloors(
        season=plan.name,
        horizons=points[0].horizons,
        futures=1 + count,
        level=plan.forks.level,
        power=found,
        floors=tuple(_floor(point) for point in points),
    )
    folder.write(made, "fork_floors.json")
    return made


def _floor(point: ForkPoint) -> ForkFloor:
    floor_K, error_K = floor_fork(point.task.future_JKLE)
    kept = [tuple(float(f"{x:.6g}") for x in values) for values in (floor_K, error_K)]
    return ForkFloor(trace=point.trace.id, origin=point.origin, state=point.state, floor_K=kept[0], error_K=kept[1])
