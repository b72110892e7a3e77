"""Rows of a foreign log on their way into a trace: read one by one, with a few thousand in memory for any size.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.errors import TraceError
from moeload_bench.recording.parts import merge_shards
from moeload_bench.traces.meta import TraceMeta, checked_meta
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import MAX_COUNT, MAX_LAYERS, Trace, check_trace
from moeload_bench.words import Progress

Semantics = Literal["pre_drop", "post_drop", "derived", "unknown"]

Report = Progress
"""In bytes of the files read."""
CELLS_IN_MEMORY = 1 << 19
"""Loads that are held before they go to disk: 4 MiB."""


SLACK = 0.01
"""How far rounded shares of a layer may sum from what they should."""


class CutShortWarning(UserWarning):
    """The log breaks off; it is imported up to there."""


class LogRow(NamedTuple):
    """One step of a log; ``where`` names the file and line that it came from, ``columns`` are the format's others.

    Where the log has ``share_LE``, of any scale, the loads are made from it and from the tokens that are given.
    """

    step: int
    load_LE: IntArray
    where: str
    tokens_L: IntArray | None = None
    share_LE: FloatArray | None = None
    columns: Mapping[str, Array] = MappingProxyType({})


def logged_row(step: int, value_LE: FloatArray, where: str, shares: bool) -> LogRow:
    """Return the row of values that are whole numbers, or shares."""
    if shares:
        return LogRow(step, np.zeros(value_LE.shape, dtype=np.int64), where, share_LE=value_LE)
    return LogRow(step, value_LE.astype(np.int64), where)


@dataclass(frozen=True)
class Log:
    """What a reader finds before it reads the rows: which layers (indices of blocks) and how many experts.

    ``semantics`` says what the format's counts are, ``top_k`` is the files' own. ``notes`` grows while rows are read.
    ``cut`` names what was left out at the end, if a file breaks off. ``hint`` says why steps may be missing.
    ``row_steps`` are the steps whose loads a row adds up. ``empty``: layers without any expert, which are dense if the
    user names the others.
    """

    where: str
    layers: tuple[int, ...]
    experts: int
    rows: Iterator[LogRow]
    semantics: Semantics = "pre_drop"
    top_k: int | None = None
    notes: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    hint: str = ""
    row_steps: int = 1
    empty: tuple[int, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the user knows but the log does not say.

    ``tokens`` per step and layer if the log has none; ``counted`` overrides what the format's counts are;
    ``first_step`` and ``last_step`` (inclusive) bound what is imported; ``meta`` goes into `TraceMeta`. ``layers`` are
    the numbers of the MoE layers in the model, or only the first of them, where the log numbers them from 0;
    ``predicting`` are those among them that predict further tokens, which hooks often skip.
    """

    top_k: int | None = None
    tokens: int | None = None
    counted: Semantics | None = None
    first_step: int | None = None
    last_step: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] | int | None = None
    predicting: tuple[int, ...] = ()

    def numbered(self, own: Sequence[int], where: str) -> tuple[int, ...]:
        """Return the layers' numbers in the model; raise `TraceError` for others than the log's own.

        A log that numbers its layers as the model does may lack some of ``layers``, and one that numbers them from 0
        those of ``predicting``.
        """
        own, plain = tuple(own), tuple(range(len(own)))
        asked = self.layers
        if asked is None:
            return own
        if isinstance(asked, int):
            asked = tuple(asked + m for m in plain)
        if own == plain and len(own) == len(asked) - len(self.predicting):
            asked = tuple(m for m in asked if m not in self.predicting)
        if own != plain and list(asked) == sorted(set(asked)) and set(own) < set(asked):
            return own
        if len(asked) != len(own) or list(asked) != sorted(set(asked)):
            raise TraceError(f"{where}: got the numbers of {len(asked)} layers, expected {len(own)}, rising: {asked}")
        if own not in (plain, asked):
            raise TraceError(f"{where}: the log numbers its layers {own}, got other numbers for them: {asked}")
        return asked

    def absent(self, numbers: Sequence[int]) -> list[str]:
        """Return a note of the layers that the model has and the log has not."""
        missing = sorted(set(self.layers if isinstance(self.layers, tuple) else ()) - set(numbers))
        kind = " (multi-token prediction)" if missing and set(missing) <= set(self.predicting) else ""
        return [f"layers of the model that the log lacks: {spans(missing)}{kind}"] if missing else []


def spans(numbers: Sequence[int]) -> str:
    """Return rising numbers as they are given to --layers: 3-60, or 1,3,5."""
    first = [m for m in numbers if m - 1 not in numbers]
    last = [m for m in numbers if m + 1 not in numbers]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


