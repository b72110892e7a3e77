"""The advice rule: its reasons, its hysteresis, and what following it saves on recorded runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import PlacementError
from moeload_bench.ops.planning.advice import Advice, AdviceRule, Situation, advise, name_layers
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.planner import Planner, Settings, compare_policies, plans_of
from moeload_bench.placement.cost import replicas_moved, step_imbalance
from moeload_bench.placement.layouts import LINEAR, layout
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import TRACES, needs_traces

SHAPE = ClusterShape("mine", 2, 10)
COST = CostModel(100, 200, 25)
FOLLOWED = (
    *("qwen3moe-16e-aux0", "qwen3moe-16e-shift", "qwen3moe-16e-restart", "qwen3moe-16e-drift", "ladder-8m"),
    *("deepseekv3-32e-lossfree", "deepseekv3-16e-shift", "deepseekv3-16e-quantile", "granitemoe-16e-ramp"),
    *("mixtral-8e-pooled", "olmoe-64e-top8", "qwen3moe-8e-long"),
)
"""Recipes of every balancing and of every kind of change on the way; the first five without any balancing."""
HOT_E = np.array([0.08, 0.08, 0.08, 0.08, 0.08, 0.44, 0.08, 0.08])


def situation(share_LE: FloatArray, **changes: object) -> Situation:
    """One where the linear layout is in force and the last 100 steps were all the same."""
    linear_LR = np.tile(layout(LINEAR, share_LE.shape[1], SHAPE), (len(share_LE), 1))
    at = Situation(
        step=1000,
        steps_seen=1000,
        current_LR=linear_LR,
        share_hat_LE=share_LE,
        span=200,
        recent_SLE=np.broadcast_to(share_LE, (100, *share_LE.shape)),
        start_imbalance=float(step_imbalance(linear_LR, share_LE[None], 2).mean()),
        moved=False,
        standing_L=np.zeros(len(share_LE), dtype=np.bool_),
        names_L=tuple(str(i) for i in range(len(share_LE))),
    )
    return replace(at, **changes)  # type: ignore[arg-type]


def said(at: Situation, cost: CostModel = COST, rule: AdviceRule | None = None) -> Advice:
    return advise([at], cost, SHAPE, rule or AdviceRule())[0]


def test_a_hot_expert_is_worth_a_move_and_the_reason_says_what_it_saves() -> None:
    """Numbers of the sentence equal those of the cost model, worked out here."""
    share_LE = np.stack([np.full(8, 1 / 8), HOT_E])
    at = situation(share_LE)
    advice = said(at)
    assert (advice.verdict, advice.layers) == ("replan", (1,))
    assert advice.slot_expert_LR is not None
    before, after = (step_imbalance(p, share_LE[None], 2)[0, 1] for p in (at.current_LR, advice.slot_expert_LR))
    saves = 0.5 * (before - after) / at.start_imbalance / 2 * 100
    costs = 100 * replicas_moved(at.current_LR, advice.slot_expert_LR, 2).sum(axis=0).max() * 8 / (200 * 100)
    assert advice.saves_percent == pytest.approx(saves)
    assert advice.costs_percent == pytest.approx(costs)
    assert advice.reason == (
        f"re-plan layer 1 now: expected max/mean {before:.2f} -> {after:.2f}, saves {saves:.1f} % of the step "
        f"time, costs {costs:.1f} % over 200 steps"
    )


def test_nothing_is_said_before_enough_was_seen() -> None:
    """Fewer steps than the rule's patience: wait, with both numbers."""
    advice = said(situation(HOT_E[None], steps_seen=150))
    assert (advice.verdict, advice.slot_expert_LR) == ("wait", None)
    assert advice.reason == "wait: 150 steps seen, 200 are needed"


def test_batch_noise_alone_is_left_alone() -> None:
    """Even shares, seen through 100 noisy batches: a plan made from their mean promises nothing."""
    rng = np.random.default_rng(0)
    recent_SLE = rng.multinomial(512, np.full(8, 1 / 8), size=(100, 3)) / 512
    mean_LE = recent_SLE.mean(axis=0)
    advice = said(situation(np.full((3, 8), 1 / 8), recent_SLE=recent_SLE, share_hat_LE=mean_LE))
    assert advice.verdict == "leave"


def test_a_move_that_costs_more_than_it_saves_is_not_advised() -> None:
    """The same imbalance with experts two hundred times as heavy; near the price the reason says what it takes."""
    advice = said(situation(HOT_E[None]), CostModel(100, 40_000, 25))
    assert advice.verdict == "leave"
    assert advice.costs_percent > advice.saves_percent > 1
    close = said(situation(HOT_E[None]), CostModel(100, 20_000, 25))
    assert close.verdict == "leave"
    assert close.reason.endswith("a move has to save 1.5 times what it costs")


def test_advice_does_not_flap() -> None:
    """Between the thresholds a move that is advised stays advised, and one that is not stays so."""
    share_LE = np.stack([np.full(8, 1 / 8), HOT_E])
    saves, costs = (getattr(said(situation(share_LE)), name) for name in ("saves_percent", "costs_percent"))
    between = AdviceRule(margin=1.2 * saves / costs, keep=0.8 * saves / costs, least_percent=1.2 * (saves - costs))
    fresh, standing = situation(share_LE), situation(share_LE, standing_L=np.array([False, True]))
    assert said(fresh, rule=between).verdict == "leave"
    assert said(standing, rule=between).verdict == "replan"
    assert said(standing, rule=replace(between, keep=1.1 * saves / costs)).verdict == "leave"


