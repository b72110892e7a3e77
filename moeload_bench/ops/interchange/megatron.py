"""Megatron-LM: tokens per expert, and the routing trace.

Read from NVIDIA/Megatron-LM at d98e8a64 (core 0.20, August 2026): `megatron/training/activation_logging.py` and
`megatron/core/transformer/moe/router_trace.py`.

*Tokens per expert* (`--save-tokens-per-expert-interval N`): `tokens_per_expert/rank{r}.jsonl`, appended every N
iterations, one line per layer: `{"iter": 100, "block": "decoder", "layer": 3, "tpe": [[128, 64], [96, 80]]}`, a list
for each micro-batch with the tokens that each of the **rank's own** experts got. They are counted after the dispatch:
after drops, and with the padding of grouped kernels if there is any. `layer` is the number **inside the pipeline
stage**.

*Routing trace* (`--moe-routing-trace-path DIR`): `router_trace_rank{r}.jsonl`, one line per micro-batch and layer:
`{"step": 0, "stage": "pre_dispatch", "block": "decoder", "layer": 3, "rank": 0, "num_tokens": 128, "topk": 2,
"top_indices": [[12, 45], ...]}`, experts numbered over all ranks. The tracer writes nothing for a micro-batch in which
tokens were dropped, so a layer or rank with fewer lines than another is refused.

Ranks are numbered as Megatron does by default (tp-cp-ep-dp-pp, the first innermost).

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, counted
from moeload_bench.ops.interchange.logfiles import (
    JsonLines,
    Paths,
    Progress,
    TextLine,
    field_of,
    files_by_number,
    find_files,
    whole_counts,
    whole_number,
)
from moeload_bench.ops.interchange.rank_logs import RankStep, added, rank_of, same_on_all, side_by_side
from moeload_bench.ops.interchange.rows import Log, LogRow, Report

TRIED = 3
"""Iterations whose totals have to agree before ranks are taken for stages or copies; one may agree by chance."""
OTHERS = "multi-token-prediction layers of the log are left out"
_TOKENS = ("iter", "block", "layer", "tpe")
_TRACE = ("step", "block", "layer", "num_tokens", "topk", "top_indices")


@dataclass(frozen=True)
class RankLayout:
    """How the ranks were laid out; ``stage_layers``: transformer layers of one pipeline stage, dense ones included.

    ``tensor`` is the tensor-parallel size *of the experts*: ranks that hold parts of the same experts. ``expert`` is 1
    in a routing trace, whose experts are numbered over all ranks.
    """

    world: int
    expert: int
    pipeline: int
    stage_layers: int | None
    tensor: int

    def words(self) -> str:
        """Say what the ranks are taken for."""
        if self.world == 1:
            return "1 rank"
        copies = self.world // (self.pipeline * self.expert * self.tensor)
        sizes = [f"{name} {size}" for name, size in (("EP", self.expert), ("expert TP", self.tensor)) if size > 1]
        parts = [counted(self.pipeline, "stage"), *sizes, "1 copy" if copies == 1 else f"{copies} copies"]
        return f"{self.world} ranks = {' x '.join(parts)}"

    def stage(self, rank: int) -> int:
        """Return the pipeline stage of a rank."""
        return rank // (self.world // self.pipeline)

    def holders(self, stage: int, part: int) -> list[int]:
        """Return the ranks of a stage that hold the same part of the experts, the first of each tensor group."""
        size, group = self.world // self.pipeline, self.expert * self.tensor
        return list(range(stage * size + part * self.tensor, (stage + 1) * size, group))


def layout_of(
    world: int, where: Path, expert: int | None, pipeline: int | None, stage_layers: int | None, tensor: int = 1
) -> RankLayout:
    """Return the layout that was stated; raise `TraceError` if ``world`` ranks do not fit it, or leave a size open.

    The files do not say it: ranks of two stages look like copies of one that saw other tokens.
    """
    open_sizes = [f"--{name}-parallel" for name, size in (("expert", expert), ("pipeline", pipeline)) if size is None]
    if world > 1 and open_sizes:
        raise TraceError(
            f"{where}: {world} ranks, and the files do not say which of them hold other experts or layers: expected "
            f"{' and '.join(open_sizes)} (1 where there is none)"
        )
    layout = RankLayout(world, expert or 1, pipeline or 1, stage_layers, tensor)
    block = layout.expert * layout.pipeline * tensor
    if world % block:
        raise TraceError(
            f"{where}: got {world} ranks, expected a multiple of {layout.pipeline} pipeline x {layout.expert} expert x "
            f"{tensor} tensor = {block}: is a rank's file missing, or another layout?"
        )
    if layout.pipeline > 1 and stage_layers is None:
        raise TraceError(
            f"{where}: layers are numbered inside their pipeline stage, expected --stage-layers, the transformer "
            "layers of one stage (dense ones included)"
        )
    return layout


_Add = Callable[[RankStep, dict[str, Any], str], None]
"""Adds a line's counts to its layer's."""


def read_megatron_tokens(
    paths: Paths,
    *,
    expert_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    stage_layers: int | None = None,
    expert_tensor_parallel: int = 1,
    report: Report | None = None,
) -> Log:
    """Return the log in the `rank*.jsonl` files of a folder or glob; experts are merged over the ranks.

    Several ranks need both sizes, and their loads must not show that another layout is the true one.
    """
    ranks = files_by_number(find_files(paths, "rank*.jsonl"), r"rank(\d+)\.jsonl$", "rank")
    layout = layout_of(
        len(ranks), ranks[0].parent, expert_parallel, pipeline_parallel, stage_layers, expert_tensor_parallel
    )
    return _log(ranks, layout, report, "iter", _TOKENS, _add_tokens, None)


def read_megatron_routing(
    paths: Paths,
    experts: int,
    *,
    pipeline_parallel: int | None = None,
    stage_layers: int | None = None,
    report: Report | None = None,
) -> Log:
    """Return the log in the `router_trace_rank*.jsonl` files; ``experts`` per layer: the files do not say it."""
    ranks = files_by_number(find_files(paths, "router_trace_rank*.jsonl"), r"rank(\d+)\.jsonl$", "rank")
    choices = _Choices(experts)
    layout = layout_of(len(ranks), ranks[0].parent, 1, pipeline_parallel, stage_layers)
    log = _log(ranks, layout, report, "step", _TRACE, choices.add, experts)
    return replace(log, top_k=choices.top_k)


def _log(
    ranks: dict[int, Path],
    layout: RankLayout,
    report: Report | None,
    key: str,
    names: tuple[str, ...],
    add: _Add,
    experts: int | None,
) -> Log:
    words = layout.words()
    notes, cut = [words] if len(ranks) > 1 else [], list[str]()
    progress = Progress(list(ranks.values()), report)
    files = [_DecoderLines(ranks[rank], progress, names, notes) for rank in sorted(ranks)]
    first, steps = side_by_side([rank_of(lines, key, names, add) for lines in files], "iteration", cut)
    _refuse_other_stages(first, layout)
    if experts is not None and same_on_all([np.concatenate([*step.load.values()]) for step in first]):
        raise TraceError(
            f"{first[0].where}: all {len(first)} ranks hold the same choices, expected each to route tokens of its own "
            "(tensor parallelism without sequence parallelism routes them several times)"
        )
    local = experts or max(len(load_E) for step in first for load_E in step.load.values())
    stages = _layers_of_stages(first, layout)
    layers = tuple(stage * (layout.stage_layers or 0) + m for stage, numbers in enumerate(stages) for m in numbers)
    hint = ": the tracer leaves out those in which tokens were dropped" if experts is not None else ""
    check = _LayoutCheck(layout) if experts is None else None
    rows = (_row(step, layout, stages, local, check, hint) for step in steps)
    return Log(f"{ranks[0].parent} ({words})", layers, local * layout.expert, rows, notes=notes, cut=cut)


def _layers_of_stages(ranks: Sequence[RankStep], layout: RankLayout) -> list[tuple[int, ...]]:
    """Return the layers of each stage, numbered inside it: all that any of its ranks has."""
    stages: list[set[int]] = [set() for _ in range(layout.pipeline)]
    for rank, step in enumerate(ranks):
        top = max(step.load)
        if layout.stage_layers is not None and top >= layout.stage_layers:
            raise TraceError(
                f"{step.where}: layer {top} of rank {rank}, expected 0 to {layout.stage_layers - 1} inside a stage of "
                f"{layout.stage_layers} layers (--stage-layers), of {len(ranks)} ranks"
            )
        stages[layout.stage(rank)] |= set(step.load)
    return [tuple(sorted(layers)) for layers in stages]


def _row(
    ranks: list[RankStep],
    layout: RankLayout,
    stages: list[tuple[int, ...]],
    local: int,
    check: _LayoutCheck | None,
    hint: str,
) -> LogRow:
    """Return one step: parts of the experts beside each other, and stages below each other; copies are added."""
    parts = [
        [added([ranks[rank] for rank in layout.holders(stage, part)], layers, local) for part in range(layout.expert)]
        for stage, layers in enumerate(stages)
    ]
    _check_passes(ranks, hint)
    _check_twins(ranks, layout.tensor)
    if check is not None:
        check.add(ranks)
    load_LE = np.concatenate([np.concatenate([part.load_LE for part in stage], axis=1) for stage in parts])
    tokens = [stage[0].tokens_L for stage in parts if stage[0].tokens_L is not None]
    return LogRow(ranks[0].number, load_LE, ranks[0].where, np.concatenate(tokens) if tokens else None)


def _check_passes(ranks: Sequence[RankStep], hint: str) -> None:
    """Raise `TraceError` unless every layer of every rank has as many micro-batches as the others."""
    places = [(number, rank, layer) for rank, step in enumerate(ranks) for layer, number in step.passes.items()]
    (few, rank, layer), (many, peer, peer_layer) = min(places), max(places)
    if few < many:
        raise TraceError(
            f"{ranks[rank].where}: rank {rank} has {few} micro-batches in layer {layer} of iteration "
            f"{ranks[rank].number}, rank {peer} has {many} in layer {peer_layer} ({ranks[peer].where}), expected the "
            f"same in each{hint}"
        )


def _check_twins(ranks: Sequence[RankStep], tensor: int) -> None:
    """Raise `TraceError` unless the ranks of a tensor group count the same tokens."""
    for rank, step in enumerate(ranks):
        twin = rank - rank % tensor
        load, copy = step.load, ranks[twin].load
        if twin != rank and not (load.keys() == copy.keys() and all(np.array_equal(load[m], copy[m]) for m in load)):
            raise TraceError(
                f"{step.where}: rank {rank} counts other tokens than rank {twin}, expected the same in a group of "
                f"{tensor} (--expert-tensor-parallel)"
            )


def _refuse_other_stages(ranks: Sequence[RankStep], layout: RankLayout) -> None:
    """Raise `TraceError` where a stage of the layout would hold ranks with other layers, and other stages would not.

    Stages have the same number of ranks: layers that change at rank 4 of 8 mean 2 stages, or a multiple of 2.
    """
    changes = [rank for rank in range(1, len(ranks)) if set(ranks[rank].load) != set(ranks[rank - 1].load)]
    size = math.gcd(layout.world, *changes)
    stages = layout.world // size
    if layout.pipeline % stages and size % (layout.expert * layout.tensor) == 0:
        rank = next(rank for rank in changes if rank % (layout.world // layout.pipeline))
        before, after = (sorted(ranks[number].load) for number in (rank - 1, rank))
        raise TraceError(
            f"{ranks[rank].where}: got --pipeline-parallel {layout.pipeline}, the files have {stages} stages or a "
            f"multiple, unless lines are lost: rank {rank} has layers {after}, rank {rank - 1} {before}"
        )


class _DecoderLines(JsonLines):
    """The lines of one rank's file that are about layers of the decoder; ``notes`` says so where there are others."""

    def __init__(self, path: Path, progress: Progress, names: tuple[str, ...], notes: list[str]) -> None:
        super().__init__(path, progress)
        self._names, self._notes = names, notes

    def __iter__(self) -> Iterator[tuple[TextLine, dict[str, Any]]]:
        for line, record in super().__iter__():
            if field_of(record, "block", line.where, self._names) == "decoder":
                yield line, record
            elif OTHERS not in self._notes:
                self._notes.append(OTHERS)


