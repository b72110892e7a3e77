"""A run watched as it goes: one row of counts at a time in, a `FormerSnapshot` every so many steps out.

Pure and from the past alone: a snapshot at step t is a function of the rows before t and of the `Settings`, whether
they come out of a training in progress, out of the shards of a recording or out of a finished trace (`replay`).
Memory depends on the shape of the model, never on the length of the run.

Axis letters: S rows, L MoE layers, E experts, R replica slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import ForecastError, PlacementError, TraceError
from moeload_bench.forecaster import StepBlock, TraceInfo, trace_info
from moeload_bench.inspection.advice import Advice, Situation
from moeload_bench.inspection.candidates import WATCHED, Race, candidates_for, unplaced
from moeload_bench.inspection.cluster import Costs
from moeload_bench.inspection.decision import Decision
from moeload_bench.inspection.forecasts import Forecasts, misplaced
from moeload_bench.inspection.past import History, Kept
from moeload_bench.inspection.planning import MOST_STEP_TIMES, Settings, joined
from moeload_bench.inspection.starving import Deaths, Starving
from moeload_bench.placement.cost import steps_last
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.writer import Row, rows_of
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.scoring.noise import MEAN_ABS_NORMAL, batch_noise
from moeload_bench.states.rule import StateDetector, grid_of
from moeload_bench.traces.means import mean_known, mean_over, ratio_of
from moeload_bench.traces.trace import Trace, TraceMeta, layer_names, shares

_COVERAGE = 0.8
"""Part of the experts' window means that an interval is made to cover."""
NORMAL_WIDTH = 1.2816
"""Half the width of that interval, in standard deviations of a normal error."""
KEEP = 0.8
"""What an older squared error weighs against the next one: the last five or so decide the interval."""
LEAST_SCORED = 3
"""Finished forecasts before an interval is given."""
LATELY = 4
"""Finished forecasts whose mean error is that of the last window, or of the start."""


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
class FormerSnapshot:
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