class Imported(NamedTuple):
    """An imported trace: its file, its metadata, the number of steps, and the tokens of the first step."""

    path: Path
    meta: TraceMeta
    steps: int
    tokens: int


def doubts(trace: Trace) -> list[str]:
    """Return what is possible but unlikely in these loads, as notes.

    A token goes to as many experts in each layer, so the layers have equal totals where nothing is dropped. Where the
    experts have them instead, summed over layers, the two are swapped.
    """
    load_SLE, top_k, notes = trace.load_SLE, trace.meta.top_k, list[str]()
    total_SL, total_SE = load_SLE.sum(axis=2), load_SLE.sum(axis=1)
    if total_SE.any() and (total_SE == total_SE[:, :1]).all() and (total_SL != total_SL[:, :1]).any():
        notes.append(
            f"each of {trace.num_experts} experts has the same load, summed over {trace.num_layers} layers, and the "
            "layers have not: are layers and experts swapped?"
        )
    over_SL = total_SL > trace.tokens_SL * (top_k or trace.num_experts)
    if top_k is not None and over_SL.any():
        s, m = (int(i) for i in np.argwhere(over_SL)[0])
        notes.append(
            f"loads of step {trace.step_S[s]}, layer {trace.meta.layers[m].index} sum to {total_SL[s, m]}, more than "
            f"{trace.tokens_SL[s, m]} tokens x top-k {top_k}: padding is counted, or the tokens are too few"
        )
    return notes


def unused_experts(used_E: BoolArray) -> list[str]:
    """Return a note of the last experts if they never got a token: a log seldom says how many experts there are.

    Raise `TraceError` if no expert ever did.
    """
    if not used_E.any():
        raise TraceError("every count is zero: no expert got a token in any step; was the router counted?")
    experts, last = len(used_E), int(np.flatnonzero(used_E)[-1])
    if last == experts - 1:
        return []
    return [f"experts {last + 1} to {experts - 1} got no token in any layer and step: are there {experts} experts?"]


def write_log(log: Log, target: Path, options: Options | None = None) -> Imported:
    """Write the rows of a log as a trace, a chunk at a time.

    Steps must rise by one stride: a step that occurs twice, comes late or is missing is named, and nothing is filled
    in. Raise `TraceError` with file and line. If the files break off in the middle of a line, the log is written up to
    the last whole step, with a `CutShortWarning`, and marked as cut short.
    """
    options = options or Options()
    if len(log.layers) > MAX_LAYERS:  # each has a record in the metadata
        raise TraceError(f"{log.where}: {len(log.layers)} layers, expected at most {MAX_LAYERS}")
    numbers = options.numbered(log.layers, log.where)
    if log.empty and (options.layers is None or numbers != log.layers):
        raise TraceError(
            f"{log.where}: no token has experts in layers {spans(log.empty)}: if these are dense, say --layers "
            f"{spans(log.layers)}; else they were not captured"
        )
    log = replace(log, layers=numbers)
    log.notes.extend(options.absent(log.layers))
    if target.suffix != ".parquet":
        raise TraceError(f"{target}: expected a file name that ends in .parquet")
    if target.exists():
        raise TraceError(f"{target}: a trace is there already; choose another name or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.", suffix=".importing") as scratch:
        written = _Chunks(log, options, Path(scratch))
        for row in _in_order(_wanted(log, options), log):
            written.add(row)
        meta = written.finish()
        merge_shards(written.paths, target, meta)
    for cut in log.cut:
        warnings.warn(cut, CutShortWarning, stacklevel=2)
    return Imported(target, meta, written.steps, written.tokens)


def _wanted(log: Log, options: Options) -> Iterator[LogRow]:
    first, last = options.first_step, options.last_step
    begins: int | None = None
    read, wanted = 0, False
    for row in log.rows:
        begins, read = row.step if begins is None else begins, row.step
        if last is not None and row.step > last:
            break
        if first is None or row.step >= first:
            wanted = True
            yield row
        if row.step == last:
            break  # later rows may be damaged
    if begins is not None and not wanted:
        bounds = {"--first-step": first, "--last-step": last}
        asked = " ".join(f"{name} {step}" for name, step in bounds.items() if step is not None)
        raise TraceError(f"{log.where}: no step to import for {asked}: read were steps {begins} to {read}")


