"""`LoadMonitor`: a run watched while it trains, beside the recorder or without a trace.

monitor = LoadMonitor(sinks=["runs/moe.jsonl"])
with record(model, out="runs", name="my-run", monitor=monitor) as r: ...    # any PyTorch loop
LoadRecorder("runs", name="my-run", monitor=monitor)                        # transformers' Trainer, as a callback
monitor.attach(trainer, out="runs", name="my-run")                          # and into the Trainer's own logs

One row of counts at a time goes in, a `Snapshot` every so many steps comes out. What is known at a step is a function
of the rows before it and of the `Settings`, whether the rows come out of a training in progress or out of a finished
trace (`replay`).
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moeload_bench.arrays import IntArray
from moeload_bench.errors import MoeloadError, PlacementError, printable
from moeload_bench.ops.facts.events import Event
from moeload_bench.ops.facts.inspector import Inspection, Inspector
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.ops.interchange.forecast_files import made_by
from moeload_bench.ops.live.dashboard import (
    LayerNumbers,
    StageFolder,
    console_line,
    layer_numbers,
    series_of,
)
from moeload_bench.ops.live.sinks import Caller, Log, event_caller, sink
from moeload_bench.ops.planning.advice import Advice
from moeload_bench.ops.planning.decision import Decision
from moeload_bench.ops.planning.placements import check_format, placement_of, write_placement
from moeload_bench.ops.planning.planner import Planner, Settings
from moeload_bench.placement.layouts import checked_layout
from moeload_bench.recording.writer import RecordingWarning, Row, rows_of
from moeload_bench.traces.trace import Trace, TraceMeta

PRINTERS = ("PrinterCallback", "ProgressCallback", "NotebookProgressCallback")
"""Callbacks of transformers that print all that is logged."""
KEPT = 512
"""Snapshots that a monitor keeps."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known at step ``step``, the first one not seen.

    ``inspection``: the facts, without their timeline. ``decision`` and ``advice``: None unless they are asked for.
    """

    step: int
    inspection: Inspection
    decision: Decision | None
    advice: Advice | None


class Watch:
    """Facts of a run and, if ``advise``, its plans.

    ``batch_tokens``: tokens of the first row. ``on_event``: called with each event.

    Raises what `Planner` raises, and `TraceError` for a stride that the state rule does not fit.
    """

    def __init__(
        self, meta: TraceMeta, settings: Settings, batch_tokens: int, *, advise: bool,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:  # fmt: skip
        self.inspector = Inspector(meta, settings.rule, on_event)
        self.planner = Planner(meta, settings, batch_tokens) if advise else None
        self._look_rows = settings.every_at(meta.stride) // meta.stride
        self._rows = 0

    def add(self, row: Row) -> Snapshot | None:
        """Take in one step: `step`, `tokens` [L], `load` [L, E] and the optional columns; a snapshot where one is due.

        Raise `TraceError` for a step that does not follow the last one or counts of another shape, and what a
        forecaster raises.
        """
        self.inspector.add_row(row)
        planned = None if self.planner is None else self.planner.add(row)
        self._rows += 1
        if self._rows % self._look_rows:
            return None
        facts = replace(self.inspector.inspection(), timeline=None)
        if planned is None:
            return Snapshot(facts.step, facts, None, None)
        return Snapshot(facts.step, facts, planned.decision, planned.advice)

    def close(self) -> None:
        """End the processes of forecasters."""
        if self.planner is not None:
            self.planner.close()


def replay(trace: Trace, settings: Settings | None = None) -> Iterator[Snapshot]:
    """Yield the snapshots that a monitor with these settings gave, or would have given, during the recording."""
    settings = settings or Settings()
    watch: Watch | None = None
    try:
        for row in rows_of(trace):
            watch = watch or Watch(trace.meta, settings, int(row["tokens"].max()), advise=settings.asks_for_advice)
            snapshot = watch.add(row)
            if snapshot is not None:
                yield snapshot
    finally:
        if watch is not None:
            watch.close()


class LoadMonitor:
    """Facts of a run that is training and, if asked for, advice; nothing in it stops the training.

    ``settings``: how often, and on which cluster advice is given. ``sinks``: where the series of
    `ops.live.dashboard` go. ``stage_folder``: a folder that all stages of a pipeline see; sinks get the numbers of
    all their layers then, and those of this stage's own layers without it. ``on_event``: called with each `Event`
    (`ops.facts.events`) in a thread of its own; if it raises or is too slow, a warning at the end says so.
    ``on_advice``: called with each `Advice` to re-plan; unless it returns False (or raises) the plan counts as carried
    out. ``advice_file``: the newest plan to have, in a format of `moeload-bench plan --write` (``advice_format``;
    `NotFoundError` for an unknown one). Nothing is planned unless one of these two is given or the settings state a
    cluster. Without ``on_advice`` nothing counts as carried out until `carried_out` says so, unless
    ``settings.follow``.

    ``snapshots``: the last `KEPT`, the newest last. ``stopped``: why monitoring ended early, None while it goes on.
    Both stay after the training; the next training that the monitor watches starts from an empty state.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sinks: Sequence[Any] = (),
        on_event: Callable[[Event], object] | None = None,
        on_advice: Callable[[Advice], object] | None = None,
        advice_file: str | Path | None = None,
        advice_format: str = "json",
        stage_folder: str | Path | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.snapshots: deque[Snapshot] = deque(maxlen=KEPT)
        self.stopped: str | None = None
        self.watch: Watch | None = None
        self._on_advice = on_advice
        self._advice_file = None if advice_file is None else Path(advice_file)
        self._advice_format = advice_format
        asked = on_advice is not None or advice_file is not None
        self._advise = asked or self.settings.asks_for_advice
        if advice_file is not None:
            check_format(advice_format)
        self._stage_folder = None if stage_folder is None else Path(stage_folder)
        self._stages: StageFolder | None = None
        self._given = tuple(sinks)
        self._sinks = [sink(given, self._numbers) for given in sinks]
        self._left: list[Caller] = []
        self._on_event = () if on_event is None else (on_event,)
        self._event_callers = list(map(event_caller, self._on_event))
        self._recalls = False
        self._direct: list[Log] = []
        self._given_up: list[Log] = []
        self._ended = False

    @property
    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        return self.snapshots[-1] if self.snapshots else None

    @property
    def inspection(self) -> Inspection | None:
        """The facts of all rows so far, None before the first."""
        return None if self.watch is None else self.watch.inspector.inspection()

    def add(self, row: Row, meta: Callable[[], TraceMeta]) -> None:
        """Take in a closed step (the recorder calls this); never raises."""
        self._take(row, meta, self._direct)

    def _take(self, row: Row, meta: Callable[[], TraceMeta], logs: Sequence[Log]) -> None:
        try:
            if self._ended:
                self._next_training(row)
            if self.stopped is None:
                self._add(row, meta, logs)
        except Exception as error:  # whatever it is, others pay for the training
            self._stop(error)

    def recall(self, rows: Iterator[Row], meta: Callable[[], TraceMeta]) -> None:
        """Take in the steps before a run was resumed, from nothing: nothing is logged or handed over again.

        No plan counts as carried out then, unless ``settings.follow``: nobody knows which ones were. `carried_out` says
        which one is in force.
        """
        self._recalls = True
        try:
            self._forget()
            for row in rows:
                self._see(row, meta)
        except Exception as error:
            self._stop(error)
        finally:
            self._recalls = False

    def carried_out(self, advice: Advice | IntArray) -> None:
        """Say that a plan is in force from the next step on: that of an advice, or the expert in each slot
        [layers, slots], as after a resume.

        Raises `PlacementError` for an advice without a plan, for slots that hold no plan of this model, when there is
        no cluster to place on, and before the first step was seen.
        """
        if isinstance(advice, Advice):
            if advice.slot_expert_LR is None:
                raise PlacementError(f"the advice of step {advice.step} ({advice.verdict}) holds no plan")
            advice = advice.slot_expert_LR
        if self.watch is None:
            raise PlacementError("got a plan before the first step, expected it after: the model is not known yet")
        planner = self.watch.planner
        if planner is None:
            raise PlacementError("nothing is planned: expected on_advice, advice_file or a cluster that fits the model")
        planner.carried_out(checked_layout(advice, planner.info.num_experts))

    def log_to(self, log: Log) -> None:
        """Send the numbers to ``log(dict, step)`` in the training's own thread; an error there is a warning."""
        self._direct.append(log)

    def attach(self, trainer: Any, out: str | Path | None = None, **recorder: Any) -> LoadMonitor:
        """Watch a transformers Trainer: add the recorder's callback and log through the Trainer itself.

        TensorBoard, W&B, trackio, MLflow and whatever else the Trainer reports to get the numbers. With ``out`` the
        run is recorded too; ``recorder``: further arguments of `moeload_bench.recording.LoadRecorder`. Of several
        Trainers, trained one after another, each logs its own training.
        """
        from moeload_bench.recording.callback import LoadRecorder

        trainer.add_callback(LoadRecorder(out, monitor=_Attached(self, trainer), **recorder))
        return self

    def summary(self) -> str:
        """Return in sentences what is known now: the verdict, the decision and the advice; and why it stopped."""
        lines = [] if self.stopped is None else [self.stopped]
        facts, latest = self.inspection, self.latest
        if facts is None:
            return "\n".join([*lines, "nothing seen yet"])
        words = assess(facts)
        lines += [line for line in (words.headline, words.balance, words.age) if line]
        lines += words.to_do
        if latest is not None and latest.decision is not None and latest.advice is not None:
            lines += latest.decision.lines()
            if latest.decision.moves:
                lines.append(f"Advice: {latest.advice.reason}.")
        return "\n".join(map(printable, lines))

    def close(self) -> None:
        """Wait for the sinks, a few seconds each at most; what was seen stays until another training begins."""
        self._ended = True
        for caller in [*self._left, *self._sinks, *self._event_callers]:
            caller.close()
        self._sinks, self._event_callers, self._left = [], [], []

    def _next_training(self, row: Row) -> None:
        """Take the first step after `close`: another training begins, or the last one goes on where the step follows.

        It goes on where a training that broke off before is tidied up late, in the midst of this one.
        """
        if self.watch is not None and self.stopped is None and row["step"] == self.watch.inspector.next_step:
            self._open()
        else:
            self._forget()

    def _forget(self) -> None:
        """Begin anew; whoever holds the snapshots of the training before keeps them."""
        self.watch, self.stopped = None, None
        self.snapshots = deque(maxlen=KEPT)
        self._given_up = []
        self._open()

    def _open(self) -> None:
        """Open what was closed; a sink that cannot be opened again is left out with a warning."""
        if not self._ended:
            return
        self._ended = False
        self._event_callers = list(map(event_caller, self._on_event))
        self._leave_numbers()
        for given in self._given:
            try:
                self._sinks.append(sink(given, self._numbers))
            except Exception as error:  # a folder that is gone, say
                _warn(f"the sink {given} cannot be opened again: {type(error).__name__}: {error}")

    def _add(self, row: Row, meta: Callable[[], TraceMeta], logs: Sequence[Log]) -> None:
        snapshot = self._see(row, meta)
        if snapshot is None:
            return
        self._act_on(snapshot)
        layers = layer_numbers(snapshot.inspection)
        for caller in [*self._left, *self._sinks]:
            caller.put(layers, snapshot.step)
        for log in logs:
            if log not in self._given_up:
                self._log(log, series_of(layers), snapshot.step)

    def _numbers(self, layers: LayerNumbers, step: int) -> dict[str, float]:
        """Return what a sink gets: of all stages, where there are others and a folder that they see."""
        return series_of(layers if self._stages is None else self._stages.gathered(step))

    def _open_stages(self, meta: TraceMeta) -> None:
        """Open the folder if the run is one of several stages; what is left there is written in a thread of its own."""
        index, stages = meta.parallel.get("stage"), meta.parallel.get("stages")
        if self._stage_folder is not None and isinstance(index, int) and isinstance(stages, int):
            self._stages = StageFolder(self._stage_folder, index, stages)
            self._leave_numbers()

    def _leave_numbers(self) -> None:
        if self._stages is not None:
            self._left = [Caller(f"stage folder {self._stage_folder}", "snapshots", self._stages.put)]

    def _see(self, row: Row, meta: Callable[[], TraceMeta]) -> Snapshot | None:
        if self.watch is None:
            self.watch = self._begin(row, meta())
        snapshot = self.watch.add(row)
        if snapshot is not None:
            self.snapshots.append(snapshot)
        return snapshot

    def _begin(self, row: Row, meta: TraceMeta) -> Watch:
        tokens = int(row["tokens"].max())
        self._open_stages(meta)
        try:
            return Watch(meta, self.settings, tokens, advise=self._advise, on_event=self._hand_over)
        except PlacementError as error:
            _warn(f"no advice: {error}")
            return Watch(meta, self.settings, tokens, advise=False, on_event=self._hand_over)

    def _hand_over(self, event: Event) -> None:
        """Hand an event to `on_event`, unless it happened before the run was resumed."""
        if not self._recalls:
            for caller in self._event_callers:
                caller.put(event)

    def _act_on(self, snapshot: Snapshot) -> None:
        advice, decision = snapshot.advice, snapshot.decision
        planner = None if self.watch is None else self.watch.planner
        if advice is None or decision is None or planner is None or advice.verdict != "replan":
            return
        if self._advice_file is not None:
            self._write_plan(self._advice_file, advice, decision.take.forecaster, planner)
        if self._on_advice is None:
            return
        try:
            refused = self._on_advice(advice) is False
        except Exception as error:
            _warn(f"on_advice raised {type(error).__name__}: {error}; the plan counts as not carried out")
            return
        if not refused and not self.settings.follow:
            self.carried_out(advice)

    def _write_plan(self, path: Path, advice: Advice, forecaster: str, planner: Planner) -> None:
        """Write the plan, replaced at once; what cannot be written, or be said in the format, is a warning."""
        assert advice.slot_expert_LR is not None
        about = {
            "made_by": made_by(),
            "forecaster": forecaster,
            "first_step": advice.step,
            "horizon": advice.span,
            "replanned": [planner.names_L[i] for i in advice.layers],
            "reason": advice.reason,
        }
        info = planner.info
        try:
            placement = placement_of(advice.slot_expert_LR, info.num_experts, planner.shape, info.layer_indices, about)
            write_placement(placement, path, self._advice_format)
        except (OSError, MoeloadError) as error:
            _warn(f"{path}: the plan cannot be written: {error}")

    def _log(self, log: Log, values: dict[str, float], step: int) -> None:
        try:
            log(values, step)
        except Exception as error:
            self._given_up.append(log)
            _warn(f"a log was given up: {type(error).__name__}: {error}")

    def _stop(self, error: Exception) -> None:
        named = f"{error}" if isinstance(error, MoeloadError) else f"{type(error).__name__}: {error}"
        self.stopped = f"monitoring stopped: {named}"
        _warn(self.stopped)


