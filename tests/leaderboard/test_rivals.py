"""Against the step itself: what policies reach by raw counts, lateness and error apart, and the rules of the study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard.committed import TRACES
from leaderboard.rivals.choosing import (
    CELLS,
    FRACTION,
    GRADIENTS,
    KINDS,
    LAUNCH,
    NETWORK,
    PRIMARY,
    STATE,
    Cell,
    chosen,
    differences,
    saved_percent,
)
from leaderboard.rivals.intervals import followed, interval_means, oracle, own_imbalance, plans_of
from leaderboard.rivals.measuring import (
    EVERY,
    FORECASTERS,
    ROWS,
    RUNS,
    SHAPES,
    WINDOW,
    Measured,
    Policy,
    forecasts_of,
    measured,
    pool_slots,
    reaction_of,
    study_runs,
    within_policies,
)
from leaderboard.rivals.page import TESTS, study_of
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.placement.plans import ClusterShape, headline_shapes
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE

RECOMPUTED = ("drawn-l12/test/seed412", "mixtral-8e-cosine/train/seed134", "qwen3moe-16e-aux0/test/seed4")
"""Runs of both sizes whose policies numpy computes again from raw counts."""


def by_hand(slots_R: IntArray, load_E: IntArray, devices: int) -> float:
    """Max / mean of one layer in one step: every slot serves its part of its expert."""
    load_D, per_device = [0.0] * devices, len(slots_R) // devices
    for slot, expert in enumerate(slots_R.tolist()):
        load_D[slot // per_device] += load_E[expert] / (slots_R == expert).sum()
    return max(load_D) / (load_E.sum() / devices)


def reacted_by_hand(policy: Policy, load_NE: IntArray, devices: int, layers: int) -> float:
    """Mean max / mean of what a policy within the step does, replica by replica."""
    found = reaction_of(policy, load_NE, devices, layers)
    masters = load_NE.shape[1] // devices
    load_ND = load_NE.reshape(len(load_NE), devices, masters).sum(axis=2).astype(np.float64)
    np.subtract.at(load_ND, (found.row_X, found.expert_X // masters), found.tokens_X)
    np.add.at(load_ND, (found.row_X, found.device_X), found.tokens_X)
    return float((load_ND.max(axis=1) / load_ND.mean(axis=1)).mean())


def planned_by_hand(policy: Policy, trace: Trace, shape: ClusterShape, forecast: dict[str, FloatArray]) -> float:
    """Mean max / mean of plans, device by device, in 40 steps that are spread over the window; the oracle's in all."""
    load_SLE = trace.load_SLE[-WINDOW:]
    means = interval_means(
        trace.load_SLE, trace.steps - WINDOW - policy.every, policy.every, WINDOW // policy.every + 1
    )
    plan_JLR = plans_of({"late": means[:-1]}.get(policy.does, forecast.get(policy.does)), shape)
    steps = range(0, WINDOW, WINDOW // 40)
    each = [
        by_hand(plan_JLR[s // policy.every, m], load_SLE[s, m], shape.devices)
        for s in steps
        for m in range(trace.num_layers)
    ]
    return float(np.mean(each))


@pytest.mark.slow
@pytest.mark.parametrize("run", RECOMPUTED)
def test_numpy_finds_each_policys_imbalance_in_raw_counts(run: str) -> None:
    """The committed rows are those of the code; within the step they follow from the replicas, and those of plans from
    the slots, step by step.
    """
    path, _ = study_runs(TRACES)[run]
    trace = read_trace(path)
    shapes = {shape.name: shape for shape in headline_shapes(trace.num_experts)}
    devices, load_SLE = shapes["plain"].devices, trace.load_SLE[-WINDOW:]
    load_NE = load_SLE.reshape(-1, trace.num_experts)
    rows = pd.read_csv(ROWS).query("run == @run").set_index(list(Policy._fields))
    found = measured(trace)
    assert set(rows.index) == set(found)
    for policy, one in found.items():
        np.testing.assert_allclose(rows.loc[policy, list(Measured._fields)].to_numpy(float), one, rtol=2e-4)
    by_number_ND = load_NE.reshape(len(load_NE), devices, -1).sum(axis=2)
    assert found[Policy("stay")].imbalance == pytest.approx(
        (by_number_ND.max(axis=1) / by_number_ND.mean(axis=1)).mean()
    )
    for policy in within_policies(devices):
        by_replica = reacted_by_hand(policy, load_NE, devices, trace.num_layers)
        assert found[policy].imbalance == pytest.approx(by_replica, rel=1e-9)
    forecasts = {name: forecasts_of(trace, name) for name in FORECASTERS}
    for memory, name in SHAPES.items():
        for every in EVERY:
            forecast = {one: forecasts[one][every] for one in FORECASTERS}
            for does in ("late", *FORECASTERS):
                policy = Policy(does, memory, every)
                plan_JLR = plans_of(
                    forecast.get(
                        does, interval_means(trace.load_SLE, trace.steps - WINDOW - every, every, WINDOW // every)
                    ),
                    shapes[name],
                )
                whole = followed(plan_JLR, load_SLE, shapes[name]).imbalance_SL
                assert whole[:: WINDOW // 40].mean() == pytest.approx(
                    planned_by_hand(policy, trace, shapes[name], forecast), rel=1e-9
                )
                assert whole.mean() == pytest.approx(found[policy].imbalance)
            means = interval_means(trace.load_SLE, trace.steps - WINDOW - every, every, WINDOW // every + 1)
            each = [
                followed(plans_of(one, shapes[name]), load_SLE, shapes[name]).imbalance_SL.reshape(len(one), every, -1)
                for one in (means[:-1], means[1:])
            ]
            best = np.minimum(*(one.mean(axis=1) for one in each)).mean()
            assert found[Policy("oracle", memory, every)].imbalance == pytest.approx(best)


def test_one_plan_by_hand() -> None:
    """Loads 6, 2, 1, 1 on two devices: experts 0 and 1 against 2 and 3, then with a replica of expert 0 on each."""
    load_E = np.array([6, 2, 1, 1])
    for slots in ([0, 1, 2, 3], [0, 1, 0, 2, 3, 3]):
        slots_R = np.array(slots)
        assert own_imbalance(slots_R[None], load_E[None], 2)[0] == pytest.approx(by_hand(slots_R, load_E, 2))
    assert by_hand(np.array([0, 1, 2, 3]), load_E, 2) == pytest.approx(8 / 5)
    assert np.isnan(own_imbalance(np.array([[0, 1, 2, 3]]), np.zeros((1, 4), dtype=np.int64), 2)[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5, 10]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_oracle_that_may_keep_the_plan_is_never_worse_than_reaction_one_interval_late(
    seed: int, every: int, spare: bool
) -> None:
    """In each interval and layer, before the cost of moves; at an interval of one step that is one step late."""
    rng = np.random.default_rng(seed)
    load_SLE = rng.poisson(rng.gamma(0.5, 20, (30, 2, 8)))
    shape = ClusterShape("any", 4, 12 if spare else 8)
    count, judged_SLE = 20 // every, load_SLE[10:]
    plan_JLR = plans_of(interval_means(load_SLE, 10 - every, every, count + 1), shape)
    late, fresh = (followed(one, judged_SLE, shape) for one in (plan_JLR[:-1], plan_JLR[1:]))
    best = oracle(late, fresh, count)
    sums = [np.nan_to_num(one.imbalance_SL).reshape(count, every, 2).sum(axis=1) for one in (best, late, fresh)]
    assert (sums[0] <= np.minimum(sums[1], sums[2]) + 1e-9).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(8, 2), (16, 4), (64, 16)]), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_no_policy_is_charged_less_memory_than_it_uses(seed: int, model: tuple[int, int], layers: int) -> None:
    """Within the step no device fetches more replicas than its pool has slots; a plan has as many slots as its shape,
    one more than masters with a spare slot. Equal bytes: a pool of as many slots as there are layers.
    """
    experts, devices = model
    rng = np.random.default_rng(seed)
    load_NE = rng.poisson(rng.gamma(0.3, 400, (6, experts)))
    for policy in within_policies(devices):
        slots = pool_slots(policy, layers, experts // devices)
        assert reaction_of(policy, load_NE, devices, layers).fetched_ND.max() <= slots
        assert policy.memory != "bytes" or slots == layers
        assert policy.memory != "slots" or slots == 1
    shapes = {shape.name: shape for shape in headline_shapes(experts)}
    for memory, name in SHAPES.items():
        spare = shapes[name].slots_per_device - experts // devices
        assert (spare, shapes[name].devices) == (int(memory == "slots"), devices)


def test_moves_are_counted_from_plan_to_plan() -> None:
    """Experts by number at first; a plan that stays moves nothing, one that swaps two experts moves two."""
    shape = ClusterShape("two", 2, 4)
    load_SLE = np.ones((4, 1, 4), dtype=np.int64)
    plan_JLR = np.array([[[0, 1, 2, 3]], [[0, 2, 1, 3]], [[1, 3, 0, 2]], [[0, 2, 1, 3]]])
    found = followed(plan_JLR, load_SLE, shape)
    assert (found.busiest, found.total) == (1, 2)


def row(run: str, policy: Policy, imbalance: float, busiest: float = 0.0, family: str = "a") -> dict[str, object]:
    numbers = Measured(imbalance, 0.0, 0.0, busiest, 2 * busiest)
    return {"run": run, **policy._asdict(), **numbers._asdict(), "family": family, "size": "large", "stay": 2.0}


def test_prices_by_hand() -> None:
    """Half of the step waits. From 2 to 1 saves a quarter; what is paid is in fetches of an expert."""
    rows = pd.DataFrame([
        row("r", Policy("stay"), 2.0),
        row("r", Policy("quotas", "slots"), 1.0, 2.0),
        row("r", Policy("even", "masters"), 1.0, 3.0),
        row("r", Policy("sw_avg", "none", 10), 1.5, 0.01),
        row("r", Policy("sw_avg", "slots", 10), 1.5, 0.01),
    ])  # fmt: skip
    assert FRACTION == 0.5
    hidden = saved_percent(rows, Cell("large", 0.01, True))
    assert hidden == pytest.approx([0, 25 - LAUNCH - 2, 25 - LAUNCH - 3, *[12.5 - STATE * NETWORK * 0.01] * 2])
    exposed = saved_percent(rows, Cell("large", 0.01, False))
    each = 2 + GRADIENTS
    assert exposed[:4] == pytest.approx([0, 25 - LAUNCH - 2 * each, 25 - LAUNCH - 3 * each, hidden[3]])
    assert exposed[4] == pytest.approx(hidden[4] - (1 + GRADIENTS) * NETWORK)


def study_rows(test_gain: float) -> pd.DataFrame:
    """Three families with a train and a test run each; what plans save on `test` runs is ``test_gain`` more."""
    rows = []
    for family, gain in (("a", 0.0), ("b", 0.1), ("c", 0.2)):
        for split, more in (("train", 0.0), ("test", test_gain)):
            run = f"{family}/{split}/seed1"
            rows += [row(run, Policy("stay"), 2.0, family=family)]
            rows += [row(run, Policy("quotas", "slots", 1, least), 1.2, 1.0, family) for least in (1, 1024)]
            rows += [
                row(run, Policy("quotas", "bytes"), 1.1, 1.0, family),
                row(run, Policy("even", "masters"), 1.0, 2.0, family),
            ]
            rows += [row(run, Policy("sw_avg", "none", k), 1.6 - gain - more - k / 1e4, 0.0, family) for k in (1, 10)]
            rows += [row(run, Policy(does, "none", 1), 1.7, 1.0, family) for does in ("late", "oracle")]
    return pd.DataFrame(rows)


def test_policies_are_chosen_on_train_and_scored_on_test() -> None:
    """Other test runs change what is saved and never what is chosen; each family is one vote; pairs are of one run."""
    cell = Cell("large", 0.005, True)
    first, second = (chosen(study_rows(gain), cell) for gain in (0.0, 0.3))
    assert {kind: one.policy for kind, one in first.items()} == {kind: one.policy for kind, one in second.items()}
    assert first["plans"].policy == Policy("sw_avg", "none", 10)
    assert first["plans"].saved_F.tolist() == pytest.approx(
        [100 * 0.5 * (0.2 + gain / 2 + 5e-4) for gain in (0, 0.1, 0.2)]
    )
    assert (second["plans"].saved_F > first["plans"].saved_F).all()
    assert first["late"].policy == Policy("stay"), "it pays more than it gains on train runs"
    gaps = differences(first, TESTS)
    assert set(gaps) == set(KINDS) - {"plans"}
    within_F = first["within"].saved_F - first["plans"].saved_F
    assert gaps["within"].points == pytest.approx(within_F.mean())
    wide, narrow = gaps["within"], differences(first, 1)["within"]
    assert wide.low < narrow.low < narrow.points < narrow.high < wide.high


def test_the_study_is_of_all_recorded_runs_and_fixed_cells() -> None:
    """v3, shapes and the recordings that differ in balancing, probes left out; one primary cell of twelve."""
    runs = pd.read_csv(RUNS)
    wanted = {one.id for name in ("v3", "shapes") for one in load_suite(name).traces}
    assert wanted <= set(runs["run"])
    assert not runs["run"].str.contains(".probe/", regex=False).any()
    assert runs["run"].str.startswith("balancing-").any()
    assert set(pd.read_csv(ROWS)["run"]) == set(runs["run"])
    assert (len(CELLS), PRIMARY in CELLS) == (12, True)
    study = study_of(pd.read_csv(ROWS), runs)
    assert not study.runs["size"].isna().any()
    assert not set(study.runs[study.runs["test"]]["run"]) & set(study.runs[~study.runs["test"]]["run"])


def test_a_trace_whose_rows_are_known_is_not_replayed() -> None:
    """Every policy has a row for a run of any number of layers; those with domains only where devices are more."""
    load_SLE = synthetic_load_SLE(1100, 1, 8)
    found = measured(Trace.from_arrays(load_SLE, top_k=2))
    assert {policy.does for policy in found} == {"stay", "quotas", "even", "late", "oracle", *FORECASTERS}
    assert {policy.domain for policy in found} == {0}
    assert found[Policy("even", "masters")].imbalance == pytest.approx(1.0)
    assert min(one.imbalance for one in found.values()) >= 1.0
