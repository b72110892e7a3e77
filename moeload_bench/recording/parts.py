"""A trace while it is being recorded: shards, a manifest and checkpoints in one folder, each written atomically.

Only the manifest says what belongs to the recording. It is replaced last, so after a crash at any moment it names only
complete shards and the checkpoint that continues from their end; anything else in the folder is a leftover.
`merge_shards` makes the shards one trace, with only a few of them in memory at once.
Axis letters: S steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from moeload_bench.bounds import named_once
from moeload_bench.errors import RecordingError
from moeload_bench.files import replacing
from moeload_bench.schema import first_problem
from moeload_bench.traces.parquet import META_KEY, cell_rows, group_steps, open_parquet
from moeload_bench.traces.routing import routing_files, routing_folder
from moeload_bench.traces.store import column_bytes, column_header, columns_of, read_trace, write_trace, writer_options
from moeload_bench.traces.trace import Trace, TraceMeta, column_shape

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MANIFEST = 64 << 20
"""Bytes of a manifest at most: a million shards."""
Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,199}$")]


class _Manifest(BaseModel, strict=True):
    owner: str = ""
    shards: list[Name] = []
    next_step: int = 0
    checkpoint: Name | None = None
    state: dict[str, Any] = {}


LOCK = "lock"
"""A file that its recorder holds locked; the system frees it when the process ends, however it ends."""
_EMPTY: dict[str, Any] = _Manifest().model_dump()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest; raise `RecordingError` for what is none: its names are of files in that folder."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise ValueError(f"{path.stat().st_size:,} bytes, expected at most {MAX_MANIFEST:,}")
        return _Manifest.model_validate(json.loads(path.read_bytes(), object_pairs_hook=named_once)).model_dump()
    except ValidationError as error:
        wrong = first_problem(error, "manifest")
    except RecursionError:
        wrong = "nested too deep"
    except ValueError as error:
        wrong = f"{error}"
    raise RecordingError(f"{path}: not a manifest ({wrong}); the shards next to it are whole traces")


class Parts:
    """The folder `seedN.parts/` next to `seedN.parquet`, the trace that it will become."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_suffix(".parts")
        self.routing = self.folder / "routing"
        self._manifest: dict[str, Any] = {**_EMPTY}
        self._release: weakref.finalize[[int], Parts] | None = None

    @property
    def next_step(self) -> int:
        """Return the step after the last one that is safe on disk."""
        return int(self._manifest["next_step"])

    @property
    def has_shards(self) -> bool:
        """Return whether any step is safe on disk."""
        return bool(self._manifest["shards"])

    def shards(self) -> Iterator[Trace]:
        """Yield the shards in order; each is read when it is asked for."""
        return (read_trace(self.folder / name) for name in self._manifest["shards"])

    @property
    def state(self) -> dict[str, Any]:
        """Return what the recording stored with its last shard, to continue from there."""
        return dict(self._manifest["state"])

    @property
    def checkpoint(self) -> Path | None:
        """Return the checkpoint to continue from, None before the first one."""
        name = self._manifest["checkpoint"]
        return self.folder / name if name else None

    def remove(self) -> None:
        """Delete an unfinished recording, if one is there."""
        if (self.folder / "manifest.json").is_file():
            self._take("another run", resume=True)
            self.discard()

    def start(
        self,
        resume: bool,
        *,
        go_on: str = "continue with --resume or start from the beginning with --fresh",
        choice: str = "another --out",
    ) -> None:
        """Make or reopen the folder; a process that had it open before cannot write to it any longer.

        Raise `RecordingError` if a trace is there already, if an unfinished recording is there and ``resume`` is False,
        if another recorder writes there, or if nothing can be written there. ``go_on`` and ``choice`` tell the
        user what to do then.
        """
        try:
            if self.target.exists():
                raise RecordingError(f"{self.target}: a trace is there already; choose {choice} or remove it first")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take(choice, resume)
            if (self.folder / "manifest.json").exists():
                self.reopen()
            if self.has_shards and not resume:
                self.close()
                raise RecordingError(
                    f"{self.folder}: an unfinished recording is there; {go_on}, choose {choice} or remove it first"
                )
            self._write_manifest({**self._manifest, "owner": uuid.uuid4().hex})
        except OSError as error:
            raise RecordingError(f"{self.folder}: cannot be made or written: {error}") from error

    def append(
        self,
        trace: Trace,
        save_checkpoint: Callable[[Path], None] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Add a shard of consecutive steps, with the checkpoint that continues after it.

        ``save_checkpoint`` writes a file at the path that it is given. Raise `RecordingError` if the steps do not
        follow the last ones, if the disk is full, or if somebody else has started to record there; shards written
        before stay as they are.
        """
        first, after = int(trace.step_S[0]), int(trace.step_S[-1]) + trace.meta.stride
        if self.has_shards and first != self.next_step:
            raise RecordingError(f"{self.folder}: got step {first}, expected {self.next_step} to follow")
        name = f"{first:010d}.parquet"
        checkpoint = checkpoint_name(after) if save_checkpoint else None
        try:
            self._check_owner()
            write_trace(trace, self.folder / name, overwrite=True, durable=True)
            if save_checkpoint is not None and checkpoint is not None:
                with replacing(self.folder / checkpoint, durable=True) as scratch:
                    save_checkpoint(scratch)
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
        """Open a folder that exists; raise `RecordingError` if there is none, or if another recorder writes there."""
        self.look()
        self._take("another run", resume=True)
        self._remove_leftovers()

    def look(self) -> None:
        """See what a folder holds, and change nothing there; raise `RecordingError` if no recording is in it."""
        if not (self.folder / "manifest.json").is_file():
            finished = f"; it is finished: {self.target}" if self.target.is_file() else ""
            raise RecordingError(f"{self.folder}: no unfinished recording is there{finished}")
        self._manifest = read_manifest(self.folder)

    def truncate(self, before_step: int) -> None:
        """Remove the steps from ``before_step`` on, for training that goes back to an older checkpoint.

        Raise `RecordingError` if steps before it are missing.
        """
        if before_step > self.next_step:
            raise RecordingError(
                f"{self.folder}: training goes on at step {before_step}, but only steps before {self.next_step} "
                "are recorded"
            )
        if before_step == self.next_step:
            return
        shards = []
        for name in self._manifest["shards"]:
            trace = read_trace(self.folder / name)
            count = int((trace.step_S < before_step).sum())
            if count == 0:
                break
            if count < trace.steps:  # under a new name: until the manifest is replaced, the old shard counts
                name = f"{trace.step_S[0]:010d}-{before_step}.parquet"
                write_trace(trace.cut(slice(count)), self.folder / name, overwrite=True, durable=True)
            shards.append(name)
        self._write_manifest({**self._manifest, "shards": shards, "next_step": before_step, "checkpoint": None})
        self._remove_leftovers()

    def merge(self, meta: TraceMeta) -> Path:
        """Write the whole trace under its final name, with the latest metadata; the parts stay."""
        if not self.has_shards:
            raise RecordingError(f"{self.folder}: nothing was recorded")
        try:
            return merge_shards([self.folder / name for name in self._manifest["shards"]], self.target, meta)
        except OSError as error:
            raise RecordingError(
                f"{self.target}: cannot be written: {error}; all steps are intact in {self.folder}"
            ) from error

    def move_routing(self) -> None:
        """Put the routing of recorded steps beside the trace; what another recording left there is removed."""
        folder = routing_folder(self.target)
        shutil.rmtree(folder, ignore_errors=True)
        for (step, _), path in routing_files(self.routing).items():
            if step < self.next_step:
                folder.mkdir(exist_ok=True)
                path.replace(folder / path.name)

    def discard(self) -> None:
        """Remove the folder, once the trace has its final name."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let others record in the folder."""
        if self._release is not None:
            self._release()
            self._release = None

    def _take(self, choice: str, resume: bool) -> None:
        """Lock the folder; raise `RecordingError` if another recorder holds it.

        To ``resume`` in the process that holds it is allowed: in a notebook the former recorder may be out of reach. A
        file system without locks is used without.
        """
        if self._release is not None or sys.platform == "win32":
            return
        import fcntl

        file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        process = f"process {os.getpid()} on {socket.gethostname()}"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(file, 1000).decode(errors="replace")
            os.close(file)
            if isinstance(error, BlockingIOError) and not (resume and holder == process):
                raise RecordingError(
                    f"{self.folder}: another recorder writes there ({holder}); end it, or choose {choice}"
                ) from None
            return
        os.truncate(file, 0)
        os.write(file, process.encode())
        self._release = weakref.finalize(self, os.close, file)

    def _check_owner(self) -> None:
        """Raise if another recording was started in this folder after this one."""
        on_disk = read_manifest(self.folder) if (self.folder / "manifest.json").exists() else {}
        if on_disk.get("owner", "") != self._manifest["owner"]:
            raise RecordingError(f"{self.folder}: another recording was started there since; this one cannot go on")

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        with replacing(self.folder / "manifest.json", durable=True) as scratch:
            scratch.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        self._manifest = manifest

    def _remove_leftovers(self) -> None:
        names = {"manifest.json", LOCK, self._manifest["checkpoint"], *self._manifest["shards"]}
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in names:
                path.unlink()


def unfinished_trace(folder: Path) -> Trace:
    """Return what is on disk of an unfinished recording, as a trace that says so; nothing is written or removed.

    Raise `RecordingError` if there is none, or if nothing of it is on disk yet.
    """
    parts = Parts(folder.with_suffix(".parquet"))
    parts.look()
    shards = list(parts.shards())
    if not shards:
        raise RecordingError(f"{folder}: nothing is on disk yet")
    names = shards[0].columns.keys()
    return Trace(
        shards[-1].meta.model_copy(update={"complete": False}),
        np.concatenate([shard.step_S for shard in shards]),
        np.concatenate([shard.tokens_SL for shard in shards]),
        np.concatenate([shard.load_SLE[:] for shard in shards]),
        {name: np.concatenate([shard.columns[name][:] for shard in shards]) for name in names},
    )


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint that continues with a step."""
    return f"{step:010d}.checkpoint"


def merge_shards(shards: Sequence[Path], target: Path, meta: TraceMeta) -> Path:
    """Write whole shards of consecutive steps as the trace ``target``, atomically, and return its file.

    The file is the same as `write_trace` would write. Raise `TraceError` for a damaged shard, and `RecordingError` for
    shards that do not fit together or if a trace is at the target already.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.exists():
        raise RecordingError(f"{target}: a trace is there already")
    names, steps = _checked(shards, meta)
    hashes = {"data_sha256": _data_sha256(shards, names, steps, meta), "meta_sha256": meta.sha256()}
    metadata = json.dumps({**meta.model_dump(mode="json"), **hashes}, sort_keys=True, allow_nan=False)
    schema = _table(shards[0]).schema.with_metadata({META_KEY: metadata})
    with (
        replacing(target, durable=True) as scratch,
        pq.ParquetWriter(scratch, schema, **writer_options(names, meta.balancing.method)) as writer,
    ):
        for table in _row_groups(shards, group_steps(meta)):
            writer.write_table(table)
            pa.default_memory_pool().release_unused()
    return target


def _checked(shards: Sequence[Path], meta: TraceMeta) -> tuple[list[str], int]:
    """Return names of columns and number of steps, after checking that every shard is whole and follows the last."""
    names: list[str] = []
    steps, following = 0, None
    for path in shards:
        shard = read_trace(path)
        if following not in (None, shard.step_S[0]):
            raise RecordingError(f"{path}: begins with step {shard.step_S[0]}, expected {following} to follow")
        if shard.meta.layers != meta.layers:
            raise RecordingError(f"{path}: has other layers than the last shard")
        columns = list(columns_of(shard))
        if names not in ([], columns):
            raise RecordingError(f"{path}: has columns {columns}, the shards before have {names}")
        names, following = columns, shard.step_S[-1] + meta.stride
        steps += shard.steps
    return names, steps


def _data_sha256(shards: Sequence[Path], names: Sequence[str], steps: int, meta: TraceMeta) -> str:
    """Return `moeload_bench.traces.store.data_sha256` of the whole; reading the trace checks that they agree."""
    digest = hashlib.sha256()
    for name in names:
        shape = column_shape(name, steps, len(meta.layers), meta.experts)
        digest.update(column_header(name, shape))
        for path in shards:
            column = _table(path, [name]).column(name).combine_chunks()
            digest.update(column_bytes(cell_rows(name, column, shape[1:], str(path))))
    return digest.hexdigest()


def _row_groups(shards: Sequence[Path], steps: int) -> Iterator[pa.Table]:
    """Yield all rows in order, ``steps`` at once: as many as `write_trace` puts into one row group."""
    import pyarrow as pa

    rows = None
    for path in shards:
        table = _table(path)
        rows = table if rows is None else pa.concat_tables([rows, table])
        while rows.num_rows >= steps:
            yield rows.slice(0, steps)
            rows = rows.slice(steps)
    if rows is not None and rows.num_rows:
        yield rows


def _table(path: Path, names: list[str] | None = None) -> pa.Table:
    with open_parquet(path) as file:
        return file.read(columns=names, use_threads=False).replace_schema_metadata(None)
