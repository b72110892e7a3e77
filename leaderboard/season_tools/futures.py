"""The futures of a run that forks: window means of what was recorded and of its forks.

Axis letters: J futures, K horizons, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaderboard.season_tools.recording import fork_path
from leaderboard.season_tools.records import Drawn, Plan
from moeload_bench.errors import SeasonError
from moeload_bench.evaluation.harness import row_of
from moeload_bench.scoring.scores import mean_over
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RunForks:
    """The origins at which a run forks, each with the files of its other futures."""

    run: int
    origins: tuple[int, ...] = ()
    paths: tuple[tuple[Path, ...], ...] = ()
    horizons: tuple[int, ...] = ()


def run_forks(root: Path, plan: Plan, values: Drawn, suite: Suite, count: int) -> RunForks:
    """Where a run forks, and the files of its first ``count`` forks of each origin."""
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


def window_means(load_SLE: NDArray[np.int64], horizons_K: Sequence[int]) -> FloatArray:
    """Mean share over the first steps of each horizon [K, L, E]; steps without load are left out."""
    share_SLE = shares(load_SLE)
    return np.stack([mean_over(share_SLE[:horizon], axis=0) for horizon in horizons_K])
