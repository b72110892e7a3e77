"""Forecasts of the need of capacity, scored on runs of recipes that they were not fitted on.

`leaderboard/capacity.json` keeps the largest need of every `BLOCK` rows of each run of traces/, over all layers, by the
hash of the run: `python -m leaderboard pages capacity` measures the runs that it lacks, fits and scores again. Scored
are `test` runs: each by what was fitted on `train` runs without its recipe and near twins, those of its size of batch
before others. Scored are also the runs of seasons of drawn recipes, by what was fitted on all `train` runs: their
recipes did not exist then. The ratios that the package ships are made by `leaderboard.fit.capacity`.

Axis letters: B blocks, N windows, P ratios, Q risks, R runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leaderboard.committed import ROOT, TRACES
from leaderboard.fit.capacity import BLOCK, HORIZONS, Level, RunNeeds, lately, origins, ratios, run_needs
from leaderboard.grouped import grouped
from leaderboard.studies.clusters import groups_of
from leaderboard.studies.kept import read_records, season_file
from moeload_bench.arrays import FloatArray
from moeload_bench.capacity.answer import RISKS
from moeload_bench.capacity.forecast import bounded, mixture, quantile, seen, size_of
from moeload_bench.capacity.needs import most_need
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash
from moeload_bench.traces.summed import sum_rows

OUT = ROOT / "leaderboard" / "capacity.json"
MERGED = 10
MERGED_FROM = 4000
"""Runs of so many rows are scored once more with ten rows as one: the noise of a large batch."""
BROKEN = "unbalanced-"
"""Recipes that are recorded for alarms, broken on purpose."""


class CapacityRun(RunNeeds):
    """What a run needed; ``merged`` rows were counted as one first. ``most``: the largest need that routing allows."""

    data_sha256: str
    merged: int
    most: float

    @property
    def stratum(self) -> str:
        """Return the stratum of tokens per expert and row."""
        return "merged" if self.merged > 1 else size_of(self.tokens)


def measure(ref: TraceRef) -> Iterator[CapacityRun]:
    """Yield the record of a run, and of its merged rows if it has enough of them."""
    trace = read_trace(ref.path)
    for merged in (1, MERGED) if trace.steps >= MERGED_FROM else (1,):
        rows = trace if merged == 1 else sum_rows(trace, merged)
        yield CapacityRun(
            **run_needs(ref.id, rows).model_dump(),
            data_sha256=stored_hash(ref.path),
            merged=merged,
            most=most_need(rows, rows.num_experts),
        )


def is_whole(trace: str) -> bool:
    """Return whether a run was not broken on purpose."""
    return not trace.startswith(BROKEN)


def all_runs(folder: Path = TRACES, kept: Path = OUT, wanted: Callable[[str], bool] = is_whole) -> list[CapacityRun]:
    """Return the records of every run in the folder whose id is wanted, measured where none is kept.

    Without a folder, those that are kept.
    """
    runs = read_records(CapacityRun, kept)
    if not folder.is_dir():
        return runs
    known = grouped(runs, lambda run: (run.id, run.data_sha256))
    refs = [ref for ref in list_traces(folder) if wanted(ref.id)]
    return [run for ref in refs for run in known.get((ref.id, stored_hash(ref.path))) or measure(ref)]


def drawn_runs() -> list[CapacityRun]:
    """Return the records of the runs of seasons of drawn recipes, which `pages seasons` measures."""
    every = season_file("season-*", "capacity")
    return [run for path in sorted(every.parent.glob(every.name)) for run in read_records(CapacityRun, path)]


class Entry(NamedTuple):
    """An entry of the board: the level that is scaled, and whether the run's own windows count too."""

    about: str
    level: Level
    own: bool


def _so_far(peak_B: FloatArray, blocks: int) -> float:
    return float(peak_B.max())


NAIVE, SHIPPED = "naive", "windows"
ENTRIES: Mapping[str, Entry] = {
    NAIVE: Entry("largest need so far, times c for each risk", _so_far, False),
    "recent": Entry("largest need of the last half window, times c for each risk", lately, False),
    SHIPPED: Entry("`moeload-bench capacity`: as `recent`, c also from the run's own windows", lately, True),
}


@dataclass(frozen=True)
class Scored:
    """An entry on a run at one horizon: losses at risks of 10 and 1 %, and of each risk of `RISKS` [Q] the part of
    windows that exceeded, and capacity kept in vain over the need.
    """

    run: CapacityRun
    entry: str
    horizon: int
    windows: int
    loss_tenth: float
    loss_last: float
    exceeded_Q: FloatArray
    waste_Q: FloatArray

    @property
    def recipe(self) -> str:
        return self.run.recipe


def score(run: CapacityRun, name: str, horizon: int, prior_P: FloatArray) -> Scored | None:
    """Return what an entry scores on a run; None for a run that is too short."""
    peak_B, blocks, entry = run.needs(), horizon // BLOCK, ENTRIES[name]
    starts = origins(peak_B, blocks)
    if not starts:
        return None
    need_N = np.array([peak_B[at : at + blocks].max() for at in starts])
    factor_NQ = np.empty((len(starts), len(RISKS)))
    for n, at in enumerate(starts):
        own_N = seen(peak_B[:at], blocks)[1] if entry.own else np.empty(0)
        factor_Q = entry.level(peak_B[:at], blocks) * quantile(*mixture(own_N, prior_P), RISKS)
        factor_NQ[n] = bounded(factor_Q, peak_B[:at], run.most)
    factor_NQ = np.maximum(factor_NQ, 1.0)
    off_NQ = need_N[:, None] - factor_NQ
    loss_Q = np.maximum(off_NQ * (1 - np.array(RISKS)), -off_NQ * np.array(RISKS)).mean(axis=0)
    return Scored(
        run, name, horizon, len(starts), float(loss_Q[0]), float(loss_Q[2]),
        (off_NQ > 0).mean(axis=0), (np.maximum(-off_NQ, 0) / need_N[:, None]).mean(axis=0),
    )  # fmt: skip


def board(runs: Sequence[CapacityRun], drawn: Sequence[CapacityRun] = ()) -> list[Scored]:
    """Return the scores of all entries on all `test` runs, fitted on `train` runs of other groups, and on ``drawn``
    runs, fitted on all `train` runs.
    """
    groups = groups_of(run.recipe for run in runs)
    train = [run for run in runs if "/train/" in run.id and run.merged == 1]
    found = list(scores_of(drawn, train, groups))
    for group in dict.fromkeys(groups.values()):
        tested = [run for run in runs if "/test/" in run.id and groups[run.recipe] == group]
        others = [run for run in train if groups[run.recipe] != group]
        found.extend(scores_of(tested, others, groups) if tested else ())
    return found


def scores_of(
    tested: Sequence[CapacityRun], others: Sequence[CapacityRun], groups: Mapping[str, str]
) -> Iterator[Scored]:
    """Yield the scores of all entries, fitted on the other runs."""
    for size in dict.fromkeys(size_of(run.tokens) for run in tested):
        for horizon in HORIZONS:
            for name, entry in ENTRIES.items():
                prior_P = ratios(others, groups, entry.level, horizon, size)
                scored = (score(run, name, horizon, prior_P) for run in tested if size_of(run.tokens) == size)
                yield from (one for one in scored if one is not None)
