"""Trace, the loads of one training run, and its invariants (format versions 1 to 1.4).

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.errors import TraceError, counted, printable, short
from moeload_bench.forecaster import StepBlock, step_block
from moeload_bench.traces.meta import COLUMNS, checked_meta
from moeload_bench.traces.meta import OPTIONAL_COLUMNS as OPTIONAL_COLUMNS  # here too, with the records: for recorders
from moeload_bench.traces.meta import BalancingMeta as BalancingMeta
from moeload_bench.traces.meta import LayerMeta as LayerMeta
from moeload_bench.traces.meta import SourceMeta as SourceMeta
from moeload_bench.traces.meta import TraceMeta as TraceMeta
from moeload_bench.traces.streaming import of_layers, parts

MAX_COUNT = 1 << 50
"""Steps with more tokens or loads are refused, so that sums over thousands of experts cannot overflow."""

MAX_LAYERS = 1 << 16
"""More layers are refused: each has an entry in the metadata."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One training run.

    ``step_S`` int64, rising by ``meta.stride``; ``tokens_SL`` int64; ``load_SLE`` int64; ``columns`` holds the
    optional columns of the format by name, each with the steps first. Arrays are read-only. A large trace's columns of
    [S, L, E] stay in its file: rows of them are arrays (`StoredRows`).
    """

    meta: TraceMeta
    step_S: IntArray
    tokens_SL: IntArray
    load_SLE: IntArray
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for array in (self.step_S, self.tokens_SL, self.load_SLE, *self.columns.values()):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        check_shapes(self)

    def __repr__(self) -> str:
        rows = f"{self.steps:,} rows" + ("" if self.meta.stride == 1 else f", one per {self.meta.stride} steps")
        size = f"{counted(self.num_layers, 'MoE layer')} of {counted(self.num_experts, 'expert')}"
        columns = ", ".join(self.columns) or "none"
        return f"Trace {printable(self.id)}: {rows}, {size}; optional columns: {printable(columns)}"

    @property
    def id(self) -> str:
        """Return the trace's id, `RECIPE/SPLIT/seedN`."""
        return f"{self.meta.recipe}/{self.meta.split}/seed{self.meta.run}"

    @property
    def steps(self) -> int:
        return int(self.load_SLE.shape[0])

    @property
    def num_layers(self) -> int:
        return int(self.load_SLE.shape[1])

    @property
    def num_experts(self) -> int:
        return int(self.load_SLE.shape[2])

    @property
    def first_step(self) -> int:
        return int(self.step_S[0])

    def rows(self, start: int, stop: int) -> StepBlock:
        """Return rows start .. stop-1 as views."""
        return step_block(self, start, stop)

    def of_layers(self, index_N: Sequence[int]) -> Trace:
        """Return the run with some of its layers only as a trace of its own: its hash is another."""
        meta = self.meta.model_copy(update={"layers": tuple(self.meta.layers[i] for i in index_N)})
        columns = {
            name: of_layers(column, index_N) if "L" in COLUMNS[name].axes else column
            for name, column in self.columns.items()
        }
        tokens_SN, load_SNE = (of_layers(array, index_N) for array in (self.tokens_SL, self.load_SLE))
        return Trace(meta, self.step_S, tokens_SN, load_SNE, columns)

    def share_SLE(self) -> FloatArray:
        """Return load divided by the layer's total in that step; a layer-step without load is all NaN."""
        return shares(self.load_SLE[:])

    def in_parts(self) -> Iterator[Trace]:
        """Return the trace in pieces of consecutive steps, each in memory, one after the other."""
        return map(self.cut, parts(self.load_SLE.shape))

    def cut(self, rows: slice) -> Trace:
        """Return consecutive steps as a trace of their own, in memory."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Trace(self.meta, self.step_S[rows], self.tokens_SL[rows], self.load_SLE[rows], columns)

    @classmethod
    def from_arrays(
        cls,
        load_SLE: Any,
        tokens: Any = None,
        top_k: int | None = None,
        *,
        step_S: Any = None,
        recipe: str = "own",
        split: str = "test",
        run: int = 0,
        columns: Mapping[str, Any] | None = None,
        **meta: Any,
    ) -> Trace:
        """Return a trace made from your own counts.

        ``load_SLE`` [S, L, E] whole numbers; ``tokens`` a number, [S] or [S, L] (if it is left out and ``top_k`` is
        given, derived from the loads); ``top_k`` None if it varies or is unknown; ``step_S`` [S], else 0 .. S-1.
        Further keywords go into `TraceMeta`. Raise `TraceError` for any other input, and for numbers that break an
        invariant.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1):
            hint = ": the third argument is top_k, steps are step_S=..." if np.ndim(top_k) else ""
            raise TraceError(f"top_k is {short(top_k)}, expected a whole number from 1, or None where it varies{hint}")
        top_k = None if top_k is None else int(top_k)
        load = _whole_numbers("load", load_SLE, ndim=3)
        S, L, E = load.shape
        if not 1 <= L <= MAX_LAYERS:
            raise TraceError(f"load has {L} layers (its second axis), expected 1 to {MAX_LAYERS}")
        steps = np.arange(S, dtype=np.int64) if step_S is None else _whole_numbers("step", step_S, ndim=1)
        tokens_SL = _tokens(tokens, load, top_k)
        meta.setdefault("stride", int(steps[1] - steps[0]) if len(steps) > 1 and steps[1] > steps[0] else 1)
        meta.setdefault("count_semantics", "pre_drop" if top_k is not None else "unknown")
        if "layers" not in meta:
            meta["layers"] = [{"index": i, "experts": E, "top_k": top_k} for i in range(L)]
        fields = {"recipe": recipe, "split": split, "run": run, "experts": E, **meta}
        metadata = checked_meta(fields, "trace")
        optional = {name: _cast(name, value) for name, value in (columns or {}).items()}
        trace = cls(metadata, steps, tokens_SL, load, optional)
        check_trace(trace, where=trace.id)
        return trace


