"""When to move experts, asked during training: the rule, what it is judged on, and its reason in words.

Per layer the plan for a forecast is compared with the plan in force, on the loads of the last steps themselves, batch
noise included: a plan that follows noise shows no gain there, where a comparison on means promises one. A layer moves
when its gain over the steps that its cost is spread over is ``margin`` times what moving its replicas costs. Nothing is
moved at first until a plan promises ``least_percent`` of the step time: below that a run is left alone.

Axis letters: S recent rows, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.ops.planning.decision import LEAST_PERCENT
from moeload_bench.placement.cost import replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.placement.replan import CostModel, with_fewest_moves
from moeload_bench.traces.means import mean_known, mean_over
from moeload_bench.words import every

Verdict = Literal["wait", "leave", "replan"]


@dataclass(frozen=True)
class AdviceRule:
    """The constants of the rule. They were chosen on the `train` runs of suite v1 (docs/guide/live.md).

    ``patience``: steps seen before any advice; ``margin``: gain over cost that a layer needs to be moved, ``keep`` the
    same for a layer whose move is advised already and was not made; ``least_percent`` of the step time, after the
    migration, that the first move of a run has to promise, or half of that while it is advised already.
    """

    patience: int = 200
    margin: float = 1.5
    keep: float = 1.0
    least_percent: float = LEAST_PERCENT

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise PlacementError(f"patience is {self.patience}, expected at least 1 step")
        if not (np.isfinite(self.margin) and self.margin >= self.keep >= 0):
            raise PlacementError(f"expected margin >= keep >= 0, both finite, got {self.margin} and {self.keep}")
        if not (np.isfinite(self.least_percent) and self.least_percent >= 0):
            raise PlacementError(f"least_percent is {self.least_percent}, expected a finite number of at least 0")


@dataclass(frozen=True, eq=False)
class Advice:
    """What to do with the placement at step ``step``; the cost of a move is spread over the next ``span`` steps.

    ``layers``: rows of the plan to change, none unless ``verdict`` is "replan". ``imbalance`` and ``expected``: max /
    mean device load over the layers named (over all, where none is), as it is and after the move.
    ``saves_percent`` and ``costs_percent`` of the step time over the span; where nothing is to be moved, those of
    the best move there is. ``slot_expert_LR``: the plan to have from here on, None while waiting;
    ``replicas``: how many replicas move.
    """

    step: int
    span: int
    verdict: Verdict
    layers: tuple[int, ...]
    imbalance: float
    expected: float
    saves_percent: float
    costs_percent: float
    replicas: int
    reason: str
    slot_expert_LR: IntArray | None = field(repr=False, default=None)


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen before a step, whatever layout is in force.

    ``steps_seen``: training steps. ``recent_SLE``: shares of the last rows, NaN where a layer-step has no load;
    ``start_imbalance``: of the layout that the run began with, mean over the run so far; ``names_L``: what the layers
    are called.
    """

    step: int
    steps_seen: int
    recent_SLE: FloatArray
    start_imbalance: float
    names_L: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Situation(Seen):
    """What the rule decides from at one step.

    ``current_LR``: the plan in force; ``share_hat_LE``: the forecast; ``span``: steps that a move is written off
    over; ``moved``: whether any layer was ever moved; ``standing_L``: layers whose move is advised already; ``doubt``:
    why nothing is to be moved, whatever a plan promises; None where a plan that pays is to be moved to.
    """

    current_LR: IntArray
    share_hat_LE: FloatArray
    span: int
    moved: bool
    standing_L: BoolArray
    doubt: str | None = None


def advise(cases: Sequence[Situation], cost: CostModel, shape: ClusterShape, rule: AdviceRule) -> list[Advice]:
    """Return the advice in several situations of one run at one step, a pure function of what was seen before it.

    Axis letter: N situations, with the same recent rows.
    """
    first = cases[0]
    current_NLR = np.stack([case.current_LR for case in cases])
    before_NL = mean_over(step_imbalance(current_NLR, first.recent_SLE, shape.devices), axis=0)
    if first.steps_seen < rule.patience:
        return [_wait(case, mean_known(before_L), rule) for case, before_L in zip(cases, before_NL, strict=True)]
    forecasts = {id(case.share_hat_LE): case.share_hat_LE for case in cases}
    plans = dict(zip(forecasts, plan(np.stack(list(forecasts.values())), shape), strict=True))
    wanted_NLR = np.stack([plans[id(case.share_hat_LE)] for case in cases])
    wanted_NLR = with_fewest_moves(current_NLR, wanted_NLR, shape)
    after_NL = mean_over(step_imbalance(wanted_NLR, first.recent_SLE, shape.devices), axis=0)
    moved_NLD = replicas_moved(current_NLR, wanted_NLR, shape.devices)
    moves = zip(cases, before_NL, after_NL, moved_NLD, wanted_NLR, strict=True)
    return [_weighed(case, cost, rule, Move(*move)) for case, *move in moves]


