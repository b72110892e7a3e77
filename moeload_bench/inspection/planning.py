"""A run watched as it goes: one row of counts at a time in, a `Snapshot` every so many steps out.

Pure and from the past alone: a snapshot at step t is a function of the rows before t and of the `Settings`, whether
they come out of a training in progress, out of the shards of a recording or out of a finished trace (`replay`).
Memory depends on the shape of the model, never on the length of the run.

Axis letters: S rows, L MoE layers, E experts, R replica slots.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import ForecastError, PlacementError, TraceError
from moeload_bench.forecaster import StepBlock, trace_info
from moeload_bench.inspection.advice import Advice, AdviceRule, Situation
from moeload_bench.inspection.candidates import WATCHED, Race, candidates_for, unplaced
from moeload_bench.inspection.cluster import Cluster, Costs
from moeload_bench.inspection.decision import Decision, too_short
from moeload_bench.inspection.forecasts import Forecasts, Outlook, TrackRecord, Windows
from moeload_bench.inspection.past import History, Kept
from moeload_bench.inspection.starving import Deaths, Starving
from moeload_bench.isolation.hosts import Level
from moeload_bench.placement.cost import steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.writer import Row, rows_of
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.states.rule import StateDetector, StateRule, grid_of
from moeload_bench.traces.means import mean_known, mean_over
from moeload_bench.traces.trace import Trace, TraceMeta, layer_names, shares
from moeload_bench.words import FineProgress, silent

MOST_STEP_TIMES = 1024
"""Step times of which the median is the run's step time: of a longer run, some that are spread over it."""


