"""How often the screen of `verify` finds memorisers that are drawn at random.

Each draw is a memoriser of its own: its memory has another resolution, and it is mixed with the mean of another number
of last steps, or with the forecasts of the strongest baseline. One replay of its file gives what it remembers; as
forecasts are mixed linearly, so are their sums.

Axis letters: O origins, K suite horizons, L MoE layers, E experts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from leaderboard.pages.parts import Maker, aligned_table
from leaderboard.verifying.screen import Strata, Sums, screen_strata, strata_of, summed_by_recipe
from leaderboard.verifying.screening import EVERY, add_measured, forecast_means, memoriser_file
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import not_found
from moeload_bench.evaluation.harness import row_of
from moeload_bench.isolation.targets import parse_target
from moeload_bench.suites.suite import Suite, SuiteTrace, load_suite
from moeload_bench.traces.trace import Trace, shares

DRAWN = Path(__file__).resolve().parent / "drawn.json"
DRAWS = {"mini": 20}
WINDOWS = (5, 1000)  # steps of the honest forecast that a memory is mixed with
COARSER = 2.0  # a memory has up to so many times the steps of the one that fits best
BEYOND = 100
STRONG = "gated"
WEIGHTS = tuple(weight / 100 for weight in range(1, 101))


@dataclass(frozen=True)
class Mixed:
    """One run: the sums of an honest forecast, of a remembered one, and of both by halves, which give any mixture's."""

    honest: Strata
    memory: Strata
    halves: Strata

    def at(self, weight: float) -> Strata:
        """Those of the honest forecast moved by ``weight`` of the way to the remembered one."""
        return {name: self._at(name, weight) for name in self.honest}

    def _at(self, name: tuple[str, str, int], weight: float) -> Sums:
        one, other, half = self.honest[name], self.memory[name], self.halves[name]
        cross = (4 * half.forecast - one.forecast - other.forecast) / 2
        moved = (1 - weight) ** 2 * one.forecast + 2 * (1 - weight) * weight * cross + weight**2 * other.forecast
        return Sums((1 - weight) * one.both + weight * other.both, one.truth, moved)


@dataclass(frozen=True)
class Memoriser:
    """One draw, by run: a memory of whole windows, of what comes after `BEYOND` steps, and mixed into `STRONG`."""

    whole: Sequence[Mixed]
    late: Sequence[Mixed]
    strong: Sequence[Mixed]
    told: Sequence[bool]  # by run, in random order: whether what earlier runs passed on lets it use its memory


Kind = Callable[[Memoriser, float], list[Strata]]
KINDS: Mapping[str, tuple[float, Kind]] = {
    "all runs": (1.0, lambda one, weight: [run.at(weight) for run in one.whole]),
    "all runs, weight 0.3": (0.3, lambda one, weight: [run.at(weight) for run in one.whole]),
    f"all runs, mixed into `{STRONG}`, weight 0.3": (0.3, lambda one, weight: [run.at(weight) for run in one.strong]),
    "beyond horizon 100 only": (1.0, lambda one, weight: [run.at(weight) for run in one.late]),
    "every second run, told by the runs before": (
        1.0,
        lambda one, weight: [run.at(weight if told else 0.0) for run, told in zip(one.whole, one.told, strict=True)],
    ),
}


def measure(suite: Suite) -> dict[str, dict[str, Any]]:
    """Return by kind how many were drawn, how many were found, and the least weight at which half of them are."""
    drawn = list(draw(suite, DRAWS[suite.name]))
    found: dict[str, dict[str, Any]] = {}
    for kind, (weight, runs) in KINDS.items():
        hits = [_found(runs(one, weight)) for one in drawn]
        half = next((w for w in WEIGHTS if np.mean([_found(runs(one, w)) for one in drawn]) >= 0.5), None)
        found[kind] = {"draws": len(drawn), "found": sum(hits), "half_found_from": half}
    return found


def _found(runs: Sequence[Strata]) -> bool:
    looked = screen_strata(summed_by_recipe(runs))
    return looked is not None and any(looked.reasons())


def draw(suite: Suite, number: int, seed: int = 0) -> Iterator[Memoriser]:
    """Yield so many memorisers."""
    random = np.random.default_rng(seed)
    strong = [mean_OKLE for _, _, mean_OKLE in forecast_means(suite, parse_target(STRONG))]
    for _ in range(number):
        every = int(EVERY[suite.name] * random.uniform(1, COARSER))
        window = int(np.exp(random.uniform(*np.log(WINDOWS))))
        with tempfile.TemporaryDirectory() as scratch:
            target, _ = memoriser_file(suite, Path(scratch), every=every, window=window)
            runs = zip(forecast_means(suite, target), strong, strict=True)
            mixed = [_mixed(*run, other, run[1].asked(suite.horizons), window) for run, other in runs]
        order = random.permutation(len(mixed))
        whole, late, with_strong = zip(*mixed, strict=True)
        yield Memoriser(whole, late, with_strong, [bool(i % 2) for i in order])


def _mixed(
    trace: Trace,
    entry: SuiteTrace,
    memory_OKLE: FloatArray,
    strong_OKLE: FloatArray,
    horizons: Sequence[int],
    window: int,
) -> tuple[Mixed, Mixed, Mixed]:
    """Return a run with its memory, with that of late steps only, and with its memory mixed into a strong forecast."""
    share_SLE = np.nan_to_num(shares(trace.load_SLE), nan=1 / trace.num_experts)
    rows = [row_of(trace, origin) for origin, _ in entry.origins()]
    last_OLE = np.stack([share_SLE[max(0, row - window) : row].mean(axis=0) for row in rows])
    honest_OKLE = np.repeat(last_OLE[:, None], len(horizons), axis=1)
    early_O1LE = (honest_OKLE - memory_OKLE)[:, [horizons.index(BEYOND)]]
    part_K = np.array([min(1.0, BEYOND / horizon) for horizon in horizons])[:, None, None]
    late_OKLE = np.where(part_K == 1, honest_OKLE, memory_OKLE + part_K * early_O1LE)

    def sums(mean_OKLE: FloatArray) -> Strata:
        return strata_of(trace, entry, mean_OKLE, horizons)

    def mixed(base_OKLE: FloatArray, known_OKLE: FloatArray) -> Mixed:
        return Mixed(sums(base_OKLE), sums(known_OKLE), sums((base_OKLE + known_OKLE) / 2))

    return mixed(honest_OKLE, memory_OKLE), mixed(honest_OKLE, late_OKLE), mixed(strong_OKLE, memory_OKLE)


def table(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a row for each suite and kind."""
    rows = [
        (suite, kind, str(one["draws"]), str(one["found"]), str(one["half_found_from"] or "none"))
        for suite, kinds in measured.items()
        for kind, one in ((kind, kinds[kind]) for kind in KINDS)
    ]
    return aligned_table(("suite", "what it remembers", "drawn", "found", "half are found from weight"), rows, 2)


PARTS: Mapping[str, Maker] = {"drawn": lambda: table(json.loads(DRAWN.read_text()))}


def drawn(suite: Annotated[str, typer.Argument(help=f"A suite: {', '.join(DRAWS)}.")]) -> None:
    """Measure how often the screen of `verify` finds memorisers that are drawn at random.

    Kept in leaderboard/verifying/drawn.json; `pages docs/guide/leaderboard.md` makes the table.
    """
    if suite not in DRAWS:
        raise not_found("suite", suite, [*DRAWS])
    add_measured(DRAWN, suite, measure(load_suite(suite)))
