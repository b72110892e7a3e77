"""The futures of a run that forks: window means, the predictable share, and the power of the test that they make.

Axis letters: J futures, K horizons, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.season_tools.forks import ForkTask, detection_power, floor_fork
from leaderboard.season_tools.recording import fork_path
from leaderboard.season_tools.records import Drawn, ForkFloor, ForkFloors, Plan
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import SeasonError
from moeload_bench.evaluation.harness import row_of
from moeload_bench.states.rule import State, label_states, state_names
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares

WEIGHTS = (0.1, 0.3, 1.0)  # of memories whose power is published
REFERENCE_ROWS = 100  # the reference `sw_avg`: what a memory is mixed with to measure power


@dataclass(frozen=True)
class RunForks:
    """The origins at which a run forks, each with the files of its other futures."""

    run: int
    origins: tuple[int, ...] = ()
    paths: tuple[tuple[Path, ...], ...] = ()
    horizons: tuple[int, ...] = ()


def run_forks(root: Path, plan: Plan, values: Drawn, suite: Suite, count: int) -> RunForks:
    """Return where a run forks, and the files of its first ``count`` forks of each origin."""
    horizons = tuple(h for h in suite.horizons if h <= plan.forks.steps)
    paths = tuple(
        tuple(fork_path(root, plan, values.recipe, values.run, i, j) for j in range(count))
        for i in range(len(values.fork_origins))
    )
    return RunForks(values.run, values.fork_origins, paths, horizons)


def futures(trace: Trace, forks: RunForks, i: int) -> FloatArray:
    """Mean shares over the windows of all futures of an origin [J, K, L, E], the recorded one first.

    Raises `SeasonError` for a fork that does not begin there or is too short.
    """
    row, longest = row_of(trace, forks.origins[i]), max(forks.horizons)
    found = [window_means(trace.load_SLE[row : row + longest], forks.horizons)]
    for path in forks.paths[i]:
        fork = read_trace(path)
        if int(fork.step_S[0]) != forks.origins[i] or fork.steps < longest:
            raise SeasonError(
                f"{path}: {fork.steps} steps from {int(fork.step_S[0])} on, expected {longest} from {forks.origins[i]}"
            )
        found.append(window_means(fork.load_SLE[:longest], forks.horizons))
    return np.stack(found)


def window_means(load_SLE: IntArray, horizons_K: Sequence[int]) -> FloatArray:
    """Mean share over the first steps of each horizon [K, L, E]; steps without load are left out."""
    share_SLE = shares(load_SLE)
    return np.stack([mean_over(share_SLE[:horizon], axis=0) for horizon in horizons_K])


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
        """Return the training step."""
        return int(self.trace.step_S[self.row])


def fork_points(root: Path, plan: Plan, suite: Suite, values: Sequence[Drawn], count: int) -> Iterator[ForkPoint]:
    """Yield every origin of forks of the runs that were recorded, with the traces of ``count`` forks below ``root``."""
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
    """Return what the forks say of the predictable share, and the power of the test; None where nothing forks."""
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
