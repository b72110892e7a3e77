"""What one forecaster saves of another one's error, against a second implementation in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from leaderboard.committed import RESULTS
from moeload_bench.errors import NotFoundError
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.savings import mean_vote, savings, without_most_influential
from moeload_bench.results.skill import wide

FILES = [RESULTS / "v3" / f"{name}.parquet" for name in ("guarded", "adaptive", "sw_avg", "uniform")]


@pytest.fixture(scope="module")
def v3() -> Results:
    return load_results(FILES)


def second_implementation(found: Results, a: str, b: str, state: str, offset: float = 0.001) -> dict[str, float]:
    """Return the same numbers for one state, by loops over tasks, runs, recipes and twins."""
    rows = found.table[found.table["state"] == state]
    error = {name: dict(zip(zip(of["trace"], of["origin"], of["horizon"], strict=True), of["window_tv"], strict=True))
             for name, of in rows.groupby("forecaster")}  # fmt: skip
    runs: dict[str, list[float]] = {}
    for (trace, *_), e in ((task, (error[a][task], error[b][task])) for task in error[a]):
        if np.isfinite(e).all():
            ratio = min(20.0, max(0.05, (e[0] + offset) / (e[1] + offset)))
            runs.setdefault(trace, []).append(np.log(ratio))
    means = {trace: float(np.mean(values)) for trace, values in runs.items()}

    def vote_values(of: dict[str, float]) -> list[float]:
        recipes: dict[str, list[float]] = {}
        for trace, value in of.items():
            recipes.setdefault(trace.split("/")[0], []).append(value)
        groups: dict[str, list[float]] = {}
        for recipe, values in recipes.items():
            groups.setdefault(found.suite.twins.get(recipe, recipe), []).append(float(np.mean(values)))
        return [float(np.mean(values)) for values in groups.values()]

    def without(*names: str) -> dict[str, float]:
        return {trace: value for trace, value in means.items() if trace not in names}

    votes = np.array(vote_values(means))
    half = stats.t.ppf(0.975, len(votes) - 1) * votes.std(ddof=1) / np.sqrt(len(votes))
    moved = {trace: abs(np.mean(vote_values(without(trace))) - votes.mean()) for trace in means}
    two = sorted(moved, key=lambda trace: moved[trace])[-2:]
    return {
        "saving": 1 - np.exp(votes.mean()),
        "low": 1 - np.exp(votes.mean() + half),
        "high": 1 - np.exp(votes.mean() - half),
        "p": stats.ttest_1samp(votes, 0).pvalue,
        "median": 1 - np.exp(np.median(votes)),
        "clipped_mean": 1 - np.exp(np.clip(votes, -0.25, 0.25).mean()),
        "without_two": 1 - np.exp(np.mean(vote_values(without(*two)))),
        "recipes": len(votes),
        "runs": len(means),
    }


@pytest.mark.parametrize("other", ["adaptive", "sw_avg", "uniform"])
@pytest.mark.parametrize("state", ["transient", "stable"])
def test_savings_are_those_of_a_second_implementation(v3: Results, other: str, state: str) -> None:
    """On committed results: near twins have one vote, several runs of a recipe one, too."""
    (row,) = v3.compare("guarded", other, ["state"]).query("state == @state").to_dict("records")
    expected = second_implementation(v3, "guarded", other, state)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    wider = second_implementation(v3, "guarded", other, state, 0.005)
    assert row["saving@0.005"] == pytest.approx(wider["saving"])
    assert row["seeds_low"] < row["saving"] < row["seeds_high"]


def test_without_an_offset_it_is_the_skill_against_that_forecaster(v3: Results) -> None:
    """The frozen skill has no offset; groups are those of summaries."""
    by = ["stratum", "state", "horizon"]
    skill = v3.summarize(by).query("forecaster == 'guarded'").set_index(by)["skill"].dropna()
    saved = v3.compare("guarded", "sw_avg", by).set_index(by)["saving@0"]
    assert saved.loc[skill.index].to_numpy() == pytest.approx(skill.to_numpy())


def test_a_forecaster_saves_nothing_of_its_own_error_nor_of_a_twin_s(v3: Results) -> None:
    """Errors that are equal to the last digit are no difference, with p = 1."""
    twin = replace(v3, table=v3.table.assign(window_tv=0.0))
    (row,) = twin.compare("guarded", "adaptive").to_dict("records")
    assert (row["saving"], row["low"], row["p"], row["suite"]) == (0.0, 0.0, 1.0, "v3")
    with pytest.raises(NotFoundError, match="unknown forecaster 'nobody'"):
        v3.compare("guarded", "nobody")


def test_the_two_runs_that_move_the_mean_most_are_left_out(v3: Results) -> None:
    """Whichever recipes they are of."""
    errors = wide(v3.table, "window_tv")[["guarded", "adaptive"]]
    few = errors[errors.index.get_level_values("trace").isin(v3.traces[:3])]
    assert savings(few, ["state"], {})["low"].isna().all()  # under five recipes there is no interval
    ratios = errors["guarded"].groupby(level=["recipe", "trace"]).mean().iloc[:4] * 0 + [1.0, 2.0, 3.0, 40.0]
    rest = ratios.drop(index=ratios.index[[0, 3]])
    names = [name for name, _ in rest.index]
    assert without_most_influential(ratios, {}, 2) == pytest.approx(
        mean_vote(rest.to_numpy(), np.unique(names, return_inverse=True)[1], np.unique(names, return_inverse=True)[1])
    )