def shares(load_SLE: IntArray) -> FloatArray:
    """Return counts [..., E] as shares that sum to 1 along E; a layer-step without load becomes all NaN."""
    # takes a fifth of the time of `sum` along a short axis; MAX_COUNT rules out an overflow
    total = np.einsum("...e->...", load_SLE, dtype=np.int64)[..., None]
    return np.asarray(load_SLE / np.where(total > 0, total, np.nan), dtype=np.float64)


def column_shape(name: str, steps: int, layers: int, experts: int) -> tuple[int, ...]:
    """Return the shape that a column of the format has."""
    return (steps, *({"L": layers, "E": experts}[axis] for axis in COLUMNS[name].axes))


def check_shapes(trace: Trace, where: str = "trace") -> None:
    """Raise `TraceError` unless all arrays have the shapes and dtypes that metadata and format say."""
    meta = trace.meta
    if trace.load_SLE.ndim != 3:
        raise TraceError(f"{where}: load has shape {trace.load_SLE.shape}, expected [steps, layers, experts]")
    S, L, E = trace.load_SLE.shape
    if len(meta.layers) != L:
        raise TraceError(f"{where}: load has {L} layers, the metadata names {len(meta.layers)}")
    for layer in meta.layers:
        if layer.experts != E or meta.experts != E:
            raise TraceError(
                f"{where}: layer {layer.index} has {layer.experts} experts and the metadata says {meta.experts}, "
                f"load has {E}; unequal numbers of experts and expert-choice routing are not in the format"
            )
    arrays = {"step": trace.step_S, "tokens": trace.tokens_SL, "load": trace.load_SLE, **trace.columns}
    for name, array in arrays.items():
        if name not in COLUMNS:
            raise TraceError(f"{where}: unknown column {name!r}; there is: {', '.join(COLUMNS)}")
        expected = column_shape(name, S, L, E)
        if array.shape != expected:
            raise TraceError(f"{where}: column {name} has shape {array.shape}, expected {expected}")
        if array.dtype != np.dtype(COLUMNS[name].dtype):
            raise TraceError(f"{where}: column {name} has dtype {array.dtype}, expected {COLUMNS[name].dtype}")


