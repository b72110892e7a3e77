"""The need of a window, the largest load over the even share, and quantiles of that of the next one."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.inspection.needs import (
    TIMES,
    dropped_after,
    micro_needs,
    mixture,
    need_quantiles,
    needs,
    prior_for,
    priors,
    quantile,
    seen,
)
from moeload_bench.traces import streaming
from moeload_bench.traces.trace import Trace


def run(load_SLE: np.ndarray, **more: object) -> Trace:
    return Trace.from_arrays(load_SLE, **more)


def test_need_is_the_busiest_expert_over_the_even_share() -> None:
    """6 of 8 tokens on one of four experts are 3 times the even share of 2; a layer without load needs 1."""
    trace = run(np.array([[[6, 2, 0, 0], [2, 2, 2, 2]], [[0, 0, 0, 0], [4, 4, 0, 0]]]))
    assert needs(trace).tolist() == [[3.0, 1.0], [1.0, 2.0]]


def test_devices_hold_experts_by_number() -> None:
    """Two devices of two experts: 8 of 8 tokens on the first are twice its share; three devices cannot share four."""
    trace = run(np.array([[[6, 2, 0, 0]], [[4, 0, 4, 0]]]))
    assert needs(trace, 2).tolist() == [[2.0], [1.0]]
    with pytest.raises(
        PlacementError, match="expected a divisor of the 4 experts, each device holding as many: 1, 2, 4"
    ):
        needs(trace, 3)


def test_micro_batches_only_where_recorded() -> None:
    """The busiest expert of a micro-batch is given over the even share of the whole step."""
    load = np.array([[[6, 2, 0, 0]]])
    assert micro_needs(run(load)) is None
    assert micro_needs(run(load, columns={"micro_max": np.array([[[3, 2, 0, 0]]])})).tolist() == [[1.5]]  # type: ignore[union-attr]


def test_a_trace_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass gives does not depend on how many rows it reads at once."""
    trace = run(np.random.default_rng(0).integers(0, 50, (37, 3, 8)))
    full_needs = needs(trace)
    monkeypatch.setattr(streaming, "CELLS_A_PART", 3 * 8 * 5)
    assert (needs(trace) == full_needs).all()


def test_dropped_tokens_are_those_above_the_factor() -> None:
    """Level 1, then a step of need 3 in a window of two: at 1.5 x the level 1.5 of 4 shares are lost in one of two
    steps, at 3 x nothing is.
    """
    even, high = [2, 2, 2, 2], [6, 2, 0, 0]
    trace = run(np.array([[even], [even], [high], [even]]))
    need_S = needs(trace).max(axis=1)
    assert dropped_after(trace, need_S, 2, np.array([1.5, 3.0])).tolist() == [[1.5 / 4 / 2, 0.0]]


def test_windows_are_disjoint_and_end_with_the_last_row() -> None:
    """Of seven rows in windows of two, three windows end at the last; levels are of the last half of the one before."""
    level, own_N = seen(np.array([9.0, 1, 2, 3, 6, 4, 5]), 2)
    assert level == 5
    assert own_N.tolist() == [6 / 2, 5 / 6]


def test_a_run_shorter_than_a_window_has_a_level_and_no_ratio() -> None:
    """The level is that of the rows that there are."""
    level, own_N = seen(np.array([2.0, 3.0]), 100)
    assert (level, len(own_N)) == (3.0, 0)


def test_a_quantile_is_exceeded_by_the_part_that_is_its_risk() -> None:
    """Of 1 to 100 with equal weights, ten are above the quantile at 10 %; a weight counts as so many equal ratios."""
    ratio = np.arange(1.0, 101)
    assert quantile(ratio, np.ones(100), (0.1, 0.05)).tolist() == [90, 95]
    assert quantile(np.array([1.0, 2.0]), np.array([9.0, 1.0]), (0.1,)).tolist() == [1.0]


def test_small_risks_go_on_as_an_exponential_tail() -> None:
    """From the quantiles at 10 and 1 %: ten times less risk multiplies by their ratio once more."""
    ratio = np.linspace(1, 3, 1001)
    tenth, last, beyond = quantile(ratio, np.ones(1001), (0.1, 0.01, 0.001))
    assert beyond == pytest.approx(last * last / tenth)


def test_own_windows_outweigh_other_runs_with_time() -> None:
    """Five own windows weigh as much as all other runs together."""
    _, weight = mixture(np.ones(5), np.ones(200))
    assert weight[:5].sum() == pytest.approx(weight[5:].sum())


def test_a_forecast_scales_with_the_run() -> None:
    """Twice the need gives twice the forecast; less risk never gives a lower one."""
    need_S = np.random.default_rng(0).uniform(1, 2, 3000)
    risks, prior = (0.1, 0.05, 0.01, 0.001), prior_for(100, 500)
    once = need_quantiles(need_S, 100, risks, prior)
    assert need_quantiles(2 * need_S, 100, risks, prior) == pytest.approx(2 * once)
    assert (np.diff(once) >= 0).all()


def test_a_steady_run_is_covered() -> None:
    """Of a run without change at most the risk, and some sampling, exceeds the forecast."""
    need_S = 1 + np.random.default_rng(1).gamma(4, 0.05, 40_000)
    starts = range(2000, 40_000, 100)
    prior = prior_for(100, 500)
    over = [need_S[at : at + 100].max() > need_quantiles(need_S[:at], 100, (0.1,), prior)[0] for at in starts]
    assert 0.05 < np.mean(over) < 0.15


def test_the_prior_is_that_of_the_nearest_window_and_of_the_size_of_batch() -> None:
    """250 rows are nearer to 100 than to 1,000 by their ratio, 500 are not; from 2,048 tokens on a batch is large."""
    assert (prior_for(250, 500).rows, prior_for(500, 500).rows) == (100, 1000)
    assert [prior_for(100, tokens).size for tokens in (512, 2047, 2048, 1e6)] == ["small", "small", "large", "large"]
    assert all(len(one.dropped_F) == len(TIMES) for one in priors())
