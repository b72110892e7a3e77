"""Facts of a run: `Inspector` takes rows as they come, `Inspection` is what they say at any time.

Nothing is forecast and nothing about a cluster is assumed. The same rows give an equal `Inspection` in portions of any
size: out of a training, the shards of a recording, or a finished trace. Memory does not grow with the run's length.

Axis letters: S rows, N bins of time, M finer bins, U units of time, L MoE layers, E experts, K expert-parallel sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray, json_value
from moeload_bench.errors import TraceError
from moeload_bench.forecaster import StepBlock
from moeload_bench.ops.facts.balance import (
    RankTable,
    dropped_part,
    entropy_of,
    expert_noise,
    micro_batch_balance,
    oscillates,
    rank_table,
)
from moeload_bench.ops.facts.conditions import Conditions
from moeload_bench.ops.facts.events import Event, EventDetector, Events
from moeload_bench.ops.facts.experts import SEEN, Deaths, ExpertAlarm, over_even, rows_per_block
from moeload_bench.ops.facts.measured import TIMED, CostMeter, Measured
from moeload_bench.ops.facts.row_blocks import WholeGroups, block_of, copied, joined
from moeload_bench.ops.facts.timeline import RUN_COLUMNS, Bins, Timeline, timeline
from moeload_bench.recording.writer import Row
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.states.drift import row_means
from moeload_bench.states.rule import StateDetector, StateRule, grid_of
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace, TraceMeta, layer_names, shares

RECENT_ROWS = 200
"""Rows at the end of a run that balance, noise and expert-parallel sizes are taken over."""
TAKEN = ("load_half", "dropped", "stage", "imbalance_rank", *TIMED, *SEEN)
"""Optional columns that are read."""


class States(NamedTuple):
    """The state rule's labels at the last step (docs/methods/states.md).

    ``unsettled_L``: transient, in force since step ``since_L``; ``onset_L3``: the first settled step by the rule, by
    its looser and by its tighter thresholds, -1 for never; ``drift_L``: the fraction of tokens that moves, NaN where
    unknown.
    """

    unsettled_L: BoolArray
    since_L: IntArray
    onset_L3: IntArray
    drift_L: FloatArray


class LearningRate(NamedTuple):
    """The largest so far, and the last one."""

    most: float
    last: float


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the rows of a run say; balance and experts over the last ``recent`` rows, NaN where a layer had no load.

    ``step``: the first one not seen. ``tokens``: of the last row. ``states`` is None where the rule does not fit the
    stride. ``has_half``: whether half batches were recorded, so that noise is known and not between two ends.
    ``oscillates_L``: loads move from row to row by more than noise. ``share_LE``: mean shares; ``dead_LE``: experts
    below a tenth of an equal share; ``dying_LE``: those that the alarm warns of. ``entropy_L``: that of the mean shares
    over ln E. ``micro_batch_L``: the busiest expert over the mean within one micro-batch on one rank, None if not
    recorded. ``dropped_L``: fraction of routed tokens that was dropped, None if not recorded. ``switch_steps``: where
    a planned stage of data begins. ``events``: what happened, as `ops.facts.events` has it. ``measured``: what the run
    says of its costs.
    """

    meta: TraceMeta
    first_step: int
    step: int
    rows: int
    recent: int
    tokens: int
    names_L: tuple[str, ...]
    states: States | None
    has_half: bool
    oscillates_L: BoolArray
    ranks: RankTable
    share_LE: FloatArray
    entropy_L: FloatArray
    micro_batch_L: FloatArray | None
    dead_LE: BoolArray
    dying_LE: BoolArray
    deaths: Deaths
    events: Events
    dropped_L: FloatArray | None
    lr: LearningRate | None
    switch_steps: tuple[int, ...]
    timeline: Timeline | None
    measured: Measured

    @property
    def busiest_L(self) -> FloatArray:
        """The busiest expert's load over the mean, mean over rows."""
        return np.asarray(self.ranks.busiest_KL[-1])

    @property
    def low_L(self) -> FloatArray:
        """The lower end of what noise alone would give for the busiest expert."""
        return np.asarray(self.ranks.low_KL[-1])

    @property
    def high_L(self) -> FloatArray:
        """The upper end of what noise alone would give for the busiest expert."""
        return np.asarray(self.ranks.high_KL[-1])

    @property
    def pooled_E(self) -> FloatArray:
        """Each expert's share of the tokens of all layers over an equal one, 1 for even loads."""
        return np.asarray(mean_over(self.share_LE, axis=0) * self.meta.experts)

    @property
    def silent_L(self) -> BoolArray:
        """Layers without any load in the recent rows."""
        return np.asarray(np.isnan(self.share_LE).all(axis=1))

    @property
    def worst(self) -> int:
        """The layer whose busiest expert is farthest above the mean."""
        return int(np.nan_to_num(self.busiest_L, nan=-1.0).argmax())

    @cached_property
    def record(self) -> dict[str, Any]:
        """What `--json` prints: the same facts as lists and numbers, None for NaN."""
        names = self.names_L
        facts = {
            "run": f"{self.meta.recipe}/{self.meta.split}/seed{self.meta.run}",
            "layers": list(names),
            "experts": self.meta.experts,
            "top_k": self.meta.top_k,
            "stride": self.meta.stride,
            "complete": self.meta.complete,
            "balancing": self.meta.balancing.model_dump(mode="json"),
            "state": self.state,
            "pooled": json_value(self.pooled_E),
        }
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "meta"}
        del given["names_L"]
        for name in ("dead_LE", "dying_LE"):
            given[name] = [[names[layer], expert] for layer, expert in np.argwhere(given[name]).tolist()]
        return {**facts, **json_value(given)}

    @property
    def state(self) -> str:
        """`settled` or `not settled` when all layers with load agree, else `mixed`; `unknown` without states."""
        if self.states is None:
            return "unknown"
        unsettled_L = self.states.unsettled_L[~self.silent_L]
        return "not settled" if unsettled_L.all() else "mixed" if unsettled_L.any() else "settled"