def check_trace(trace: Trace, where: str = "trace") -> None:
    """Raise `TraceError` at the first broken invariant of the format; the message names step and layer."""
    check_steps(trace, where)
    for part in trace.in_parts():
        check_counts(part, where)


def check_load(trace: Trace, where: str) -> None:
    """Raise `TraceError` for a trace in which no expert ever got a token."""
    if not any(trace.load_SLE[part].any() for part in parts(trace.load_SLE.shape)):
        raise TraceError(f"{where}: every count is zero: no expert got a token in any step; was the router counted?")


def check_steps(trace: Trace, where: str) -> None:
    """Raise `TraceError` for shapes, dtypes or step numbers that are not those of the format."""
    check_shapes(trace, where)
    if trace.steps == 0:
        raise TraceError(f"{where}: the trace has no steps")
    if trace.num_layers == 0:
        raise TraceError(f"{where}: the trace has no layers")
    if trace.step_S[0] < 0:
        raise TraceError(f"{where}: the first step is {trace.step_S[0]}, expected at least 0")
    rise = np.diff(trace.step_S)
    wrong = np.flatnonzero(rise != trace.meta.stride)
    if wrong.size:
        i = int(wrong[0])
        kind = "repeat" if rise[i] == 0 else "gap" if rise[i] > 0 else "fall"
        raise TraceError(
            f"{where}: {kind} after step {trace.step_S[i]}: got step {trace.step_S[i + 1]}, "
            f"expected {trace.step_S[i] + trace.meta.stride}"
        )


def check_counts(trace: Trace, where: str) -> None:
    """Raise `TraceError` for counts that cannot be those of a training step."""
    load, tokens = trace.load_SLE, trace.tokens_SL
    _refuse(trace, _no_count(load), where, lambda s, m, e: f"expert {e} has load {load[s, m, e]}, {_A_COUNT}")
    _refuse(trace, _no_count(tokens), where, lambda s, m: f"tokens are {tokens[s, m]}, {_A_COUNT}")
    k_L = np.array([layer.top_k or -1 for layer in trace.meta.layers], dtype=np.int64)
    if trace.meta.count_semantics == "pre_drop":
        total_SL = np.einsum("sle->sl", load)  # takes a quarter of the time of `sum` along a short axis
        bad = (total_SL != tokens * k_L) & (k_L > 0)
        _refuse(
            trace, bad, where,
            lambda s, m: f"loads sum to {total_SL[s, m]}, expected tokens x top_k = {tokens[s, m] * k_L[m]}",
        )  # fmt: skip
        most_SL1 = np.where(k_L > 0, tokens, MAX_COUNT)[..., None]  # a token's experts are distinct
        _refuse(
            trace, load > most_SL1, where,
            lambda s, m, e: f"expert {e} has load {load[s, m, e]}, expected at most the {tokens[s, m]} tokens",
        )  # fmt: skip
    for name in ("load_half", "dropped", "micro_max"):
        if name in trace.columns:
            part = trace.columns[name]
            _refuse(
                trace, part.view(np.uint64) > load.view(np.uint64), where,  # as `_no_count`: no load is negative
                lambda s, m, e, name=name, part=part: (
                    f"expert {e} has {name} {part[s, m, e]}, expected between 0 and its load {load[s, m, e]}"
                ),
            )  # fmt: skip
    check_fractions(trace, where)