@dataclass(frozen=True)
class Settings:
    """What a run is watched with; the same settings on the same rows give the same snapshots.

    ``forecaster``: a target as in `moeload-bench run`, or a class; None compares several (`candidates`) and
    shows the errors of one. ``fitted``: its bytes where it has `fit`; ``level``: where a forecaster that is named runs.
    ``intervals``: steps between looks that are compared, None for those of `candidates`. ``horizon``: steps that a
    forecast and an advice are for; ``every``: steps between snapshots (`every_at` a stride); all multiples of the state
    rule's block. ``follow``: whether an advised plan counts as carried out at once.
    """

    forecaster: str | type[Any] | None = None
    fitted: bytes | None = field(default=None, repr=False)
    level: Level = "none"
    intervals: tuple[int, ...] | None = None
    horizon: int = 200
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
        for name, value, (unit, what) in asked:
            if value < unit or value % unit:
                positive = "positive " if value < unit else ""
                raise TraceError(f"{name} is {value} steps, expected a {positive}multiple of {what} {unit}")

    @property
    def options(self) -> str:
        """Return the options that lead to the same decision in any command; what is assumed stays so."""
        words = "" if self.forecaster is None else f" --forecaster {shlex.quote(str(self.forecaster))}"
        words += "" if self.horizon == Settings.horizon else f" --horizon {self.horizon}"
        words += "" if self.intervals is None else f" --every {','.join(map(str, self.intervals))}"
        return f"{words}{self.cluster.options}"

    def every_at(self, stride: int) -> int:
        """``every``, rounded up to whole blocks of a trace with this stride: 60 steps for 50 at a stride of 20.

        Raises `TraceError` for a stride that the state rule does not fit.
        """
        block = grid_of(self.rule, stride).rows * stride
        return -(-self.every // block) * block


@dataclass(frozen=True, eq=False)
class Placing:
    """What the plans cost so far, against the static layout.

    ``imbalance_L``: max / mean device load of the last window under the plan in force; ``static_L`` the same under the
    even spread. ``saved_percent`` of the step time, migration charged, over all steps so far; ``replans`` and
    ``replicas`` moved, ``migration_ms`` in all.
    """

    imbalance_L: FloatArray
    static_L: FloatArray
    saved_percent: float
    replans: int
    replicas: int
    migration_ms: float


class Start(NamedTuple):
    """Means over layers in the first window that had them: what the last window is compared with."""

    step: int
    drift: float
    maxvio: float
    even: float


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known at step ``step`` (the first not seen), per MoE layer; NaN where a layer had no load.

    ``rows`` seen. ``transient_L`` the state, in force since step ``since_L``; ``onset_L3``: the first stable step by
    the rule, by its looser and by its tighter thresholds, -1 where not yet. ``drift_L`` the fraction of tokens that
    moves.
    Over the last window of the state rule: ``share_LE`` the mean shares; ``maxvio_L`` the mean over steps of max / mean
    expert load - 1; ``entropy_L`` that of the mean shares over ln E; ``dead_LE`` below `DEAD_SHARE` / E. ``dying_LE``:
    of which experts the alarm of `experts` warns; ``deaths`` so far. ``outlook`` the forecast and how good the
    last ones were.
    ``placing`` and ``advice`` are None where no cluster fits the model. ``decision``: what the run so far comes to;
    ``start``: the first window; ``lr``: the largest learning rate so far and the last one, None where not recorded.
    """

    step: int
    rows: int
    names_L: tuple[str, ...]
    transient_L: BoolArray
    since_L: IntArray
    onset_L3: IntArray
    drift_L: FloatArray
    share_LE: FloatArray
    maxvio_L: FloatArray
    entropy_L: FloatArray
    dead_LE: BoolArray
    dying_LE: BoolArray
    deaths: Deaths
    outlook: Outlook
    placing: Placing | None
    advice: Advice | None
    decision: Decision
    start: Start
    lr: tuple[float, float] | None

    @property
    def imbalance_L(self) -> FloatArray:
        """`Placing.imbalance_L`, NaN without a cluster."""
        return np.full(len(self.names_L), np.nan) if self.placing is None else self.placing.imbalance_L

    @property
    def silent_L(self) -> BoolArray:
        """Layers without any load in the last window: of their experts nothing is known."""
        return np.asarray(np.isnan(self.share_LE).all(axis=1))

    @property
    def state(self) -> str:
        """`stable` or `transient` when all layers agree, else `mixed`."""
        return "transient" if self.transient_L.all() else "mixed" if self.transient_L.any() else "stable"


class Watch:
    """The state of a watched run. ``meta``: of its trace, as known at the first row; ``batch_tokens``: tokens of that
    row; ``advise`` False leaves out placement and advice, whatever the cluster.

    Raises `TraceError` for a stride that the state rule or the horizon does not fit, `PlacementError` for a cluster
    that does not hold the experts, and what the forecaster's constructor raises.
    """

    def __init__(self, meta: TraceMeta, settings: Settings, batch_tokens: int, *, advise: bool = True) -> None:
        L, E, stride = len(meta.layers), meta.experts, meta.stride
        self.settings = settings
        self._grid = grid_of(settings.rule, stride)
        step_block = self._grid.rows * stride
        if settings.horizon % step_block:
            raise TraceError(
                f"horizon is {settings.horizon} steps, expected a multiple of {step_block}: a stride of {stride} gives "
                f"blocks of {step_block} steps"
            )
        self.info = replace(trace_info(meta), batch_tokens=batch_tokens)  # of the first step: later ones are to come
        self.names_L = tuple(layer_names(meta))
        self._states = StateDetector(L, E, stride, settings.rule)
        looks = settings.every_at(stride)
        compared, times = candidates_for(L * E)
        if settings.intervals is not None:
            times = tuple(dict.fromkeys(max(1, k // looks) for k in settings.intervals))
        named = settings.forecaster
        targets: dict[str, str | type[Any]] = {name: name for name in compared}
        if named is not None:
            targets = {getattr(named, "__name__", str(named)): named}
        self.forecasts = {
            name: Forecasts(
                self.info, target, settings.horizon, seed=settings.seed, fitted=settings.fitted,
                level="none" if named is None else settings.level,
            )
            for name, target in targets.items()
        }  # fmt: skip
        self._windows = Windows(self.info, settings.horizon)
        self._record = TrackRecord(self.info, settings.horizon)
        self._unshown: list[StepBlock] = []
        self.failures: dict[str, str] = {}
        """Why a forecaster that was compared is out, by name."""
        self._own = WATCHED if named is None else next(iter(targets))
        self._meta, self._step_s = meta, Kept(MOST_STEP_TIMES)
        shape = settings.cluster.shape_for(E) if advise else None
        self.race = None if shape is None else Race(L, E, shape, self.costs(shape).model, tuple(targets), times, looks)
        self._history = History(L, E)
        self._start: Start | None = None
        self._lr: tuple[float, float] | None = None
        self._window: deque[FloatArray] = deque(maxlen=self._grid.window)
        self._starving = Starving(L, E, stride)
        self._pending: list[Row] = []
        self._tokens = (L, E)
        self._look_rows = looks // stride
        self._looked = 0
        self.rows = 0
        self.next_step: int | None = None

    def add(self, row: Row) -> Snapshot | None:
        """Take in one step: `step`, `tokens` [L], `load` [L, E] and the optional columns; a snapshot where one is due.

        Raises `TraceError` for a step that does not follow the last one or counts of another shape, and what the
        forecaster raises.
        """
        self._check(row)
        self._pending.append(row)
        self._starving.add(row)
        if np.isfinite(row.get("step_time_s", np.nan)):
            self._step_s.add(float(row["step_time_s"]))
        if np.isfinite(row.get("lr", np.nan)):
            self._lr = (max(float(row["lr"]), self._lr[0] if self._lr else 0.0), float(row["lr"]))
        self.rows += 1
        self.next_step = int(row["step"]) + self.info.stride
        return self._snapshot() if self.rows % self._look_rows == 0 else None

    @property
    def history(self) -> History:
        """The past, up to the last whole block."""
        self._settle()
        return self._history

    @property
    def shape(self) -> ClusterShape | None:
        """The cluster that plans are made for, None where none fits the model."""
        return None if self.race is None else self.race.placed[0].layout.shape

    def carried_out(self, slot_expert_LR: IntArray) -> None:
        """Say that a plan [L, R] is in force from here on; what moving to it costs is charged."""
        if self.race is None:
            raise PlacementError("no cluster fits this model: there is no plan to change")
        own = self.race.placed[0]
        expected = own.layout.current_LR.shape
        if slot_expert_LR.shape != expected:
            raise PlacementError(f"the plan has shape {slot_expert_LR.shape}, expected [layers, slots] = {expected}")
        self._settle()
        self.race.settle()
        own.layout.step(slot_expert_LR)
        own.last = None

    def close(self) -> None:
        """End the processes of forecasters."""
        for each in self.forecasts.values():
            each.close()

    def costs(self, shape: ClusterShape) -> Costs:
        """Return what moving experts costs, by what the run has shown so far."""
        step_ms = 1000 * float(np.median(self._step_s.values)) if self._step_s.values else None
        return self.settings.cluster.costs(self._meta, shape, step_ms or None)

    def _check(self, row: Row) -> None:
        if self.next_step is not None and row["step"] != self.next_step:
            raise TraceError(f"got step {row['step']}, expected step {self.next_step}: no gap and no repeat")
        if row["load"].shape != self._tokens:
            raise TraceError(f"step {row['step']}: load has shape {row['load'].shape}, expected {self._tokens}")

    def _settle(self) -> None:
        """Take in the whole blocks that came since the last time."""
        size = self._grid.rows
        whole = len(self._pending) // size * size
        if not whole:
            return
        rows, self._pending = self._pending[:whole], self._pending[whole:]
        block = _step_block(rows)
        share_SLE = shares(block.load_SLE)
        self._unshown.append(block)
        for truth in self._windows.add(block, share_SLE, size):
            self._record.score(truth)
            for one in self.forecasts.values():
                one.score(truth.share_LE)
        parts = [share_SLE[first : first + size] for first in range(0, whole, size)]
        first_steps = block.step_S[::size].tolist()
        states = self._states.add(share_SLE, first_steps, size * self.info.stride)
        for first_step, part_SLE, transient_L in zip(first_steps, parts, states, strict=True):
            self._window.append(part_SLE)
            self._history.add(first_step, part_SLE, transient_L)
            if self.race is not None:
                self.race.see(part_SLE, size * self.info.stride)

    def _forecast(self, step: int) -> dict[str, FloatArray]:
        """Return what each forecaster forecasts; one that fails is out, if it is not the one to watch with.

        They take turns in going first: the first one finds cold caches, which would count as its CPU time.
        """
        block, self._unshown = joined(self._unshown), []
        share_hat = {}
        named = list(self.forecasts.items())
        first = self._looked % len(named)
        self._looked += 1
        for name, one in named[first:] + named[:first]:
            try:
                share_hat[name] = one.ask(block, step)
            except ForecastError as error:
                if name == self._own:
                    raise
                self.failures[name] = str(error)
                self.forecasts.pop(name).close()
        return share_hat

    def _snapshot(self) -> Snapshot:
        assert self.next_step is not None
        self._settle()
        recent_SLE = steps_last(np.concatenate(self._window))
        share_LE, maxvio_L, entropy_L = _spread(recent_SLE)
        even = 1.0 / share_LE.shape[1]
        dead_LE = share_LE < DEAD_SHARE * even
        dying_LE = self._starving.alarm_LE & ~dead_LE & np.isfinite(share_LE)
        transient_L, step = self._states.transient_L, self.next_step
        share_hat = self._forecast(step)
        outlook = self._record.add(share_hat[self._own], self._windows.last_LE, transient_L)
        self._windows.open()
        decision, placing, advice = self._decide(step, recent_SLE, share_hat)
        states = self._states
        if self._start is None and np.isfinite(states.drift_L).any():
            even = float("nan") if placing is None else mean_known(placing.static_L)
            self._start = Start(step, mean_known(states.drift_L), mean_known(maxvio_L), even)
        start = self._start or Start(step, float("nan"), mean_known(maxvio_L), float("nan"))
        return Snapshot(
            step, self.rows, self.names_L, states.transient_L.copy(), states.since_L.copy(),
            states.onset_L3.copy(), states.drift_L.copy(), share_LE, maxvio_L, entropy_L, dead_LE, dying_LE,
            self._starving.deaths, outlook, placing, advice, decision, start, self._lr,
        )  # fmt: skip

    def _decide(
        self, step: int, recent_SLE: FloatArray, share_hat: Mapping[str, FloatArray]
    ) -> tuple[Decision, Placing | None, Advice | None]:
        """Return the decision so far, how the plan in force does, and what to do about it now."""
        race, settings, shape = self.race, self.settings, self.shape
        if race is None or shape is None:
            return unplaced(step, self.forecasts, settings.every_at(self.info.stride)), None, None
        own, costs = race.placed[0], self.costs(shape)
        situation = Situation(
            step=step,
            steps_seen=self.rows * self.info.stride,
            current_LR=own.layout.current_LR,
            share_hat_LE=share_hat[self._own],
            recent_SLE=recent_SLE,
            static_imbalance=race.even if np.isfinite(race.even) else 1.0,
            moved=False,
            standing_L=np.zeros(len(self.names_L), dtype=np.bool_),
            stable=not self._states.transient_L.any(),
            names_L=self.names_L,
        )
        race.look(situation, share_hat, settings.horizon, costs, settings.advice)
        decision = race.decision(step, self.forecasts, costs)
        advice = race.advice(situation, share_hat[decision.take.forecaster], settings.horizon, costs, settings.advice)
        layout = own.layout
        plans = (layout.current_LR, layout.static_LR)
        imbalance_L, static_L = (mean_over(layout.imbalance(recent_SLE, plan_LR), axis=0) for plan_LR in plans)
        saved = race.saved_percent(0, costs.model)
        placing = Placing(imbalance_L, static_L, saved, layout.replans, layout.replicas, layout.migration_ms)
        if settings.follow:
            own.follow(advice)
        return decision, placing, advice


def replay(trace: Trace, settings: Settings | None = None) -> Iterator[Snapshot]:
    """Yield the snapshots that a monitor with these settings gave, or would have given, during the recording."""
    for _, snapshot in replay_with_watch(trace, settings or Settings()):
        yield snapshot


def replay_with_watch(trace: Trace, settings: Settings) -> Iterator[tuple[Watch, Snapshot]]:
    """As `replay`, with the watch itself: its history, and where it stands."""
    watch: Watch | None = None
    try:
        for row in rows_of(trace):
            if watch is None:
                watch = Watch(trace.meta, settings, int(row["tokens"].max()))
            snapshot = watch.add(row)
            if snapshot is not None:
                yield watch, snapshot
    finally:
        if watch is not None:
            watch.close()


def decided(trace: Trace, settings: Settings, progress: FineProgress = silent) -> tuple[Watch, Snapshot]:
    """Return the last snapshot of a trace, with its decision, and the watch; raise `TraceError` for one too short."""
    seen: tuple[Watch, Snapshot] | None = None
    for seen in replay_with_watch(trace, settings):
        progress(seen[1].rows, trace.steps, f"candidates at step {seen[1].step:,}")
    if seen is None:
        first = settings.every_at(trace.meta.stride)
        raise TraceError(f"{trace.id}: {too_short(trace.steps * trace.meta.stride, first)}")
    return seen


def joined(blocks: Sequence[StepBlock]) -> StepBlock:
    """Return blocks that follow each other as one."""
    if len(blocks) == 1:
        return blocks[0]
    return StepBlock(
        np.concatenate([one.step_S for one in blocks]),
        np.concatenate([one.load_SLE for one in blocks]),
        np.concatenate([one.tokens_SL for one in blocks]),
        {name: np.concatenate([one.covariates[name] for one in blocks]) for name in blocks[0].covariates},
    )


def _step_block(rows: list[Row]) -> StepBlock:
    columns = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    step_S = columns.pop("step").astype(np.int64)
    return StepBlock(step_S, columns.pop("load"), columns.pop("tokens"), columns)


def _spread(share_SLE: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean shares [L, E], mean over steps of max / mean - 1 [L], and the entropy of the mean shares over ln E [L]."""
    share_LE = mean_over(share_SLE, axis=0)
    E = share_LE.shape[1]
    maxvio_L = mean_over(share_SLE.max(axis=2), axis=0) * E - 1
    positive_LE = np.where(share_LE > 0, share_LE, 1.0)
    entropy_L = -(positive_LE * np.log(positive_LE)).sum(axis=1) / np.log(E) if E > 1 else np.ones(len(share_LE))
    return share_LE, maxvio_L, np.where(np.isfinite(share_LE[:, 0]), entropy_L, np.nan)
