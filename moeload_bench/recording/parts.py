"""A trace while it is being recorded: shards, a manifest and checkpoints in one folder, each written atomically.

The manifest alone says what belongs to the recording. It is replaced last, so after a crash at any moment it names
only complete shards and the checkpoint that goes on from their end; anything else in the folder is a leftover.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from moeload_bench.errors import RecordingError
from moeload_bench.recording.merging import merge_shards
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Array, Trace, TraceMeta

_EMPTY: dict[str, Any] = {"owner": "", "shards": [], "next_step": 0, "checkpoint": None, "state": {}}


class Parts:
    """The folder `seedN.parts/` beside the trace `seedN.parquet` that it will become."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_suffix(".parts")
        self._manifest: dict[str, Any] = {**_EMPTY}

    @property
    def next_step(self) -> int:
        """The step after the last one that is safe on disk."""
        return int(self._manifest["next_step"])

    @property
    def has_shards(self) -> bool:
        """Whether any step is safe on disk."""
        return bool(self._manifest["shards"])

    def shards(self) -> Iterator[Trace]:
        """The shards in order, each read when it is asked for."""
        return (read_trace(self.folder / name) for name in self._manifest["shards"])

    @property
    def state(self) -> dict[str, Any]:
        """What the recording wrote beside its last shard, for going on from there."""
        return dict(self._manifest["state"])

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, None before the first one."""
        name = self._manifest["checkpoint"]
        return self.folder / name if name else None

    def start(self, resume: bool, *, go_on: str = "go on with --resume", elsewhere: str = "another --out") -> None:
        """Make or reopen the folder; whoever had it open before cannot write to it any more.

        Raises `RecordingError` when a trace or, without ``resume``, an unfinished recording is there already, and when
        nothing can be written there. ``go_on`` and ``elsewhere`` say in the user's words what to do then.
        """
        try:
            if self.target.exists():
                raise RecordingError(f"{self.target}: a trace is there already; choose {elsewhere} or remove it first")
            if (self.folder / "manifest.json").exists():
                self.reopen()
            if self.has_shards and not resume:
                raise RecordingError(
                    f"{self.folder}: an unfinished recording is there; {go_on}, choose {elsewhere} or remove it first"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_manifest({**self._manifest, "owner": uuid.uuid4().hex})
        except OSError as error:
            raise RecordingError(f"{self.folder}: cannot be made or written: {error}") from error

    def append(
        self,
        trace: Trace,
        save_checkpoint: Callable[[Path], None] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Add a shard of consecutive steps, with the checkpoint that goes on after it.

        ``save_checkpoint`` writes a file at the path it is given. Raises `RecordingError` for steps that do not
        follow the last ones, when the disk is full and when somebody else records there since; shards written before
        stay as they are.
        """
        first, after = int(trace.step_S[0]), int(trace.step_S[-1]) + trace.meta.stride
        if self.has_shards and first != self.next_step:
            raise RecordingError(f"{self.folder}: got step {first}, expected {self.next_step} to follow")
        name = f"{first:010d}.parquet"
        checkpoint = checkpoint_name(after) if save_checkpoint else None
        scratch = self.folder / f".{first:010d}.tmp"
        try:
            self._check_owner()
            write_trace(trace, self.folder / name, overwrite=True)
            if save_checkpoint is not None and checkpoint is not None:
                save_checkpoint(scratch)
                _sync(scratch)
                os.replace(scratch, self.folder / checkpoint)
            self._write_manifest(
                {
                    **self._manifest,
                    "shards": [*self._manifest["shards"], name],
                    "next_step": after,
                    "checkpoint": checkpoint,
                    "state": state or {},
                }
            )
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError when the disk is full
            with suppress(OSError):
                self._remove_leftovers()
            raise RecordingError(
                f"{self.folder}: cannot write steps {first} to {after - 1}: {error}; steps before {first} are intact"
            ) from error
        self._remove_leftovers()

    def reopen(self) -> None:
        """Open a folder that is there; raises `RecordingError` when there is none."""
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise RecordingError(f"{self.folder}: no unfinished recording is there")
        self._manifest = {**_EMPTY, **self._read_manifest()}
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
        kept = []
        for name in self._manifest["shards"]:
            trace = read_trace(self.folder / name)
            count = int((trace.step_S < before_step).sum())
            if count == 0:
                break
            if count < trace.steps:
                write_trace(cut(trace, count), self.folder / name, overwrite=True)
            kept.append(name)
        self._write_manifest({**self._manifest, "shards": kept, "next_step": before_step, "checkpoint": None})
        self._remove_leftovers()

    def merge(self, meta: TraceMeta) -> Path:
        """Write the whole trace under its final name, with the metadata as it is at the end; the parts stay."""
        if not self.has_shards:
            raise RecordingError(f"{self.folder}: nothing was recorded")
        try:
            return merge_shards([self.folder / name for name in self._manifest["shards"]], self.target, meta)
        except OSError as error:
            raise RecordingError(
                f"{self.target}: cannot be written: {error}; all steps are intact in {self.folder}"
            ) from error

    def discard(self) -> None:
        """Remove the folder, once the trace stands under its final name."""
        shutil.rmtree(self.folder)

    def _check_owner(self) -> None:
        """Refuse to write where another recording was started since this one was."""
        on_disk = self._read_manifest() if (self.folder / "manifest.json").exists() else {}
        if on_disk.get("owner", "") != self._manifest["owner"]:
            raise RecordingError(f"{self.folder}: another recording was started there since; this one cannot go on")

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RecordingError(f"{path}: not JSON ({error}); the shards beside it are whole traces") from None

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


def checkpoint_name(step: int) -> str:
    """The file of the checkpoint that goes on with a step."""
    return f"{step:010d}.checkpoint"


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