def check_fractions(trace: Trace, where: str) -> None:
    """Raise `TraceError` unless 0 <= expert_fraction <= expert_fraction_max <= 1 where both were measured."""
    mean_S, most_S = (trace.columns.get(name) for name in ("expert_fraction", "expert_fraction_max"))
    if mean_S is None and most_S is None:
        return
    if mean_S is None or most_S is None:
        raise TraceError(f"{where}: expert_fraction and expert_fraction_max go together: got one of them")
    good_S = (mean_S >= 0) & (mean_S <= most_S) & (most_S <= 1)
    wrong = np.flatnonzero(~good_S & ~(np.isnan(mean_S) & np.isnan(most_S)))
    if wrong.size:
        row = int(wrong[0])
        raise TraceError(
            f"{where}: step {trace.step_S[row]}: expert_fraction is {mean_S[row]} and expert_fraction_max "
            f"{most_S[row]}, expected 0 <= expert_fraction <= expert_fraction_max <= 1, or NaN in both"
        )


_A_COUNT = f"expected 0 to {MAX_COUNT:,}"


def _no_count(array: IntArray) -> BoolArray:
    """Return where a number is below 0 or above MAX_COUNT: read as unsigned, negative numbers are the largest."""
    return np.asarray(array.view(np.uint64) > MAX_COUNT)


def _refuse(trace: Trace, bad: Array, where: str, describe: Any) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise TraceError(
            f"{where}: step {trace.step_S[index[0]]}, layer {trace.meta.layers[index[1]].index}: {describe(*index)}"
        )


def _whole_numbers(name: str, value: Any, ndim: int, dtype: str = "int64") -> Array:
    """Return the numbers as ``dtype``, unchanged, or raise `TraceError`."""
    array = _array(name, value)
    if array.ndim != ndim:
        raise TraceError(f"{name} has shape {array.shape}, expected {ndim} axes")
    if array.dtype.kind not in "iuf":
        raise TraceError(f"{name} must hold whole numbers, got dtype {array.dtype}")
    limits = np.iinfo(dtype)
    if array.dtype.kind == "f":  # the largest int64 is not a float: the next float is too large
        whole = (array >= limits.min) & (array < float(limits.max) + 1) & (array == np.floor(array))
    else:
        whole = (array >= limits.min) & (array <= limits.max)
    if not whole.all():
        index = tuple(int(i) for i in np.argwhere(~whole)[0])
        raise TraceError(f"{name} must hold whole numbers of {dtype}, got {array[index]} at {list(index)}")
    return np.array(array, dtype=dtype)


def _array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TraceError(f"{name} cannot be read as an array of numbers: {' '.join(str(error).split())}") from None


def _tokens(tokens: Any, load: IntArray, top_k: int | None) -> IntArray:
    S, L, _ = load.shape
    if tokens is None:
        total = load.sum(axis=2)
        return np.ascontiguousarray(total // top_k) if top_k else total
    array = _array("tokens", tokens)
    if array.shape not in ((), (S,), (S, L)):
        raise TraceError(f"tokens have shape {array.shape}, expected a number, {(S,)} or {(S, L)}")
    return _whole_numbers("tokens", np.broadcast_to(array[:, None] if array.ndim == 1 else array, (S, L)), ndim=2)


def _cast(name: str, value: Any) -> Array:
    if name not in OPTIONAL_COLUMNS:
        raise TraceError(f"unknown column {name!r}; there is: {', '.join(OPTIONAL_COLUMNS)}")
    spec = OPTIONAL_COLUMNS[name]
    if spec.dtype.startswith("int"):
        return _whole_numbers(f"column {name}", value, 1 + len(spec.axes), spec.dtype)
    try:
        with np.errstate(over="ignore"):
            return np.array(value, dtype=spec.dtype)
    except (ValueError, TypeError) as error:
        raise TraceError(f"column {name} cannot be read as {spec.dtype}: {' '.join(str(error).split())}") from None


def layer_names(run: Trace | TraceMeta) -> list[str]:
    """Return the layers' indices in their stack; add stack and kind if indices alone do not tell layers apart."""
    layers = run.meta.layers if isinstance(run, Trace) else run.layers
    short = [str(layer.index) for layer in layers]
    return short if len(set(short)) == len(short) else [f"{layer.stack}-{layer.kind}-{layer.index}" for layer in layers]
