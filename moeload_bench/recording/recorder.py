"""Record any PyTorch training loop.

with record(model, out="runs", name="my-run") as r:
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        r.step(loss=loss.item())
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from moeload_bench.errors import MoeloadError, RecordingError
from moeload_bench.recording.counting import Reduce, RouterCounter
from moeload_bench.recording.distributed import RankSum, parallel_layout, rank_sum, this_rank, unwrapped
from moeload_bench.recording.metadata import check_given, measured_cells, recorded_metadata
from moeload_bench.recording.options import IfExists, Monitor, RecordOptions, check_word, complete_options
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.resumed import check_same_run
from moeload_bench.recording.routing_steps import RoutingSteps
from moeload_bench.recording.stages import Stage, finding_shapes, merge_when_complete
from moeload_bench.recording.timing import StepClock
from moeload_bench.recording.writer import RecordingWarning, Row, TraceWriter, trace_target
from moeload_bench.traces.meta import TraceMeta, checked_meta

if TYPE_CHECKING:
    import torch
    from torch import nn

PADDING_NOTE = "some batches held padding; padding tokens were routed like others and are counted"

SHARD_SECONDS = 60.0
"""The most that a killed process loses; recipes close their shards by steps, together with checkpoints."""


NOWHERE = Path("own/test/seed0.parquet")
"""The target of a recorder that writes nothing."""


class Recorder:
    """Exact loads of a model in training, one row per optimizer step.

    The trace is written to ``target``; until `finish` it lives in shards next to it. ``on_error`` "warn" never stops
    training: the first error becomes a warning, recording ends there (on all ranks), and the trace is marked as cut
    short. Only the rank with ``writes`` touches the disk; without a ``target`` none does. Arguments: see `record`.
    """

    def __init__(
        self,
        model: nn.Module,
        target: Path | None,
        *,
        meta: Mapping[str, Any] | None = None,
        writes: bool | None = None,
        stage: Stage | None = None,
        optimizer: Any = None,
        **options: Unpack[RecordOptions],
    ) -> None:
        chosen = complete_options(options)
        reduce, kept_steps = chosen["reduce"], chosen["routing_steps"]
        self._given = check_given(meta or {})
        self._stage, self._merged = stage, target
        if stage is None:
            reduce = rank_sum(model) if reduce is None else reduce
        elif target is None:
            raise RecordingError("a pipeline stage is one part of a trace: no out given, expected a place to write it")
        else:
            target, writes = stage.target(target), _writes_stage(stage, reduce) if writes is None else writes
        skip = None if stage is None else finding_shapes
        parts = Parts(target or NOWHERE)
        if kept_steps and target is None:
            raise RecordingError("routing_steps: no out given, expected a place to write them")
        rank = reduce.index if isinstance(reduce, RankSum) else 0
        self.counter = RouterCounter(
            model,
            chosen["adapters"],
            reduce=reduce,
            count=chosen["count"],
            layers=chosen["layers"],
            spread=chosen["imbalance_rank"],
            micro_max=chosen["micro_max"],
            skip=skip,
            kept=RoutingSteps(kept_steps, parts.routing, rank) if kept_steps else None,
        )
        self._clock = StepClock(model, self.counter.routers, reduce, optimizer)
        self._counted = chosen["count"]
        self._offset = 0 if stage is None else stage.layer_offset
        self._batches = reduce.batches if isinstance(reduce, RankSum) else 1
        self._model = unwrapped(model)
        self._writer = TraceWriter(parts, self._meta, shard_steps=chosen["shard_steps"], shard_seconds=SHARD_SECONDS)
        self._next_step = 0
        self._begun = self._resumed = False
        self._on_error = chosen["on_error"]
        first_rank = this_rank()[0] == 0 if writes is None else writes
        self._writes = first_rank and target is not None
        self._monitor = chosen["monitor"] if first_rank else None
        self._global_tokens = 0
        self._micro_max, self._passes = chosen["micro_max"], 0
        self._halves = True
        self.stopped: str | None = None
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Put a sentence for readers of the trace among its notes, and warn of it now."""
        self._notes.append(text)
        warnings.warn(text, RecordingWarning, stacklevel=3)

    def start(
        self, at_step: int = 0, *, go_on: str = "continue it with at_step=N, the step that training continues with"
    ) -> None:
        """Begin at ``at_step``; above 0 an unfinished recording is continued and cut back to that step.

        If nothing was recorded before, a recording begins at ``at_step``, with a warning: its steps keep the numbers of
        the training. Raise `RecordingError` if a trace or an unfinished recording is in the way (``go_on`` says how to
        continue it), if steps are missing, and if the target cannot be written; the hooks are removed then.
        """
        self._next_step = at_step
        if self._writes:
            self._start_writing(at_step, go_on)
        self._open_step(at_step)

    def _open_step(self, number: int) -> None:
        self._clock.open_step(number)
        if self.counter.kept is not None:
            self.counter.kept.start_step(number)

    def _start_writing(self, at_step: int, go_on: str) -> None:
        try:
            if self._stage is not None and self._merged is not None and self._merged.exists():
                raise RecordingError(
                    f"{self._merged}: a trace is there already; choose another out, name or run or remove it first"
                )
            self._writer.parts.start(resume=at_step > 0, go_on=go_on, choice="another out, name or run")
            if self._writer.started:
                self._writer.truncate(at_step)
                self._begun = self._resumed = self._writer.started
                self._halves = "load_half" in self._writer.parts.state["columns"]
                self._clock.resume(self._writer.parts.state["columns"])
                self._tell(lambda monitor: monitor.recall(self._writer.recorded(), self._writer.recorded_meta))
        except MoeloadError:
            self.counter.close()
            raise
        if at_step > 0 and not self._writer.started:
            nothing = f"{self._writer.parts.folder}: no unfinished recording to go on with"
            warnings.warn(f"{nothing}; this one begins at step {at_step}", RecordingWarning, stacklevel=3)

    def step(self, step: int | None = None, **measured: Any) -> None:
        """Close one optimizer step.

        ``step`` is the last one plus 1 by default. ``measured`` are optional columns of the format: ``loss``, ``lr``,
        ``grad_norm``, ``aux_loss``, ``stage``, ``step_time_s``...; every step must give the same ones.
        """
        if self.stopped is None:
            self._guard(lambda: self._close_step(step, measured))
        else:
            self.counter.leave()

    def attended(self, mask_BT: torch.Tensor) -> None:
        """Say which tokens of the next forward pass count, if the model is called without an attention mask.

        Raise `RecordingError` in a recording that counts all tokens.
        """
        if self.counter.mask is None:
            raise RecordingError('this recording counts all tokens, expected one begun with count="attended"')
        self.counter.mask.set(mask_BT)

    def discard(self) -> None:
        """Forget the passes since the last step: they belong to no optimizer step."""
        self.counter.discard()
        self._clock.restart()

    def flush(self) -> None:
        """Put all closed steps on disk, for example when training saves a checkpoint of its own."""
        if self.stopped is None and self._writes:
            self._guard(self._writer.flush)

    def finish(self, complete: bool = True) -> Path | None:
        """Write the trace and remove the hooks; return its file, None on ranks that do not write.

        A pipeline stage writes its own trace; the last stage puts all together and returns the whole. If the trace
        cannot be written now (a full disk), it stays as an unfinished recording, and the result is None, or an error.
        """
        self._clock.close()
        self.counter.close()
        self._close_monitor()
        written: list[Path] = []
        notes = (*self._notes, self.stopped) if self.stopped else tuple(self._notes)
        finished = complete and self.stopped is None
        if self._writes and not self._writer.started and self.stopped is None and self.counter.has_passes:
            self._guard(_forgotten_step)
        elif self._writes:
            self._guard(lambda: written.append(self._writer.finish(finished, notes)))
            self._guard(lambda: written.extend(self._merged_stages() if written else ()))
        self._writer.parts.close()
        return written[-1] if written else None

    def leave_unfinished(self) -> None:
        """Remove the hooks and keep what was recorded as an unfinished recording."""
        self.flush()
        self._clock.close()
        self.counter.close()
        self._close_monitor()
        self._writer.parts.close()

    def _merged_stages(self) -> list[Path]:
        """Return the trace of all stages if this was the last one to finish."""
        merged = self._stage and self._merged and merge_when_complete(self._merged, self._stage.stages)
        return [merged] if merged else []

    def _close_step(self, step: int | None, measured: Mapping[str, Any]) -> None:
        number = self._next_step if step is None else step
        try:
            cells = measured_cells(measured, len(self.counter.routers), self.counter.experts[0] or 0)
            if self.counter.kept is not None and number != self._next_step:
                raise RecordingError(f"routing_steps: got step {number}, expected the next one, {self._next_step}")
        except RecordingError:
            self.counter.leave()
            raise
        split = self.counter.halves.assigned and self.counter.halves.sequences * self._batches > 1
        counts = self.counter.take()
        times = measured_cells(self._clock.close_step(number), 0, 0)
        self._global_tokens = max(self._global_tokens, max(counts.tokens_L.tolist()))
        self._passes = max(self._passes, counts.passes)
        if self._resumed:
            self._resumed = False
            check_same_run(self._meta(), self._writer.recorded_meta(), self._writer.parts.folder)
        self._halves = self._halves if self._begun else split
        row: Row = {"step": number, **counts.cells(), **times, **cells}
        if not self._halves:
            del row["load_half"]
        if self._writes:
            self._writer.add(row)
        self._next_step, self._begun = number + 1, True
        if self._monitor is not None:
            self._tell(lambda monitor: monitor.add(row, self._meta))
        self._open_step(self._next_step)

    def _close_monitor(self) -> None:
        self._tell(lambda monitor: monitor.close())
        self._monitor = None

    def _tell(self, action: Callable[[Monitor], object]) -> None:
        """Run an action of the monitor; an error ends the monitor, but neither training nor the recording."""
        if self._monitor is None:
            return
        try:
            action(self._monitor)
        except Exception as error:
            self._monitor = None
            text = f"monitoring stopped: {type(error).__name__}: {error}"
            warnings.warn(f"{text}; training and recording go on", RecordingWarning, stacklevel=4)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # no error here may end a training that others pay for
            if self._on_error == "raise":
                raise
            named = f"{error}" if isinstance(error, MoeloadError) else f"{type(error).__name__}: {error}"
            self.stopped = f"recording stopped: {named}"
            self._clock.close()
            warnings.warn(f"{self.stopped}; training goes on", RecordingWarning, stacklevel=3)

    def _meta(self) -> TraceMeta:
        experts = self.counter.experts[0] or 0
        fields: dict[str, Any] = {
            "format_version": "1.4",
            "expert": self._clock.meta(experts),
            "counted": self._counted,
            "global_batch_tokens": self._global_tokens,
            **recorded_metadata(self._model, self.counter.routers, experts, self.counter.top_k, self._offset),
            "notes": (PADDING_NOTE,) if self.counter.halves.padded and self._counted == "all" else (),
        }
        return checked_meta({**fields, **self._given, "parallel": self._parallel()}, "the recording")

    def _parallel(self) -> dict[str, Any]:
        """Return what is cut over processes; with `micro_max`, which is of one pass, the passes of a step too."""
        passes = {"passes": self._passes} if self._micro_max else {}
        if "parallel" in self._given:
            return {**self._given["parallel"], **passes}
        stage = {} if self._stage is None else {"stage": self._stage.index, "stages": self._stage.stages}
        return {**parallel_layout(self._model), **stage, **passes}


