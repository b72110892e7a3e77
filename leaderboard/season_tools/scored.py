"""Scored seasons as everything is made from them: results on runs that nobody had, what forks tell, and drops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT, committed_result, in_suite_order, model_type_of
from leaderboard.season_tools.drops import ALPHA, Drop, drops, run_ratios
from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.forks import ForkTest, mean_floor
from leaderboard.season_tools.records import DrawPlan, ForkFloors, Scores
from leaderboard.season_tools.scoring import fork_tests
from moeload_bench.errors import ResultError
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.isolation.targets import baseline_names
from moeload_bench.results.comparison import Errors, errors_of, reference_of
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Spread, seed_spread
from moeload_bench.results.tables import Table, signed_skill, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import Suite

SEASONS = ROOT / "leaderboard" / "seasons"
FLOOR = "floor_fork"


@dataclass(frozen=True, eq=False)
class ScoredSeason:
    """A season that was scored; ``floors`` and ``tests`` (by entry) where its runs forked.

    ``unranked``: results of demonstrations, which are shown and have no rank; ``shown``: by entry what a demonstration
    scored on public runs (`public/NAME.json`), where it was run there. Equal only to itself, so that what is measured
    on a season can be kept by it.
    """

    folder: SeasonFolder
    suite: Suite
    results: tuple[Result, ...]
    unranked: tuple[Result, ...]
    scores: Scores
    tests: dict[str, ForkTest]
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
        fork_tests(folder),
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


def spread_of(sides: Iterable[Errors], name: str, reference: str) -> Spread:
    """Return how far seeds move an entry's runs: from all sides that have it, a season's runs and public ones.

    A season has mostly one run of a recipe, which alone says nothing of seeds.
    """
    have = [side for side in sides if name in side.by_forecaster and reference in side.by_forecaster]
    return seed_spread(run_ratios(side, name, reference) for side in have)


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


def drops_of(season: ScoredSeason, public: Sequence[Result]) -> list[Drop]:
    """Return every entry's drop from a public suite's results to the season's; [] where they share no recipe."""
    reference = reference_of(season.results)
    recipes = {run.recipe for run in season.results[0].runs} & {run.recipe for run in public[0].runs}
    if reference is None or not recipes:
        return []
    unfitted = {
        result.name
        for result in season.results
        if result.forecaster.target.partition("@")[0] in baseline_names()
        and model_type_of(result, None) in ("statistical", "yardstick")
    }
    return drops(errors_of(season.results, PRIMARY), errors_of(public, PRIMARY), reference.name, unfitted)


def drop_cells(one: Drop) -> tuple[str, str, str]:
    """Skill on the season, skill on the public suite, and the drop beyond the unfitted."""
    return signed_skill(one.season), signed_skill(one.public), signed_skill(one.beyond)


def drops_table(season: ScoredSeason, public: Sequence[Result]) -> Table | None:
    """Return what every entry loses from a public suite to the season; None where they share no recipe."""
    found = drops_of(season, public)
    if not found:
        return None
    suite = public[0].suite.name
    heads = ("forecaster", "skill, season", f"skill, {suite}", "drop beyond the unfitted", "Holm p", "fork test p", "")
    rows = [
        (one.forecaster, *drop_cells(one), _two_digits(one.p_holm),
         _two_digits(season.tests[one.forecaster].p_value if one.forecaster in season.tests else None),
         "flagged" if one.flagged else "")
        for one in found
    ]  # fmt: skip
    return Table(drop_words(season, suite), heads, tuple(rows), 1, 6)


def _two_digits(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2g}"


def drop_words(season: ScoredSeason, public: str) -> str:
    """Return what the table of drops is."""
    text = (
        f"Skill by {PRIMARY} on the recipes that season {season.name} and suite {public} share. Drop: the mean log "
        "ratio to the reference on the season's runs less that on the public ones, beyond the median drop of the "
        "unfitted baselines (new runs are harder or easier for all). Flagged: more than seeds explain (one-sided t "
        f"test on runs, Holm over entries, p below {ALPHA:g})."
    )
    if not season.tests:
        return text
    runs = max(test.runs for test in season.tests.values())
    least = max(test.least_p for test in season.tests.values())
    return (
        f"{text} Fork test: whether the recorded future was nearer to the forecasts than other futures of the same "
        f"past ({runs} runs; the least p possible is {least:.2g})."
    )
