"""Forecasters and intervals tried side by side while a run goes on: what each would have saved, from the past alone.

Every candidate has a layout of its own that follows the rule of `advice`, with its forecaster, whenever its interval
comes round. What they saved against the even spread is added up over disjoint parts of the run, and again over its
newest windows; `decide` takes one.

Axis letters: S rows, L MoE layers, E experts, R replica slots, C layouts (the one in force, the candidates', vLLM's),
N parts or windows, X sums of a part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.inspection.advice import Advice, AdviceRule, Seen, Situation, advise
from moeload_bench.inspection.cluster import LEFT, MOST, WORDS, Costs
from moeload_bench.inspection.decision import WINDOWS, Candidate, Constant, Decision, Terms, decide
from moeload_bench.inspection.forecasts import Forecasts
from moeload_bench.placement.cost import step_imbalance, steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Layout
from moeload_bench.placement.vllm_eplb import EVERY, VllmEplb

DEFAULT = "sw_avg"
"""The forecaster of a plan that is written where nothing can be decided."""
TIMES = tuple(range(1, 11))
"""Intervals of the candidates, in looks: every 50 steps up to 500, so that no interval between them saves more."""
MOST_PARTS = 40
"""Parts of a run that savings are kept for; when there are more, neighbours are put together."""


@dataclass(eq=False)
class Placed:
    """A layout that takes advice every ``times`` looks; ``last``: the advice that stands; ``moved_at``: steps.

    ``least``: steps that a move is written off over at least; ``steps_left``: of the run, None for as many again as
    were seen.
    """

    layout: Layout
    forecaster: str
    times: int
    least: int
    steps_left: int | None
    last: Advice | None = None
    moved_at: list[int] = field(default_factory=list)
    _moved_seen: int | None = None

    def situation(self, seen: Seen, share_hat_LE: FloatArray, doubt: str = "") -> Situation:
        """Return what the rule decides from, with a forecast and this layout in force."""
        standing_L = np.zeros(len(seen.names_L), dtype=np.bool_)
        if self.last is not None:
            standing_L[list(self.last.layers)] = True
        return Situation(
            **vars(seen), current_LR=self.layout.current_LR, share_hat_LE=share_hat_LE,
            horizon=self.span(seen.steps_seen), moved=self.layout.replans > 0, standing_L=standing_L, doubt=doubt,
        )  # fmt: skip

    def span(self, steps_seen: int) -> int:
        """Return the steps that a move is written off over, where ``steps_seen`` steps were seen.

        The first one: ``steps_left``, by default as many again as were seen. A later one: as many as the plan in force
        has served, never more than the steps left.
        """
        left = max(self.least, steps_seen) if self.steps_left is None else self.steps_left
        if self._moved_seen is None:
            return left
        return min(left, max(self.least, steps_seen - self._moved_seen))

    def move(self, slot_expert_LR: IntArray, step: int, steps_seen: int, span: int) -> None:
        """Put a plan in force at a step, written off over a span."""
        self.last = None
        if self.layout.step(slot_expert_LR, span).any():
            self.moved_at.append(step)
            self._moved_seen = steps_seen

    def follow(self, advice: Advice, steps_seen: int) -> None:
        """Carry out what is advised."""
        self.last = advice
        if advice.verdict == "replan" and advice.slot_expert_LR is not None:
            self.move(advice.slot_expert_LR, advice.step, steps_seen, advice.horizon)


class Race:
    """All layouts of a run, and what they cost so far.

    ``looks``: steps between looks; ``times``: looks between those of a candidate. ``window``: steps of one of the
    newest windows, rounded up to whole looks, and that a move is written off over at least. ``steps_left``: as in
    `Placed`. ``live``: whether an engine moves experts, so that vLLM's default is compared. ``own``: the layout in
    force.

    ``parts``: the sums [X] of each part: steps, layer-steps with load, the even spread's imbalance over them; of each
    layout [C] its own imbalance, the moves written off, the replicas received that are written off. ``total``: the
    same over all parts. Both as of the last time that it settled.
    """

    def __init__(
        self, layers: int, experts: int, shape: ClusterShape, forecasters: Sequence[str], times: Sequence[int],
        looks: int, window: int, steps_left: int | None, rule: AdviceRule, *, live: bool,
    ) -> None:  # fmt: skip
        def placed(name: str, k: int) -> Placed:
            return Placed(Layout(layers, experts, shape), name, k, max(window, k * looks), steps_left)

        self.looks, self.shape, self._rule, self._looked = looks, shape, rule, 0
        self.own = placed("", 1)
        self.tried = [placed(name, k) for name in forecasters for k in times]
        self.vllm = [placed(VllmEplb.name, EVERY // looks)] if live else []
        self.placed = [self.own, *self.tried, *self.vllm]
        self._seen: list[tuple[FloatArray, int]] = []
        self.parts: list[FloatArray] = []
        self._blocks, self._per_part = 0, 1
        self.total, self._look = np.zeros((2, 3 + 3 * len(self.placed)))
        self._window_looks = -(-window // looks)
        self._newest: deque[FloatArray] | None = None
        self._looks_to_plan = 0
        self._policy = VllmEplb(shape, looks)

    @property
    def steps_N(self) -> FloatArray:
        """Return the steps of each part with load."""
        return np.array([row[0] for row in self.parts if row[1] > 0])

    @property
    def even(self) -> float:
        """Return the mean max/mean under the even spread so far, NaN without any load."""
        return float(self.total[2] / self.total[1]) if self.total[1] else float("nan")

    def see(self, share_SLE: FloatArray, steps: int) -> None:
        """Take in a block of rows, to be charged before any layout changes."""
        self._seen.append((share_SLE, steps))

    def settle(self) -> None:
        """Charge every layout for the blocks seen since the last time; call it before one changes."""
        if not self._seen:
            return
        blocks, self._seen = self._seen, []
        static_LR = self.own.layout.static_LR
        plans = {static_LR.tobytes(): static_LR}
        plans |= {one.layout.current_LR.tobytes(): one.layout.current_LR for one in self.placed}
        at = list(plans)
        of_C = [at.index(one.layout.current_LR.tobytes()) for one in self.placed]
        share_SLE = steps_last(np.concatenate([share_SLE for share_SLE, _ in blocks]))
        self._policy.add(share_SLE)
        each_SNL = step_imbalance(np.stack(list(plans.values())), share_SLE, self.shape.devices)
        first = 0
        for share_SLE, steps in blocks:
            each_NSL = each_SNL[first : first + len(share_SLE)].swapaxes(0, 1)
            first += len(share_SLE)
            known_SL = np.isfinite(each_NSL[0])
            sum_N = np.ascontiguousarray(each_NSL[:, known_SL]).sum(axis=1)
            due_2C = np.array([one.layout.written_off(steps) for one in self.placed]).T
            self._add(np.concatenate([[steps, known_SL.sum(), sum_N[0]], sum_N[of_C], due_2C.ravel()]))
        self.total = np.sum(self.parts, axis=0)

    def _add(self, row: FloatArray) -> None:
        """Add a block's row to the parts."""
        self._look = self._look + row
        if self._blocks % self._per_part == 0:
            if len(self.parts) == MOST_PARTS:
                self.parts = [a + b for a, b in zip(self.parts[::2], self.parts[1::2], strict=True)]
                self._per_part *= 2
            self.parts.append(row)
        else:
            self.parts[-1] = self.parts[-1] + row
        self._blocks += 1

    def look(self, seen: Seen, share_hat: Mapping[str, FloatArray], costs: Costs) -> None:
        """Let the candidates act whose interval comes round; ``share_hat``: the forecasts by name."""
        self._looked += 1
        if self._newest is not None:
            self._newest.append(self._look)
        elif seen.steps_seen >= self._rule.patience:
            self._newest = deque(maxlen=WINDOWS * self._window_looks)
        self._looks_to_plan = max(0, -(-(self._rule.patience - seen.steps_seen) // self.looks))
        self._look = np.zeros_like(self._look)
        for one in self.vllm:
            wanted_LR = self._policy.replan(one.layout.current_LR, seen.steps_seen)
            if wanted_LR is not None:
                one.move(wanted_LR, seen.step, seen.steps_seen, EVERY)
        acting = [one for one in self.tried if self._looked % one.times == 0 and one.forecaster in share_hat]
        if acting:
            asked = [one.situation(seen, share_hat[one.forecaster]) for one in acting]
            for one, advice in zip(acting, advise(asked, costs.model, self.shape, self._rule), strict=True):
                one.follow(advice, seen.steps_seen)

    def advice(self, seen: Seen, share_hat_LE: FloatArray, costs: Costs, doubt: str) -> Advice:
        """Return the advice for the layout in force; ``doubt``: why the decision advises no move, "" where it does."""
        at = self.own.situation(seen, share_hat_LE, doubt)
        (self.own.last,) = advise([at], costs.model, self.shape, self._rule)
        return self.own.last

    @property
    def windows(self) -> FloatArray:
        """Return the sums [N, X] of the newest disjoint windows that began after the first plan, at most five."""
        size = self._window_looks
        rows = list(self._newest or ())[::-1]
        whole = len(rows) // size * size
        return np.asarray(np.array(rows[:whole]).reshape(-1, size, len(self.total)).sum(axis=1)[::-1])

    @property
    def terms(self) -> tuple[int, int]:
        """Return the steps of a window, and how many steps more there must be for five of them."""
        missing = self._looks_to_plan + WINDOWS * self._window_looks - len(self._newest or ())
        return self._window_looks * self.looks, missing * self.looks

    def decision(self, step: int, forecasts: Mapping[str, Forecasts], costs: Costs, steps_left: int) -> Decision:
        """Return the decision at a step."""
        total, even, cost = self.total, self.even, costs.model
        parts_NX = np.array(self.parts)
        saved_NC = percent_saved(parts_NX[parts_NX[:, 1] > 0], even, cost)[1]
        gain_C, net_C = (each_NC[0] for each_NC in percent_saved(total[None], even, cost))
        new_gain_NC, newest_NC = percent_saved(self.windows, even, cost)
        worst_NC = percent_saved(self.windows, even, costs.worst, costs.worst_share)[1]

        def candidate(c: int, one: Placed, judged: Forecasts | None) -> Candidate:
            layout = one.layout
            price_ms = cost.price_ms(1, layout.received / max(1, layout.replans))
            return Candidate(
                one.forecaster, one.times * self.looks, layout.replans, layout.replicas * cost.expert_mb / 1000,
                imbalance=float(total[3 + c] / total[1]) if total[1] else float("nan"),
                gain_percent=float(gain_C[c]), saved_percent=float(net_C[c]),
                misplaced=float("nan") if judged is None else judged.misplaced,
                cpu_ms=float("nan") if judged is None else judged.cpu_ms,
                moved_at=tuple(one.moved_at), breaks_even=_steps_to_repay(price_ms, new_gain_NC[:, c], cost.step_ms),
                saved_N=tuple(saved_NC[:, c].tolist()), newest_N=tuple(newest_NC[:, c].tolist()),
                worst_N=tuple(worst_NC[:, c].tolist()),
            )  # fmt: skip

        known = [c for c, one in enumerate(self.tried, 1) if one.forecaster in forecasts]
        tried = [candidate(c, self.placed[c], forecasts[self.placed[c].forecaster]) for c in known]
        vllm = [candidate(c, one, None) for c, one in enumerate(self.vllm, 1 + len(self.tried))]
        terms = Terms(steps_left, cost.step_ms, *self.terms)
        decision = decide(step, tried, even, costs.constants, terms, *vllm)
        take = next(c for c, one in zip(known, tried, strict=True) if one is decision.take)
        return replace(decision, constants=tuple(_doubted(costs, total[None], even, take)))


def percent_saved(
    sum_NX: FloatArray, even: float, cost: CostModel, share: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Return what each layout saved in each part [N, C], in percent of the step time: before and after its moves.

    ``sum_NX``: as in `Race.parts`. ``even``: mean max/mean under the even spread; ``share``: factor on what is written
    off. A part without load saves nothing.
    """
    C = (sum_NX.shape[1] - 3) // 3
    steps_N1, known_N1, even_N1 = sum_NX[:, :3].T[:, :, None]
    gain_NC = (even_N1 - sum_NX[:, 3 : 3 + C]) / np.maximum(1, known_N1) / even * 100 * cost.expert_fraction
    gain_NC = np.nan_to_num(gain_NC)
    moves_NC, received_NC = sum_NX[:, 3 + C : 3 + 2 * C], sum_NX[:, 3 + 2 * C :]
    price_NC = share * cost.price_ms(moves_NC, received_NC) / np.maximum(1, steps_N1) / cost.step_ms
    return gain_NC, gain_NC - 100 * price_NC


def _doubted(costs: Costs, sum_1X: FloatArray, even: float, c: int) -> Iterator[Constant]:
    """Yield the constants, with what layout ``c`` saves at half and at twice each ASSUMED one; see `percent_saved`."""
    names = {option: name for name, (_, option) in WORDS.items()}
    for one in costs.constants:
        name = names.get(one.option)
        if one.source != "ASSUMED" or not (name or one.option == LEFT):
            yield one
            continue
        saved = []
        for factor in (0.5, 2.0):
            value = {} if name is None else {name: min(factor * getattr(costs.model, name), MOST.get(name, np.inf))}
            share = 1 / factor if name is None else 1.0
            saved.append(float(percent_saved(sum_1X, even, replace(costs.model, **value), share)[1][0, c]))
        yield one._replace(saved=(min(saved), max(saved)))


def _steps_to_repay(price_ms: float, gain_percent_N: FloatArray, step_ms: float) -> int | None:
    """Return after how many steps a move is repaid, None where it never is."""
    gain_ms = gain_percent_N.mean() / 100 * step_ms if len(gain_percent_N) else 0.0
    return int(np.ceil(price_ms / gain_ms)) if gain_ms > 0 else None