def _forgotten_step() -> None:
    raise RecordingError("passes were counted and no step was closed: call r.step() after each optimizer.step()")


def _writes_stage(stage: Stage, reduce: Reduce | None) -> bool:
    """Return whether this rank writes its stage: the first of those that hold it does.

    Raise `RecordingError` if that cannot be known.
    """
    if isinstance(reduce, RankSum):
        return reduce.first
    world = this_rank()[1]
    if reduce is None and world not in (1, stage.stages):
        raise RecordingError(
            f"{world} processes for {stage.stages} pipeline stages: pass reduce=RankSum(group), where group holds the "
            "ranks of this stage that see different batches"
        )
    return True


@contextmanager
def record(
    model: nn.Module,
    out: str | Path | None,
    *,
    name: str = "own",
    split: str = "test",
    run: int = 0,
    at_step: int = 0,
    meta: Mapping[str, Any] | None = None,
    writes: bool | None = None,
    stage: Stage | None = None,
    if_exists: IfExists = "error",
    optimizer: torch.optim.Optimizer | None = None,
    **options: Unpack[RecordOptions],
) -> Iterator[Recorder]:
    """Record a training loop into `OUT/NAME/SPLIT/seedRUN.parquet`; with ``out`` None nothing is written.

    ``options`` say what is counted and kept, and what an error does: see `RecordOptions`.

    ``at_step`` above 0 continues an unfinished recording, from the step that training continues with; if there is none,
    steps are numbered from there, with a warning. ``meta`` gives further fields of `TraceMeta` (balancing, sources,
    licence...). ``optimizer``: that of the training; the size of its state for an expert is noted.

    With several processes, all of them run the block and call `step`, and rank 0 writes, unless ``writes`` says
    otherwise. ``stage`` says which part of a pipeline this process holds: its layers are recorded, and the last stage
    to finish makes one trace of all stages. If the block ends by an exception, what was recorded stays as an unfinished
    recording next to the target.

    ``if_exists``: what to do if a trace or an unfinished recording of this name and run is there already. "error"
    raises `RecordingError`; "number" takes the next free run number; "overwrite" removes what is there, unless
    ``at_step`` continues it. A stage of a pipeline takes "error" only.

    Raise `RecordingError` if the model has no MoE layer, if ``meta`` does not fit the metadata, and if the target
    exists or cannot be written; later errors follow ``on_error``. Raise `NotFoundError` for an unknown option.
    """
    target = None if out is None else trace_target(out, name, split, run)
    check_word("if_exists", if_exists, IfExists)
    if stage is not None and if_exists != "error":
        raise RecordingError(f'if_exists is "{if_exists}", expected "error" where a stage is recorded')
    if target is not None and if_exists != "error" and (this_rank()[0] == 0 if writes is None else writes):
        target = free_target(target, if_exists, goes_on=at_step > 0)
        run = int(target.stem.removeprefix("seed"))
    fields = {"recipe": name, "split": split, "run": run, "group": name, **(meta or {})}
    recorder = Recorder(model, target, meta=fields, writes=writes, stage=stage, optimizer=optimizer, **options)
    recorder.start(at_step)
    try:
        yield recorder
    except BaseException:
        recorder.leave_unfinished()
        raise
    recorder.finish()


def free_target(target: Path, if_exists: IfExists, *, goes_on: bool) -> Path:
    """Return where to record: ``target``, emptied first for "overwrite"; for "number" the next free one.

    If training ``goes_on``, "number" means the last one that is unfinished.
    """
    if if_exists == "number":
        number = int(target.stem.removeprefix("seed"))
        while target.exists() or Parts(target).folder.exists():
            following = target.with_name(f"seed{number + 1}.parquet")
            last = not following.exists() and not Parts(following).folder.exists()
            if goes_on and last and not target.exists():
                return target
            target, number = following, number + 1
    elif if_exists == "overwrite" and not goes_on:
        target.unlink(missing_ok=True)
        Parts(target).remove()
    return target
