"""Forecasters and intervals tried side by side while a run goes on: what each would have saved, from the past alone.

Every candidate has a layout of its own that follows the rule of `live.advice`, with its forecaster, whenever its
interval comes round. What they saved against the even spread is added up over disjoint parts of the run, and `decide`
takes one.

Axis letters: S rows, L MoE layers, E experts, R replica slots, C layouts: the one in force, then the candidates'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.inspection.advice import Advice, AdviceRule, Seen, Situation, advise, advise_each
from moeload_bench.inspection.cluster import Costs
from moeload_bench.inspection.decision import FORECASTERS, Candidate, Decision, decide
from moeload_bench.inspection.forecasts import Forecasts
from moeload_bench.placement.cost import step_imbalance, steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Layout
from moeload_bench.traces.means import mean_known

DEFAULT = "sw_avg"
"""The forecaster of a plan that is written where nothing can be decided."""
TIMES = (1, 4, 10)
"""Intervals of the candidates, in looks: 50, 200 and 500 steps."""
SMALL = 4096
"""Layers x experts up to which all of them are tried; of a larger model two forecasters, every fourth look."""
FEW_FORECASTERS, FEW_TIMES = 2, (4,)
MOST_PARTS = 40
"""Parts of a run that savings are kept for; when there are more, neighbours are put together."""


def candidates_for(cells: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the forecasters and intervals, in looks, that there is time for: ``cells`` are layers x experts."""
    return (FORECASTERS, TIMES) if cells <= SMALL else (FORECASTERS[:FEW_FORECASTERS], FEW_TIMES)


@dataclass(eq=False)
class Placed:
    """A layout that takes advice; ``last``: the advice that stands."""

    layout: Layout
    forecaster: str = ""
    times: int = 1
    last: Advice | None = None

    def situation(self, seen: Seen, share_hat_LE: FloatArray) -> Situation:
        """Return what the rule decides from, with a forecast and this layout in force."""
        standing_L = np.zeros(len(seen.names_L), dtype=np.bool_)
        if self.last is not None:
            standing_L[list(self.last.layers)] = True
        return Situation(
            **vars(seen), current_LR=self.layout.current_LR, share_hat_LE=share_hat_LE,
            moved=self.layout.replans > 0, standing_L=standing_L,
        )  # fmt: skip

    def follow(self, advice: Advice) -> None:
        """Carry out what is advised."""
        self.last = advice
        if advice.verdict == "replan" and advice.slot_expert_LR is not None:
            self.layout.step(advice.slot_expert_LR)
            self.last = None


