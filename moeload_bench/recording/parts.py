"""A trace while it is being recorded: shards, a manifest and checkpoints in one folder, each written atomically.

The manifest alone says what belongs to the recording. It is replaced last, so after a crash at any moment it names
only complete shards and the checkpoint that goes on from their end; anything else in the folder is a leftover.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import RecordingError
from moeload_bench.store import read_trace, write_trace
from moeload_bench.trace import Array, Trace, TraceMeta


class Parts:
    """The folder `seedN.parts/` beside the trace `seedN.parquet` that it will become."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_suffix(".parts")
        self._manifest: dict[str, Any] = {"shards": [], "next_step": 0, "checkpoint": None, "state": {}}

    @property
    def next_step(self) -> int:
        """The step after the last one that is safe on disk."""
        return int(self._manifest["next_step"])

    @property
    def has_shards(self) -> bool:
        """Whether any step is safe on disk."""
        return bool(self._manifest["shards"])

    @property
    def state(self) -> dict[str, Any]:
        """What the recording wrote beside its last shard, for going on from there."""
        return dict(self._manifest["state"])

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, None before the first one."""
        name = self._manifest["checkpoint"]
        return self.folder / name if name else None

    def start(self, resume: bool) -> None:
        """Make or reopen the folder.

        Raises `RecordingError` when a trace or, without ``resume``, an unfinished recording is there already.
        """
        if self.target.exists():
            raise RecordingError(f"{self.target}: a trace is there already; choose another --out or remove it first")
        path = self.folder / "manifest.json"
        if path.exists():
            if not resume:
                raise RecordingError(
                    f"{self.folder}: an unfinished recording is there; go on with --resume or remove it first"
                )
            self.reopen()
        self.folder.mkdir(parents=True, exist_ok=True)

    def append(
        self,
        trace: Trace,
        save_checkpoint: Callable[[Path], None] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Add a shard of consecutive steps, with the checkpoint that goes on after it.

        ``save_checkpoint`` writes a file at the path it is given. Raises `RecordingError` for steps that do not
        follow the last ones and when the disk is full; shards written before stay as they are.
        """
        first, after = int(trace.step_S[0]), int(trace.step_S[-1]) + trace.meta.stride
        if self.has_shards and first != self.next_step:
            raise RecordingError(f"{self.folder}: got step {first}, expected {self.next_step} to follow")
        name = f"{first:010d}.parquet"
        checkpoint = f"{after:010d}.checkpoint" if save_checkpoint else None
        try:
            write_trace(trace, self.folder / name, overwrite=True)
            if save_checkpoint is not None and checkpoint is not None:
                scratch = self.folder / f".{checkpoint}.tmp"
                save_checkpoint(scratch)
                _sync(scratch)
                os.replace(scratch, self.folder / checkpoint)
            self._write_manifest(
                {
                    "shards": [*self._manifest["shards"], name],
                    "next_step": after,
                    "checkpoint": checkpoint,
                    "state": state or {},
                }
            )
        except OSError as error:
            raise RecordingError(
                f"{self.folder}: cannot write steps {first} to {after - 1}: {error}; steps before {first} are intact"
            ) from error
        self._remove_leftovers()

    def reopen(self) -> None:
        """Open a folder that is there; raises `RecordingError` when there is none."""
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise RecordingError(f"{self.folder}: no unfinished recording is there")
        try:
            self._manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordingError(f"{path}: not JSON ({error}); the shards beside it are whole traces") from None
        self._remove_leftovers()

    def truncate(self, before_step: int) -> None:
        """Forget the steps from ``before_step`` on, for training that goes back to an older checkpoint.

        Raises `RecordingError` when steps before it are missing.
        """
        if before_step > self.next_step:
            raise RecordingError(
                f"{self.folder}: training goes on at step {before_step}, but only steps before {self.next_step} "
                "are recorded"
            )
        if before_step == self.next_step:
            return
        kept, shards = [], list(self._traces())
        for name, trace in zip(self._manifest["shards"], shards, strict=True):
            count = int((trace.step_S < before_step).sum())
            if count < trace.steps:
                if count == 0:
                    break
                write_trace(cut(trace, count), self.folder / name, overwrite=True)
            kept.append(name)
        self._write_manifest({**self._manifest, "shards": kept, "next_step": before_step, "checkpoint": None})
        self._remove_leftovers()

    def merge(self, meta: TraceMeta) -> Path:
        """Write the whole trace under its final name, with the metadata as it is at the end; the parts stay."""
        traces = list(self._traces())
        if not traces:
            raise RecordingError(f"{self.folder}: nothing was recorded")
        columns = {name: np.concatenate([t.columns[name] for t in traces]) for name in traces[0].columns}
        whole = Trace(
            meta,
            np.concatenate([t.step_S for t in traces]),
            np.concatenate([t.tokens_SL for t in traces]),
            np.concatenate([t.load_SLE for t in traces]),
            columns,
        )
        try:
            return write_trace(whole, self.target)
        except OSError as error:
            raise RecordingError(
                f"{self.target}: cannot be written: {error}; all steps are intact in {self.folder}"
            ) from error

    def discard(self) -> None:
        """Remove the folder, once the trace stands under its final name."""
        shutil.rmtree(self.folder)

    def _traces(self) -> Iterator[Trace]:
        for name in self._manifest["shards"]:
            yield read_trace(self.folder / name)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".tmp", delete=False) as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self.folder / "manifest.json")
        self._manifest = manifest

    def _remove_leftovers(self) -> None:
        known = {"manifest.json", self._manifest["checkpoint"], *self._manifest["shards"]}
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in known:
                path.unlink()


def cut(trace: Trace, count: int) -> Trace:
    """The first ``count`` steps of a trace."""
    columns: dict[str, Array] = {name: column[:count].copy() for name, column in trace.columns.items()}
    return Trace(
        trace.meta,
        trace.step_S[:count].copy(),
        trace.tokens_SL[:count].copy(),
        trace.load_SLE[:count].copy(),
        columns,
    )


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
