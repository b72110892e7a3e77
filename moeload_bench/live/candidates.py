"""Forecasters and intervals tried side by side while a run goes on: what each would have saved, from the past alone.

Every candidate has a layout of its own that follows the rule of `live.advice`, with its forecaster, whenever its
interval comes round. What they saved against the even spread is added up over disjoint parts of the run, and `decide`
takes one.

Axis letters: S rows, L MoE layers, E experts, R replica slots, C layouts: the one in force, then the candidates'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.live.advice import Advice, AdviceRule, Situation, advise
from moeload_bench.live.cluster import Costs
from moeload_bench.live.forecasts import Forecasts, mean_known
from moeload_bench.placement.cost import steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Layout
from moeload_bench.results.decision import Candidate, Decision, decide

FORECASTERS = ("ema", "sw_avg", "adaptive", "gated")
"""Compared unless one is named, by the CPU time of a forecast at 60 x 256, observing included, all measured in one
sitting (`benchmarks/live_size.py`): clocks vary from call to call, decisions must not."""
WATCHED = "sw_avg"
"""The forecaster whose errors are shown, unless one is named."""
TIMES = (1, 4, 10)
"""Intervals of the candidates, in looks: 50, 200 and 500 steps."""
SMALL = 4096
"""Layers x experts up to which all of them are tried; of a larger model two forecasters, every fourth look."""
FEW_FORECASTERS, FEW_TIMES = 2, (4,)
MOST_MOVES = 12
"""Moves of a candidate that are kept to be shown: the first ones that pay."""
MOST_PARTS = 40
"""Parts of a run that savings are kept for; when there are more, neighbours are put together."""


def candidates_for(cells: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the forecasters and intervals, in looks, that there is time for: ``cells`` are layers x experts."""
    return (FORECASTERS, TIMES) if cells <= SMALL else (FORECASTERS[:FEW_FORECASTERS], FEW_TIMES)