def _add_tokens(step: RankStep, record: dict[str, Any], where: str) -> None:
    """Add the tokens per expert of one line, which holds all micro-batches of a layer."""
    layer = whole_number(field_of(record, "layer", where, _TOKENS), "layer", where)
    tpe = whole_counts(field_of(record, "tpe", where, _TOKENS), "tpe", where, ndim=2)
    step.put(layer, tpe.sum(axis=0), where, len(tpe))


class _Choices:
    """Routing trace: each line holds the choices of one micro-batch in a layer."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self.top_k: int | None = None

    def add(self, step: RankStep, record: dict[str, Any], where: str) -> None:
        """Count one line's choices."""
        layer = whole_number(field_of(record, "layer", where, _TRACE), "layer", where)
        tokens = whole_number(field_of(record, "num_tokens", where, _TRACE), "num_tokens", where)
        top_k = whole_number(field_of(record, "topk", where, _TRACE), "topk", where, least=1)
        if self.top_k not in (None, top_k):
            raise TraceError(f"{where}: topk is {top_k}, it was {self.top_k} before: mixed top-k is not in the format")
        self.top_k = top_k
        chosen_TK = field_of(record, "top_indices", where, _TRACE)
        index_TK = (
            whole_counts(chosen_TK, "top_indices", where, ndim=2) if tokens else np.zeros((0, top_k), dtype=np.int64)
        )
        if index_TK.shape != (tokens, top_k):
            raise TraceError(f"{where}: top_indices has shape {list(index_TK.shape)}, expected {[tokens, top_k]}")
        if index_TK.size and index_TK.max() >= self.experts:
            raise TraceError(
                f"{where}: top_indices holds expert {index_TK.max()}, expected 0 to {self.experts - 1} (--experts)"
            )
        load_E = np.bincount(index_TK.ravel(), minlength=self.experts)
        step.load[layer] = step.load[layer] + load_E if layer in step.load else load_E
        step.tokens[layer] = step.tokens.get(layer, 0) + tokens
        step.passes[layer] = step.passes.get(layer, 0) + 1