def test_a_layer_without_load_is_not_moved() -> None:
    """NaN shares promise nothing and warn of nothing."""
    recent_SLE = np.broadcast_to(np.stack([np.full(8, np.nan), HOT_E]), (100, 2, 8))
    advice = said(situation(np.stack([np.full(8, 1 / 8), HOT_E]), recent_SLE=recent_SLE))
    assert advice.layers == (1,)


def test_layers_are_named_briefly() -> None:
    """All, a few by name, many by number."""
    assert name_layers(["0", "1"], 2) == "both layers"
    assert name_layers(["3"], 6) == "layer 3"
    assert name_layers(["3", "5"], 6) == "layers 3, 5"
    assert name_layers([str(i) for i in range(7)], 24) == "7 of 24 layers"


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"margin": 0.5}, {"least_percent": -1.0}, {"margin": np.inf}])
def test_constants_that_make_no_rule_are_refused(wrong: dict[str, float]) -> None:
    """Each with what was got."""
    with pytest.raises(PlacementError, match=r"expected|got"):
        AdviceRule(**wrong)  # type: ignore[arg-type]


def followed(trace: Trace) -> tuple[Planner, float]:
    """The planner of a run whose advice was followed, and what the same plans save when they are counted here.

    In percent of the step time, over the whole trace, by the cost model of docs/methods/placement.md.
    """
    settings = Settings("sw_avg", cluster=Cluster(None, COST), follow=True)
    shape = settings.cluster.shape_for(trace.num_experts)
    assert shape is not None
    share_SLE, planner = trace.share_SLE(), None
    linear_LR = np.tile(layout(LINEAR, share_SLE.shape[2], shape), (share_SLE.shape[1], 1))
    plans, migration = [(0, linear_LR)], 0.0
    for planner, planned in plans_of(trace, settings):  # noqa: B007
        if planned.advice.verdict == "replan" and planned.step <= trace.step_S[-1]:
            wanted = planned.advice.slot_expert_LR
            assert wanted is not None
            moved_LD = replicas_moved(plans[-1][1], wanted, shape.devices)
            migration += COST.migration_ms(moved_LD) if moved_LD.any() else 0.0
            plans.append((planned.step - int(trace.step_S[0]), wanted))
    assert planner is not None
    stops = [start for start, _ in plans[1:]] + [trace.steps]
    under = [
        step_imbalance(plan_LR, share_SLE[start:stop], shape.devices)
        for (start, plan_LR), stop in zip(plans, stops, strict=True)
    ]
    start = float(np.nanmean(step_imbalance(linear_LR, share_SLE, shape.devices)))
    gain = COST.step_ms * COST.expert_fraction * (1 - float(np.nanmean(np.concatenate(under))) / start)
    return planner, 100 * (gain - migration / trace.steps) / COST.step_ms


def best_saving(trace: Trace, shape: ClusterShape) -> float:
    """What the best interval saves over the whole trace, picked in hindsight, in percent of the step time, times the
    part of the trace in which advice may move: after the first plan and five windows of 200 steps."""
    decision = compare_policies(trace, "sw_avg", shape, COST, every=(50, 100, 200), level="none")
    return (1 - 1200 / trace.steps) * max(one.saved_percent for one in decision.candidates)


def test_following_the_advice_saves_what_the_best_policy_saves() -> None:
    """Without a balancing loss, within 0.5 points of the best interval of `plan` in hindsight; and the sum is right."""
    trace = load_trace("qwen3moe-tiny-8e-aux0/test/seed1")
    planner, got = followed(trace)
    assert planner.race.saved(planner.race.own, COST).net_percent == pytest.approx(got, abs=0.02)
    assert got >= best_saving(trace, planner.shape) - 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "most_moves"), [(SHAPE, 0.0), (ClusterShape("walk", 4, 12), 0.2)])
def test_a_balanced_run_is_left_alone(shape: ClusterShape, most_moves: float) -> None:
    """With a balancing loss nothing is moved; spare slots, which begin with the first experts whatever their load, are
    given to others in at most one look in five; the last word is to leave it."""
    settings = Settings(cluster=Cluster(shape, COST), follow=True)
    advice = [planned.advice for _, planned in plans_of(load_trace("qwen3moe-tiny-8e/test/seed1"), settings)]
    assert {one.verdict for one in advice} <= {"wait", "leave", "replan"}
    assert sum(one.verdict == "replan" for one in advice) <= most_moves * len(advice)
    assert advice[-1].reason.startswith("leave it: ")


@pytest.mark.slow
@needs_traces
@pytest.mark.parametrize("recipe", FOLLOWED)
def test_advice_never_loses_and_saves_where_there_is_something_to_save(recipe: str) -> None:
    """Never more than 0.1 % of the step time worse than the layout in force; without any balancing at least 80 % of
    what the best interval of `plan` saves, chosen in hindsight."""
    path = min((TRACES / recipe / "test").glob("*.parquet"))
    trace = read_trace(path)
    planner, got = followed(trace)
    assert got >= -0.1
    if trace.meta.balancing.method == "none":
        assert got >= 0.8 * best_saving(trace, planner.shape)