class Inspector:
    """Takes the rows of one run in order; raises `TraceError` for a gap.

    ``meta``: of its trace, as known so far. ``on_event``: called with each event once a unit of time is over or an
    inspection is asked for.
    """

    def __init__(
        self, meta: TraceMeta, rule: StateRule | None = None, on_event: Callable[[Event], object] | None = None
    ) -> None:
        self.meta, rule = meta, rule or StateRule()
        L, E = len(meta.layers), meta.experts
        self._shape = (L, E)
        draws = meta.count_semantics != "derived"
        self._top_k_L = np.array([layer.top_k if draws and layer.top_k else math.nan for layer in meta.layers])
        self._unit = rows_per_block(meta.stride)
        self._detector: StateDetector | None = None
        self._block = 1
        try:
            self._block = grid_of(rule, meta.stride).rows
            self._detector = StateDetector(L, E, meta.stride, rule)
        except TraceError:
            pass
        self._alarm = ExpertAlarm(L, E, self._unit * meta.stride)
        self._on_event = on_event
        self._events = EventDetector(
            layer_names(meta), E, self._block * meta.stride, self._unit * meta.stride, schedule=meta.schedule
        )
        self._bins, self._run_bins = Bins(), Bins()
        self._meter = CostMeter(meta)
        self._recent: list[StepBlock] = []
        self._blocks, self._units = WholeGroups(self._block), WholeGroups(self._unit)
        self._pending: list[Row] = []
        self._unsettled: list[BoolArray] = []
        self._lr: LearningRate | None = None
        self._stage: int | None = None
        self._switches: list[int] = []
        self.first_step: int | None = None
        self.rows = 0

    @property
    def next_step(self) -> int | None:
        """The step that comes next, None before the first."""
        taken = None if self.first_step is None else self.first_step + self.rows * self.meta.stride
        return taken if not self._pending else int(self._pending[-1]["step"]) + self.meta.stride

    def add(self, trace: Trace, start: int = 0, stop: int | None = None) -> None:
        """Take in rows start .. stop-1 of a trace, which follow the last ones; a large trace is read part by part."""
        self._flush()
        if trace.meta.layers != self.meta.layers or trace.meta.stride != self.meta.stride:
            raise TraceError(f"{trace.id}: rows with other layers or another stride than those before")
        self.meta = trace.meta
        rows = range(trace.steps)[start:stop]
        for within in parts((len(rows), *self._shape), multiple=self._unit):
            part = slice(start + within.start, start + within.stop)
            columns = {name: trace.columns[name][part] for name in TAKEN if name in trace.columns}
            self._take(StepBlock(trace.step_S[part], trace.load_SLE[part], trace.tokens_SL[part], columns))

    def add_row(self, row: Row) -> None:
        """Take in one step: `step`, `tokens` [L], `load` [L, E] and the optional columns."""
        if self.next_step not in (None, row["step"]):
            raise TraceError(f"got step {row['step']}, expected step {self.next_step}: no gap and no repeat")
        if row["load"].shape != self._shape:
            raise TraceError(f"step {row['step']}: load has shape {row['load'].shape}, expected {self._shape}")
        self._pending.append(row)
        if (self.rows + len(self._pending)) % self._unit == 0:
            self._flush()

    def last_rows(self) -> StepBlock:
        """Return the recent rows: the last `RECENT_ROWS`, or all of fewer; a column ``share`` [S, L, E] among them."""
        self._flush()
        recent = joined(self._recent)
        return recent.rows(max(0, len(recent) - RECENT_ROWS), len(recent))

    def inspection(self) -> Inspection:
        """Return what the rows so far say; raise `TraceError` before the first."""
        self._flush()
        if self.first_step is None:
            raise TraceError("no row to inspect")
        recent = self.last_rows()
        share_SLE = recent.covariates["share"]
        share_LE = mean_over(share_SLE, axis=0)
        dead_LE = share_LE < DEAD_SHARE / self._shape[1]
        return Inspection(
            meta=self.meta,
            first_step=self.first_step,
            step=self.first_step + self.rows * self.meta.stride,
            rows=self.rows,
            recent=len(recent),
            tokens=int(recent.tokens_SL[-1].max()),
            names_L=tuple(layer_names(self.meta)),
            states=self._states(),
            has_half="load_half" in recent.covariates,
            oscillates_L=oscillates(share_SLE),
            ranks=rank_table(recent, share_SLE, self._top_k_L),
            share_LE=share_LE,
            entropy_L=entropy_of(share_LE),
            micro_batch_L=micro_batch_balance(recent),
            dead_LE=dead_LE,
            dying_LE=self._alarm.alarm_LE & ~dead_LE & np.isfinite(share_LE),
            deaths=self._alarm.deaths,
            events=self._events.events,
            dropped_L=dropped_part(recent),
            lr=self._lr,
            switch_steps=tuple(self._switches),
            timeline=timeline(self._bins, self._run_bins),
            measured=self._meter.measured(self.meta),
        )

    def _flush(self) -> None:
        if self._pending:
            rows, self._pending = self._pending, []
            self._take(block_of(rows, [name for name in TAKEN if name in rows[0]]))

    def _take(self, block: StepBlock) -> None:
        """Take in some rows: states block by block, the timeline and the alarm unit by unit of time."""
        first = int(block.step_S[0])
        if self.first_step is None:
            self.first_step = first
        elif first != self.next_step:
            raise TraceError(f"got step {first}, expected step {self.next_step}: no gap and no repeat")
        self.rows += len(block)
        block = replace(block, covariates={**block.covariates, "share": shares(block.load_SLE)})
        self._look_at_run(block)
        self._meter.add(block)
        self._keep(block)
        self._label(self._blocks.add(block))
        self._close(self._units.add(block))

    def _label(self, block: StepBlock) -> None:
        """Take in whole blocks of the state rule."""
        if self._detector is None or not len(block):
            return
        first_steps = block.step_S[:: self._block].tolist()
        labels = self._detector.add(block.covariates["share"], first_steps, self._block * self.meta.stride)
        self._unsettled += labels
        share_NLE = row_means(block.covariates["share"], self._block)
        for number, (share_LE, transient_L) in enumerate(zip(share_NLE, labels, strict=True)):
            rows = slice(number * self._block, (number + 1) * self._block)
            next_step, conditions = int(block.step_S[rows.stop - 1]) + self.meta.stride, _conditions(block, rows)
            self._report(self._events.add_block(next_step, share_LE, conditions))
            self._report(self._events.add_labels(next_step, transient_L, conditions))

    def _look_at_run(self, block: StepBlock) -> None:
        lr_S = block.covariates.get("lr")
        if lr_S is not None and np.isfinite(lr_S).any():
            known_S = lr_S[np.isfinite(lr_S)]
            most = max(float(known_S.max()), self._lr.most if self._lr else 0.0)
            self._lr = LearningRate(most, float(known_S[-1]))
        stage_S = block.covariates.get("stage")
        if stage_S is not None:
            before = stage_S[0] if self._stage is None else self._stage
            changed_S = np.diff(stage_S, prepend=before) != 0
            self._switches += block.step_S[changed_S].tolist()
            self._stage = int(stage_S[-1])

    def _keep(self, block: StepBlock) -> None:
        """Keep the last rows, in few arrays that hold no more than they."""
        last = block.rows(max(0, len(block) - RECENT_ROWS), len(block))
        self._recent.append(last if len(last) == len(block) else copied(last))
        while sum(map(len, self._recent[1:])) >= RECENT_ROWS:
            del self._recent[0]

    def _close(self, block: StepBlock) -> None:
        """Take in whole units of time: the timeline's bins, and the alarm."""
        unit, (L, E) = self._unit, self._shape
        N = len(block) // unit
        if not N:
            return
        share_SLE = block.covariates["share"]
        share_ULE = mean_over(share_SLE.reshape(N, unit, L, E), axis=1)
        value_UXL = np.stack(
            [
                mean_over(share_SLE.max(axis=-1).reshape(N, unit, L), axis=1) * E,
                expert_noise(block, share_ULE, self._top_k_L),
                self._unsettled_part(N),
                np.where(np.isfinite(share_ULE[..., 0]), (share_ULE < DEAD_SHARE / E).sum(axis=-1), np.nan),
            ],
            axis=1,
        )
        self._add_run(block)
        load_ULE = block.load_SLE.reshape(N, unit, L, E).sum(axis=1)
        seen = {name: block.covariates[name] for name in SEEN if name in block.covariates}
        for row in range(N):
            rows = slice(row * unit, (row + 1) * unit)
            self._bins.add(int(block.step_S[rows.start]), value_UXL[row].ravel())
            means = {name: column[rows].mean(axis=0, dtype=np.float64) for name, column in seen.items()}
            next_step = int(block.step_S[rows.stop - 1]) + self.meta.stride
            died_LE = self._alarm.add_block(next_step, over_even(load_ULE[row]), means)
            conditions = _conditions(block, rows)
            self._report(self._events.add_unit(next_step, share_ULE[row] * E, died_LE, conditions))

    def _add_run(self, block: StepBlock) -> None:
        """Take in the columns of the run, in bins of a tenth of a unit where its rows can be shared so."""
        rows = self._unit // math.gcd(self._unit, 10)
        run = [block.covariates.get(name, np.full(len(block), np.nan, dtype=np.float32)) for name in RUN_COLUMNS]
        run_MX = np.stack([mean_over(column.astype(np.float64).reshape(-1, rows), axis=1) for column in run], axis=1)
        for step, value_X in zip(block.step_S[::rows].tolist(), run_MX, strict=True):
            self._run_bins.add(step, value_X)

    def _report(self, events: Sequence[Event]) -> None:
        if self._on_event is not None:
            for event in events:
                self._on_event(event)

    def _unsettled_part(self, units: int) -> FloatArray:
        """Return the part of each unit that is labelled transient; [U, L]."""
        if self._detector is None:
            return np.full((units, self._shape[0]), np.nan)
        each = self._unit // self._block
        labels, self._unsettled = self._unsettled[: units * each], self._unsettled[units * each :]
        return np.asarray(np.stack(labels).reshape(units, each, -1).mean(axis=1))

    def _states(self) -> States | None:
        rule = self._detector
        if rule is None:
            return None
        return States(rule.transient_L.copy(), rule.since_L.copy(), rule.onset_L3.copy(), rule.drift_L.copy())


def inspect_trace(trace: Trace, rule: StateRule | None = None) -> Inspection:
    """Return what a trace says, from one pass over its rows."""
    inspector = Inspector(trace.meta, rule)
    inspector.add(trace)
    return inspector.inspection()


def _conditions(block: StepBlock, rows: slice) -> Conditions:
    """Return the last learning rate and data mark of some rows, as far as recorded, and the median tokens per step."""
    lr_S, stage_S = block.covariates.get("lr"), block.covariates.get("stage")
    last = rows.stop - 1
    return Conditions(
        math.nan if lr_S is None else float(lr_S[last]),
        None if stage_S is None else int(stage_S[last]),
        float(np.median(block.tokens_SL[rows].max(axis=1))),
    )