def _wait(case: Situation, now: float, rule: AdviceRule) -> Advice:
    seen = f"{case.steps_seen:,} steps seen, {rule.patience:,} are needed"
    return Advice(case.step, case.span, "wait", (), now, now, 0.0, 0.0, 0, f"wait: {seen}")


class Move(NamedTuple):
    """A move to the plan ``wanted_LR``: max / mean before and after it, and the replicas that each device receives."""

    before_L: FloatArray
    after_L: FloatArray
    moved_LD: IntArray
    wanted_LR: IntArray


def _weighed(case: Situation, cost: CostModel, rule: AdviceRule, move: Move) -> Advice:
    """Return the advice about a move: the layers that pay, if they pay together.

    Gain and price of a layer in milliseconds, by the cost model of `placement.replan`: what its move saves over the
    span, and what it costs alone, the fixed cost of a re-plan aside. Together layers cost no more.
    """
    before_L, after_L, moved_LD, wanted_LR = move
    layers, moves_L = len(before_L), moved_LD.any(axis=1)
    per_unit = cost.step_ms * cost.expert_fraction / case.start_imbalance / layers
    gain_L = np.nan_to_num(before_L - after_L) * per_unit * case.span
    price_L = (1 - cost.overlap) * moved_LD.max(axis=1) * cost.expert_mb / cost.bandwidth_gb_s
    margin_L = np.where(case.standing_L, rule.keep, rule.margin)
    chosen_L = (gain_L > margin_L * price_L) & moves_L

    def percent(layer_L: BoolArray) -> tuple[float, float]:
        """Return what moving these layers saves and costs, in percent of the step time over the span."""
        percent_ms = case.span * cost.step_ms / 100
        price = cost.migration_ms(moved_LD[layer_L]) if layer_L.any() else 0.0
        return float(gain_L[layer_L].sum()) / percent_ms, price / percent_ms

    saves, costs = percent(chosen_L)
    least = 0.0 if case.moved else rule.least_percent / (2 if case.standing_L.any() else 1)
    pays = chosen_L.any() and saves > float(margin_L[chosen_L].min()) * costs and saves - costs >= least
    if pays and case.doubt is None:
        moved = tuple(np.flatnonzero(chosen_L).tolist())
        before, after = mean_known(before_L[chosen_L]), mean_known(after_L[chosen_L])
        text = (
            f"re-plan {name_layers([case.names_L[i] for i in moved], layers)} now: expected max/mean {before:.2f} -> "
            f"{after:.2f}, saves {saves:.1f} % of the step time, costs {costs:.1f} % over {case.span:,} steps"
        )
        replicas, plan_LR = int(moved_LD[chosen_L].sum()), np.where(chosen_L[:, None], wanted_LR, case.current_LR)
        return Advice(case.step, case.span, "replan", moved, before, after, saves, costs, replicas, text, plan_LR)
    best_L = chosen_L if chosen_L.any() else (gain_L > 0) & moves_L
    saves, costs = percent(best_L)
    why = f"a new plan saves {saves:.1f} % of the step time, moving costs {costs:.1f} %"
    if not best_L.any():
        why = "no plan promises less imbalance than the one in force"
    elif saves - costs >= rule.least_percent:
        why = f"{why}; a move has to save {rule.margin:g} times what it costs"
    text, now = f"leave it: {case.doubt or why}", mean_known(before_L)
    return Advice(case.step, case.span, "leave", (), now, now, saves, costs, 0, text, case.current_LR)


def name_layers(names: Sequence[str], of: int) -> str:
    """`layer 3`, `layers 3, 5`, `both layers`, `all 6 layers`; more than six are counted."""
    if len(names) == of and of > 1:
        return every(of, "layer")
    if len(names) > 6:
        return f"{len(names)} of {of} layers"
    return f"layer{'s' if len(names) > 1 else ''} {', '.join(names)}"
