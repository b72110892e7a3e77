"""The rows of a recording, finished or in progress, read without touching it.

A recording in progress is a folder `seedN.parts` with a manifest that names its whole shards, replaced last; a finished
one is `seedN.parquet` beside it. Nothing is written, locked or removed here, and what is half-written is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moeload_bench.errors import MoeloadError
from moeload_bench.recording.parts import read_manifest
from moeload_bench.traces.lookup import Place
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace

Status = Literal["recording", "finished", "waiting"]


class Follower:
    """Rows as they become safe on disk, shard by shard.

    ``status``: whether the recording goes on; ``meta`` of the newest rows read; ``problem``: what could not be read the
    last time it was tried, None when all went well. ``generation`` rises when the recording went back to an earlier
    step (training resumed from an older checkpoint) or has another writer: what was read before counts no more.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.status: Status = "waiting"
        self.meta: TraceMeta | None = None
        self.problem: str | None = None
        self.generation = 0
        self._next: int | None = None
        self._read: list[str] = []
        self._owner: str | None = None

    def poll(self) -> Iterator[Trace]:
        """Yield new rows, each shard a trace; never raise where a recording is being written, moved or cut."""
        try:
            yield from self._poll()
            self.problem = None
        except FileNotFoundError:
            self.problem = self._absent()
        except (MoeloadError, OSError, ValueError) as error:
            self.problem = f"{error}"

    def _poll(self) -> Iterator[Trace]:
        manifest = self._manifest()
        if manifest is None and self.place.trace.exists():
            yield from self._finished()
            return
        if manifest is None:
            self.status = "waiting"
            raise FileNotFoundError
        self.status = "recording"
        shards = manifest["shards"]
        continued = self._owner in (None, manifest["owner"]) and self._read == shards[: len(self._read)]
        if not continued or (self._next or 0) > manifest["next_step"]:
            self._restart()
        self._owner = manifest["owner"]
        for name in shards[len(self._read) :]:
            yield from self._new_rows(self.place.parts / name)
            self._read.append(name)
        if self._next is not None and self._next < manifest["next_step"]:  # the last shard was cut and written again
            self._restart()

    def _absent(self) -> str:
        trace, parts = self.place.trace, self.place.parts
        if parts.is_dir():
            return f"{parts}: nothing is recorded there yet"
        return f"{trace}: no such file, and no {parts.name} of a recording in progress beside it"

    def _finished(self) -> Iterator[Trace]:
        if self.status != "finished":
            yield from self._new_rows(self.place.trace)
            self.status = "finished"

    def _new_rows(self, path: Path) -> Iterator[Trace]:
        trace = read_trace(path)
        if self._next is not None and path == self.place.trace and trace.step_S[-1] + trace.meta.stride < self._next:
            self._restart()  # the trace of another run
        self.meta = trace.meta
        start = 0 if self._next is None else int(np.searchsorted(trace.step_S, self._next))
        if start < trace.steps:
            self._next = int(trace.step_S[-1]) + trace.meta.stride
            yield trace.cut(slice(start, None)) if start else trace

    def _restart(self) -> None:
        self.generation += 1
        self._next, self._read = None, []

    def _manifest(self) -> dict[str, Any] | None:
        there = (self.place.parts / "manifest.json").is_file()
        return read_manifest(self.place.parts) if there else None
