"""What every re-run of published results shares: where code runs, a cache of its own, and how far it may differ.

`reproduce` runs the results of a suite again, `verify` a submission, `season check` the entries of a season.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leaderboard.verifying.agreement import Tolerances, differences, mean_bound, tolerance_of, value_bound
from moeload_bench.environment import Environment
from moeload_bench.errors import IsolationError
from moeload_bench.isolation.hosts import Level, level_available
from moeload_bench.results.columns import CostResult, Row
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, results_of

TOLERANCES = Path(__file__).resolve().parent / "tolerances.toml"


def same_machine(then: Environment, now: Environment) -> str | None:
    """Return what tells two machines apart, None for nothing: the processor, Python, the numerical libraries."""
    pairs = {
        "hardware": (then.hardware, now.hardware),
        "python": (then.python, now.python),
        **{name: (then.versions.get(name), now.versions.get(name)) for name in {**then.versions, **now.versions}},
    }
    differ = [f"{name} {a} -> {b}" for name, (a, b) in sorted(pairs.items()) if a != b]
    return ", ".join(differ) or None


def tolerances_of(entry: Entry, refit: bool = True) -> Tolerances:
    """Return how far re-runs on another machine may be: what the file states of the forecaster, else the catalogue's.

    Means are compared where the file says so: always (`unsteady`), or when a network is fitted again (``refit``).
    """
    stated = tomllib.loads(TOLERANCES.read_text())
    own, means = stated.get(entry.target.partition("@")[0], {}), stated["refit"]
    fitted_again = refit and own.get("refit") and entry.fit_wall_s is not None
    if own.get("unsteady") or fitted_again:
        return Tolerances(
            lambda metric: tuple(means["run"].get(metric, value_bound(metric))),
            over_runs=lambda metric: tuple(means["suite"].get(metric, mean_bound(metric))),
        )
    return Tolerances(lambda metric: tuple(own.get(tolerance_of(metric).kind, value_bound(metric))))


def copied_code_level(own_code: bool) -> Level:
    """Return where a copied entry runs: in the sandbox if there is one.

    Raise `IsolationError` for ``own_code`` of somebody else without a sandbox, which is the only place where it runs.
    """
    missing = level_available("sandbox")
    if missing is not None and own_code:
        raise IsolationError(f"its code is run in the sandbox only: {missing}")
    return "process" if missing else "sandbox"


def rerun_differences(committed: Results, rows: Sequence[Row]) -> list[str]:
    """Return each number of one run of an entry that its re-run contradicts, floors and means by layer among them.

    ``committed``: of that entry on that run alone. Its fitted bytes are the same: it is not compared as fitted again.
    """
    (entry,) = committed.entries.values()
    return differences(results_of([entry], [rows]), committed, tolerances_of(entry, refit=False))


def unequal_columns(first: Sequence[Row], second: Sequence[Row]) -> list[str]:
    """Name what is not the same of two runs of one code on one machine; what they cost is measured, and never is."""
    if len(first) != len(second):
        return ["rows"]
    names = {name: None for rows in zip(first, second, strict=True) for row in rows for name in row}
    compared = [name for name in names if name not in CostResult.model_fields]
    return [name for name in compared if [row.get(name) for row in first] != [row.get(name) for row in second]]


@contextmanager
def scratch_cache() -> Iterator[None]:
    """Keep finished work in a folder of its own meanwhile, which is thrown away: nothing that lay there before is used.

    Packages of requirements lie in the cache too: install them first.
    """
    before = os.environ.get("MOELOAD_CACHE")
    with tempfile.TemporaryDirectory(prefix="moeload-rerun-") as scratch:
        os.environ["MOELOAD_CACHE"] = scratch
        try:
            yield
        finally:
            os.environ.pop("MOELOAD_CACHE") if before is None else os.environ.update(MOELOAD_CACHE=before)
