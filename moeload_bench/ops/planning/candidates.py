"""Forecasters and intervals tried side by side while a run goes on: what each would have saved, from the past alone.

Every candidate has a layout of its own that follows the rule of `advice`, with its forecaster, whenever its interval
comes round. What each costs is added up in its account, and `decide` takes one by what they saved against a layout
that never moves.

Axis letters: S rows, L MoE layers, E experts, R replica slots, N layouts that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.ops.planning.accounts import Account, Saving, Sums, saving
from moeload_bench.ops.planning.advice import Advice, AdviceRule, Seen, Situation, advise
from moeload_bench.ops.planning.cluster import CONSTANTS, LEFT, Constant, Costs
from moeload_bench.ops.planning.decision import WINDOWS, Begun, Candidate, Decision, Terms, decide
from moeload_bench.ops.planning.forecasts import Forecasts
from moeload_bench.placement.cost import replicas_moved, step_imbalance, steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.placement.vllm_eplb import EVERY, VllmEplb

DEFAULT = "sw_avg"
"""The forecaster of a plan that is written where nothing can be decided."""
TIMES = tuple(range(1, 11))
"""Intervals of the candidates, in looks: every 50 steps up to 500, so that no interval between them saves more."""


class CandidateLayout:
    """The plan in force for a forecaster that is asked every ``times`` looks, and what it cost so far.

    It begins as ``start_LR``. ``replans`` and ``replicas`` add up, and so does ``received``, by the device that
    receives most in each move; ``moved_at``: steps of the moves. ``last``: the advice that stands. A move is written
    off evenly over a span of steps, ``least`` at least; what is left of it when the next one comes is due at once.
    ``steps_left``: of the run, None for as many again as were seen.
    """

    def __init__(
        self, start_LR: IntArray, devices: int, forecaster: str, times: int, least: int, steps_left: int | None
    ) -> None:
        self.current_LR, self._devices = start_LR, devices
        self.forecaster, self.times = forecaster, times
        self._least, self._steps_left = least, steps_left
        self.replans = self.replicas = self.received = 0
        self.moved_at: list[int] = []
        self.last: Advice | None = None
        self.account = Account()
        self._moved_seen: int | None = None
        self._overdue = self._unpaid = self._per_step = Sums()

    def situation(self, seen: Seen, share_hat_LE: FloatArray, doubt: str | None = None) -> Situation:
        """Return what the rule decides from, with a forecast and this layout in force."""
        standing_L = np.zeros(len(seen.names_L), dtype=np.bool_)
        if self.last is not None:
            standing_L[list(self.last.layers)] = True
        return Situation(
            **vars(seen), current_LR=self.current_LR, share_hat_LE=share_hat_LE,
            span=self.span(seen.steps_seen), moved=self.replans > 0, standing_L=standing_L, doubt=doubt,
        )  # fmt: skip

    def span(self, steps_seen: int) -> int:
        """Return the steps that the cost of a move is spread over, where ``steps_seen`` steps were seen.

        The first one: ``steps_left``, by default as many again as were seen. A later one: as many as the plan in force
        has served, never more than the steps left.
        """
        left = max(self._least, steps_seen) if self._steps_left is None else self._steps_left
        if self._moved_seen is None:
            return left
        return min(left, max(self._least, steps_seen - self._moved_seen))

    def move(self, slot_expert_LR: IntArray, step: int, steps_seen: int, span: int) -> None:
        """Put a plan in force at a step, spread over a span."""
        moved_LD = replicas_moved(self.current_LR, slot_expert_LR, self._devices)
        self.current_LR, self.last = slot_expert_LR, None
        if moved_LD.any():
            most = int(moved_LD.sum(axis=0).max())
            self.replans += 1
            self.replicas += int(moved_LD.sum())
            self.received += most
            self.moved_at.append(step)
            self._moved_seen = steps_seen
            self._overdue = self._overdue + self._unpaid
            self._unpaid = Sums(moves=1.0, received=float(most))
            self._per_step = Sums(moves=1.0 / span, received=most / span)

    def follow(self, advice: Advice, steps_seen: int) -> None:
        """Carry out what is advised."""
        self.last = advice
        if advice.verdict == "replan" and advice.slot_expert_LR is not None:
            self.move(advice.slot_expert_LR, advice.step, steps_seen, advice.span)

    def charge(self, steps: int, layer_steps: int, imbalance: float) -> None:
        """Charge the account for a block: max/mean added up over layers of steps with load, and what moves cost."""
        moves = min(self._unpaid.moves, self._per_step.moves * steps)
        received = min(self._unpaid.received, self._per_step.received * steps)
        block = Sums(steps, layer_steps, imbalance, self._overdue.moves + moves, self._overdue.received + received)
        self._unpaid = Sums(moves=self._unpaid.moves - moves, received=self._unpaid.received - received)
        self._overdue = Sums()
        self.account.charge(block)


class Race:
    """All layouts of a run, and what they cost so far.

    ``look_steps``: steps between looks, 50 by default; ``times``: looks between those of a candidate. ``window``:
    steps of one of the newest windows, rounded up to whole looks; the cost of a move is spread over no fewer.
    ``steps_left``: as in `CandidateLayout`. ``live``: whether an engine moves experts, so that vLLM's default is
    compared. ``start_LR``: the layout in force when the run begins, which all begin as.

    ``stayed``: the layout that never moves, which the others are measured against; ``own``: the one in force now;
    ``tried``: those of the candidates. Accounts are as of the last time that the race settled.
    """

    def __init__(
        self, start_LR: IntArray, shape: ClusterShape, forecasters: Sequence[str], times: Sequence[int],
        look_steps: int, window: int, steps_left: int | None, rule: AdviceRule, *, live: bool,
    ) -> None:  # fmt: skip
        def layout(name: str, k: int) -> CandidateLayout:
            return CandidateLayout(start_LR, shape.devices, name, k, max(window, k * look_steps), steps_left)

        self.start_LR, self.look_steps, self.shape, self._rule = start_LR, look_steps, shape, rule
        self.stayed, self.own = layout("", 1), layout("", 1)
        self.tried = [layout(name, k) for name in forecasters for k in times]
        self.vllm = layout(VllmEplb.name, EVERY // look_steps) if live else None
        self.layouts = [self.stayed, self.own, *self.tried, *([self.vllm] if self.vllm else [])]
        self._unsettled: list[tuple[FloatArray, int]] = []
        self._window_looks = -(-window // look_steps)
        self._looked = self._looks_kept = self._looks_to_plan = 0
        self._planned = False
        self._policy = VllmEplb(shape, look_steps)

    @property
    def start(self) -> float:
        """Return the mean max/mean so far under the layout that the run began with, NaN without any load."""
        return self.stayed.account.total.mean_imbalance

    @property
    def steps_N(self) -> FloatArray:
        """Return the steps of each part [N] of the run with load."""
        return np.array([part.steps for part in self.stayed.account.parts if part.layer_steps], dtype=np.float64)

    def see(self, share_SLE: FloatArray, steps: int) -> None:
        """Take in a block of rows, to be charged before any layout changes."""
        self._unsettled.append((share_SLE, steps))

    def settle(self) -> None:
        """Charge every layout for the blocks seen since the last time; call it before one changes."""
        if not self._unsettled:
            return
        blocks, self._unsettled = self._unsettled, []
        plans = {layout.current_LR.tobytes(): layout.current_LR for layout in self.layouts}
        order = {plan: n for n, plan in enumerate(plans)}
        ranks = [order[layout.current_LR.tobytes()] for layout in self.layouts]
        share_SLE = steps_last(np.concatenate([share_SLE for share_SLE, _ in blocks]))
        self._policy.add(share_SLE)
        each_SNL = step_imbalance(np.stack(list(plans.values())), share_SLE, self.shape.devices)
        first = 0
        for share_SLE, steps in blocks:
            each_NSL = each_SNL[first : first + len(share_SLE)].swapaxes(0, 1)
            first += len(share_SLE)
            loaded_SL = np.isfinite(each_NSL[0])
            sum_N = np.ascontiguousarray(each_NSL[:, loaded_SL]).sum(axis=1).tolist()
            layer_steps = int(loaded_SL.sum())
            for layout, n in zip(self.layouts, ranks, strict=True):
                layout.charge(steps, layer_steps, sum_N[n])

    def look(self, seen: Seen, share_hat: Mapping[str, FloatArray], costs: Costs) -> None:
        """Let the candidates act whose interval comes round; ``share_hat``: the forecasts by name."""
        self._end_look(seen.steps_seen)
        if self.vllm:
            wanted_LR = self._policy.replan(self.vllm.current_LR, seen.steps_seen)
            if wanted_LR is not None:
                self.vllm.move(wanted_LR, seen.step, seen.steps_seen, EVERY)
        due = [layout for layout in self.tried if self._looked % layout.times == 0 and layout.forecaster in share_hat]
        if due:
            situations = [layout.situation(seen, share_hat[layout.forecaster]) for layout in due]
            for layout, advice in zip(due, advise(situations, costs.model, self.shape, self._rule), strict=True):
                layout.follow(advice, seen.steps_seen)

    def _end_look(self, steps_seen: int) -> None:
        """End a look of every account; looks count for windows from the first plan on."""
        most = WINDOWS * self._window_looks
        self._looks_kept = min(most, self._looks_kept + 1) if self._planned else 0
        for layout in self.layouts:
            layout.account.end_look(self._looks_kept)
        self._looked += 1
        self._planned = self._planned or steps_seen >= self._rule.patience
        self._looks_to_plan = max(0, -(-(self._rule.patience - steps_seen) // self.look_steps))

    def advice(self, seen: Seen, share_hat_LE: FloatArray, costs: Costs, doubt: str | None) -> Advice:
        """Return the advice for the layout in force; ``doubt``: why no move is advised, None where one is."""
        situation = self.own.situation(seen, share_hat_LE, doubt)
        (self.own.last,) = advise([situation], costs.model, self.shape, self._rule)
        return self.own.last

    def layout_of(self, forecaster: str, every: int) -> CandidateLayout:
        """Return the layout of a candidate, vLLM's among them."""
        named = (layout for layout in self.layouts if layout.forecaster == forecaster)
        return next(layout for layout in named if layout.times * self.look_steps == every)

    def saved(self, layout: CandidateLayout, cost: CostModel, price_factor: float = 1.0) -> Saving:
        """Return what a layout saved over the run, at any costs: `saving`."""
        stayed = self.stayed.account.total
        return saving(layout.account.total, stayed, stayed.mean_imbalance, cost, price_factor)

    @property
    def window_terms(self) -> tuple[int, int]:
        """Return the steps of a window, and how many steps more there must be for five of them."""
        missing = self._looks_to_plan + WINDOWS * self._window_looks - self._looks_kept
        return self._window_looks * self.look_steps, missing * self.look_steps

    def decision(
        self, step: int, forecasts: Mapping[str, Forecasts], costs: Costs, steps_left: int, begun: Begun
    ) -> Decision:
        """Return the decision at a step."""
        layouts = [layout for layout in self.tried if layout.forecaster in forecasts]
        tried = [self._candidate(layout, costs, forecasts[layout.forecaster]) for layout in layouts]
        vllm = None if self.vllm is None else self._candidate(self.vllm, costs, None)
        window, missing = self.window_terms
        terms = Terms(
            steps_left=steps_left,
            step_ms=costs.model.step_ms,
            window=window,
            missing=missing,
            layout=begun.layout,
            first_step=begun.first_step,
        )
        decision = decide(step, tried, self.start, costs.constants, terms, vllm)
        take = layouts[tried.index(decision.take)]
        return replace(decision, constants=tuple(self._doubted(costs, take)))

    def _candidate(self, layout: CandidateLayout, costs: Costs, forecasts: Forecasts | None) -> Candidate:
        """Return what a layout comes to; ``forecasts``: of its forecaster, None where none is judged."""
        account, stayed, start, cost = layout.account, self.stayed.account, self.start, costs.model
        parts = [pair for pair in zip(account.parts, stayed.parts, strict=True) if pair[0].layer_steps]
        windows = list(zip(account.windows(self._window_looks), stayed.windows(self._window_looks), strict=True))
        newest = [saving(*pair, start, cost) for pair in windows]
        worst = [saving(*pair, start, costs.worst, costs.worst_price_factor) for pair in windows]
        gain_percent, saved_percent = self.saved(layout, cost)
        price_ms = cost.price_ms(1, layout.received / max(1, layout.replans))
        return Candidate(
            layout.forecaster,
            layout.times * self.look_steps,
            layout.replans,
            layout.replicas * cost.expert_mb / 1000,
            imbalance=account.total.mean_imbalance,
            gain_percent=gain_percent,
            saved_percent=saved_percent,
            misplaced=float("nan") if forecasts is None else forecasts.misplaced,
            cpu_ms=float("nan") if forecasts is None else forecasts.cpu_ms,
            moved_at=tuple(layout.moved_at),
            breaks_even=_steps_to_repay(price_ms, [saved.gain_percent for saved in newest], cost.step_ms),
            saved_N=tuple(saving(*pair, start, cost).net_percent for pair in parts),
            newest_N=tuple(saved.net_percent for saved in newest),
            worst_N=tuple(saved.net_percent for saved in worst),
        )

    def _doubted(self, costs: Costs, layout: CandidateLayout) -> Iterator[Constant]:
        """Yield the constants, with what a layout saves at half and at twice each ASSUMED one."""
        names = {constant.option: name for name, constant in CONSTANTS.items()}
        for constant in costs.constants:
            name = names.get(constant.option)
            if constant.source != "ASSUMED" or not (name or constant.option == LEFT):
                yield constant
                continue
            saved = []
            for factor in (0.5, 2.0):
                value = {} if name is None else {name: min(factor * getattr(costs.model, name), CONSTANTS[name].most)}
                price_factor = 1 / factor if name is None else 1.0
                saved.append(self.saved(layout, replace(costs.model, **value), price_factor).net_percent)
            yield constant._replace(saved=(min(saved), max(saved)))


def _steps_to_repay(price_ms: float, gain_percent_N: Sequence[float], step_ms: float) -> int | None:
    """Return after how many steps a move is repaid, None where it never is."""
    gain_ms = float(np.mean(gain_percent_N)) / 100 * step_ms if gain_percent_N else 0.0
    return int(np.ceil(price_ms / gain_ms)) if gain_ms > 0 else None