@dataclass(eq=False)
class Placed:
    """A layout that takes advice: ``last`` given, ``moves``: the first ones made (without their plans)."""

    layout: Layout
    forecaster: str = ""
    times: int = 1
    last: Advice | None = None
    moves: list[Advice] = field(default_factory=list)

    def ask(self, at: Situation, horizon: int, cost: CostModel, rule: AdviceRule) -> Advice:
        """Return the advice in a situation, for the layout in force here."""
        standing_L = np.zeros(len(at.names_L), dtype=np.bool_)
        if self.last is not None:
            standing_L[list(self.last.layers)] = True
        layout = self.layout
        at = replace(at, current_LR=layout.current_LR, moved=layout.replans > 0, standing_L=standing_L)
        self.last = advise(at, horizon, cost, layout.shape, rule)
        return self.last

    def follow(self, advice: Advice) -> None:
        """Carry out what is advised."""
        if advice.verdict == "replan" and advice.slot_expert_LR is not None:
            self.layout.step(advice.slot_expert_LR)
            self.last = None
            if advice.pays and len(self.moves) < MOST_MOVES:
                self.moves.append(replace(advice, slot_expert_LR=None))


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
        self.parts: list[FloatArray] = []
        """Per part: steps, layer-steps with load, the even spread's imbalance summed over them; then per layout [C] its
        own imbalance, summed, and the milliseconds spent on moving."""
        self._blocks, self._per_part = 0, 1
        self._spent_C = np.zeros(len(self.placed))

    @property
    def total(self) -> FloatArray:
        """Return the sums over all parts."""
        return np.sum(self.parts, axis=0) if self.parts else np.zeros(3 + 2 * len(self.placed))

    @property
    def even(self) -> float:
        """Return the mean max/mean under the even spread so far, NaN without any load."""
        return float(self.total[2] / self.total[1]) if self.total[1] else float("nan")

    def see(self, share_SLE: FloatArray, steps: int) -> None:
        """Charge every layout for a block of rows."""
        share_SLE = steps_last(share_SLE)
        layout = self.placed[0].layout
        sums: dict[bytes, float] = {}
        static_SL = layout.imbalance(share_SLE, layout.static_LR)
        known = np.isfinite(static_SL)
        sums[layout.static_LR.tobytes()] = static = float(static_SL[known].sum())
        present_C, spent_C = np.empty(len(self.placed)), np.empty(len(self.placed))
        for c, one in enumerate(self.placed):
            key = one.layout.current_LR.tobytes()
            if key not in sums:
                sums[key] = float(one.layout.imbalance(share_SLE)[known].sum())
            present_C[c], spent_C[c] = sums[key], one.layout.migration_ms
        row = np.concatenate([[steps, known.sum(), static], present_C, spent_C - self._spent_C])
        self._spent_C = spent_C
        if self._blocks % self._per_part == 0:
            if len(self.parts) == MOST_PARTS:
                self.parts = [a + b for a, b in zip(self.parts[::2], self.parts[1::2], strict=True)]
                self._per_part *= 2
            self.parts.append(row)
        else:
            self.parts[-1] = self.parts[-1] + row
        self._blocks += 1

    def look(
        self, at: Situation, share_hat: Mapping[str, FloatArray], horizon: int, costs: Costs, rule: AdviceRule
    ) -> None:
        """Let the candidates act whose interval comes round; ``share_hat``: the forecasts by name."""
        self._looked += 1
        for one in self.placed[1:]:
            if self._looked % one.times == 0 and one.forecaster in share_hat:
                ahead = max(horizon, one.times * self.looks)
                mine = replace(at, share_hat_LE=share_hat[one.forecaster])
                one.follow(one.ask(mine, ahead, costs.model, rule))

    def saved_percent(self, c: int, cost: CostModel) -> float:
        """Return what a layout saved so far, in percent of the step time, after the migration."""
        total = self.total
        if not total[1]:
            return 0.0
        gain = cost.step_ms - cost.step_time(float(total[3 + c] / total[1]), float(total[2] / total[1]))
        return float(100 * (gain - self.placed[c].layout.migration_ms / total[0]) / cost.step_ms)

    def decision(self, step: int, forecasts: Mapping[str, Forecasts], costs: Costs) -> Decision:
        """Return the decision at a step."""
        total, cost = self.total, costs.model
        if not total[1]:
            return unplaced(step, forecasts, self.looks)
        parts_NX, C = np.array(self.parts), len(self.placed)
        known_N = parts_NX[:, 1] > 0
        parts_NX = parts_NX[known_N]
        found = []
        for c, one in enumerate(self.placed):
            if one.forecaster not in forecasts:
                continue
            gain_N = (parts_NX[:, 2] - parts_NX[:, 3 + c]) / parts_NX[:, 1] / self.even * 100 * cost.expert_fraction
            saved_N = gain_N - 100 * parts_NX[:, 3 + C + c] / parts_NX[:, 0] / cost.step_ms
            saved = self.saved_percent(c, cost)
            layout = one.layout
            found.append(
                replace(
                    _judged(one.forecaster, one.times * self.looks, forecasts[one.forecaster]),
                    replans=layout.replans, moved_gb=layout.replicas * cost.expert_mb / 1000,
                    imbalance=float(total[3 + c] / total[1]), saved_percent=saved,
                    gain_percent=saved + 100 * layout.migration_ms / float(total[0]) / cost.step_ms,
                    saved_N=tuple(saved_N.tolist()),
                )
            )  # fmt: skip
        return decide(step, found, self.even, costs.constants, placed=True)

    def chosen(self, decision: Decision) -> tuple[Placed, list[tuple[float, float, float]]]:
        """Return the layout of the candidate taken, and by parts: steps, and max/mean of the even spread and of it."""
        names = [(one.forecaster, one.times * self.looks) for one in self.placed]
        c = names.index((decision.take.forecaster, decision.take.every))
        lines = [(x[0], x[2] / x[1], x[3 + c] / x[1]) for x in self.parts if x[1]]
        return self.placed[c], [tuple(map(float, line)) for line in lines]  # type: ignore[misc]


def unplaced(step: int, forecasts: Mapping[str, Forecasts], looks: int) -> Decision:
    """Return the decision where there is nothing to place on: forecasters by misplaced tokens."""
    found = [_judged(name, looks, each) for name, each in forecasts.items()]
    return decide(step, found, float("nan"), (), placed=False)


def _judged(name: str, every: int, forecasts: Forecasts) -> Candidate:
    """Return a candidate that has not moved anything, judged by its forecasts alone."""
    errors = np.array(forecasts.errors.values)
    parts = tuple(mean_known(part) for part in np.array_split(errors, min(20, max(1, len(errors)))))
    return Candidate(
        name, every, 0, 0.0, float("nan"), 0.0, 0.0, mean_known(errors), forecasts.cpu_ms, misplaced_N=parts
    )
