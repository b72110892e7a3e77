"""`LoadMonitor`: a run watched while it trains, beside the recorder or without a trace.

monitor = LoadMonitor(sinks=["runs/moe.jsonl"])
with record(model, out="runs", name="my-run", monitor=monitor) as r: ...    # any PyTorch loop
LoadRecorder("runs", name="my-run", monitor=monitor)                        # transformers' Trainer, as a callback
monitor.attach(trainer, out="runs", name="my-run")                          # and into the Trainer's own logs
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.errors import MoeloadError, PlacementError
from moeload_bench.interchange.forecasts import made_by
from moeload_bench.interchange.placements import check_format, placement_of, write_placement
from moeload_bench.live.advice import Advice
from moeload_bench.live.core import Settings, Snapshot, Watch
from moeload_bench.live.names import metrics_of
from moeload_bench.live.sinks import Log, Sink
from moeload_bench.live.summary import Summary
from moeload_bench.recording.writer import RecordingWarning, Row
from moeload_bench.traces.trace import TraceMeta

KEPT = 512
"""Snapshots that a monitor keeps."""


class LoadMonitor:
    """State, imbalance, dying experts, forecasts and advice of a run that is training; nothing in it stops training.

    ``settings``: what is watched for, and on which cluster advice is given. ``sinks``: see `moeload_bench.live.sinks`;
    they get the mean over layers and the worst one, with ``all_layers`` every layer. ``on_advice``: called with each
    `Advice` to re-plan; unless it returns False (or raises) the plan counts as carried out. ``advice_file``: the newest
    plan to have, in a format of `moeload-bench plan --write` (``advice_format``; `NotFoundError` for an unknown one).
    Without ``on_advice`` nothing counts as carried out until `carried_out` says so, unless
    ``settings.follow``.

    ``snapshots``: the last `KEPT`, the newest last. ``stopped``: why monitoring ended early, None while it goes on.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sinks: Sequence[Any] = (),
        all_layers: bool = False,
        on_advice: Callable[[Advice], object] | None = None,
        advice_file: str | Path | None = None,
        advice_format: str = "json",
    ) -> None:
        self.settings = settings or Settings()
        self.snapshots: deque[Snapshot] = deque(maxlen=KEPT)
        self.stopped: str | None = None
        self.watch: Watch | None = None
        self._all_layers = all_layers
        self._on_advice = on_advice
        self._advice_file = None if advice_file is None else Path(advice_file)
        self._advice_format = advice_format
        if advice_file is not None:
            check_format(advice_format)
        self._sinks = [Sink(given) for given in sinks]
        self._direct: list[Log] = []

    @property
    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        return self.snapshots[-1] if self.snapshots else None

    def add(self, row: Row, meta: Callable[[], TraceMeta]) -> None:
        """Take in a closed step (the recorder calls this); never raises."""
        if self.stopped is not None:
            return
        try:
            self._add(row, meta)
        except Exception as error:  # whatever it is, others pay for the training
            self._stop(error)

    def recall(self, rows: Iterator[Row], meta: Callable[[], TraceMeta]) -> None:
        """Take in the steps before a run was resumed: nothing is logged again, plans handed over count as in force."""
        try:
            for row in rows:
                snapshot = self._see(row, meta)
                if snapshot is not None and self._on_advice is not None and not self.settings.follow:
                    self._adopt(snapshot.advice)
        except Exception as error:
            self._stop(error)

    def carried_out(self, advice: Advice) -> None:
        """Say that the plan of an advice is in force from the next step on.

        Raises `PlacementError` for an advice without a plan, or when there is no cluster to place on.
        """
        if advice.slot_expert_LR is None or self.watch is None:
            raise PlacementError(f"the advice of step {advice.step} ({advice.verdict}) holds no plan")
        self.watch.carried_out(advice.slot_expert_LR)

    def log_to(self, log: Log) -> None:
        """Send the numbers to ``log(dict, step)`` in the training's own thread; an error there is a warning."""
        self._direct.append(log)

    def attach(self, trainer: Any, out: str | Path | None = None, **recorder: Any) -> LoadMonitor:
        """Watch a transformers Trainer: add the recorder's callback and log through the Trainer itself.

        TensorBoard, W&B, trackio, MLflow and whatever else the Trainer reports to get the numbers. With ``out`` the
        run is recorded too; ``recorder``: further arguments of `moeload_bench.recording.LoadRecorder`.
        """
        from moeload_bench.recording.callback import LoadRecorder

        trainer.add_callback(LoadRecorder(out, monitor=self, **recorder))
        self.log_to(lambda values, step: trainer.log(dict(values)))
        return self

    def summary(self) -> Summary:
        """What is known now; shows itself in notebooks."""
        history = None if self.watch is None else self.watch.history.past()
        return Summary(self.latest, history, self.stopped)

    def close(self) -> None:
        """Wait for the sinks, a few seconds each at most."""
        for sink in self._sinks:
            sink.close()
        self._sinks = []

    def _add(self, row: Row, meta: Callable[[], TraceMeta]) -> None:
        snapshot = self._see(row, meta)
        if snapshot is None:
            return
        self._act_on(snapshot.advice)
        values = metrics_of(snapshot, all_layers=self._all_layers)
        for sink in self._sinks:
            sink.put(values, snapshot.step)
        for log in list(self._direct):
            self._log(log, values, snapshot.step)

    def _see(self, row: Row, meta: Callable[[], TraceMeta]) -> Snapshot | None:
        if self.watch is None:
            self.watch = self._begin(row, meta())
        snapshot = self.watch.add(row)
        if snapshot is not None:
            self.snapshots.append(snapshot)
        return snapshot

    def _begin(self, row: Row, meta: TraceMeta) -> Watch:
        tokens = int(row["tokens"].max())
        try:
            return Watch(meta, self.settings, tokens)
        except PlacementError as error:
            _warn(f"no advice: {error}")
            return Watch(meta, self.settings, tokens, advise=False)

    def _act_on(self, advice: Advice | None) -> None:
        if advice is None or advice.verdict != "replan":
            return
        if self._advice_file is not None:
            self._write_plan(self._advice_file, advice)
        if self._on_advice is None:
            return
        try:
            refused = self._on_advice(advice) is False
        except Exception as error:
            _warn(f"on_advice raised {type(error).__name__}: {error}; the plan counts as not carried out")
            return
        if not refused and not self.settings.follow:
            self._adopt(advice)

    def _write_plan(self, path: Path, advice: Advice) -> None:
        """The plan, replaced at once; what cannot be written, or be said in the format, is a warning."""
        assert self.watch is not None
        assert self.watch.shape is not None
        assert advice.slot_expert_LR is not None
        about = {
            "made_by": made_by(),
            "forecaster": str(self.settings.forecaster),
            "first_step": advice.step,
            "horizon": advice.horizon,
            "replanned": [self.watch.names_L[i] for i in advice.layers],
            "reason": advice.reason,
        }
        info = self.watch.info
        try:
            placement = placement_of(
                advice.slot_expert_LR, info.num_experts, self.watch.shape, info.layer_indices, about
            )
            write_placement(placement, path, self._advice_format)
        except (OSError, MoeloadError) as error:
            _warn(f"{path}: the plan cannot be written: {error}")

    def _adopt(self, advice: Advice | None) -> None:
        if advice is not None and advice.verdict == "replan":
            self.carried_out(advice)

    def _log(self, log: Log, values: dict[str, float], step: int) -> None:
        try:
            log(values, step)
        except Exception as error:
            self._direct.remove(log)
            _warn(f"a log was given up: {type(error).__name__}: {error}")

    def _stop(self, error: Exception) -> None:
        named = f"{error}" if isinstance(error, MoeloadError) else f"{type(error).__name__}: {error}"
        self.stopped = f"monitoring stopped: {named}"
        _warn(self.stopped)


def _warn(text: str) -> None:
    warnings.warn(f"{text}; training goes on", RecordingWarning, stacklevel=3)
