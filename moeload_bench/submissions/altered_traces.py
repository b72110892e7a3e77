"""The traces on which a verification asks for memory, each with the suite's runs that it is compared with.

They are made from the suite's own traces (`submissions.memorising`), or are recordings that nobody has seen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moeload_bench.errors import SuiteError
from moeload_bench.evaluation.harness import row_of
from moeload_bench.submissions.memorising import future_altered, permuted_and_shifted
from moeload_bench.suites.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.traces.store import data_sha256, list_traces, read_trace, write_trace
from moeload_bench.traces.trace import Trace

MAX_SHIFT_ROWS = 20
SPLICES_PER_STATE = 2


@dataclass(frozen=True)
class Altered:
    """A trace on which a test runs, and the runs of the suite (or some origins of one) that it is compared with."""

    test: str
    before: Sequence[SuiteTrace]
    origins: Sequence[int] | None
    entry: SuiteTrace
    path: Path


@dataclass(frozen=True)
class Altering:
    """Makes altered traces of a suite's, as files in ``scratch``."""

    suite: Suite
    paths: Mapping[str, Path]
    rng: np.random.Generator
    scratch: Path

    def permuted(self, entry: SuiteTrace) -> Iterator[Altered]:
        """The run with its experts renumbered and its start cut off; origins and horizons are the suite's."""
        trace = self._read(entry)
        rows = int(self.rng.integers(MAX_SHIFT_ROWS // 2, MAX_SHIFT_ROWS + 1))
        shift = rows * trace.meta.stride
        first = int(trace.step_S[0]) + shift
        kept = [origin for origin, _ in entry.origins() if origin > first]
        moved = _with_origins(entry, kept, -shift)
        other = permuted_and_shifted(trace, rows, self.rng)
        yield Altered("permuted_and_shifted", [entry], kept, *self._written(moved, other))

    def futures(self, entry: SuiteTrace) -> Iterator[Altered]:
        """The run with another future, once for each of some origins of every state."""
        trace = self._read(entry)
        horizon = self.suite.horizon // trace.meta.stride
        for origin in self._splices(entry):
            row = row_of(trace, origin)
            other = future_altered(trace, row, row + horizon)
            placed = self._written(_with_origins(entry, [origin]), other)
            yield Altered("future_altered", [entry], [origin], *placed)

    def _read(self, entry: SuiteTrace) -> Trace:
        return read_trace(self.paths[entry.id], expected_sha256=entry.data_sha256)

    def _splices(self, entry: SuiteTrace) -> list[int]:
        picks = [self.rng.choice(o, size=min(SPLICES_PER_STATE, len(o)), replace=False) for o in _by_state(entry)]
        return sorted(int(origin) for pick in picks for origin in pick)

    def _written(self, entry: SuiteTrace, trace: Trace) -> tuple[SuiteTrace, Path]:
        """The trace's entry and file."""
        path = write_trace(trace, self.scratch / f"{secrets.token_hex(8)}.parquet")
        return entry.model_copy(update={"data_sha256": data_sha256(trace)}), path


def splices(entry: SuiteTrace) -> int:
    """How many altered futures `Altering.futures` makes of a run."""
    return sum(min(SPLICES_PER_STATE, len(origins)) for origins in _by_state(entry))


def fresh_runs(suite: Suite, folder: Path) -> list[Altered]:
    """The traces of a folder, compared with the suite's runs of the same recipe, else with all of them.

    How a forecaster compares with another depends on the recipe, so that the second is reported and not judged.
    Raises `SuiteError` for a folder without traces and for a trace that is too short for the suite's horizons.
    """
    refs = list_traces(folder)
    if not refs:
        raise SuiteError(f"{folder}: no traces (RECIPE/SPLIT/seedN.parquet)")
    found = []
    for ref in refs:
        own = suite_for_trace(read_trace(ref.path), horizons=suite.horizons, rule=suite.rule)
        if own.horizons != suite.horizons:
            raise SuiteError(f"{ref.path}: too short for the horizons of suite {suite.name}")
        entry = own.traces[0]
        alike = [one for one in suite.traces if _recipe(one) == _recipe(entry)]
        test = "fresh_runs" if alike else "other_recipes"
        found.append(Altered(test, alike or suite.traces, None, entry, ref.path))
    return found


def _recipe(entry: SuiteTrace) -> str:
    return entry.id.split("/")[0]


def _by_state(entry: SuiteTrace) -> list[tuple[int, ...]]:
    return [origins for origins in (entry.transient, entry.mixed, entry.stable) if origins]


def _with_origins(entry: SuiteTrace, origins: Sequence[int], shift: int = 0) -> SuiteTrace:
    states = {"transient": entry.transient, "mixed": entry.mixed, "stable": entry.stable}
    kept = {state: tuple(o + shift for o in old if o in set(origins)) for state, old in states.items()}
    return entry.model_copy(update=kept)