def _in_order(rows: Iterator[LogRow], log: Log) -> Iterator[LogRow]:
    """Yield the rows, each after checking that it follows the last one by the same stride."""
    last, stride = -1, 0  # none yet
    for row in rows:
        if not 0 <= row.step <= MAX_COUNT:
            got = str(row.step)[:80]
            raise TraceError(f"{row.where}: step is {got}, expected a whole number from 0 to {MAX_COUNT}")
        if last >= 0:
            rise = row.step - last
            if rise <= 0:
                kind = "twice" if rise == 0 else "out of order"
                raise TraceError(
                    f"{row.where}: step {row.step} {kind}: got it after step {last}, expected steps that rise; a run "
                    "that was restarted is imported in parts (--first-step, --last-step)"
                )
            stride = stride or rise
            if rise != stride:
                raise TraceError(
                    f"{row.where}: step {last + stride} is missing: got step {row.step} after {last}, the log has one "
                    f"step in {stride} (--last-step {last} imports what comes before)"
                    + (f"; {log.hint}" if log.hint else "")
                )
        last = row.step
        yield row
    if last < 0:
        raise TraceError(f"{log.where}: no step to import")


def counts_of_shares(share_LE: FloatArray, tokens: int, top_k: int, where: str) -> IntArray:
    """Return whole counts in the ratios of the shares; each layer sums to ``tokens`` x ``top_k``, by largest remainder.

    Shares of a layer sum to 1 or to 100, or to the number of experts if they are ratios to the mean: raise `TraceError`
    for any other sum (up to 1 % for rounding), and for an expert with more than all tokens.
    """
    sum_L1 = share_LE.sum(axis=1, keepdims=True)
    scales = (1.0, 100.0, float(share_LE.shape[1]))
    wrong_L = ~np.any([np.abs(sum_L1[:, 0] / scale - 1) <= SLACK for scale in scales], axis=0)
    if wrong_L.any():
        m = int(np.argmax(wrong_L))
        raise TraceError(
            f"{where}: the shares of row {m} of the layers sum to {sum_L1[m, 0]:g}, expected 1, 100 or {scales[2]:g} "
            "(ratios to the mean): experts are missing, or the values are something else"
        )
    exact_LE = share_LE / sum_L1 * (tokens * top_k)
    if (exact_LE > tokens * (1 + SLACK)).any():
        m, e = (int(i) for i in np.argwhere(exact_LE > tokens * (1 + SLACK))[0])
        raise TraceError(
            f"{where}: expert {e} in row {m} of the layers has a share of {share_LE[m, e] / sum_L1[m, 0]:.3g}, "
            f"expected at most 1 / top-k = {1 / top_k:.3g}: a token goes to an expert once"
        )
    load_LE = np.floor(exact_LE).astype(np.int64)
    rank_LE = np.argsort(np.argsort(load_LE - exact_LE, axis=1, kind="stable"), axis=1)
    return np.asarray(load_LE + (rank_LE < tokens * top_k - load_LE.sum(axis=1, keepdims=True)))


