"""Rows of a recording on their way to disk."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import RecordingError
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.resumed import resume_notes
from moeload_bench.traces.meta import RECIPE_PATTERN, SPLIT_PATTERN
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Trace, TraceMeta

Row = dict[str, Any]
StepProgress = Callable[[int, Row], None]
"""``report(step, row)``: called after every step of a training."""

_MACHINE = ("hardware", "versions")
"""Metadata of the machine, which may change when a recording is resumed; the rest belongs to the run."""


class RecordingWarning(UserWarning):
    """Recording stopped, or the recording is marked; training continues."""


def trace_target(out: str | Path, name: str, split: str, run: int) -> Path:
    """Return `OUT/NAME/SPLIT/seedRUN.parquet`, where every reader of this package finds traces.

    Raise `RecordingError` for names under which no reader would find it.
    """
    if not re.fullmatch(RECIPE_PATTERN, name) or not re.fullmatch(SPLIT_PATTERN, split) or run < 0:
        raise RecordingError(
            f"a trace's id is NAME/SPLIT/seedN, got {name!r}, {split!r}, {run}; expected letters, digits, '_', '.' and "
            "'-' in the name, letters, digits and '_' in the split, and a number from 0"
        )
    return Path(out) / name / split / f"seed{run}.parquet"


class TraceWriter:
    """Collects one row per optimizer step, and appends a shard to ``parts`` every ``shard_steps`` rows.

    A shard is written sooner if a row comes more than ``shard_seconds`` after the last shard. ``meta`` is called for
    the metadata when a shard is written, so it may depend on what was seen by then; ``state`` returns what else is
    stored with the shards for resuming. A row holds `step`, `tokens` [L], `load` [L, E] and optional columns of the
    format; all rows hold the same columns. ``stride``: steps from one row to the next.
    """

    def __init__(
        self,
        parts: Parts,
        meta: Callable[[], TraceMeta],
        *,
        shard_steps: int = 250,
        shard_seconds: float | None = None,
        state: Callable[[], dict[str, Any]] = dict,
        stride: int = 1,
    ) -> None:
        self.parts = parts
        self.stride = stride
        self._meta = meta
        self._shard_steps = shard_steps
        self._shard_seconds = shard_seconds
        self._state = state
        self._last_shard = time.monotonic()
        self._rows: list[Row] = []
        self._flushed = False

    @property
    def started(self) -> bool:
        """Return whether any step was recorded, on disk or not."""
        return bool(self._rows) or self.parts.has_shards

    @property
    def next_step(self) -> int:
        """Return the step that has to come next."""
        return int(self._rows[-1]["step"]) + self.stride if self._rows else self.parts.next_step

    def recorded(self) -> Iterator[Row]:
        """Yield the rows that are safe on disk, in order, with one shard of them in memory at a time."""
        return itertools.chain.from_iterable(map(rows_of, self.parts.shards()))

    def recorded_meta(self) -> TraceMeta:
        """Return the metadata of the rows on disk."""
        return TraceMeta.model_validate(self.parts.state["meta"])

    def add(self, row: Row, save_checkpoint: Callable[[Path], None] | None = None) -> None:
        """Add a step; every ``shard_steps`` steps write a shard, with a checkpoint if one can be saved.

        Raise `RecordingError` if the step does not follow the last one, if its columns are not those of the steps
        before, or if the shard cannot be written.
        """
        if self.started:
            self._check_follows(row)
        self._rows.append(row)
        late = self._shard_seconds is not None and time.monotonic() - self._last_shard >= self._shard_seconds
        if late or len(self._rows) >= self._shard_steps:
            self.flush(save_checkpoint)

    def _check_follows(self, row: Row) -> None:
        if row["step"] != self.next_step:
            raise RecordingError(f"got step {row['step']}, expected step {self.next_step}: no gap and no repeat")
        before = sorted(self._rows[-1]) if self._rows else self.parts.state.get("columns")
        if before not in (None, sorted(row)):
            raise RecordingError(f"step {row['step']} has columns {sorted(row)}, the steps before have {before}")

    def flush(self, save_checkpoint: Callable[[Path], None] | None = None) -> None:
        """Write the collected rows as a shard; do nothing if there is none."""
        if self._rows:
            meta = self._meta()
            payload = meta.model_dump(mode="json")
            machines = _machines(self.parts, payload, int(self._rows[0]["step"]))
            state = {
                **self._state(),
                "meta": payload,
                "machines": machines,
                "columns": sorted(self._rows[0]),
                "resumed": self._resumed(int(self._rows[0]["step"])),
            }
            self.parts.append(trace_of(self._rows, meta), save_checkpoint, state)
            self._rows, self._flushed = [], True
        self._last_shard = time.monotonic()

    def _resumed(self, step: int) -> list[int]:
        """Return the steps at which the recording was resumed; this writer's first step too, if others came before."""
        before = [resumption for resumption in self.parts.state.get("resumed", []) if resumption < step]
        return [*before, step] if self.parts.has_shards and not self._flushed else before

    def truncate(self, before_step: int) -> None:
        """Remove the steps from ``before_step`` on, because training went back."""
        self._rows = [row for row in self._rows if row["step"] < before_step]
        if not self._rows and self.parts.has_shards:
            self.parts.truncate(before_step)

    def finish(self, complete: bool, notes: tuple[str, ...] = ()) -> Path:
        """Write the whole trace, remove the parts, and return the trace's file."""
        self.flush()
        return finish_parts(self.parts, complete, notes)


