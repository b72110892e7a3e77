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

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moeload_bench.errors import MoeloadError, RecordingError
from moeload_bench.recording.counting import Reduce, RouterCounter
from moeload_bench.recording.distributed import RankSum, parallel_layout, rank_sum, this_rank, unwrapped
from moeload_bench.recording.metadata import hardware, layer_metas, package_versions
from moeload_bench.recording.routers import Adapter
from moeload_bench.recording.writer import TraceWriter, trace_target
from moeload_bench.trace import OPTIONAL_COLUMNS, TraceMeta

if TYPE_CHECKING:
    from torch import nn

PADDING_NOTE = "some batches held padding; padding tokens were routed like others and are counted"


class RecordingWarning(UserWarning):
    """A recording stopped or is marked; training goes on."""


class Recorder:
    """Exact loads of a model in training, one row per optimizer step.

    The trace is written to ``target``; until `finish` it lives in shards beside it. ``on_error`` "warn" never stops
    training: the first error is a warning, recording ends there (on all ranks) and the trace is marked as cut short.
    Only the rank with ``writes`` touches the disk. Arguments: see `record`.
    """

    def __init__(
        self,
        model: nn.Module,
        target: Path,
        *,
        meta: Mapping[str, Any] | None = None,
        adapters: dict[type, Adapter] | None = None,
        reduce: Reduce | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        shard_steps: int = 250,
        writes: bool | None = None,
    ) -> None:
        reduce = rank_sum(model) if reduce is None else reduce
        self.counter = RouterCounter(model, adapters, reduce=reduce)
        self._batches = reduce.batches if isinstance(reduce, RankSum) else 1
        self._model = unwrapped(model)
        self._given = dict(meta or {})
        self._writer = TraceWriter(target, self._meta, shard_steps=shard_steps)
        self._on_error = on_error
        self._writes = this_rank()[0] == 0 if writes is None else writes
        self._global_tokens = 0
        self._halves = True
        self.stopped: str | None = None

    def start(self, at_step: int = 0) -> None:
        """Begin at ``at_step``; above 0 an unfinished recording is continued and cut back to that step.

        Raises `RecordingError` when a trace or an unfinished recording is in the way, or when steps are missing.
        """
        if not self._writes:
            return
        self._writer.parts.start(resume=at_step > 0)
        if self._writer.parts.has_shards:
            self._writer.truncate(at_step)

    def step(self, step: int | None = None, **measured: Any) -> None:
        """Close one optimizer step.

        ``step`` counts on from the last one by default. ``measured`` are optional columns of the format: ``loss``,
        ``lr``, ``grad_norm``, ``aux_loss``, ``stage``, ``step_time_s``...; every step must give the same ones.
        """
        if self.stopped is None:
            self._guard(lambda: self._close_step(step, measured))
        else:
            self.counter.leave()

    def discard(self) -> None:
        """Forget the passes since the last step: they belong to no optimizer step."""
        self.counter.discard()

    def flush(self) -> None:
        """Put all closed steps on disk, as when training saves a checkpoint of its own."""
        if self.stopped is None and self._writes:
            self._guard(self._writer.flush)

    def finish(self, complete: bool = True) -> Path | None:
        """Write the trace and remove the hooks; returns its file, None on ranks that do not write.

        What cannot be written now (a full disk) stays as an unfinished recording; None then, or an error.
        """
        self.counter.close()
        written: list[Path] = []
        notes = (self.stopped,) if self.stopped else ()
        whole = complete and self.stopped is None
        if self._writes:
            self._guard(lambda: written.append(self._writer.finish(whole, notes)))
        return written[0] if written else None

    def leave_unfinished(self) -> None:
        """Remove the hooks and keep what was recorded as an unfinished recording."""
        self.flush()
        self.counter.close()

    def _close_step(self, step: int | None, measured: Mapping[str, Any]) -> None:
        unknown = [name for name in measured if name not in OPTIONAL_COLUMNS]
        if unknown:
            raise RecordingError(f"unknown column {unknown[0]!r}; there is: {', '.join(OPTIONAL_COLUMNS)}")
        split = self.counter.halves.known and self.counter.halves.sequences * self._batches > 1
        counts = self.counter.take()
        self._global_tokens = max(self._global_tokens, max(counts.tokens_L.tolist()))
        first = not self._writer.started
        self._halves = split if first else self._halves
        number = self._writer.next_step if step is None else step
        row = {"step": number, "tokens": counts.tokens_L, "load": counts.load_LE, **measured}
        if self._halves:
            row["load_half"] = counts.load_half_LE
        if counts.dropped_LE is not None:
            row["dropped"] = counts.dropped_LE
        if self._writes:
            self._writer.add(row)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except MoeloadError as error:
            if self._on_error == "raise":
                raise
            self.stopped = f"recording stopped: {error}"
            warnings.warn(f"{self.stopped}; training goes on", RecordingWarning, stacklevel=3)

    def _meta(self) -> TraceMeta:
        experts = self.counter.experts[0] or 0
        config = getattr(self._model, "config", None)
        known: dict[str, Any] = {
            "recipe": "own",
            "layers": layer_metas(self.counter.routers, experts, self.counter.top_k),
            "experts": experts,
            "count_semantics": "pre_drop",
            "gate": type(self.counter.routers[0].module).__name__,
            "family": getattr(config, "model_type", type(self._model).__name__),
            "config": _config_record(config),
            "global_batch_tokens": self._global_tokens,
            "parallel": parallel_layout(self._model),
            "versions": package_versions(),
            "hardware": hardware(),
            "notes": (PADDING_NOTE,) if self.counter.halves.padded else (),
        }
        return TraceMeta.model_validate({**known, **self._given})


def _config_record(config: Any) -> dict[str, Any]:
    """A transformers configuration as plain JSON, without the defaults; {} for other models."""
    return dict(json.loads(config.to_json_string(use_diff=True))) if hasattr(config, "to_json_string") else {}


@contextmanager
def record(
    model: nn.Module,
    out: str | Path,
    *,
    name: str = "own",
    split: str = "test",
    run: int = 0,
    at_step: int = 0,
    meta: Mapping[str, Any] | None = None,
    adapters: dict[type, Adapter] | None = None,
    reduce: Reduce | None = None,
    on_error: Literal["warn", "raise"] = "warn",
    writes: bool | None = None,
) -> Iterator[Recorder]:
    """Record a training loop into `OUT/NAME/SPLIT/seedRUN.parquet`.

    ``at_step`` above 0 goes on with an unfinished recording, from the step that training goes on with. ``meta`` gives
    further fields of `TraceMeta` (balancing, sources, licence...). ``adapters`` maps router classes to functions that
    read them. With several processes, all of them run the block and call `step`; loads are summed over the
    data-parallel ranks by ``reduce`` (`rank_sum` by default) and rank 0 writes, unless ``writes`` says otherwise. When
    the block ends by an exception, what was recorded stays as an unfinished recording beside the target.

    Raises `RecordingError` when the model has no MoE layer or the target exists; later errors follow ``on_error``.
    """
    target = trace_target(out, name, split, run)
    given = {"recipe": name, "split": split, "run": run, "group": name, **(meta or {})}
    recorder = Recorder(model, target, meta=given, adapters=adapters, reduce=reduce, on_error=on_error, writes=writes)
    recorder.start(at_step)
    try:
        yield recorder
    except BaseException:
        recorder.leave_unfinished()
        raise
    recorder.finish()
