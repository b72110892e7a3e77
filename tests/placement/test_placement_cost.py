"""What plans and re-planning cost: imbalance, regret, drops and moves, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import CAPACITY_FACTOR, device_weights, replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, headline_shapes, plan
from moeload_bench.placement.replan import CostModel, with_fewest_moves
from moeload_bench.scoring.plan_scores import reference_plans, score_plans

SHAPES = (ClusterShape("spare", 2, 10), ClusterShape("bare", 4, 8), ClusterShape("wide", 4, 12, nodes=2, groups=4))
ROWS = (1, 4, 9)


def window(seed=0, rows=9, layers=3, experts=8):
    """True shares [rows, L, E] whose level differs from row to row."""
    return np.random.default_rng(seed).dirichlet(np.ones(experts), size=(rows, layers))


def by_hand(slot_expert, share, devices):
    """Imbalance and drop rate of one layer's plan on shares [rows, E], one device and slot at a time."""
    worst, over = [], []
    for step in share:
        load = [0.0] * devices
        for slot, expert in enumerate(slot_expert):
            load[slot * devices // len(slot_expert)] += step[expert] / list(slot_expert).count(expert)
        worst.append(max(load) / (sum(load) / devices))
        over.append(sum(max(0.0, x - CAPACITY_FACTOR / devices) for x in load))
    return np.mean(worst), np.mean(over)


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_a_plain_loop(seed):
    """Each horizon's plan is charged for exactly the rows of that horizon; regret is against the oracle's plan."""
    share, rng = window(seed), np.random.default_rng(seed + 100)
    hat = rng.dirichlet(np.ones(8), size=(3, 3))
    references = reference_plans(share, ROWS, SHAPES)
    scores = score_plans(hat, share, references)
    for shape in SHAPES:
        for k, rows in enumerate(ROWS):
            for layer in range(3):
                got = by_hand(plan(hat[k, layer], shape), share[:rows, layer], shape.devices)
                oracle = by_hand(plan(share[:rows, layer].mean(axis=0), shape), share[:rows, layer], shape.devices)
                at = (k, layer)
                assert scores[f"imbalance@{shape.name}"][at] == pytest.approx(got[0])
                assert scores[f"drop_rate@{shape.name}"][at] == pytest.approx(got[1])
                assert scores[f"regret@{shape.name}"][at] == pytest.approx(got[0] / oracle[0] - 1)


def test_a_forecast_of_the_truth_has_no_regret():
    """The true window mean leads to the reference plan itself; the uniform forecast to the uniform plan."""
    share = window()
    references = reference_plans(share, ROWS, SHAPES)
    truth = np.stack([share[:rows].mean(axis=0) for rows in ROWS])
    scores = score_plans(truth, share, references)
    uniform = score_plans(np.full((3, 3, 8), 1 / 8), share, references)
    for shape in SHAPES:
        np.testing.assert_array_equal(scores[f"regret@{shape.name}"], 0)
    for name, value in references.scored(references.costs["uniform"]).items():
        np.testing.assert_allclose(uniform[name], value)


def test_expert_buffers_drop_what_exceeds_the_forecast():
    """`drop_rate@experts`: tokens over capacity factor x forecast share, by expert and step."""
    share = window()
    hat = np.random.default_rng(5).dirichlet(np.ones(8), size=(3, 3))
    scores = score_plans(hat, share, reference_plans(share, ROWS, SHAPES))
    for k, rows in enumerate(ROWS):
        over = np.maximum(share[:rows] - CAPACITY_FACTOR * hat[k], 0).sum(axis=2).mean(axis=0)
        np.testing.assert_allclose(scores["drop_rate@experts"][k], over)


def test_steps_without_load_are_not_scored():
    """A layer-step without load counts for nothing; a layer without any in the horizon scores NaN."""
    share = window()
    holed = share.copy()
    holed[2, 1] = np.nan
    holed[0, 2] = np.nan
    references = reference_plans(holed, ROWS, SHAPES)
    hat = np.repeat(share.mean(axis=0)[None], 3, axis=0)
    scores = score_plans(hat, holed, references)
    remaining = np.delete(share[:, 1], 2, axis=0)
    want = by_hand(plan(hat[2, 1], SHAPES[0]), remaining, 2)
    assert scores["imbalance@spare"][2, 1] == pytest.approx(want[0])
    assert np.isnan(scores["regret@spare"][0, 2])
    assert np.isfinite(scores["regret@spare"][1:, 2]).all()


def test_a_failed_task_scores_twice_the_uniform_plan():
    """Without a forecast: twice the imbalance and drop rate of the uniform plan, and the regret that this means."""
    share = window()
    references = reference_plans(share, ROWS, SHAPES)
    failed, uniform = references.failed(), references.scored(references.costs["uniform"])
    assert failed.keys() == uniform.keys()
    np.testing.assert_allclose(failed["imbalance@spare"], 2 * uniform["imbalance@spare"])
    np.testing.assert_allclose(failed["regret@spare"] + 1, 2 * (uniform["regret@spare"] + 1))
    assert (failed["regret@spare"] > uniform["regret@spare"]).all()


def test_memory_layout_does_not_change_scores():
    """A view whose rows are contiguous scores the same as an ordinary array."""
    share = window()
    view = np.moveaxis(np.ascontiguousarray(np.moveaxis(share, 0, -1)), -1, 0)
    hat = np.repeat(share.mean(axis=0)[None], 3, axis=0)
    plain, *others = (
        score_plans(hat, a, reference_plans(b, ROWS, SHAPES))["imbalance@wide"]
        for a in (share, view)
        for b in (share, view)
    )
    for other in others:
        np.testing.assert_allclose(other, plain)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(2, 10), (4, 12), (4, 8)]))
