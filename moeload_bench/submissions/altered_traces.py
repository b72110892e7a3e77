"""Altered traces: what a forecaster that memorised the suite does badly on, with the runs that it is compared with.

- `permuted_and_shifted`: the experts of each layer renumbered at random, the first steps cut off. Memory that is keyed
  by step or by expert fails.
- `future_altered`: the past of one origin as it was; after it the shares move as far as they did, the other way. Memory
  that recognises the past, however it is keyed, says the old future.
- `fresh_runs`: recordings that nobody has seen.

An honest forecaster's loss relative to that of `TRACKER` stays about what it was; a memoriser's grows.
Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import SuiteError
from moeload_bench.evaluation.harness import row_of
from moeload_bench.results.record import TaskResult
from moeload_bench.results.statistics import log_ratio
from moeload_bench.suites.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.traces.meta import COLUMNS
from moeload_bench.traces.store import data_sha256, list_traces, read_trace, write_trace
from moeload_bench.traces.trace import Trace

LEVEL_ROWS = 50  # to either side of the origin: little noise, and a steady drift cancels
TRACKER = "sw_avg@window=10"  # what losses are compared with: a short memory, which a shift of the start leaves alone

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


def permuted_and_shifted(trace: Trace, rows: int, rng: np.random.Generator) -> Trace:
    """The trace without its first ``rows`` rows, steps counted from its old first step, experts renumbered by layer."""
    L, E = trace.num_layers, trace.num_experts
    order_LE = np.argsort(rng.random((L, E)), axis=1)
    columns = {}
    for name, column in trace.columns.items():
        cut = column[rows:]
        per_expert = COLUMNS[name].axes == "LE"
        columns[name] = np.take_along_axis(cut, order_LE[None], axis=2) if per_expert else cut.copy()
    load_SLE = np.take_along_axis(trace.load_SLE[rows:], order_LE[None], axis=2)
    step_S = trace.step_S[: trace.steps - rows].copy()
    return Trace(trace.meta, step_S, trace.tokens_SL[rows:].copy(), load_SLE, columns)


def future_altered(trace: Trace, row: int, end: int) -> Trace:
    """The rows before ``row`` as they are, those up to ``end`` mirrored at the mean share around ``row``.

    The totals of each layer and step stay; the covariates of the altered rows, which no forecaster sees before it is
    asked at ``row``, are made to fit the format.
    """
    share_SLE = np.nan_to_num(trace.share_SLE(), nan=1 / trace.num_experts)
    around = min(LEVEL_ROWS, row, end - row)
    level_LE = share_SLE[row - around : row + around].mean(axis=0)
    mirrored = np.clip(2 * level_LE - share_SLE[row:end], 0, None) + 1e-12
    mirrored /= mirrored.sum(axis=2, keepdims=True)
    load_SLE = trace.load_SLE[:end].copy()
    load_SLE[row:] = _counts(mirrored, load_SLE[row:].sum(axis=2))
    columns = {name: column[:end].copy() for name, column in trace.columns.items()}
    for name in ("load_half", "dropped"):
        if name in columns:
            columns[name][row:] = np.minimum(columns[name][row:], load_SLE[row:])
    return Trace(trace.meta, trace.step_S[:end].copy(), trace.tokens_SL[:end].copy(), load_SLE, columns)


def relative_loss(tasks: Iterable[TaskResult], reference: Iterable[TaskResult], metric: str = "window_tv") -> float:
    """Geometric mean over tasks and horizons of the loss over the reference's, each ratio clipped as in the skill."""
    pairs = [
        (one, other)
        for mine, theirs in zip(tasks, reference, strict=True)
        for one, other in zip(mine.metrics[metric], theirs.metrics[metric], strict=True)
        if one is not None and other is not None
    ]
    if not pairs:
        return 1.0
    error_T, reference_T = np.array(pairs).T
    return float(np.exp(np.mean(log_ratio(error_T, reference_T))))


def _counts(share_SLE: NDArray[np.float64], total_SL: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers near share times total that sum to the total: the largest remainders get one more."""
    exact = share_SLE * total_SL[:, :, None]
    counts = np.floor(exact).astype(np.int64)
    left_SL = total_SL - counts.sum(axis=2)
    rank_SLE = np.argsort(np.argsort(counts - exact, axis=2, kind="stable"), axis=2, kind="stable")
    return np.asarray(counts + (rank_SLE < left_SL[:, :, None]), dtype=np.int64)