class _Chunks:
    """Rows collected into traces of consecutive steps, each a file of ``folder``."""

    def __init__(self, log: Log, options: Options, folder: Path) -> None:
        self._log, self._options, self._folder = log, options, folder
        if log.top_k is not None and options.top_k not in (None, log.top_k):
            raise TraceError(f"{log.where}: top-k is {log.top_k} in the file, got --top-k {options.top_k}")
        self.top_k = log.top_k if options.top_k is None else options.top_k
        if log.semantics == "derived" and (None in (self.top_k, options.tokens) or options.counted is not None):
            raise TraceError(
                f"{log.where}: counts are made from shares, expected --tokens and --top-k, and no --counted; got "
                f"--tokens {options.tokens}, --top-k {self.top_k}, --counted {options.counted}"
            )
        self._rows: list[LogRow] = []
        self._stride = log.row_steps
        self._given: set[str] | None = None
        self._doubts: list[str] = []
        self._used_E = np.zeros(log.experts, dtype=np.bool_)
        self.paths: list[Path] = []
        self.steps = self.tokens = 0
        self._meta()  # checked before a long log is read

    def add(self, row: LogRow) -> None:
        """Take in one row; when enough loads are held, they go to disk."""
        if row.share_LE is not None and self.top_k is not None and self._options.tokens is not None:
            row = row._replace(load_LE=counts_of_shares(row.share_LE, self._options.tokens, self.top_k, row.where))
        self._rows.append(row)
        cells = row.load_LE.size + sum(value.size for value in row.columns.values())
        if len(self._rows) * cells >= CELLS_IN_MEMORY and len(self._rows) > 1:
            self._flush()

    def finish(self) -> TraceMeta:
        """Write the remaining rows to disk, and return the metadata of the whole."""
        if self._rows:
            self._flush()
        notes = [*self._log.notes, *self._log.cut, *self._doubts, *unused_experts(self._used_E)]
        if self._stride > 1 and self._log.hint:
            notes.append(f"one step in {self._stride}: it was logged so, or sampled later; {self._log.hint}")
        if self._semantics == "derived":
            notes.append("counts are made from shares by largest remainder: they say nothing about a batch's noise")
        return self._meta(tuple(notes), complete=not self._log.cut)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if self.steps == 0 and len(rows) > 1:
            self._stride = rows[1].step - rows[0].step
        load_SLE = np.stack([row.load_LE for row in rows])
        self._check_given(rows)
        columns = {name: np.stack([row.columns[name] for row in rows]) for name in rows[0].columns}
        step_S = np.array([row.step for row in rows], dtype=np.int64)
        trace = Trace(self._meta(), step_S, self._tokens(rows, load_SLE), load_SLE, columns)
        check_trace(trace, where=self._log.where)
        self._doubts = self._doubts or doubts(trace)
        self._used_E |= load_SLE.any(axis=(0, 1))
        self.tokens = self.tokens or int(trace.tokens_SL[0].max())
        self.paths.append(write_trace(trace, self._folder / f"{len(self.paths):06d}.parquet"))
        self.steps += len(rows)

    def _check_given(self, rows: Sequence[LogRow]) -> None:
        """Raise `TraceError` at the first step that has what an earlier one has not, or the other way round."""
        for row in rows:
            given = {*row.columns} | ({"tokens"} if row.tokens_L is not None else set())
            self._given = given if self._given is None else self._given
            for what in sorted(given ^ self._given):
                raise TraceError(
                    f"{row.where}: step {row.step} has {'' if what in given else 'no '}{what}, the steps before have "
                    f"{'none' if what in given else 'them'}; expected them in all steps or in none"
                )

    def _tokens(self, rows: list[LogRow], load_SLE: IntArray) -> IntArray:
        """Return tokens [S, L]: those of the log, else the number that was given, else what the loads imply."""
        given = self._options.tokens
        if rows[0].tokens_L is not None:
            if given is not None:
                raise TraceError(f"{self._log.where}: tokens are in the log, but --tokens {given} was given too")
            return np.stack([row.tokens_L for row in rows if row.tokens_L is not None])
        if given is not None:
            return np.full(load_SLE.shape[:2], given, dtype=np.int64)
        if self._semantics == "post_drop":
            raise TraceError(
                f"{self._log.where}: tokens do not follow from loads after drops, expected --tokens, the number that "
                "enters a layer in a step"
            )
        return self._from_loads(rows, load_SLE)

    def _from_loads(self, rows: list[LogRow], load_SLE: IntArray) -> IntArray:
        total_SL: IntArray = load_SLE.sum(axis=2)
        if self.top_k is None:
            return total_SL
        uneven_S = np.flatnonzero((total_SL != total_SL[:, :1]).any(axis=1) | (total_SL[:, 0] % self.top_k != 0))
        if uneven_S.size:
            s = int(uneven_S[0])
            low, high = int(total_SL[s].argmin()), int(total_SL[s].argmax())
            got = f"to {total_SL[s, low]} in layer {self._log.layers[low]}"
            got += f" and to {total_SL[s, high]} in layer {self._log.layers[high]}" if low != high else ""
            raise TraceError(
                f"{rows[s].where}: step {rows[s].step}: loads sum {got}, expected the same multiple of top-k = "
                f"{self.top_k} in every layer: tokens were dropped or padded (say --counted post_drop --tokens N), or "
                "counted twice"
            )
        return total_SL // self.top_k

    @property
    def _semantics(self) -> Semantics:
        counted = self._options.counted or self._log.semantics
        # without top-k, drops are unknown, and nothing can be checked against the tokens
        return counted if self.top_k is not None or counted == "post_drop" else "unknown"

    def _meta(self, notes: tuple[str, ...] = (), complete: bool = True) -> TraceMeta:
        layers = [{"index": i, "experts": self._log.experts, "top_k": self.top_k} for i in self._log.layers]
        given = {"recipe": "own", **self._options.meta}
        payload = {
            **given,
            "layers": layers,
            "experts": self._log.experts,
            "stride": self._stride,
            "row_steps": given.get("row_steps", self._log.row_steps),
            "count_semantics": self._semantics,
            "notes": (*given.get("notes", ()), *notes),
            "complete": complete,
        }
        return checked_meta(payload, self._log.where)