class FormerWatch:
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
        self._windows = WatchedWindows(self.info, settings.horizon)
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

    def add(self, row: Row) -> FormerSnapshot | None:
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

    def _snapshot(self) -> FormerSnapshot:
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
        return FormerSnapshot(
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


def replay(trace: Trace, settings: Settings | None = None) -> Iterator[FormerSnapshot]:
    """Yield the snapshots that a monitor with these settings gave, or would have given, during the recording."""
    for _, snapshot in replay_with_watch(trace, settings or Settings()):
        yield snapshot


def replay_with_watch(trace: Trace, settings: Settings) -> Iterator[tuple[FormerWatch, FormerSnapshot]]:
    """As `replay`, with the watch itself: its history, and where it stands."""
    watch: FormerWatch | None = None
    try:
        for row in rows_of(trace):
            if watch is None:
                watch = FormerWatch(trace.meta, settings, int(row["tokens"].max()))
            snapshot = watch.add(row)
            if snapshot is not None:
                yield watch, snapshot
    finally:
        if watch is not None:
            watch.close()


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


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean `window_tv` [L] of the finished forecasts, of `last_value` asked at the same steps, and the batch floor.

    ``floor_L`` is the expected error of an oracle that knows each step's routing probabilities
    (docs/methods/floors.md), NaN without half batches. All NaN before the first is finished.
    """

    finished: int
    forecast_L: FloatArray
    last_value_L: FloatArray
    floor_L: FloatArray


@dataclass(frozen=True, eq=False)
class Outlook:
    """The forecast for the coming ``horizon`` steps: mean shares [L, E], between ``low_LE`` and ``high_LE``.

    The interval is made from the errors of the last finished forecasts (NaN before `LEAST_SCORED` are); ``covered`` is
    the part of experts and windows that lay inside theirs, made to be `COVERAGE`, NaN before there is one. ``scores``
    over the run, ``stable`` and ``transient`` those of forecasts that were made in that state of the layer; ``start``
    and ``lately`` of the first and the last `LATELY` that are finished.
    """

    horizon: int
    share_LE: FloatArray
    low_LE: FloatArray
    high_LE: FloatArray
    covered: float
    scores: Scores
    stable: Scores
    transient: Scores
    start: Scores
    lately: Scores


class WindowTruth(NamedTuple):
    """What came in a window: mean shares [L, E], NaN in a layer without load, and the batch floor [L]."""

    share_LE: FloatArray
    floor_L: FloatArray


@dataclass(eq=False)
class _WatchedWindow:
    """What has come so far in a window: shares added up, and the squared noise of each."""

    total_LE: FloatArray
    count_L: IntArray
    variance_LE: FloatArray
    rows: int = 0

    def truth(self) -> WindowTruth:
        deviation_LE = np.sqrt(self.variance_LE / self.rows / self.rows)
        floor_L = np.where(self.count_L > 0, 0.5 * MEAN_ABS_NORMAL * deviation_LE.sum(axis=1), np.nan)
        return WindowTruth(ratio_of(self.total_LE, self.count_L[:, None]), floor_L)


class WatchedWindows:
    """What comes in the windows that forecasts speak of, added up once for all forecasters."""

    def __init__(self, info: TraceInfo, horizon: int) -> None:
        L, E = info.num_layers, info.num_experts
        self._horizon, self._stride = horizon, info.stride
        self._open: deque[_WatchedWindow] = deque()
        self.last_LE = np.full((L, E), 1.0 / E)
        """The newest shares of each layer with load."""

    def open(self) -> None:
        """Begin a window with the next row."""
        L, E = self.last_LE.shape
        self._open.append(_WatchedWindow(np.zeros((L, E)), np.zeros(L, dtype=np.int64), np.zeros((L, E))))

    def add(self, block: StepBlock, share_SLE: FloatArray, rows: int) -> list[WindowTruth]:
        """Take in whole blocks of so many rows; return what came in the windows that are over."""
        blocks, (_, L, E) = len(block) // rows, share_SLE.shape
        known_SL1 = np.isfinite(share_SLE[:, :, :1])
        total_NLE = np.where(known_SL1, share_SLE, 0.0).reshape(blocks, rows, L, E).sum(axis=1)
        count_NL = known_SL1.reshape(blocks, rows, L).sum(axis=1)
        newest_L = len(block) - 1 - known_SL1[::-1, :, 0].argmax(axis=0)
        newest_LE = share_SLE[newest_L, np.arange(len(newest_L))]
        self.last_LE = np.where(known_SL1.any(axis=0), newest_LE, self.last_LE)
        variance_NLE = _batch_variance(block, rows)
        over = []
        for total_LE, count_L, variance_LE in zip(total_NLE, count_NL, variance_NLE, strict=True):
            for one in self._open:
                one.total_LE += total_LE
                one.count_L += count_L
                one.variance_LE += variance_LE
                one.rows += rows
            while self._open and self._open[0].rows * self._stride >= self._horizon:
                over.append(self._open.popleft().truth())
        return over


class _Sums:
    """Running means [L] of three errors, over the layers and windows that have them."""

    def __init__(self, layers: int) -> None:
        self._total_3L = np.zeros((3, layers))
        self._count_3L = np.zeros((3, layers), dtype=np.int64)
        self._finished = 0

    def add(self, error_3L: FloatArray, where_L: BoolArray | Literal[True] = True) -> None:
        known = np.isfinite(error_3L) & where_L
        self._total_3L += np.where(known, error_3L, 0.0)
        self._count_3L += known
        self._finished += bool(np.any(where_L))

    def scores(self) -> Scores:
        return Scores(self._finished, *ratio_of(self._total_3L, self._count_3L))


@dataclass(eq=False)
class _Asked:
    """A forecast that waits for its window."""

    share_LE: FloatArray
    last_LE: FloatArray
    low_LE: FloatArray
    high_LE: FloatArray
    transient_L: BoolArray


class TrackRecord:
    """How good the forecasts of one forecaster were, and the interval of the next: what is shown."""

    def __init__(self, info: TraceInfo, horizon: int) -> None:
        L, E = info.num_layers, info.num_experts
        self._horizon = horizon
        self._asked: deque[_Asked] = deque()
        self._square_LE = np.full((L, E), np.nan)
        self._scored = 0
        self._inside, self._judged = 0, 0
        self._all, self._stable, self._transient, self._start = (_Sums(L) for _ in range(4))
        self._lately: deque[FloatArray] = deque(maxlen=LATELY)

    def add(self, share_LE: FloatArray, last_LE: FloatArray, transient_L: BoolArray) -> Outlook:
        """Take in a forecast and what `last_value` would say, kept until its window has come."""
        half = NORMAL_WIDTH * np.sqrt(self._square_LE) if self._scored >= LEAST_SCORED else self._square_LE * np.nan
        low_LE, high_LE = np.clip(share_LE - half, 0.0, 1.0), np.clip(share_LE + half, 0.0, 1.0)
        self._asked.append(_Asked(share_LE, last_LE, low_LE, high_LE, transient_L.copy()))
        covered = self._inside / self._judged if self._judged else float("nan")
        lately = _Sums(len(share_LE))
        for error_3L in self._lately:
            lately.add(error_3L)
        scores = [sums.scores() for sums in (self._all, self._stable, self._transient, self._start, lately)]
        return Outlook(self._horizon, share_LE, low_LE, high_LE, covered, *scores)

    def score(self, truth: WindowTruth) -> None:
        """Score the oldest forecast that is not scored yet."""
        asked, truth_LE = self._asked.popleft(), truth.share_LE
        error_3L = np.stack([misplaced(asked.share_LE, truth_LE), misplaced(asked.last_LE, truth_LE), truth.floor_L])
        self._all.add(error_3L)
        self._stable.add(error_3L, ~asked.transient_L)
        self._transient.add(error_3L, asked.transient_L)
        if self._scored < LATELY:
            self._start.add(error_3L)
        self._lately.append(error_3L)
        self._take_error(asked, truth_LE, (asked.share_LE - truth_LE) ** 2)

    def _take_error(self, asked: _Asked, truth_LE: FloatArray, square_LE: FloatArray) -> None:
        judged = np.isfinite(asked.low_LE) & np.isfinite(truth_LE)
        self._judged += int(judged.sum())
        self._inside += int((judged & (asked.low_LE <= truth_LE) & (truth_LE <= asked.high_LE)).sum())
        mixed = KEEP * self._square_LE + (1 - KEEP) * square_LE
        fresh = np.where(np.isnan(self._square_LE), square_LE, mixed)
        self._square_LE = np.where(np.isfinite(square_LE), fresh, self._square_LE)
        self._scored += 1


def _batch_variance(block: StepBlock, rows: int) -> FloatArray:
    """Sum over every so many rows [N, L, E] of the squared noise of each share, by `batch_noise`.

    NaN without half batches.
    """
    if "load_half" not in block.covariates:
        return np.full((len(block) // rows, *block.load_SLE.shape[1:]), np.nan)
    square_SLE = np.nan_to_num(batch_noise(block.load_SLE, block.covariates["load_half"]).terms[0])
    return np.asarray(square_SLE.reshape(-1, rows, *square_SLE.shape[1:]).sum(axis=1))
