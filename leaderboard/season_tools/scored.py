"""Scored seasons as everything is made from them: results on unseen runs, and floors where runs forked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT, committed_result, in_suite_order
from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.records import DrawPlan, ForkFloors, Scores
from moeload_bench.errors import ResultError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.record import Result
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.forks import mean_floor
from moeload_bench.suites.suite import Suite

SEASONS = ROOT / "leaderboard" / "seasons"
FLOOR = "floor_fork"


@dataclass(frozen=True, eq=False)
class ScoredSeason:
    """A season that was scored; ``floors`` where its runs forked.

    ``unranked``: results of demonstrations, which are shown and have no rank; ``shown``: by entry what a demonstration
    scored on public runs (`public/NAME.json`), where it was run there. Equal only to itself, so that what is measured
    on a season can be kept by it.
    """

    folder: SeasonFolder
    suite: Suite
    results: tuple[Result, ...]
    unranked: tuple[Result, ...]
    scores: Scores
    floors: ForkFloors | None
    shown: Mapping[str, Result]

    @property
    def name(self) -> str:
        return self.scores.season

    @property
    def draws(self) -> DrawPlan | None:
        """Return what was drawn after closing; None for a season of known recipes."""
        return self.folder.plan().draws

    @property
    def suite_name(self) -> str:
        """Return the public suite whose open runs the entries were fitted on, and whose horizons and rule are the
        season's.
        """
        return self.folder.plan().suite


def scored_seasons(root: Path = SEASONS) -> list[ScoredSeason]:
    """Return the scored seasons, the newest first by the day on which they were opened; raise `ResultError` for a
    result that was changed.
    """
    folders = [SeasonFolder(path.parent) for path in sorted(root.glob("*/scores.json"))]
    folders.sort(key=lambda folder: (folder.plan().opened, folder.plan().name), reverse=True)
    return [_read(folder) for folder in folders]


def _read(folder: SeasonFolder) -> ScoredSeason:
    scores = folder.scores()
    assert scores is not None
    ranked = {entry.name: entry.ranked for entry in folder.commitment().entries}
    results: dict[bool, list[Result]] = {True: [], False: []}
    for name, sha256 in scores.results.items():
        path = folder.results / f"{name}.json"
        if not path.is_file() or bytes_sha256(path) != sha256:
            raise ResultError(f"{path}: not the result that season {scores.season} was scored with")
        results[ranked[name]].append(committed_result(path))
    suite = read_record(Suite, folder.path / "suite.json")
    floors = folder.path / "fork_floors.json"
    return ScoredSeason(
        folder,
        suite,
        tuple(in_suite_order(results[True], suite)),
        tuple(results[False]),
        scores,
        read_record(ForkFloors, floors) if scores.fork_floors else None,
        {result.name: found for result in results[False] if (found := _on_public_runs(folder, result)) is not None},
    )


def _on_public_runs(folder: SeasonFolder, result: Result) -> Result | None:
    """Return what the same code scored on public runs; raise `ResultError` for that of other code."""
    path = folder.path / "public" / f"{result.name}.json"
    if not path.is_file():
        return None
    found = committed_result(path)
    if found.forecaster.source_sha256 != result.forecaster.source_sha256:
        raise ResultError(f"{path}: made by other code than the season's entry {result.name}")
    return found


@dataclass(frozen=True)
class StateFloor:
    """`floor_fork` of a state at the suite's horizons, and its standard error; None beyond the end of the forks."""

    floor_K: tuple[float | None, ...]
    error_K: tuple[float | None, ...]
    origins: int

    def cells(self) -> list[tuple[float, float] | None]:
        """(floor, error) by horizon."""
        pairs = zip(self.floor_K, self.error_K, strict=True)
        return [None if floor is None or error is None else (floor, error) for floor, error in pairs]

    def texts(self, zeros: bool = False) -> list[str]:
        """Return the floor ± its standard error, by horizon."""
        return [
            NOTHING if cell is None else " ± ".join(three_digits(value, zeros) for value in cell)
            for cell in self.cells()
        ]


def fork_floors(season: ScoredSeason, recipe: str = "all") -> dict[str, StateFloor]:
    """Return by state, for all recipes or one: means over the runs whose origins of forks were in it."""
    found: dict[str, StateFloor] = {}
    floors = season.floors.floors if season.floors is not None else ()
    chosen = [one for one in floors if recipe in ("all", one.trace.split("/")[0])]
    for state in dict.fromkeys(one.state for one in chosen):
        of_state = [one for one in chosen if one.state == state]
        arrays = [(one.trace, np.array(one.floor_K), np.array(one.error_K)) for one in of_state]
        floor_K, error_K = mean_floor(arrays)
        assert season.floors is not None
        at = {horizon: k for k, horizon in enumerate(season.floors.horizons)}
        floor, error = (
            tuple(float(values[at[h]]) if h in at else None for h in season.suite.horizons)
            for values in (floor_K, error_K)
        )
        found[state] = StateFloor(floor, error, len(of_state))
    return found
