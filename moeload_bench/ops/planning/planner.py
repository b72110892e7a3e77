"""The engine of `moeload-bench plan` and of a monitor's advice: candidates side by side, one row at a time.

Pure and from the past alone: what is planned at step t is a function of the rows before t and of the `Settings`, in a
training, from the shards of a recording or from a finished trace. Memory depends on the shape of the model, never on
the length of the run.

Axis letters: S rows, L MoE layers, E experts, R replica slots.
"""

from __future__ import annotations

import math
import shlex
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.bounds import whole_number
from moeload_bench.errors import ForecastError, PlacementError, TraceError
from moeload_bench.forecaster import StepBlock, trace_info
from moeload_bench.isolation.arguments import split_targets
from moeload_bench.isolation.hosts import Level, parse_level
from moeload_bench.ops.facts.measured import even_fraction
from moeload_bench.ops.facts.row_blocks import block_of, joined
from moeload_bench.ops.planning.advice import Advice, AdviceRule, Seen
from moeload_bench.ops.planning.candidates import TIMES, Race
from moeload_bench.ops.planning.cluster import Cluster, Costs
from moeload_bench.ops.planning.decision import Begun, Decision, compared_forecasters, too_short
from moeload_bench.ops.planning.forecasts import Forecasts, Sample, Windows
from moeload_bench.placement.cost import steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.recording.writer import Row, rows_of
from moeload_bench.states.rule import StateRule, grid_of
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace, TraceMeta, layer_names, shares
from moeload_bench.words import FineProgress, silent

MOST_STEP_TIMES = 1024
"""Step times of which the median is the run's step time: of a longer run, some that are spread over it."""


