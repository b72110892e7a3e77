"""Forecasters and intervals tried side by side while a run goes on: what each would have saved, from the past alone.

Forecasts are scored once the rows that they are about have come. Every candidate has a layout of its own that follows
the rule of `advice`, with its forecaster, whenever its interval comes round. What they saved against the layout in
force is added up over disjoint parts of the run, and again over its newest windows; `decide` takes one.

Axis letters: S rows, L MoE layers, E experts, R replica slots, C layouts (the one in force, the candidates', vLLM's),
N parts or windows, X sums of a part.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import class_target, parse_target
from moeload_bench.ops.planning.advice import Advice, AdviceRule, Seen, Situation, advise
from moeload_bench.ops.planning.cluster import CONSTANTS, LEFT, Constant, Costs
from moeload_bench.ops.planning.decision import WINDOWS, Begun, Candidate, Decision, Terms, decide
from moeload_bench.placement.cost import replicas_moved, step_imbalance, steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.placement.vllm_eplb import EVERY, VllmEplb
from moeload_bench.traces.means import mean_known, ratio_of

DEFAULT = "sw_avg"
"""The forecaster of a plan that is written where nothing can be decided."""
TIMES = tuple(range(1, 11))
"""Intervals of the candidates, in looks: every 50 steps up to 500, so that no interval between them saves more."""
MOST_ERRORS = 40
"""Errors that forecasters are compared by."""
MOST_PARTS = 40
"""Parts of a run that savings are kept for; when there are more, neighbours are put together."""


class Layout:
    """The plan in force for a forecaster that is asked every ``times`` looks, and what its moves cost.

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
        self._moved_seen: int | None = None
        self._due_2, self._left_2, self._per_step_2 = np.zeros((3, 2))

    def situation(self, seen: Seen, share_hat_LE: FloatArray, doubt: str = "") -> Situation:
        """Return what the rule decides from, with a forecast and this layout in force."""
        standing_L = np.zeros(len(seen.names_L), dtype=np.bool_)
        if self.last is not None:
            standing_L[list(self.last.layers)] = True
        return Situation(
            **vars(seen), current_LR=self.current_LR, share_hat_LE=share_hat_LE,
            horizon=self.span(seen.steps_seen), moved=self.replans > 0, standing_L=standing_L, doubt=doubt,
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
            self._due_2 = self._due_2 + self._left_2
            self._left_2 = np.array([1.0, most])
            self._per_step_2 = self._left_2 / span

    def follow(self, advice: Advice, steps_seen: int) -> None:
        """Carry out what is advised."""
        self.last = advice
        if advice.verdict == "replan" and advice.slot_expert_LR is not None:
            self.move(advice.slot_expert_LR, advice.step, steps_seen, advice.horizon)

    def written_off(self, steps: int) -> FloatArray:
        """Return what the next ``steps`` steps are charged with [2]: moves, and replicas received."""
        part_2 = np.minimum(self._left_2, self._per_step_2 * steps)
        due_2 = self._due_2 + part_2
        self._due_2, self._left_2 = np.zeros(2), self._left_2 - part_2
        return due_2


class Windows:
    """Mean shares of the windows that forecasts are about, added up once for all forecasters. ``rows``: of a window."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._open: deque[_Window] = deque()

    def open(self) -> None:
        """Begin a window with the next row."""
        self._open.append(_Window())

    def add(self, share_SLE: FloatArray) -> list[FloatArray]:
        """Take in some rows; return the means [L, E] of the windows that are over, NaN in a layer without load."""
        known_SL = np.isfinite(share_SLE[:, :, 0])
        total_LE, count_L = np.where(known_SL[:, :, None], share_SLE, 0.0).sum(axis=0), known_SL.sum(axis=0)
        for one in self._open:
            one.total_LE = one.total_LE + total_LE
            one.count_L = one.count_L + count_L
            one.rows += len(share_SLE)
        over = []
        while self._open and self._open[0].rows >= self._rows:
            done = self._open.popleft()
            over.append(ratio_of(done.total_LE, done.count_L[:, None]))
        return over


@dataclass(eq=False)
class _Window:
    """Shares added up so far, and the rows with load."""

    total_LE: FloatArray = field(default_factory=lambda: np.zeros(()))
    count_L: IntArray = field(default_factory=lambda: np.zeros((), dtype=np.int64))
    rows: int = 0


class Sample:
    """At most so many of the numbers of a run, spread over it: when there are more, every other one is let go."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self._seen % self._every == 0:
            if len(self.values) == self._most:
                self.values, self._every = self.values[::2], 2 * self._every
            if self._seen % self._every == 0:
                self.values.append(value)
        self._seen += 1


class Forecasts:
    """A forecaster, and how much of what it forecast was wrong."""

    def __init__(
        self, info: TraceInfo, forecaster: str | type[Any], horizon: int, *, seed: int, fitted: bytes | None,
        level: Level = "none",
    ) -> None:  # fmt: skip
        self._horizon = horizon
        target = class_target(forecaster) if isinstance(forecaster, type) else parse_target(forecaster)
        self._feed = follow(target, info, seed=seed, fitted=fitted, level=level)
        self._unscored: deque[FloatArray] = deque()
        self.errors = Sample(MOST_ERRORS)
        self._cpu_s, self._asks = 0.0, 0

    @property
    def cpu_ms(self) -> float:
        """Return the CPU milliseconds of a forecast, observing included, in this thread."""
        return 1000 * self._cpu_s / max(1, self._asks)

    @property
    def misplaced(self) -> float:
        """Return the mean part of the tokens that forecasts put with the wrong expert, NaN before one was judged."""
        return mean_known(np.array(self.errors.values))

    def close(self) -> None:
        """End the forecaster's process, where it has one."""
        self._feed.host.stop()

    def ask(self, block: StepBlock, origin: int) -> FloatArray:
        """Show the steps since the last forecast, and return the mean shares [L, E] forecast at a step."""
        request = ForecastRequest(origin, self._horizon, (self._horizon,))
        began = time.thread_time()
        self._feed.rows(block)
        share_LE: FloatArray = self._feed.ask(request).window_means((self._horizon,))[0]
        self._cpu_s += time.thread_time() - began
        self._asks += 1
        self._unscored.append(share_LE)
        return share_LE

    def score(self, truth_LE: FloatArray) -> None:
        """Score the oldest forecast that is not scored yet."""
        self.errors.add(mean_known(misplaced(self._unscored.popleft(), truth_LE)))


def misplaced(share_LE: FloatArray, truth_LE: FloatArray) -> FloatArray:
    """Return the part of each layer's tokens [L] that a forecast puts with the wrong expert."""
    return np.asarray(0.5 * np.abs(share_LE - truth_LE).sum(axis=1))


class Race:
    """All layouts of a run, and what they cost so far.

    ``looks``: steps between looks; ``times``: looks between those of a candidate. ``window``: steps of one of the
    newest windows, rounded up to whole looks; the cost of a move is spread over no fewer. ``steps_left``: as in
    `Layout`. ``live``: whether an engine moves experts, so that vLLM's default is compared. ``start_LR``: the layout
    in force when the run begins, which all begin as and are measured against. ``own``: the one in force now.

    ``parts``: the sums [X] of each part: steps, layer-steps with load, the imbalance of ``start_LR`` over them; of each
    layout [C] its own imbalance, the moves written off, the replicas received that are written off. ``total``: the
    same over all parts. Both as of the last time that it settled.
    """

    def __init__(
        self, start_LR: IntArray, shape: ClusterShape, forecasters: Sequence[str], times: Sequence[int], looks: int,
        window: int, steps_left: int | None, rule: AdviceRule, *, live: bool,
    ) -> None:  # fmt: skip
        self.start_LR = start_LR

        def layout(name: str, k: int) -> Layout:
            return Layout(self.start_LR, shape.devices, name, k, max(window, k * looks), steps_left)

        self.looks, self.shape, self._rule, self._looked = looks, shape, rule, 0
        self.own = layout("", 1)
        self.tried = [layout(name, k) for name in forecasters for k in times]
        self.vllm = [layout(VllmEplb.name, EVERY // looks)] if live else []
        self.layouts = [self.own, *self.tried, *self.vllm]
        self._seen: list[tuple[FloatArray, int]] = []
        self.parts: list[FloatArray] = []
        self._blocks, self._per_part = 0, 1
        self.total, self._look = np.zeros((2, 3 + 3 * len(self.layouts)))
        self._window_looks = -(-window // looks)
        self._newest: deque[FloatArray] | None = None
        self._looks_to_plan = 0
        self._policy = VllmEplb(shape, looks)

    @property
    def steps_N(self) -> FloatArray:
        """Return the steps of each part with load."""
        return np.array([row[0] for row in self.parts if row[1] > 0])

    @property
    def start(self) -> float:
        """Return the mean max/mean so far under the layout that the run began with, NaN without any load."""
        return float(self.total[2] / self.total[1]) if self.total[1] else float("nan")

    def see(self, share_SLE: FloatArray, steps: int) -> None:
        """Take in a block of rows, to be charged before any layout changes."""
        self._seen.append((share_SLE, steps))

    def settle(self) -> None:
        """Charge every layout for the blocks seen since the last time; call it before one changes."""
        if not self._seen:
            return
        blocks, self._seen = self._seen, []
        plans = {self.start_LR.tobytes(): self.start_LR}
        plans |= {one.current_LR.tobytes(): one.current_LR for one in self.layouts}
        at = list(plans)
        of_C = [at.index(one.current_LR.tobytes()) for one in self.layouts]
        share_SLE = steps_last(np.concatenate([share_SLE for share_SLE, _ in blocks]))
        self._policy.add(share_SLE)
        each_SNL = step_imbalance(np.stack(list(plans.values())), share_SLE, self.shape.devices)
        first = 0
        for share_SLE, steps in blocks:
            each_NSL = each_SNL[first : first + len(share_SLE)].swapaxes(0, 1)
            first += len(share_SLE)
            known_SL = np.isfinite(each_NSL[0])
            sum_N = np.ascontiguousarray(each_NSL[:, known_SL]).sum(axis=1)
            due_2C = np.array([one.written_off(steps) for one in self.layouts]).T
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
            wanted_LR = self._policy.replan(one.current_LR, seen.steps_seen)
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

    def saved_percent(self, forecaster: str, every: int, cost: CostModel, share: float = 1.0) -> tuple[float, float]:
        """Return what a candidate saved over the run, before and after its moves, at other costs: `percent_saved`."""
        tried = [(one.forecaster, one.times * self.looks) for one in self.layouts]
        gain_1C, net_1C = percent_saved(self.total[None], self.start, cost, share)
        c = tried.index((forecaster, every))
        return float(gain_1C[0, c]), float(net_1C[0, c])

    @property
    def windows(self) -> FloatArray:
        """Return the sums [N, X] of the newest disjoint windows that began after the first plan, at most five."""
        size = self._window_looks
        rows = list(self._newest or ())[::-1]
        count = len(rows) // size * size
        return np.asarray(np.array(rows[:count]).reshape(-1, size, len(self.total)).sum(axis=1)[::-1])

    @property
    def terms(self) -> tuple[int, int]:
        """Return the steps of a window, and how many steps more there must be for five of them."""
        missing = self._looks_to_plan + WINDOWS * self._window_looks - len(self._newest or ())
        return self._window_looks * self.looks, missing * self.looks

    def decision(
        self, step: int, forecasts: Mapping[str, Forecasts], costs: Costs, steps_left: int, begun: Begun
    ) -> Decision:
        """Return the decision at a step."""
        total, start, cost = self.total, self.start, costs.model
        parts_NX = np.array(self.parts)
        saved_NC = percent_saved(parts_NX[parts_NX[:, 1] > 0], start, cost)[1]
        gain_C, net_C = (each_NC[0] for each_NC in percent_saved(total[None], start, cost))
        new_gain_NC, newest_NC = percent_saved(self.windows, start, cost)
        worst_NC = percent_saved(self.windows, start, costs.worst, costs.worst_share)[1]

        def candidate(c: int, one: Layout, judged: Forecasts | None) -> Candidate:
            price_ms = cost.price_ms(1, one.received / max(1, one.replans))
            return Candidate(
                one.forecaster, one.times * self.looks, one.replans, one.replicas * cost.expert_mb / 1000,
                imbalance=float(total[3 + c] / total[1]) if total[1] else float("nan"),
                gain_percent=float(gain_C[c]), saved_percent=float(net_C[c]),
                misplaced=float("nan") if judged is None else judged.misplaced,
                cpu_ms=float("nan") if judged is None else judged.cpu_ms,
                moved_at=tuple(one.moved_at), breaks_even=_steps_to_repay(price_ms, new_gain_NC[:, c], cost.step_ms),
                saved_N=tuple(saved_NC[:, c].tolist()), newest_N=tuple(newest_NC[:, c].tolist()),
                worst_N=tuple(worst_NC[:, c].tolist()),
            )  # fmt: skip

        known = [c for c, one in enumerate(self.tried, 1) if one.forecaster in forecasts]
        tried = [candidate(c, self.layouts[c], forecasts[self.layouts[c].forecaster]) for c in known]
        vllm = [candidate(c, one, None) for c, one in enumerate(self.vllm, 1 + len(self.tried))]
        terms = Terms(steps_left, cost.step_ms, *self.terms, *begun)
        decision = decide(step, tried, start, costs.constants, terms, *vllm)
        take = next(c for c, one in zip(known, tried, strict=True) if one is decision.take)
        return replace(decision, constants=tuple(_doubted(costs, total[None], start, take)))


def percent_saved(
    sum_NX: FloatArray, start: float, cost: CostModel, share: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Return what each layout saved in each part [N, C], in percent of the step time: before and after its moves.

    ``sum_NX``: as in `Race.parts`. ``start``: mean max/mean under the layout that the run began with; ``share``: factor
    on what is written off. A part without load saves nothing.
    """
    C = (sum_NX.shape[1] - 3) // 3
    steps_N1, known_N1, start_N1 = sum_NX[:, :3].T[:, :, None]
    gain_NC = (start_N1 - sum_NX[:, 3 : 3 + C]) / np.maximum(1, known_N1) / start * 100 * cost.expert_fraction
    gain_NC = np.nan_to_num(gain_NC)
    moves_NC, received_NC = sum_NX[:, 3 + C : 3 + 2 * C], sum_NX[:, 3 + 2 * C :]
    price_NC = share * cost.price_ms(moves_NC, received_NC) / np.maximum(1, steps_N1) / cost.step_ms
    return gain_NC, gain_NC - 100 * price_NC


def _doubted(costs: Costs, sum_1X: FloatArray, start: float, c: int) -> Iterator[Constant]:
    """Yield the constants, with what layout ``c`` saves at half and at twice each ASSUMED one; see `percent_saved`."""
    names = {one.option: name for name, one in CONSTANTS.items()}
    for one in costs.constants:
        name = names.get(one.option)
        if one.source != "ASSUMED" or not (name or one.option == LEFT):
            yield one
            continue
        saved = []
        for factor in (0.5, 2.0):
            value = {} if name is None else {name: min(factor * getattr(costs.model, name), CONSTANTS[name].most)}
            share = 1 / factor if name is None else 1.0
            saved.append(float(percent_saved(sum_1X, start, replace(costs.model, **value), share)[1][0, c]))
        yield one._replace(saved=(min(saved), max(saved)))


def _steps_to_repay(price_ms: float, gain_percent_N: FloatArray, step_ms: float) -> int | None:
    """Return after how many steps a move is repaid, None where it never is."""
    gain_ms = gain_percent_N.mean() / 100 * step_ms if len(gain_percent_N) else 0.0
    return int(np.ceil(price_ms / gain_ms)) if gain_ms > 0 else None