def test_moves_equal_a_plain_loop(seed, size):
    """A device receives an expert it did not hold, once; staying and doubling inside a device are free."""
    devices, slots = size
    rng = np.random.default_rng(seed)
    before, after = (plan(rng.dirichlet(np.ones(8) * 0.3, size=3), ClusterShape("x", devices, slots)) for _ in "ab")
    moved = replicas_moved(before, after, devices)
    for row, old, new in zip(moved, before.reshape(3, devices, -1), after.reshape(3, devices, -1), strict=True):
        assert row.tolist() == [len(set(n) - set(o)) for o, n in zip(old, new, strict=True)]


def test_step_imbalance_is_the_cost_of_every_step():
    """[H, L], its mean over steps is the imbalance of the plan; NaN where a layer-step has no load."""
    share = window()
    share[3, 0] = np.nan
    slots = plan(np.nanmean(share, axis=0), SHAPES[0])
    steps = step_imbalance(slots, share, 2)
    assert np.isnan(steps[3, 0])
    assert np.isfinite(np.delete(steps, 3, axis=0)).all()
    assert steps[:, 1].mean() == pytest.approx(by_hand(slots[1], share[:, 1], 2)[0])


def test_wrong_plans_and_windows_are_refused():
    """A plan that leaves an expert out, plans of two sizes, and horizons that do not fit are named."""
    with pytest.raises(PlacementError, match="expert 3 nowhere"):
        device_weights(np.array([0, 1, 2, 2]), 4, 2)
    with pytest.raises(PlacementError, match="expected the same"):
        replicas_moved(np.zeros((2, 4), dtype=np.int64), np.zeros((2, 6), dtype=np.int64), 2)
    for rows in ((), (4, 1), (0, 4), (10,)):
        with pytest.raises(PlacementError, match="do not fit a window of 9 rows"):
            reference_plans(window(), rows, SHAPES)


def test_with_exactly_e_slots_one_hot_expert_decides_all():
    """Why the headline shape has spare slots: without them, an oracle gains almost nothing over the uniform plan."""
    share = np.full((9, 1, 8), 0.05)
    share[:, :, 5] = 0.65
    references = reference_plans(share, (9,), headline_shapes(8))
    uniform = references.scored(references.costs["uniform"])
    assert uniform["regret@plain"].item() < 0.08
    assert uniform["regret@quarter"].item() > 0.3


# ---------------------------------------------------------------- re-planning


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(4, 12, 1, 1), (4, 8, 2, 4), (6, 18, 3, 6), (2, 12, 1, 1)]))
def test_settling_never_changes_a_plan_and_never_moves_more(seed, size):
    """Renumbering devices keeps the set of devices and nodes, and moves at most as many replicas."""
    devices, slots, nodes, groups = size
    shape = ClusterShape("x", devices, slots, nodes, groups)
    experts = 8 if groups in (1, 4) else 12
    rng = np.random.default_rng(seed)
    before, after = (plan(rng.dirichlet(np.ones(experts), size=2), shape) for _ in "ab")
    settled = with_fewest_moves(before, after, shape)
    moved = [replicas_moved(before, x, devices).sum(axis=1) for x in (after, settled)]
    assert (moved[1] <= moved[0]).all()
    assert (with_fewest_moves(after, after, shape) == np.sort(after.reshape(2, devices, -1)).reshape(2, -1)).all()

    def nodes_of(row):
        return sorted(
            tuple(sorted(tuple(sorted(slots)) for slots in node))
            for node in row.reshape(nodes, devices // nodes, -1).tolist()
        )

    assert [nodes_of(row) for row in settled] == [nodes_of(row) for row in after]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        *((name, (0, -1, float("inf"), float("nan"))) for name in ("step_ms", "bandwidth_gb_s", "expert_fraction")),
        *(
            ("expert_mb", (-1, float("inf"))),
            ("overlap", (1.5, -0.1)),
            ("replan_ms", (-1,)),
            ("expert_fraction", (1.1,)),
        ),
    ],
)
def test_constants_out_of_range(field, values):
    """Zero where a constant must be positive, negative or infinite ones, and parts above 1 are refused by name."""
    for value in values:
        with pytest.raises(PlacementError, match=f"{field} is {value}"):
            CostModel(**{"step_ms": 1, "expert_mb": 1, "bandwidth_gb_s": 1, field: value})