class Race:
    """All layouts of a run, and what they cost so far. ``looks``: steps between looks; ``placed[0]`` is in force."""

    def __init__(
        self, layers: int, experts: int, shape: ClusterShape, cost: CostModel, forecasters: Sequence[str],
        times: Sequence[int], looks: int,
    ) -> None:  # fmt: skip
        def layout() -> Layout:
            return Layout(layers, experts, shape, cost)

        self.looks, self._looked = looks, 0
        self.placed = [Placed(layout()), *(Placed(layout(), name, k) for name in forecasters for k in times)]
        self._seen: list[tuple[FloatArray, int]] = []
        self._parts: list[FloatArray] = []
        self._blocks, self._per_part = 0, 1
        self._spent_C = np.zeros(len(self.placed))
        self._total = np.zeros(3 + 2 * len(self.placed))

    @property
    def parts(self) -> list[FloatArray]:
        """Return per part: steps, layer-steps with load, the even spread's imbalance summed over them; then per layout
        [C] its own imbalance, summed, and the milliseconds spent on moving."""
        self.settle()
        return self._parts

    @property
    def total(self) -> FloatArray:
        """Return the sums over all parts."""
        self.settle()
        return self._total

    @property
    def even(self) -> float:
        """Return the mean max/mean under the even spread so far, NaN without any load."""
        total = self.total
        return float(total[2] / total[1]) if total[1] else float("nan")

    def see(self, share_SLE: FloatArray, steps: int) -> None:
        """Take in a block of rows, to be charged before any layout changes."""
        self._seen.append((share_SLE, steps))

    def settle(self) -> None:
        """Charge every layout for the blocks seen since the last time; call it before one changes."""
        if not self._seen:
            return
        blocks, self._seen = self._seen, []
        static_LR = self.placed[0].layout.static_LR
        plans = {static_LR.tobytes(): static_LR}
        plans |= {one.layout.current_LR.tobytes(): one.layout.current_LR for one in self.placed}
        at = list(plans)
        of_C = [at.index(one.layout.current_LR.tobytes()) for one in self.placed]
        share_SLE = steps_last(np.concatenate([share_SLE for share_SLE, _ in blocks]))
        each_SNL = step_imbalance(np.stack(list(plans.values())), share_SLE, self.placed[0].layout.shape.devices)
        spent_C = np.array([one.layout.migration_ms for one in self.placed])
        first = 0
        for share_SLE, steps in blocks:
            each_NSL = each_SNL[first : first + len(share_SLE)].swapaxes(0, 1)
            first += len(share_SLE)
            known_SL = np.isfinite(each_NSL[0])
            sum_N = np.ascontiguousarray(each_NSL[:, known_SL]).sum(axis=1)
            self._add(np.concatenate([[steps, known_SL.sum(), sum_N[0]], sum_N[of_C], spent_C - self._spent_C]))
            self._spent_C = spent_C
        self._total = np.sum(self._parts, axis=0)

    def _add(self, row: FloatArray) -> None:
        """Add a block's row to the parts."""
        if self._blocks % self._per_part == 0:
            if len(self._parts) == MOST_PARTS:
                self._parts = [a + b for a, b in zip(self._parts[::2], self._parts[1::2], strict=True)]
                self._per_part *= 2
            self._parts.append(row)
        else:
            self._parts[-1] = self._parts[-1] + row
        self._blocks += 1

    def look(
        self, seen: Seen, share_hat: Mapping[str, FloatArray], horizon: int, costs: Costs, rule: AdviceRule
    ) -> None:
        """Let the candidates act whose interval comes round; ``share_hat``: the forecasts by name."""
        self.settle()
        self._looked += 1
        acting = [one for one in self.placed[1:] if self._looked % one.times == 0 and one.forecaster in share_hat]
        if not acting:
            return
        asked = [
            (one.situation(seen, share_hat[one.forecaster]), max(horizon, one.times * self.looks)) for one in acting
        ]
        for one, advice in zip(acting, advise_each(asked, costs.model, self.placed[0].layout.shape, rule), strict=True):
            one.follow(advice)

    def advice(self, seen: Seen, share_hat_LE: FloatArray, horizon: int, costs: Costs, rule: AdviceRule) -> Advice:
        """Return the advice for the layout in force."""
        own = self.placed[0]
        own.last = advise(own.situation(seen, share_hat_LE), horizon, costs.model, own.layout.shape, rule)
        return own.last

    def saved_percent(self, c: int, cost: CostModel) -> float:
        """Return what a layout saved so far, in percent of the step time, after the migration."""
        total = self.total
        if not total[1]:
            return 0.0
        gain = cost.step_ms - cost.step_time(float(total[3 + c] / total[1]), float(total[2] / total[1]))
        return float(100 * (gain - self.placed[c].layout.migration_ms / total[0]) / cost.step_ms)

    def decision(self, step: int, forecasts: Mapping[str, Forecasts], costs: Costs) -> Decision:
        """Return the decision at a step."""
        total, even, cost = self.total, self.even, costs.model
        if not total[1]:
            found = [_judged(name, self.looks, each) for name, each in forecasts.items()]
            return decide(step, found, float("nan"), costs.constants)
        parts_NX, C = np.array(self.parts), len(self.placed)
        parts_NX = parts_NX[parts_NX[:, 1] > 0]
        steps_N1, known_N1, even_N1 = parts_NX[:, :3].T[:, :, None]
        gain_NC = (even_N1 - parts_NX[:, 3 : 3 + C]) / known_N1 / even * 100 * cost.expert_fraction
        saved_CN = (gain_NC - 100 * parts_NX[:, 3 + C :] / steps_N1 / cost.step_ms).T.tolist()
        judged = {name: _judged(name, self.looks, each) for name, each in forecasts.items()}
        found = []
        for c, one in enumerate(self.placed):
            if one.forecaster not in judged:
                continue
            layout, saved = one.layout, self.saved_percent(c, cost)
            found.append(
                replace(
                    judged[one.forecaster], every=one.times * self.looks,
                    replans=layout.replans, moved_gb=layout.replicas * cost.expert_mb / 1000,
                    imbalance=float(total[3 + c] / total[1]), saved_percent=saved,
                    gain_percent=saved + 100 * layout.migration_ms / float(total[0]) / cost.step_ms,
                    saved_N=tuple(saved_CN[c]),
                )
            )  # fmt: skip
        return decide(step, found, even, costs.constants)


def _judged(name: str, every: int, forecasts: Forecasts) -> Candidate:
    """Return a candidate that has not moved anything, judged by its forecasts alone."""
    misplaced = mean_known(np.array(forecasts.errors.values))
    return Candidate(name, every, 0, 0.0, float("nan"), 0.0, 0.0, misplaced, forecasts.cpu_ms)
