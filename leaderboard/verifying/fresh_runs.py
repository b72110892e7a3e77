"""Runs that nobody has seen, each with the suite's runs that a forecaster's loss on it is compared with.

An honest forecaster's loss relative to that of `TRACKER` is about what it is on the suite; a memoriser's grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moeload_bench.errors import SuiteError
from moeload_bench.harness.run_result import TaskResult
from moeload_bench.results.skill import log_ratio
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import Suite, SuiteTrace, suite_for_trace
from moeload_bench.traces.store import list_traces, read_trace

TRACKER = "sw_avg@window=10"  # what losses are compared with: a short memory


@dataclass(frozen=True)
class Fresh:
    """A run that is not the suite's, and the runs of the suite that it is compared with."""

    test: str
    before: Sequence[SuiteTrace]
    entry: SuiteTrace
    path: Path


def fresh_runs(suite: Suite, folder: Path) -> list[Fresh]:
    """Return the traces of a folder, compared with the suite's runs of the same recipe, else with all of them.

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
        same_recipe = [one for one in suite.traces if _recipe(one) == _recipe(entry)]
        test = "fresh_runs" if same_recipe else "other_recipes"
        found.append(Fresh(test, same_recipe or suite.traces, entry, ref.path))
    return found


def _recipe(entry: SuiteTrace) -> str:
    return entry.id.split("/")[0]


def relative_loss(tasks: Iterable[TaskResult], reference: Iterable[TaskResult]) -> float:
    """Return the geometric mean of the loss over the reference's, over tasks and horizons, clipped as in the skill."""
    error_TK, reference_TK = (
        np.array([task.metrics[PRIMARY] for task in each], dtype=np.float64) for each in (tasks, reference)
    )
    ratio_TK = log_ratio(error_TK, reference_TK)
    known = ratio_TK[np.isfinite(ratio_TK)]
    return float(np.exp(known.mean())) if len(known) else 1.0
