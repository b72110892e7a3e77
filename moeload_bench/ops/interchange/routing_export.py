"""The routing of recorded steps to take away: which experts every token of a layer goes to.

`recorded`: the recorder kept it, so counts, co-activation, bursts and the traffic between ranks are real.
`counts-only`: made up from the counts of the trace, which it has exactly; which tokens share experts, and which rank
they are on, is not real.

Axis letters: L MoE layers, T tokens of a step, K choices per token, E experts, R source ranks.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import Array, IntArray
from moeload_bench.errors import TraceError, counted, first_ten, short
from moeload_bench.ops.interchange.dealing import INDEPENDENT, Bursts, bursts_shown, check_counts, deal, scaled_counts
from moeload_bench.ops.interchange.forecast_files import made_by
from moeload_bench.recording.parts import unfinished_trace
from moeload_bench.traces.lookup import Place, find_run, routing_folders
from moeload_bench.traces.routing import StepRouting, read_routing, routing_files
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace, layer_names

Mark = Literal["recorded", "counts-only"]
MAX_PAIRS = 2**29
"""Routed pairs of one export: 2 GiB of int32."""
CITE = "moeload-bench contributors: MoE expert load traces (moeload-bench, CITATION.cff)"
MEANING = {
    "recorded": "counts, co-activation, bursts and the tokens between ranks are those of the training",
    "counts-only": "each expert's count is that of the training; which tokens share experts, their order, and which "
    "rank they are on, is made up",
}
"""What a mark says of a file."""


class RoutedLayer(NamedTuple):
    """One layer of a step. ``topk_ids_TK`` int32; ``weights_TK`` float16, None where the recorder kept none.

    Source rank r has the tokens up to ``rank_end_R``[r], from ``rank_end_R``[r - 1] on.
    """

    step: int
    layer: str
    mark: Mark
    topk_ids_TK: Array
    weights_TK: Array | None
    rank_end_R: IntArray


@dataclass(frozen=True, eq=False)
class Order:
    """One layer that is to be routed: ``load_E`` of ``tokens`` tokens, of which ``recorded_tokens`` were recorded."""

    step: int
    layer: str
    place: int
    recorded_tokens: int
    tokens: int
    top_k: int
    load_E: IntArray
    bursts: Bursts
    rank_end_R: IntArray
    kept: StepRouting | None

    @property
    def mark(self) -> Mark:
        return "counts-only" if self.kept is None else "recorded"

    @property
    def weighted(self) -> bool:
        """Return whether there are weights."""
        return self.kept is not None and self.kept.weights_LTK is not None

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a reader of the file should know of this layer, such as its mark and its tokens."""
        return {
            "step": self.step,
            "layer": self.layer,
            "mark": self.mark,
            "tokens": self.tokens,
            "recorded_tokens": self.recorded_tokens,
            "top_k": self.top_k,
            "busiest_over_mean": round(float(self.load_E.max() / self.load_E.mean()), 4),
            "burst_tokens": None if self.kept else self.bursts.tokens,
            "burst_spread": None if self.kept else round(self.bursts.spread, 3),
        }

    def routed(self, seed: int) -> RoutedLayer:
        """Return the experts of each token: those that were kept, else dealt by the seed."""
        if self.kept is None:
            rng = np.random.default_rng([seed, self.step, self.place])
            ids_TK, weights_TK = deal(self.load_E, self.tokens, self.bursts, rng), None
        else:
            ids_TK = self.kept.topk_ids_LTK[self.place].astype(np.int32)
            weights_TK = None if self.kept.weights_LTK is None else self.kept.weights_LTK[self.place]
        return RoutedLayer(self.step, self.layer, self.mark, ids_TK, weights_TK, self.rank_end_R)


@dataclass(frozen=True, eq=False)
class RoutingExport:
    """Layers to be routed, step by step, and ``about``: what they are made from. Iterating makes them one by one."""

    orders: tuple[Order, ...]
    about: dict[str, Any]
    seed: int

    def __iter__(self) -> Iterator[RoutedLayer]:
        return (order.routed(self.seed) for order in self.orders)


@dataclass(frozen=True, eq=False)
class RoutedStep:
    """The routing of one step, by layer; ``mark`` says whether it was recorded or made up from counts."""

    step: int
    mark: Mark
    layers: tuple[RoutedLayer, ...]
    about: dict[str, Any]