class _LayoutCheck:
    """Raises `TraceError` where the totals of the first iterations show that another layout is the true one."""

    def __init__(self, layout: RankLayout) -> None:
        self._layout, self._tried = layout, 0
        self._equal = [parts for parts in range(2, layout.expert + 1) if layout.expert % parts == 0]
        self._stated = layout.expert * layout.tensor
        multiples = range(self._stated, layout.world + 1, self._stated)
        self._even = [size for size in multiples if layout.world % size == 0]

    def add(self, ranks: Sequence[RankStep]) -> None:
        """Look at one more iteration, up to the last of TRIED."""
        if self._tried == TRIED:
            return
        self._tried += 1
        load_RL = np.array([[load_E.sum() for load_E in step.load.values()] for step in ranks[: self._stated]])
        self._equal = [parts for parts in self._equal if _equal_parts(load_RL, parts)]
        self._even = [size for size in self._even if _even_groups(ranks, size)]
        if self._tried < TRIED:
            return
        layout = self._layout
        if self._equal:  # each part then holds all experts: stages or copies, which see as many tokens
            parts = self._equal[-1]
            raise TraceError(
                f"{ranks[0].where}: {parts} parts of {self._stated} ranks got exactly as many tokens as each other in "
                f"every layer of {TRIED} iterations, as stages and copies do; expected --expert-parallel "
                f"{layout.expert // parts}, with --pipeline-parallel {parts * layout.pipeline} for stages"
            )
        if self._even and self._stated not in self._even:
            raise TraceError(
                f"{ranks[0].where}: each group of {self._even[0]} ranks got as many tokens in every layer of {TRIED} "
                f"iterations, groups of {self._stated} did not: they hold some of the experts only; expected "
                f"--expert-parallel {self._even[0] // layout.tensor}"
            )


def _even_groups(ranks: Sequence[RankStep], size: int) -> bool:
    """Return whether groups of that many ranks each got the same total in every layer."""
    for first in range(0, len(ranks), size):
        totals: Counter[int] = Counter()
        for step in ranks[first : first + size]:
            totals.update({layer: int(load_E.sum()) for layer, load_E in step.load.items()})
        if len(set(totals.values())) > 1:
            return False
    return True


def _equal_parts(load_RL: IntArray, parts: int) -> bool:
    """Return whether ranks cut into that many parts hold the same totals, above 0, in each layer."""
    total_PL = load_RL.reshape(parts, -1, load_RL.shape[1]).sum(axis=1)
    return bool(total_PL.all() and (total_PL == total_PL[0]).all())