def finish_parts(parts: Parts, complete: bool, notes: tuple[str, ...] = ()) -> Path:
    """Turn an unfinished recording into a trace; ``complete`` False marks it as cut short.

    Raise `RecordingError` if nothing was recorded or a trace is at the target already.
    """
    if not parts.has_shards:
        raise RecordingError(f"{parts.folder}: nothing was recorded")
    meta = TraceMeta.model_validate(parts.state["meta"])
    machines = parts.state["machines"]
    jumps = resume_notes(parts.shards(), parts.state.get("resumed", []))
    notes = (*meta.notes, *notes, *itertools.starmap(_moved, itertools.pairwise(machines)), *jumps)
    began = {key: machines[0][key] for key in _MACHINE}
    path = parts.merge(meta.model_copy(update={**began, "complete": complete, "notes": notes}))
    parts.move_routing()
    parts.discard()
    return path


def _machines(parts: Parts, payload: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """Return the machines, with this one added if it differs: a recording may be resumed elsewhere."""
    before = [machine for machine in parts.state.get("machines", []) if machine["from_step"] < step]
    machine = {key: payload[key] for key in _MACHINE}
    unchanged = before and before[-1] == {"from_step": before[-1]["from_step"], **machine}
    return before if unchanged else [*before, {"from_step": step, **machine}]


def _moved(former: dict[str, Any], machine: dict[str, Any]) -> str:
    """Return a note on what changes from a step on: bits may differ there, as between any two machines."""
    changes = [
        f"{name} {former[key].get(name)} -> {machine[key].get(name)}"
        for key in _MACHINE
        for name in sorted(former[key].keys() | machine[key].keys())
        if former[key].get(name) != machine[key].get(name)
    ]
    return f"from step {machine['from_step']} on recorded elsewhere: {', '.join(changes)}"


def trace_of(rows: list[Row], meta: TraceMeta) -> Trace:
    """Return rows of consecutive steps with the same columns as a trace."""
    return Trace(
        meta,
        np.array([row["step"] for row in rows], dtype=np.int64),
        np.stack([row["tokens"] for row in rows]),
        np.stack([row["load"] for row in rows]),
        {
            name: np.array([row[name] for row in rows], dtype=spec.dtype)
            for name, spec in OPTIONAL_COLUMNS.items()
            if name in rows[0]
        },
    )


def rows_of(trace: Trace) -> Iterator[Row]:
    """Yield the rows of a trace as they were when the steps were closed: the inverse of `trace_of`."""
    for row in range(trace.steps):
        columns = {name: column[row] for name, column in trace.columns.items()}
        yield {"step": int(trace.step_S[row]), "tokens": trace.tokens_SL[row], "load": trace.load_SLE[row], **columns}
