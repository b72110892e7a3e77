"""Pipeline parallelism: every stage records its own layers, and the traces of all stages become one.

A stage writes `seedN.stagePofQ.parquet` next to `seedN.parquet`, the trace that they become. The stage that finishes
last merges them, by the numbers of the layers in the model; `moeload-bench import merge` does it by hand.

Axis letters: S steps, L MoE layers, E experts, Q stages.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.errors import RecordingError, short
from moeload_bench.recording.parts import merge_shards, read_manifest
from moeload_bench.recording.resumed import first_difference
from moeload_bench.traces import streaming
from moeload_bench.traces.meta import COLUMNS, OPTIONAL_COLUMNS
from moeload_bench.traces.store import columns_of, read_trace, stored_meta, write_trace
from moeload_bench.traces.trace import Trace, TraceMeta

SAME = ("recipe", "split", "run", "experts", "count_semantics", "counted", "stride", "seed")
"""Metadata that all stages of a run share."""
_PIPELINING = "torch.distributed.pipelining.stage"
_SHAPE_FINDERS = ("_forward_metadata_inference", "_shape_inference")


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline: number ``index`` of ``stages``.

    ``layer_offset`` is added to the numbers that its blocks have in the stage's own module; it is 0 if those are the
    numbers of the whole model, as `torch.distributed.pipelining` leaves them.
    """

    index: int
    stages: int
    layer_offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.stages or self.layer_offset < 0:
            raise RecordingError(f"{self}: expected an index from 0 to stages - 1 and an offset of at least 0")

    def target(self, merged: Path) -> Path:
        """Return where the stage's own trace goes, next to the whole one."""
        return merged.with_name(f"{merged.stem}.stage{self.index}of{self.stages}.parquet")


