"""One comparison says three numbers together; each is what an independent computation gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.strata import run_groups
from moeload_bench.suites.suite import load_suite

RESULTS = Path(__file__).parents[2] / "leaderboard" / "seasons" / "2027-02" / "results"
A, B, TITLE = "guarded", "adaptive", "set b2"
Tasks = dict[tuple[str, int, int], float]
"""A value by trace, origin and horizon."""


@pytest.fixture(scope="module")
def part() -> Results:
    return run_groups(load_results([RESULTS / f"{A}.parquet", RESULTS / f"{B}.parquet"]))[TITLE]


def raw(name: str, state: str, column: str) -> Tasks:
    """Return a column of a committed file, read by pyarrow alone."""
    columns = ["trace", "origin", "horizon", "state", column]
    rows = pq.read_table(RESULTS / f"{name}.parquet", columns=columns).to_pylist()
    recipes = load_suite("2027-02").tables[TITLE]
    return {
        (row["trace"], row["origin"], row["horizon"]): row[column]
        for row in rows
        if row["state"] == state and row["trace"].split("/")[0] in recipes and row[column] is not None
    }


def mean_by(values: Mapping[str, float], unit: Mapping[str, str]) -> np.ndarray:
    groups = defaultdict(list)
    for recipe, value in values.items():
        groups[unit[recipe]].append(value)
    return np.array([np.mean(one) for one in groups.values()])


def saved(values: np.ndarray) -> tuple[float, float, float]:
    """Return 1 - exp of a mean of log ratios, and of the ends of its t interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return tuple(float(1 - np.exp(values.mean() + end)) for end in (0, half, -half))  # type: ignore[return-value]


def log_means(first: Tasks, second: Tasks, keys: Iterable[tuple[str, int, int]]) -> dict[str, float]:
    """Return by recipe (each has one run) the mean of log((a + 0.001) / (b + 0.001))."""
    found = defaultdict(list)
    for key in keys:
        found[key[0].split("/")[0]].append(np.log((first[key] + 0.001) / (second[key] + 0.001)))
    return {recipe: float(np.mean(one)) for recipe, one in found.items()}


@pytest.mark.parametrize("state", ["transient", "stable"])
def test_the_numbers_of_a_comparison_are_those_of_an_independent_computation(part: Results, state: str) -> None:
    """Ratio by recipe and by family, share of the sum with the jackknife, each horizon, and the busiest device."""
    row = part.compare(A, B, ["state"]).set_index("state").loc[state]
    first, second = raw(A, state, "window_tv"), raw(B, state, "window_tv")
    family = {recipe: name for name, recipes in load_suite("2027-02").families.items() for recipe in recipes}
    ratio = log_means(first, second, first)
    itself = dict(zip(ratio, ratio, strict=True))
    assert saved(mean_by(ratio, itself)) == pytest.approx([row.saving, row.low, row.high], abs=1e-9)
    by_family = [row.family_saving, row.family_low, row.family_high]
    assert saved(mean_by(ratio, family)) == pytest.approx(by_family, abs=1e-9)
    units = sorted({family[recipe] for recipe in ratio})
    assert row.families == len(units)

    sum_U2 = np.zeros((len(units), 2))
    for key in first:  # every run has as many origins at each horizon, so that sums of tasks are sums of means
        sum_U2[units.index(family[key[0].split("/")[0]])] += first[key], second[key]
    share = 1 - sum_U2[:, 0].sum() / sum_U2[:, 1].sum()
    rest_UU2 = [np.delete(sum_U2, u, axis=0) for u in range(len(units))]
    left = [1 - rest[:, 0].sum() / rest[:, 1].sum() for rest in rest_UU2]
    error = np.sqrt((len(units) - 1) * np.var(left))
    half = stats.t.ppf(0.975, len(units) - 1) * error
    assert [row.total, row.total_low, row.total_high] == pytest.approx([share, share - half, share + half], abs=1e-9)

    for horizon in (1, 10, 100, 1000):
        at = log_means(first, second, [key for key in first if key[2] == horizon])
        assert row[f"h={horizon}"] == pytest.approx(saved(mean_by(at, itself))[0], abs=1e-9)
    for shape in ("half", "quarter", "plain"):
        loads = [raw(name, state, f"imbalance@{shape}") for name in (A, B)]
        work = log_means(loads[0], loads[1], loads[0])
        names = [f"busiest@{shape}", f"busiest@{shape}_low", f"busiest@{shape}_high"]
        assert saved(mean_by(work, dict(zip(work, work, strict=True)))) == pytest.approx(row[names].tolist(), abs=1e-9)


def test_a_suite_that_names_no_families_has_no_interval_over_them() -> None:
    """The share of the total error stands without one."""
    found = evaluate(["uniform", "sw_avg"], "mini", level="none", shapes=())
    row = found.compare("sw_avg", "uniform").iloc[0]
    assert row["families"] == 0
    assert 0 < row["total"] < 1
    assert np.isnan([row[name] for name in ("family_saving", "family_low", "total_low", "total_high")]).all()


def test_a_comparison_has_a_row_for_each_group_even_without_a_stratum(part: Results) -> None:
    """Groups are merged by value, where none is not unequal to itself."""
    without = Results(part.entries, part.table.assign(stratum=None), part.facts)
    found, known = without.compare(A, B, ["stratum", "state"]), part.compare(A, B, ["state"])
    assert found["total"].tolist() == known["total"].tolist()
    assert len(found) == len(known)
