"""Arrays of the experts that tokens were routed to, as inference engines return them for routing replay in RL.

Read from vLLM's documentation of `--enable-return-routed-experts` (0.21 and later): `routed_experts` [tokens, layers,
top-k] for each request, int16 ids; RL trainers stack them to [batch, tokens, layers, top-k]. A `.npy` file holds one
array, a `.npz` archive several. An array is a step; those of one archive whose names end in `routed_experts` (a
prompt's and its completion's) are one step together.

A cell without experts holds -1 in each place (NeMo RL, tunix), or one id in each place, as zeros do (verl, slime): a
token has top-k different experts. Tokens without experts in any layer are padding. A layer without experts in any token
is a dense one, or was not captured.

Axis letters: T tokens, L layers, K experts of a token, E experts.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from moeload_bench.arrays import BoolArray, IntArray
from moeload_bench.bounds import check_decoded
from moeload_bench.errors import TraceError, counted, printable
from moeload_bench.ops.interchange.logfiles import Paths, Progress, find_files, natural
from moeload_bench.ops.interchange.rows import Log, LogRow, Report, spans
from moeload_bench.traces.archives import npy_header

CHUNK = 1 << 20
"""Ids that are in memory at once."""
MAX_CELLS = 1 << 22
"""The most layers x experts, and layers x top-k."""
_NAME = "routed_experts"


def read_routed(paths: Paths, experts: int, *, report: Report | None = None) -> Log:
    """Return the log in `.npy` and `.npz` files, a step per array; ``experts`` of a layer: the arrays do not say it."""
    files = find_files(paths, "*.np[yz]")
    notes = ["each array is a step; its tokens are a request's or a batch's"]
    counter = _Routes(experts)
    rows = _rows(files, counter, notes, Progress(files, report))
    first = next(rows)
    layers, empty = (tuple(np.flatnonzero(mask_L).tolist()) for mask_L in (counter.routed_L, ~counter.routed_L))
    if empty:
        notes.append(f"layers {spans(empty)} hold no experts and are left out")
    where, all_rows = str(files[0].parent), chain([first], rows)
    return Log(where, layers, experts, all_rows, top_k=counter.top_k, notes=notes, empty=empty)


def _rows(files: list[Path], counter: _Routes, notes: list[str], progress: Progress) -> Iterator[LogRow]:
    step, note = 0, ""
    for file in files:
        for where, arrays in _steps(file):
            row = counter.row(step, where, arrays)
            if counter.padding:
                notes[:] = [earlier for earlier in notes if earlier != note]
                note = f"{counted(counter.padding, 'token')} without experts left out as padding"
                notes.append(note)
            yield row
            step += 1
        progress.add(file.stat().st_size, file.name)


def _steps(file: Path) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield each step's place and the pieces of its arrays [T, L, K]; raise `TraceError` for any other file."""
    if file.suffix != ".npz":
        with file.open("rb") as opened:
            yield str(file), _pieces(opened, file.stat().st_size, str(file))
        return
    with _refusal(str(file)), zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: natural(entry.filename))
        check_decoded(sum(entry.file_size for entry in entries), file.stat().st_size, str(file))
        if not entries:
            raise TraceError(f"{file}: no array in it, expected whole numbers [tokens, layers, top-k]")
        together = [entry for entry in entries if entry.filename.removesuffix(".npy").endswith(_NAME)]
        for group in [together] if together else [[entry] for entry in entries]:
            where = f"{file}, {printable(group[0].filename)[:80]}"
            yield where, chain.from_iterable(_member(archive, entry, where) for entry in group)


@contextmanager
def _refusal(where: str) -> Iterator[None]:
    """Turn what a hostile archive raises, which can be almost anything, into a `TraceError`."""
    try:
        yield
    except TraceError:
        raise
    except Exception as error:
        text = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise TraceError(f"{where}: not a NumPy array or archive: {text}") from None


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> Iterator[Any]:
    with _refusal(where), archive.open(entry) as opened:
        yield from _pieces(opened, entry.file_size, where)


