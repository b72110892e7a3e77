"""What a run measured of its costs is found again: planted slopes, parts and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.facts.measured import LEAST_ROWS, cost_sentences, even_fraction, imbalance_cost
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.planner import Settings, decided
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE

RANKS, TOKENS = 2, 512


def timed_trace(steps: int = 600, slope: float = 0.0, ranks: int = RANKS, **meta: Any) -> Trace:
    """A run whose steps take 100 ms, noise that lasts for several steps, and ``slope`` ms for each token of excess."""
    rng = np.random.default_rng(3)
    load_SLE = synthetic_load_SLE(steps, tokens=TOKENS)
    busiest_S = load_SLE.reshape(steps, 2, RANKS, -1).sum(axis=-1).max(axis=-1).sum(axis=-1)
    noise_S = np.convolve(rng.normal(size=steps + 4), np.ones(5) / 5, mode="valid")
    time_S = 0.1 + 1e-3 * (noise_S + slope * (busiest_S - load_SLE.sum(axis=(1, 2)) / RANKS))
    time_S[::50] += 5.0  # an evaluation
    mean_S, most_S = np.full((2, steps), np.nan)
    mean_S[7::50], most_S[7::50] = 0.3, 0.4
    columns = {"step_time_s": time_S, "expert_fraction": mean_S, "expert_fraction_max": most_S}
    return Trace.from_arrays(
        load_SLE,
        TOKENS,
        2,
        columns=columns,
        format_version="1.4",
        parallel={"expert": ranks} if ranks > 1 else {},
        **meta,
    )


@pytest.mark.parametrize("slope", [0.0, 0.02])
def test_a_planted_cost_of_imbalance_is_found(slope: float) -> None:
    """Its interval holds the truth, lies above zero where imbalance costs, and not where it does not."""
    trace = timed_trace(slope=slope)
    found = inspect_trace(trace).measured
    cost = found.imbalance
    assert cost is not None
    load_SLE = trace.load_SLE
    busiest_S = load_SLE.reshape(trace.steps, 2, RANKS, -1).sum(axis=-1).max(axis=-1).sum(axis=-1)
    excess_S = busiest_S - load_SLE.sum(axis=(1, 2)) / RANKS
    usual_S = trace.columns["step_time_s"] < 1
    truth = 100 * 1e-3 * slope * excess_S[usual_S].mean() / trace.columns["step_time_s"][usual_S].mean()
    assert cost.low <= truth <= cost.high
    assert (cost.low > 0) == (slope > 0)
    assert cost.rows == usual_S.sum()
    said = " ".join(cost_sentences(found))
    assert f"Does imbalance cost time? {'Yes' if slope else 'Not seen'}: {cost.percent:.1f} % of the step time" in said
    assert found.expert_fraction == pytest.approx(1 / 3)
    assert "33 % of a step in expert modules (median of 12 steps)" in said


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Noise that lasts for some steps, and a batch that varies: 90 to 99 of 100 runs."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        even_S = 1000 + 50 * rng.random(400)
        busiest_S = even_S + 100 + np.convolve(rng.normal(size=404), np.ones(5), mode="valid") * 10
        noise_S = np.convolve(rng.normal(size=404), np.ones(5) / 5, mode="valid")
        time_S = 1 + 1e-3 * (busiest_S - even_S) + 1e-3 * even_S + 0.05 * noise_S
        cost = imbalance_cost(time_S, even_S, busiest_S)
        assert cost is not None
        truth = 100 * 1e-3 * (busiest_S - even_S).mean() / time_S.mean()
        inside += cost.low <= truth <= cost.high
    assert 88 <= inside <= 99


def test_one_rank_and_too_few_steps_are_said() -> None:
    """No slope without ranks that could differ, or without steps that tell."""
    alone = inspect_trace(timed_trace(ranks=1)).measured
    assert alone.imbalance is None
    assert list(cost_sentences(alone))[-1].endswith("One expert-parallel rank: cannot be measured.")
    short = inspect_trace(timed_trace(LEAST_ROWS - 1)).measured
    assert short.imbalance is None
    assert f"Cannot tell: {LEAST_ROWS} timed steps are needed" in list(cost_sentences(short))[-1]
    still_S = np.full(200, 10.0)
    assert imbalance_cost(still_S / 100, still_S, 2 * still_S) is None


def test_the_part_in_experts_is_that_of_equally_loaded_ranks() -> None:
    """A tenth of the step is waiting for the busiest rank: without it, 0.3 of 0.9 is left."""
    assert even_fraction(0.3, 0.4) == pytest.approx(0.3 / 0.9)
    assert even_fraction(0.0, 1.0) == 0


@pytest.mark.parametrize(
    ("state", "optimizer", "mb", "words"),
    [(8_000_000, {}, 12, "12 MB per expert"), (None, {}, 4, "4 MB per expert (weights alone)")],
)
def test_plan_takes_what_was_measured(state: int | None, optimizer: Any, mb: float, words: str) -> None:
    """Step time, part and bytes are called measured; what nobody measured is ASSUMED, with how the answer moves."""
    trace = timed_trace(expert={"weight_bytes": 4_000_000, "state_bytes": state}, optimizer=optimizer)
    settings = Settings(forecaster="sw_avg", intervals=(100,))
    planner, decision = decided(trace, settings)
    model = planner.costs().model
    assert (model.expert_mb, model.expert_fraction) == (mb, pytest.approx(1 / 3))
    measured = next(line for line in decision.lines() if line.startswith("Measured"))
    assert words in measured
    assert "33.3 % of a step waits" in measured
    bandwidth = next(one for one in decision.constants if one.option == "--bandwidth")
    assert bandwidth.source == "ASSUMED"
    assert bandwidth.saved is not None
    slower, faster = (
        decided(trace, Settings(forecaster="sw_avg", intervals=(100,), cluster=Cluster(stated={"bandwidth_gb_s": gb})))[
            1
        ]
        for gb in (25 * 0.999, 25 * 1.001)
    )  # moves unchanged, the answer lies between the two ends
    for other in (slower, faster):
        assert bandwidth.saved[0] - 1e-9 <= other.take.saved_percent <= bandwidth.saved[1] + 1e-9
    for one in decision.constants:
        assert (one.saved is None) or one.source == "ASSUMED"