def routing(
    trace: Trace | str | os.PathLike[str], step: int, *, layers: Sequence[int | str] | None = None,
    tokens: int | None = None, ranks: int | None = None, seed: int = 0,
) -> RoutedStep:  # fmt: skip
    """Return which experts each token of a step goes to: as recorded where that was kept, else made up from the counts.

    ``layers``: by their names in the trace, all by default. ``tokens``: at most four times the recorded ones; another
    number than the recorded one is always made up. ``ranks``: source ranks that the tokens are split over, in their
    order. Raise `TraceError` for a step, a layer or counts that cannot be routed, and what `find_run` raises.
    """
    export = plan_routing(trace, step, layers=layers, tokens=tokens, ranks=ranks, seed=seed)
    return RoutedStep(step, export.orders[0].mark, tuple(export), export.about)


def plan_routing(
    run: Trace | str | os.PathLike[str], step: int | str, *, layers: Sequence[int | str] | None = None,
    tokens: int | None = None, ranks: int | None = None, seed: int = 0,
) -> RoutingExport:  # fmt: skip
    """Return what is to be routed; nothing is dealt yet. Arguments and errors as in `routing`.

    Text names steps and layers as on the command line: "1000" or "1000-1010", "0,3,5-8".
    """
    trace, beside = _opened(run)
    places = _places(trace, layers)
    orders: list[Order] = []
    pairs = 0
    for row in _rows(trace, step):
        kept = kept_routing(trace, row, beside)
        layers_of_step = [_order(trace, row, place, tokens, ranks, kept) for place in places]
        orders += layers_of_step
        pairs += sum(order.tokens * order.top_k for order in layers_of_step)
        if pairs > MAX_PAIRS:
            raise TraceError(
                f"more than {MAX_PAIRS:,} routed pairs, expected fewer steps, layers or tokens in one file"
            )
    about = {
        "made_by": made_by(),
        "run": trace.id,
        "data_sha256": data_sha256(trace),
        "experts": trace.num_experts,
        "ranks": len(orders[0].rank_end_R),
        "seed": seed,
        "marks": {mark: MEANING[mark] for mark in dict.fromkeys(order.mark for order in orders)},
        "layers": [order.facts for order in orders],
        "licence": trace.meta.licence,
        "cite": CITE,
    }
    return RoutingExport(tuple(orders), about, seed)


def kept_routing(trace: Trace, row: int, beside: Path | None = None) -> StepRouting | None:
    """Return the recorded routing of a step, its ranks one after the other; None where it was not kept.

    It lies ``beside`` the trace or, by its id, in the folders of routing; there it counts only if it is that of this
    very recording. Raise `TraceError` if what lies beside the trace gives other counts than the trace.
    """
    step = int(trace.step_S[row])
    for folder in (beside, *routing_folders(trace.id)):
        files = [] if folder is None else [path for (kept, _), path in routing_files(folder).items() if kept == step]
        if not files:
            continue
        kept = _joined(tuple(files))
        if _gives(kept, trace, row):
            return kept
        if folder == beside:
            raise TraceError(f"{files[0]}: its tokens give other counts than step {step} of {trace.id}: another run's?")
    return None


def _opened(run: Trace | str | os.PathLike[str]) -> tuple[Trace, Path | None]:
    """Return a run's trace, and where its routing lies if that is beside it."""
    if isinstance(run, Trace):
        return run, None
    place: Place = find_run(run)
    return unfinished_trace(place.parts) if place.unfinished else read_trace(place.trace), place.routing


def _rows(trace: Trace, step: int | str) -> range:
    """Return the rows of a step, or of the steps from "A" to "B" of "A-B"."""
    match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", str(step))
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    begin, end = np.searchsorted(trace.step_S, [first, last + 1]).tolist()
    ends = {int(end_step) for end_step in trace.step_S[[begin, end - 1]]} if begin < end else set()
    if not {first, last} <= ends:
        every = "" if trace.meta.stride == 1 else f", one in {trace.meta.stride}"
        raise TraceError(
            f"{trace.id}: got step {short(step)}, expected one from {trace.first_step} to {trace.step_S[-1]}{every}, "
            "or the first and the last of several as 1000-1010"
        )
    return range(begin, end)