@dataclass(frozen=True)
class Settings:
    """What a run is watched and planned with; the same settings on the same rows give the same decision.

    ``forecaster``: a target as in `moeload-bench run`, several as `a,b`, or a class; None compares those of
    `decision`. ``fitted``: its bytes where it has `fit`; ``level``: where a forecaster that is named runs.
    ``intervals``: steps between looks that are compared, None for those of `candidates`. ``horizon``: steps that a
    forecast is for, and of a window that a decision is judged by; ``steps_left``: steps of the run to come, that moves
    are spread over, None for as many again as were seen;
    ``every``: steps between snapshots (`every_at` a stride); all multiples of the state rule's block. ``follow``:
    whether an advised plan counts as carried out at once.
    """

    forecaster: str | type[Any] | None = None
    fitted: bytes | None = field(default=None, repr=False)
    level: Level = "none"
    intervals: tuple[int, ...] | None = None
    horizon: int = 200
    steps_left: int | None = None
    every: int = 50
    cluster: Cluster = field(default_factory=Cluster)
    advice: AdviceRule = field(default_factory=AdviceRule)
    rule: StateRule = field(default_factory=StateRule)
    follow: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        of_block, of_every = (self.rule.block, "the state rule's block of"), (self.every, "what is between looks,")
        asked = [("horizon", self.horizon, of_block), ("every", self.every, of_block)]
        asked += [("interval", k, of_every) for k in self.intervals or ()]
        if self.steps_left is not None and self.steps_left < 1:
            raise TraceError(f"steps_left is {self.steps_left}, expected at least 1 step")
        for name, value, (unit, what) in asked:
            if value < unit or value % unit:
                positive = "positive " if value < unit else ""
                raise TraceError(f"{name} is {value} steps, expected a {positive}multiple of {what} {unit}")

    @property
    def asks_for_advice(self) -> bool:
        """Whether a cluster is stated, or advice is to count as carried out."""
        return self.follow or self.cluster != Cluster()

    @property
    def options(self) -> str:
        """Return the options that lead to the same decision in any command; what is assumed stays so."""
        words = "" if self.forecaster is None else f" --forecaster {shlex.quote(str(self.forecaster))}"
        words += "" if self.horizon == Settings.horizon else f" --horizon {self.horizon}"
        words += "" if self.steps_left is None else f" --steps-left {self.steps_left}"
        words += "" if self.intervals is None else f" --every {','.join(map(str, self.intervals))}"
        return f"{words}{self.cluster.options}"

    def every_at(self, stride: int) -> int:
        """``every``, rounded up to whole blocks of a trace with this stride: 60 steps for 50 at a stride of 20.

        Raises `TraceError` for a stride that the state rule does not fit.
        """
        block = grid_of(self.rule, stride).rows * stride
        return -(-self.every // block) * block


class Planned(NamedTuple):
    """What the run before ``step`` comes to, and what to do about its placement now."""

    step: int
    decision: Decision
    advice: Advice


class Planner:
    """The candidates of a run. ``meta``: of its trace, as known at the first row; ``batch_tokens``: tokens of that row.

    ``failures``: why a forecaster that was compared is out, by name. Raises `TraceError` for a stride that the state
    rule or the horizon does not fit, `PlacementError` for a cluster that does not hold the experts or a model that none
    fits, and what the forecaster's constructor raises.
    """

    def __init__(self, meta: TraceMeta, settings: Settings, batch_tokens: int) -> None:
        E, stride = meta.experts, meta.stride
        grid, look_steps = grid_of(settings.rule, stride), settings.every_at(stride)
        self._block_rows, self._look_rows = grid.rows, look_steps // stride
        step_block = grid.rows * stride
        if settings.horizon % step_block:
            raise TraceError(
                f"horizon is {settings.horizon} steps, expected a multiple of {step_block}: a stride of {stride} gives "
                f"blocks of {step_block} steps"
            )
        shape = settings.cluster.shape_for(E)
        if shape is None:
            raise PlacementError(f"no cluster fits {E} experts: expected --devices and --slots")
        self.settings, self.shape, self._meta = settings, shape, meta
        start_LR = settings.cluster.layout_LR([layer.index for layer in meta.layers], E, shape)
        self.info = replace(trace_info(meta), batch_tokens=batch_tokens)  # of the first step: later ones are to come
        self.names_L = tuple(layer_names(meta))
        times = TIMES
        if settings.intervals is not None:
            times = tuple(dict.fromkeys(max(1, k // look_steps) for k in settings.intervals))
        named = settings.forecaster
        targets: dict[str, str | type[Any]] = {name: name for name in compared_forecasters()}
        if isinstance(named, str):
            targets = {name: name for name in split_targets(named)}
        elif named is not None:
            targets = {named.__name__: named}
        self.forecasts: dict[str, Forecasts] = {}
        try:
            for name, target in targets.items():
                self.forecasts[name] = Forecasts(
                    self.info, target, settings.horizon, seed=settings.seed, fitted=settings.fitted,
                    level="none" if named is None else settings.level,
                )  # fmt: skip
        except BaseException:
            self.close()
            raise
        self.failures: dict[str, str] = {}
        self._step_s, self._fraction = Sample(MOST_STEP_TIMES), Sample(MOST_STEP_TIMES)
        live = settings.cluster.restart_minutes is None
        self.race = Race(
            start_LR,
            shape,
            tuple(targets),
            times,
            look_steps,
            settings.horizon,
            settings.steps_left,
            settings.advice,
            live=live,
        )
        self._windows = Windows(settings.horizon // stride)
        self._recent: deque[FloatArray] = deque(maxlen=grid.window)
        self._unshown: list[StepBlock] = []
        self._pending: list[Row] = []
        self._rows = self._looked = 0

    @property
    def advice(self) -> Advice | None:
        """Return the newest advice about the layout in force, None before the first look."""
        return self.race.own.last

    @property
    def steps_seen(self) -> int:
        """Return the training steps seen so far."""
        return self._rows * self.info.stride

    def add(self, row: Row) -> Planned | None:
        """Take in one step that follows the last one: `step`, `tokens` [L], `load` [L, E] and the optional columns.

        Return what is planned where a look is due. Raise what the forecaster raises.
        """
        self._pending.append(row)
        if np.isfinite(row.get("step_time_s", np.nan)):
            self._step_s.add(float(row["step_time_s"]))
        if np.isfinite(row.get("expert_fraction", np.nan)):
            self._fraction.add(float(even_fraction(row["expert_fraction"], row["expert_fraction_max"])))
        self._rows += 1
        if self._rows % self._look_rows:
            return None
        self._settle()
        return self._look(int(row["step"]) + self.info.stride)

    def carried_out(self, slot_expert_LR: IntArray) -> None:
        """Say that a plan [L, R] is in force from here on; what moving to it costs is charged."""
        own = self.race.own
        expected = own.current_LR.shape
        if slot_expert_LR.shape != expected:
            raise PlacementError(f"the plan has shape {slot_expert_LR.shape}, expected [layers, slots] = {expected}")
        self._settle()
        self.race.settle()
        own.move(slot_expert_LR, self.steps_seen, self.steps_seen, own.span(self.steps_seen))

    def close(self) -> None:
        """End the processes of forecasters."""
        for each in self.forecasts.values():
            each.close()

    def costs(self) -> Costs:
        """Return what moving experts costs, by what the run has shown so far."""
        series = {"step_ms": (1000, self._step_s.values), "expert_fraction": (1, self._fraction.values)}
        medians = {name: unit * float(np.median(values)) for name, (unit, values) in series.items() if values}
        measured = {name: value for name, value in medians.items() if value > 0}
        left = (self.settings.steps_left or self.steps_seen, self.settings.steps_left is not None)
        return self.settings.cluster.costs(self._meta, self.shape, measured, *left)

    def _settle(self) -> None:
        """Take in the whole blocks that came since the last time."""
        size = self._block_rows
        rows_taken = len(self._pending) // size * size
        if not rows_taken:
            return
        rows, self._pending = self._pending[:rows_taken], self._pending[rows_taken:]
        block = block_of(rows, [name for name in rows[0] if name not in ("step", "load", "tokens")])
        self._unshown.append(block)
        share_SLE = shares(block.load_SLE)
        for part_SLE in np.split(share_SLE, rows_taken // size):
            self._recent.append(part_SLE)
            self.race.see(part_SLE, size * self.info.stride)
            for truth_LE in self._windows.add(part_SLE):
                for forecasts in self.forecasts.values():
                    forecasts.score(truth_LE)

    def _forecast(self, step: int) -> dict[str, FloatArray]:
        """Return what each forecaster forecasts; one that fails is out, if it is not the last one.

        They take turns in going first: the first one finds cold caches, which would count as its CPU time.
        """
        block, self._unshown = joined(self._unshown), []
        share_hat = {}
        named = list(self.forecasts.items())
        first = self._looked % len(named)
        self._looked += 1
        for name, forecasts in named[first:] + named[:first]:
            try:
                share_hat[name] = forecasts.ask(block, step)
            except ForecastError as error:
                if len(self.forecasts) == 1:
                    raise
                self.failures[name] = str(error)
                self.forecasts.pop(name).close()
        self._windows.open()
        return share_hat

    def _look(self, step: int) -> Planned:
        """Return the decision so far and the advice, which is carried out at once if the settings say so."""
        race, settings, costs = self.race, self.settings, self.costs()
        share_hat = self._forecast(step)
        race.settle()
        seen = Seen(
            step=step,
            steps_seen=self.steps_seen,
            recent_SLE=steps_last(np.concatenate(self._recent)),
            start_imbalance=race.start if np.isfinite(race.start) else 1.0,
            names_L=self.names_L,
        )
        race.look(seen, share_hat, costs)
        begun = Begun(settings.cluster.layout_name, step - self.steps_seen)
        decision = race.decision(step, self.forecasts, costs, settings.steps_left or self.steps_seen, begun)
        advice = race.advice(seen, share_hat[decision.take.forecaster], costs, decision.doubt)
        if settings.follow:
            race.own.follow(advice, self.steps_seen)
        return Planned(step, decision, advice)


def plans_of(trace: Trace, settings: Settings) -> Iterator[tuple[Planner, Planned]]:
    """Yield what is planned along a trace, with the planner as it stands then."""
    planner: Planner | None = None
    try:
        for row in rows_of(trace):
            planner = planner or Planner(trace.meta, settings, int(row["tokens"].max()))
            planned = planner.add(row)
            if planned is not None:
                yield planner, planned
    finally:
        if planner is not None:
            planner.close()


def decided(trace: Trace, settings: Settings, progress: FineProgress = silent) -> tuple[Planner, Decision]:
    """Return the decision at the end of a trace, and the planner; raise `TraceError` for one too short."""
    last: tuple[Planner, Planned] | None = None
    for last in plans_of(trace, settings):
        step = last[1].step
        progress((step - int(trace.step_S[0])) // trace.meta.stride, trace.steps, f"candidates at step {step:,}")
    if last is None:
        first = settings.every_at(trace.meta.stride)
        raise TraceError(f"{trace.id}: {too_short(trace.steps * trace.meta.stride, first)}")
    return last[0], last[1].decision


def compare_policies(
    trace: Trace,
    forecaster: str,
    shape: ClusterShape,
    cost: CostModel,
    *,
    every: Sequence[int] | None = None,
    level: Level = "process",
    seed: int = 0,
    rule: StateRule | None = None,
    report: FineProgress | None = None,
) -> Decision:
    """Return the decision about a run, as `moeload-bench plan` makes it, with one candidate for each interval.

    Along the trace each candidate is asked for a forecast every so many steps, from the past alone, and moves experts
    when the forecast promises to save more than the move costs. ``every``: the intervals in training steps; those of
    `plan` by default. Raise `PlacementError` for a shape that does not hold the experts or a trace without any load,
    `TraceError` for a trace that is too short or intervals that the state rule does not fit, `TargetError` or
    `IsolationError` for a forecaster that cannot be run, `ForecastError` for one that fails.
    """
    seed, level = whole_number(seed, "seed", 0), parse_level(level)
    shape.check(trace.num_experts)
    if not any(trace.load_SLE[rows].any() for rows in parts(trace.load_SLE.shape)):
        raise PlacementError(
            f"{trace.id}: no layer has load in any of {trace.steps} rows, expected load in at least one"
        )
    settings = Settings(
        forecaster, level=level, seed=seed, cluster=Cluster(shape, cost), rule=rule or StateRule(),
        intervals=None if every is None else tuple(sorted(set(every))),
        every=Settings.every if every is None else math.gcd(*every),
    )  # fmt: skip
    return decided(trace, settings, report or silent)[1]