class _Attached:
    """The monitor as the recorder of one Trainer knows it: what is said of that training, this Trainer logs."""

    def __init__(self, monitor: LoadMonitor, trainer: Any) -> None:
        self._monitor = monitor
        self._trainer = trainer

    def add(self, row: Row, meta: Callable[[], TraceMeta]) -> None:
        self._monitor._take(row, meta, [*self._monitor._direct, self._log])

    def recall(self, rows: Iterator[Row], meta: Callable[[], TraceMeta]) -> None:
        self._monitor.recall(rows, meta)

    def close(self) -> None:
        self._monitor.close()

    def _log(self, values: dict[str, float], step: int) -> None:
        """Log through the Trainer, whose console gets one line in place of all the numbers."""
        handler = self._trainer.callback_handler
        everybody = handler.callbacks
        printers = [callback for callback in everybody if type(callback).__name__ in PRINTERS]
        handler.callbacks = [callback for callback in everybody if callback not in printers]
        try:
            self._trainer.log(dict(values))
        finally:
            handler.callbacks = everybody
        if printers and self._trainer.is_world_process_zero():
            bars = (getattr(callback, "training_bar", None) for callback in printers)
            bar = next((bar for bar in bars if bar is not None), None)
            (print if bar is None else bar.write)(console_line(values, step))


def _warn(text: str) -> None:
    warnings.warn(printable(f"{text}; training goes on"), RecordingWarning, stacklevel=3)
