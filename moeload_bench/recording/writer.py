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

_MACHINE = ("hardware", "versions")
"""Metadata of the machine, which may change when a recording goes on; the rest belongs to the run."""


class RecordingWarning(UserWarning):
    """A recording stopped or is marked; training goes on."""


def trace_target(out: str | Path, name: str, split: str, run: int) -> Path:
    """`OUT/NAME/SPLIT/seedRUN.parquet`, where every reader of this package finds traces.

    Raises `RecordingError` for names that would not be found again.
    """
    if not re.fullmatch(RECIPE_PATTERN, name) or not re.fullmatch(SPLIT_PATTERN, split) or run < 0:
        raise RecordingError(
            f"a trace's id is NAME/SPLIT/seedN, got {name!r}, {split!r}, {run}; expected letters, digits, '_', '.' and "
            "'-' in the name, letters, digits and '_' in the split, and a number from 0"
        )
    return Path(out) / name / split / f"seed{run}.parquet"


class TraceWriter:
    """Collects one row per optimizer step and appends a shard to ``parts`` every ``shard_steps`` rows, or sooner: when
    a row comes more than ``shard_seconds`` after the last shard.

    ``meta`` is asked for the metadata when a shard is written, so it may depend on what was seen by then, and ``state``
    for what else is kept beside the shards for whoever goes on. A row holds `step`, `tokens` [L], `load` [L, E] and
    optional columns of the format; all rows hold the same columns. ``stride``: steps from one row to the next.
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
        self._stride = stride
        self._meta = meta
        self._shard_steps = shard_steps
        self._shard_seconds = shard_seconds
        self._state = state
        self._last_shard = time.monotonic()
        self._rows: list[Row] = []
        self._flushed = False

    @property
    def started(self) -> bool:
        """Whether any step was recorded, on disk or not."""
        return bool(self._rows) or self.parts.has_shards

    @property
    def next_step(self) -> int:
        """The step that has to come next."""
        return int(self._rows[-1]["step"]) + self._stride if self._rows else self.parts.next_step

    def recorded(self) -> Iterator[Row]:
        """The rows that are safe on disk, in order, a shard of them in memory at a time."""
        return itertools.chain.from_iterable(map(rows_of, self.parts.shards()))

    def recorded_columns(self) -> list[str]:
        """The columns of the rows on disk; older manifests do not name them."""
        return self.parts.state.get("columns") or sorted(next(self.parts.shards()).columns)

    def recorded_meta(self) -> TraceMeta:
        """The metadata of the rows on disk."""
        return TraceMeta.model_validate(self.parts.state["meta"])

    def add(self, row: Row, save_checkpoint: Callable[[Path], None] | None = None) -> None:
        """Add a step; every so many steps a shard is written, with a checkpoint if one can be saved.

        Raises `RecordingError` when the step does not follow the last one, when its columns are not those of the steps
        before, or when the shard cannot be written.
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
        """Write the collected rows as a shard; does nothing when there is none."""
        if self._rows:
            meta = self._meta()
            record = meta.model_dump(mode="json")
            machines = _machines(self.parts, record, int(self._rows[0]["step"]))
            state = {
                **self._state(),
                "meta": record,
                "machines": machines,
                "columns": sorted(self._rows[0]),
                "resumed": self._resumed(int(self._rows[0]["step"])),
            }
            self.parts.append(trace_of(self._rows, meta), save_checkpoint, state)
            self._rows, self._flushed = [], True
        self._last_shard = time.monotonic()

    def _resumed(self, step: int) -> list[int]:
        """The steps with which the recording went on, this writer's first one among them where others came before."""
        before = [at for at in self.parts.state.get("resumed", []) if at < step]
        return [*before, step] if self.parts.has_shards and not self._flushed else before

    def truncate(self, before_step: int) -> None:
        """Forget the steps from ``before_step`` on, because training went back."""
        self._rows = [row for row in self._rows if row["step"] < before_step]
        if not self._rows and self.parts.has_shards:
            self.parts.truncate(before_step)

    def finish(self, complete: bool, notes: tuple[str, ...] = ()) -> Path:
        """Write the whole trace and remove the parts; returns the trace's file."""
        self.flush()
        return finish_parts(self.parts, complete, notes)


def finish_parts(parts: Parts, complete: bool, notes: tuple[str, ...] = ()) -> Path:
    """Turn an unfinished recording into a trace; ``complete`` False marks it as cut short.

    Raises `RecordingError` when nothing was recorded or a trace is at the target already.
    """
    if not parts.has_shards:
        raise RecordingError(f"{parts.folder}: nothing was recorded")
    meta = TraceMeta.model_validate(parts.state["meta"])
    machines = _recorded_on(parts)
    jumps = resume_notes(parts.shards(), parts.state.get("resumed", []))
    notes = (*meta.notes, *notes, *itertools.starmap(_moved, itertools.pairwise(machines)), *jumps)
    began = {key: machines[0][key] for key in _MACHINE}
    path = parts.merge(meta.model_copy(update={**began, "complete": complete, "notes": notes}))
    parts.discard()
    return path


def _machine(record: dict[str, Any], step: int) -> dict[str, Any]:
    return {"from_step": step, **{key: record[key] for key in _MACHINE}}


def _recorded_on(parts: Parts) -> list[dict[str, Any]]:
    """The machines of the shards, in order; older manifests know the last one only."""
    state = parts.state
    return state.get("machines") or ([_machine(state["meta"], 0)] if "meta" in state else [])


def _machines(parts: Parts, record: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """The machines with this one, where it is another: a recording may go on elsewhere."""
    before = [machine for machine in _recorded_on(parts) if machine["from_step"] < step]
    same = before and all(before[-1][key] == record[key] for key in _MACHINE)
    return before if same else [*before, _machine(record, step)]


def _moved(before: dict[str, Any], now: dict[str, Any]) -> str:
    """A note on what is another from a step on: bits may differ there, as between any two machines."""
    changes = [
        f"{name} {before[key].get(name)} -> {now[key].get(name)}"
        for key in _MACHINE
        for name in sorted(before[key].keys() | now[key].keys())
        if before[key].get(name) != now[key].get(name)
    ]
    return f"from step {now['from_step']} on recorded elsewhere: {', '.join(changes)}"


def trace_of(rows: list[Row], meta: TraceMeta) -> Trace:
    """Rows of consecutive steps with the same columns as a trace."""
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
    """The rows of a trace as they were when the steps were closed: what `trace_of` was made from."""
    for at in range(trace.steps):
        columns = {name: column[at] for name, column in trace.columns.items()}
        yield {"step": int(trace.step_S[at]), "tokens": trace.tokens_SL[at], "load": trace.load_SLE[at], **columns}