def finding_shapes() -> bool:
    """Return whether torch runs this forward pass only to learn the shapes that a pipeline stage takes and gives.

    `PipelineStage` without `input_args` does so before its first step, in training mode and with gradients, on tensors
    without data. Only the calling function distinguishes such a pass from a real one.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _SHAPE_FINDERS and frame.f_globals.get("__name__") == _PIPELINING:
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return False


def merge_when_complete(merged: Path, stages: int) -> Path | None:
    """Merge the stages if all of them are there, and remove them; return None if some are still missing.

    Every stage may call this as it finishes: one of them does the work. Raise `RecordingError` or `TraceError` if the
    stages do not fit; they stay as they are then.
    """
    paths = [Stage(index, stages).target(merged) for index in range(stages)]
    if not all(path.exists() for path in paths):
        return None
    lock = merged.with_name(f".{merged.name}.merging")
    try:
        lock.mkdir()
    except FileExistsError:
        return None  # another stage is merging them
    try:
        if not all(path.exists() for path in paths):
            return None
        merge_stages(paths, merged)
        for path in paths:
            path.unlink()
    finally:
        with suppress(OSError):
            lock.rmdir()
    return merged


def merge_stages(paths: Sequence[Path], target: Path) -> Path:
    """Merge the traces of the stages, each a `.parquet` or the `.parts` folder of an unfinished recording.

    Layers go by their numbers in the model. Columns of single layers are put side by side if every stage has them;
    values of the whole step (loss, ...) are those of the last stage that has them. Raise `RecordingError` that names
    the missing stage, the step that does not fit, the layer that occurs twice, or where tokens differ; and for a target
    that exists or has a name under which no reader looks for a trace.
    """
    if target.suffix != ".parquet":
        raise RecordingError(f"{target}: expected a file name that ends in .parquet")
    if target.exists():
        raise RecordingError(f"{target}: a trace is there already")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.", suffix=".merging") as folder:
        parts = [_part(path, Path(folder) / f"stage{p}.parquet") for p, path in enumerate(paths)]
        meta, order = _meta(parts)
        _check_rows(parts)
        shape = (parts[0].trace.steps, len(order), meta.experts)
        shards = [
            write_trace(_side_by_side(parts, rows, meta, order), Path(folder) / f"{rows.start:010d}.parquet")
            for rows in streaming.parts(shape)
        ]
        merge_shards(shards, target, meta)
    return target


class _Part(NamedTuple):
    """One stage: its file or folder, and its steps."""

    path: Path
    trace: Trace

    @property
    def meta(self) -> TraceMeta:
        return self.trace.meta

    @property
    def complete(self) -> bool:
        return self.path.suffix == ".parquet" and self.meta.complete


def _part(path: Path, scratch: Path) -> _Part:
    """Return a stage; the shards of an unfinished recording become one trace at ``scratch`` first."""
    if not path.is_dir():
        return _Part(path, read_trace(path))
    try:
        shards = [path / name for name in read_manifest(path)["shards"]]
    except OSError:
        raise RecordingError(f"{path}: no recording's manifest in it, expected a folder NAME.parts") from None
    if not shards:
        raise RecordingError(f"{path}: nothing was recorded")
    return _Part(path, read_trace(merge_shards(shards, scratch, stored_meta(shards[0]))))


def _meta(parts: Sequence[_Part]) -> tuple[TraceMeta, list[tuple[int, int]]]:
    """Return the metadata of the whole, and (stage, layer of the stage) of each of its layers."""
    _check_stages(parts)
    first = parts[0].meta
    for part in parts[1:]:
        difference = first_difference(part.meta, first, SAME)
        if difference is not None:
            name, got, expected = difference
            raise RecordingError(
                f"{part.path}: {name} is {short(got)}, {parts[0].path} has {short(expected)}: another run?"
            )
    places = [(p, m, layer) for p, part in enumerate(parts) for m, layer in enumerate(part.meta.layers)]
    part_by_layer: dict[Any, int] = {}
    for p, _, layer in places:
        key = (layer.stack, layer.index, layer.kind)
        if part_by_layer.setdefault(key, p) != p:
            raise RecordingError(
                f"{parts[p].path}: layer {layer.index} is in {parts[part_by_layer[key]].path} too; expected layers "
                "numbered over the whole model (Stage(..., layer_offset=N))"
            )
    places.sort(key=lambda place: (place[2].stack == "decoder", place[2].index))
    parallel = {k: v for k, v in first.parallel.items() if k not in ("stage", "stages")}
    notes = list(dict.fromkeys(note for part in parts for note in part.meta.notes))
    left_out = sorted({c for part in parts for c in part.trace.columns if COLUMNS[c].axes} - _shared(parts))
    notes += [f"{name} is not in every pipeline stage and left out" for name in left_out]
    fields = {
        **first.model_dump(mode="json"),
        "layers": [layer for _, _, layer in places],
        "parallel": {**parallel, "pipeline": len(parts)},
        "complete": all(part.complete for part in parts),
        "global_batch_tokens": max((part.meta.global_batch_tokens or 0 for part in parts), default=0) or None,
        "notes": notes,
    }
    return TraceMeta.model_validate(fields), [(p, m) for p, m, _ in places]


def _check_stages(parts: Sequence[_Part]) -> None:
    """Raise unless every stage is there once; recordings that name no stage are taken in the order given."""
    counts = {part.meta.parallel.get("stages") for part in parts}
    if counts == {None}:
        return
    got = [part.meta.parallel.get("stage") for part in parts]
    stages = next(count for count in counts if count is not None)
    missing = sorted(set(range(stages)) - set(got))
    if len(counts) > 1 or missing or len(got) != stages:
        fault = (
            f"stage {', '.join(map(str, missing))} is missing"
            if missing
            else "a stage occurs twice or is of another run"
        )
        raise RecordingError(f"{parts[0].path.parent}: {fault}: got stages {got}, expected 0 to {stages - 1} once each")


def _shared(parts: Sequence[_Part]) -> set[str]:
    """Return the optional columns of single layers that every stage has."""
    return set.intersection(*({c for c in part.trace.columns if COLUMNS[c].axes} for part in parts))


def _check_rows(parts: Sequence[_Part]) -> None:
    """Raise unless all stages have the same steps, and in each the same tokens."""
    first = parts[0]
    for part in parts[1:]:
        shorter, longer = sorted((part, first), key=lambda stage: stage.trace.steps)
        steps = shorter.trace.steps
        step_S, expected_S = part.trace.step_S[:steps], first.trace.step_S[:steps]
        tokens_S, wanted_S = part.trace.tokens_SL[:steps, 0], first.trace.tokens_SL[:steps, 0]
        for s in np.flatnonzero(step_S != expected_S):
            raise RecordingError(
                f"{part.path}: step {step_S[s]} stands where {first.path} has {expected_S[s]}; expected the same steps"
            )
        for s in np.flatnonzero(tokens_S != wanted_S):
            raise RecordingError(
                f"{part.path}: {tokens_S[s]} tokens in step {step_S[s]}, {first.path} has {wanted_S[s]}; expected the "
                "same in every stage"
            )
        if steps < longer.trace.steps:
            raise RecordingError(
                f"{shorter.path}: ends before step {longer.trace.step_S[steps]}, which {longer.path} has; expected the "
                "same steps in every stage"
            )


def _side_by_side(parts: Sequence[_Part], rows: slice, meta: TraceMeta, order: list[tuple[int, int]]) -> Trace:
    """Return rows of the whole: layers side by side, and of the whole step what the last stage says that has it."""
    columns = [columns_of(part.trace) for part in parts]
    values = {name: each[name][rows] for each in columns for name in each if not COLUMNS[name].axes}
    for name in ("tokens", "load", *_shared(parts)):
        values[name] = np.stack([columns[p][name][rows, m] for p, m in order], axis=1)
    optional = {name: values[name] for name in OPTIONAL_COLUMNS if name in values}
    return Trace(meta, values["step"], values["tokens"], values["load"], optional)
