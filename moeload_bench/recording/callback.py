"""Record a run of transformers' Trainer (and of trl's trainers, which derive from it).

trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[LoadRecorder("runs", name="my-run")])
trainer.train()
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from moeload_bench.recording.counting import Reduce
from moeload_bench.recording.recorder import Recorder
from moeload_bench.recording.routers import Adapter
from moeload_bench.recording.writer import trace_target


class LoadRecorder(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """A callback that records exact expert loads into `OUT/NAME/SPLIT/seedRUN.parquet`.

    One row per optimizer step (the Trainer's global step, from 0). With ``logging_steps=1`` loss and gradient norm
    are in every row, otherwise NaN in rows that were not logged. A run resumed from a Trainer checkpoint goes on with
    the recording of the run before. Arguments: see `moeload_bench.recording.record`.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        name: str = "own",
        split: str = "test",
        run: int = 0,
        meta: Mapping[str, Any] | None = None,
        adapters: dict[type, Adapter] | None = None,
        reduce: Reduce | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.target = trace_target(out, name, split, run)
        self._given = {"recipe": name, "split": split, "run": run, "group": name, **(meta or {})}
        self._options: dict[str, Any] = {"adapters": adapters, "reduce": reduce, "on_error": on_error}
        self._recorder: Recorder | None = None
        self._row: dict[str, float] = {}
        self._open_step: int | None = None
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Hook the model; go on with an unfinished recording when training goes on."""
        self._recorder = Recorder(
            model, self.target, meta=self._given, writes=state.is_world_process_zero, **self._options
        )
        self._recorder.start(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **kwargs: Any) -> None:
        """Close the step before, whose logs have come by now, and note the learning rate of this one."""
        self._close()
        lr = float(lr_scheduler.get_last_lr()[0]) if lr_scheduler is not None else math.nan
        self._row = {"loss": math.nan, "grad_norm": math.nan, "lr": lr}
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is trained; its logs may still come."""
        self._row["step_time_s"] = time.perf_counter() - self._began
        self._open_step = state.global_step - 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take loss and gradient norm where they are logged for this very step."""
        if self._open_step is not None and args.logging_steps == 1:
            for name in ("loss", "grad_norm"):
                if name in (logs or {}):
                    self._row[name] = float(logs[name])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put all steps on disk before the Trainer's checkpoint counts, so that resuming finds them."""
        self._close()
        if self._recorder is not None:
            self._recorder.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the trace."""
        self._close()
        if self._recorder is not None:
            self._recorder.finish(complete=state.global_step >= state.max_steps)
            self._recorder = None

    def _close(self) -> None:
        if self._open_step is not None and self._recorder is not None:
            self._recorder.step(self._open_step, **self._row)
        self._open_step = None