def _pieces(opened: IO[bytes], size: int, where: str) -> Iterator[Any]:
    """Yield an array [..., L, K] as pieces [T, L, K] of some tokens; nothing is unpickled."""
    with _refusal(where):
        shape, is_fortran, dtype = npy_header(opened)
    what = f"{where}: got {str(dtype)[:40]} {str(list(shape))[:80]}"
    if dtype.kind not in "iu" or len(shape) not in (3, 4) or is_fortran or not all(shape):
        raise TraceError(f"{what}, expected whole numbers [tokens, layers, top-k] in C order")
    *tokens, layers, top_k = shape
    if math.prod(shape) * dtype.itemsize != size - opened.tell() or layers * top_k > MAX_CELLS:
        raise TraceError(f"{what} in {size} bytes, expected as many ids as the shape says")
    left, most = math.prod(tokens), max(1, CHUNK // (layers * top_k))
    while left:
        rows = min(left, most)
        with _refusal(where):
            raw = opened.read(rows * layers * top_k * dtype.itemsize)
            index_TLK = np.frombuffer(raw, dtype).reshape(rows, layers, top_k)
        yield index_TLK
        left -= rows


@dataclass
class _Routes:
    """Counts of one step after another; ``routed_L``: which layers have experts, the same in every step."""

    experts: int
    top_k: int | None = None
    padding: int = 0
    routed_L: BoolArray = field(default_factory=lambda: np.empty(0, dtype=np.bool_))

    def row(self, step: int, where: str, pieces: Iterator[Any]) -> LogRow:
        """Return one step; raise `TraceError` for ids that no router gives."""
        load_LE: IntArray | None = None
        tokens, blank_L = 0, np.empty(0, dtype=np.int64)
        for index_TLK in pieces:
            if load_LE is None:
                self._check_shape(index_TLK.shape, where)
                load_LE = np.zeros((index_TLK.shape[1], self.experts), dtype=np.int64)
                blank_L = np.zeros(index_TLK.shape[1], dtype=np.int64)
            elif index_TLK.shape[1:] != (len(load_LE), self.top_k):
                raise TraceError(f"{where}: arrays of other layers or top-k than {[len(load_LE), self.top_k]}")
            blank_TL = self._blank(index_TLK, where)
            used_T = ~blank_TL.all(axis=1)
            self.padding += int((~used_T).sum())
            tokens += int(used_T.sum())
            blank_L += blank_TL[used_T].sum(axis=0)
            cell_TLK = index_TLK.astype(np.int64) + self.experts * np.arange(len(load_LE))[:, None]
            load_LE += np.bincount(cell_TLK[~blank_TL].ravel(), minlength=load_LE.size).reshape(load_LE.shape)
        if load_LE is None or not tokens:
            raise TraceError(f"{where}: no token has experts, expected ids from 0 to {self.experts - 1}")
        self._check_layers(blank_L, tokens, where)
        load_LE = load_LE[self.routed_L]
        return LogRow(step, load_LE, where, np.full(len(load_LE), tokens, dtype=np.int64))

    def _check_shape(self, shape: tuple[int, ...], where: str) -> None:
        _, layers, top_k = shape
        if layers * self.experts > MAX_CELLS:
            raise TraceError(
                f"{where}: {layers} layers x {self.experts} experts, expected at most {MAX_CELLS} together"
            )
        if self.top_k not in (None, top_k):
            raise TraceError(f"{where}: top-k is {top_k}, it was {self.top_k} before: mixed top-k is not in the format")
        if len(self.routed_L) not in (0, layers):
            raise TraceError(f"{where}: {layers} layers, expected {len(self.routed_L)} as in the arrays before")
        self.top_k = top_k

    def _blank(self, index_TLK: Any, where: str) -> BoolArray:
        """Return which cells [T, L] hold no experts, after checking the ids of the others."""
        low, high = int(index_TLK.min()), int(index_TLK.max())
        if low < -1 or high >= self.experts:
            raise TraceError(
                f"{where}: expert {low if low < -1 else high}, expected 0 to {self.experts - 1} (--experts), or -1 for "
                "none"
            )
        ordered_TLK = np.sort(index_TLK, axis=2)
        equal_TLK = ordered_TLK[..., 1:] == ordered_TLK[..., :-1]
        blank_TL = equal_TLK.all(axis=2) if equal_TLK.shape[2] else ordered_TLK[..., 0] < 0
        wrong_TL = ~blank_TL & (equal_TLK.any(axis=2) | (ordered_TLK[..., 0] < 0))
        if wrong_TL.any():
            t, m = (int(i) for i in np.argwhere(wrong_TL)[0])
            raise TraceError(
                f"{where}: a token has experts {index_TLK[t, m][:8].tolist()} in layer {m}, expected "
                "different ones, or -1 in each place"
            )
        return np.asarray(blank_TL)

    def _check_layers(self, blank_L: IntArray, tokens: int, where: str) -> None:
        some_L = (blank_L > 0) & (blank_L < tokens)
        if some_L.any():
            m = int(np.argmax(some_L))
            raise TraceError(f"{where}: {blank_L[m]} of {tokens} tokens have no experts in layer {m}, others have some")
        routed_L = blank_L == 0
        self.routed_L = self.routed_L if len(self.routed_L) else routed_L
        if (routed_L != self.routed_L).any():
            m = int(np.argmax(routed_L != self.routed_L))
            raise TraceError(
                f"{where}: layer {m} has {'' if routed_L[m] else 'no '}experts, unlike in the arrays before"
            )