def _places(trace: Trace, layers: Sequence[int | str] | None) -> list[int]:
    """Return the places of layers by their names; a text is names and ranges as "0,3,5-8"."""
    names = layer_names(trace)
    if layers is None:
        return list(range(len(names)))
    words = layers.split(",") if isinstance(layers, str) else [str(layer) for layer in layers]
    places: list[int] = []
    for word in map(str.strip, words):
        first, dash, last = (word, "", "") if word in names else word.partition("-")
        ends = [names.index(name) for name in (first, last if dash else first) if name in names]
        if len(ends) != 2 or ends[0] > ends[1]:
            there = first_ten(names)
            raise TraceError(
                f"{trace.id}: got layer {short(word)}, expected names of layers as 0,3,5-8; there is: {there}"
            )
        places += range(ends[0], ends[1] + 1)
    if not places:
        raise TraceError(f"{trace.id}: got no layer, expected at least one of {first_ten(names)}")
    return list(dict.fromkeys(places))


def _order(
    trace: Trace, row: int, place: int, tokens: int | None, ranks: int | None, kept: StepRouting | None
) -> Order:
    meta, name = trace.meta, layer_names(trace)[place]
    step, recorded = int(trace.step_S[row]), int(trace.tokens_SL[row, place])
    where = f"{trace.id}: step {step}, layer {name}"
    top_k, load_E = meta.layers[place].top_k, np.asarray(trace.load_SLE[row : row + 1][0, place])
    if top_k is None:
        raise TraceError(f"{where}: top-k is not known or varies, expected one number of experts for each token")
    if not recorded:
        raise TraceError(f"{where}: no token entered it, expected counts to route")
    check_counts(load_E, recorded, top_k, where)
    wanted = recorded if tokens is None else tokens
    if kept is not None and wanted != recorded:
        kept = None
    bursts = INDEPENDENT
    if "load_half" in trace.columns:
        half_E = np.asarray(trace.columns["load_half"][row : row + 1][0, place])
        bursts = bursts_shown(load_E, half_E, recorded, meta.sequence_length or 1)
    scaled_E = load_E if wanted == recorded else scaled_counts(load_E, recorded, wanted)
    ends = kept.end_M if kept is not None and ranks is None else _rank_ends(wanted, 1 if ranks is None else ranks)
    return Order(step, name, place, recorded, wanted, top_k, scaled_E, bursts, ends, kept)


def _rank_ends(tokens: int, ranks: int) -> IntArray:
    """Return where each rank's tokens end; raise `TraceError` for more ranks than tokens."""
    if not 1 <= ranks <= tokens:
        raise TraceError(f"--ranks is {ranks}, expected 1 to the {counted(tokens, 'token')} of the step")
    return np.arange(1, ranks + 1, dtype=np.int64) * tokens // ranks


@functools.lru_cache(maxsize=2)
def _joined(files: tuple[Path, ...]) -> StepRouting:
    """Return a step's ranks one after the other; ``end_M`` are the ends of ranks then."""
    parts = [read_routing(path) for path in files]
    first = parts[0]
    held = {(part.step, tuple(part.layer_L.tolist()), part.topk_ids_LTK.shape[-1]) for part in parts}
    if len(held) > 1:
        raise TraceError(f"{files[0].parent}: ranks of step {first.step} hold different steps, layers or top-k")
    weights = [part.weights_LTK for part in parts if part.weights_LTK is not None]
    return first._replace(
        end_M=np.cumsum([part.topk_ids_LTK.shape[1] for part in parts]),
        topk_ids_LTK=np.concatenate([part.topk_ids_LTK for part in parts], axis=1),
        weights_LTK=np.concatenate(weights, axis=1) if len(weights) == len(parts) else None,
    )


def _gives(kept: StepRouting, trace: Trace, row: int) -> bool:
    """Return whether the kept experts are those that the trace counts, layer by layer, each once for a token."""
    load_LE = trace.load_SLE[row : row + 1][0]
    E, layers = trace.num_experts, [layer.index for layer in trace.meta.layers]
    choices = {layer.top_k or kept.topk_ids_LTK.shape[-1] for layer in trace.meta.layers}
    if (kept.step, kept.layer_L.tolist(), {kept.topk_ids_LTK.shape[-1]}) != (trace.step_S[row], layers, choices):
        return False
    if kept.topk_ids_LTK.max() >= E:
        return False
    twice = (np.diff(np.sort(kept.topk_ids_LTK, axis=-1), axis=-1) == 0).any()
    return not twice and all(
        np.array_equal(np.bincount(ids_TK.ravel(), minlength=E), load_E)
        for ids_TK, load_E in zip(kept.topk_ids_LTK, load_LE, strict=True)
    )
