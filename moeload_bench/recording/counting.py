"""Counts of one optimizer step, summed in the router's forward hooks.

The caches hold the training step's code and data, so a hook is cheaper the less memory it touches. It therefore only
notes the cell of each routed pair, in a tensor of its own; all cells are counted together when the step is closed.

Axis letters: L routers, E experts, B sequences and T tokens of a forward pass, P routed (token, expert) pairs, C cells
that pairs are counted in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.errors import RecordingError
from moeload_bench.recording.distributed import RankSum
from moeload_bench.recording.routers import Adapter, Router, Routing, find_routers
from moeload_bench.recording.routing_steps import RoutingSteps
from moeload_bench.recording.tokens import Halves, TokenMask

_MOST_PENDING = 2**17  # tokens, each once per layer (top-k MB); beyond that, count before the step is closed

Counts = IntArray | torch.Tensor  # arrays for the CPU, tensors for other devices
Reduce = Callable[[IntArray], IntArray]
Counted = Literal["all", "attended"]
_MICRO = 1_000_000  # ranks sum whole numbers, so a ratio is sent in millionths


@dataclass(frozen=True, eq=False)
class StepCounts:
    """One optimizer step: `tokens_L`, `load_LE`, `load_half_LE`, and `dropped_LE` if tokens can be dropped.

    `imbalance_rank_L`, if asked for: the largest over the mean load of the experts within one forward pass on one rank,
    as a mean over the step's passes. `micro_max_LE`, if asked for: each expert's largest load in one forward pass on
    one rank; `passes` then is the number of passes, over all ranks.
    """

    tokens_L: IntArray
    load_LE: IntArray
    load_half_LE: IntArray
    dropped_LE: IntArray | None
    imbalance_rank_L: FloatArray | None = None
    micro_max_LE: IntArray | None = None
    passes: int = 0

    def cells(self) -> dict[str, Array]:
        """Return the counts as a trace's columns."""
        columns = {
            "tokens": self.tokens_L,
            "load": self.load_LE,
            "load_half": self.load_half_LE,
            "dropped": self.dropped_LE,
            "imbalance_rank": self.imbalance_rank_L,
            "micro_max": self.micro_max_LE,
        }
        return {name: cell for name, cell in columns.items() if cell is not None}


class RouterCounter:
    """Hooks on every router of a model; they sum its decisions over the passes of an optimizer step.

    Only training passes count: the module is in training mode, and gradients flow through the pass. A recomputation
    under activation checkpointing is not a second pass. With reentrant checkpointing the first pass runs without
    gradients; then the recomputation counts.

    ``adapters`` reads routers that transformers does not declare. ``reduce`` sums an int64 vector over the
    data-parallel ranks (see `rank_sum`); it is called once per step, with a vector of the same length on every rank.
    ``keep_routing`` keeps the last pass's decisions, logits included, in `last_routing`. ``count`` "attended" leaves
    out tokens that the attention mask hides. ``layers`` are the blocks to record, all by default. ``spread`` measures
    how uneven single passes are, ``micro_max`` each expert's largest load in a pass. ``skip`` is called before each
    pass and returns True if the pass belongs to no training step. ``without_gradients`` counts the passes without
    gradients instead of the training passes: a probe of the router. ``kept`` gets the routing of chosen steps.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: dict[type, Adapter] | None = None,
        *,
        reduce: Reduce | None = None,
        keep_routing: bool = False,
        count: Counted = "all",
        layers: Sequence[int] | None = None,
        spread: bool = False,
        micro_max: bool = False,
        skip: Callable[[], bool] | None = None,
        without_gradients: bool = False,
        kept: RoutingSteps | None = None,
    ) -> None:
        if micro_max and not isinstance(reduce, RankSum | None):
            raise RecordingError("micro_max is a maximum over ranks: expected reduce=RankSum(...), got a sum alone")
        self.routers: list[Router] = chosen_routers(find_routers(model, adapters), layers)
        self.mask = TokenMask(self.routers) if count == "attended" else None
        self._spread, self._micro_max = spread, micro_max
        self._gradients = not without_gradients
        self._skip, self._skipped = skip, False
        self.kept = kept if not isinstance(reduce, RankSum) or reduce.counted else None
        self.experts: list[int | None] = [None] * len(self.routers)
        self.top_k: list[int | None] = [None] * len(self.routers)
        self.halves = Halves(rank=reduce.index if isinstance(reduce, RankSum) else 0)
        self._broken: RecordingError | None = None
        self._keep_routing = keep_routing
        self._reduce = reduce
        self._handles = [r.module.register_forward_hook(self._hook(i)) for i, r in enumerate(self.routers)]
        self._handles.append(model.register_forward_pre_hook(untraced(self._before_pass), with_kwargs=True))
        self.discard()

    def discard(self) -> None:
        """Forget what was counted since the last step was closed."""
        count = len(self.routers)
        self._tokens = [0] * count
        self._pending: list[list[tuple[torch.Tensor, int]]] = [[] for _ in range(count)]
        self._pending_tokens = 0
        self._counts: list[Counts | None] = [None] * count
        self._passed_forward = [False] * count
        self._passes = [0] * count
        self._ratios: list[Any] = [0.0] * count
        self._largest: list[Any] = [None] * count
        self.last_routing: list[Routing | None] = [None] * count
        self.halves.start_step()
        if self.kept is not None:
            self.kept.discard()

    @property
    def has_passes(self) -> bool:
        """Return whether any pass was counted since the last step was closed."""
        return any(self._tokens)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def take(self) -> StepCounts:
        """Return the counts since the last call, summed over data-parallel ranks, and start the next step.

        Raise `RecordingError` if loads do not add up to tokens x top-k, if layers differ in experts, if a router's
        output was not understood, or if experts or top-k changed.
        """
        try:
            self.check()
            self._count_pending()
            self._check_complete()
            if self.kept is not None:
                self.kept.write(self.routers)
        except RecordingError:
            self.leave()
            raise
        vector = self._vector()
        if self._reduce is not None:
            vector = self._reduce(vector)
        if not self._micro_max:
            self.discard()
            return self._step_counts(vector)
        largest_LE = self._largest_LE()
        self.discard()
        return replace(self._step_counts(vector[:-1]), micro_max_LE=largest_LE, passes=int(vector[-1]))

    def _largest_LE(self) -> IntArray:
        """Return each expert's largest load in a pass, over all ranks."""
        largest_LE = np.stack([np.asarray(torch.as_tensor(load_E).cpu()) for load_E in self._largest])
        if isinstance(self._reduce, RankSum):
            largest_LE = self._reduce.largest(largest_LE.reshape(-1)).reshape(largest_LE.shape)
        return largest_LE

    def check(self) -> None:
        """Raise the error of a hook. Until then forward passes continue, and nothing more is counted."""
        if self._broken is not None:
            raise self._broken

    def leave(self) -> None:
        """Stop counting, together with the other ranks: they learn of it when they close their next step."""
        if isinstance(self._reduce, RankSum):
            self._reduce.leave()

    def _vector(self) -> IntArray:
        """Return tokens [L], then counts [half, L, E] or, if tokens can be dropped, [dropped, half, L, E].

        What `_spread_vectors` returns follows, and the number of passes where the largest of them is kept.
        """
        counts: list[Any] = self._counts
        device = next((c.device for c in counts if isinstance(c, torch.Tensor)), None)
        if device is not None:  # one copy from the device, not one per layer
            counts = list(torch.stack([torch.as_tensor(c, device=device) for c in counts]).cpu().numpy())
        kinds = len(counts[0]) // max(1, self.experts[0] or 0)
        blocks = [counts_C[kind::kinds] for kind in range(kinds) for counts_C in counts]
        passes = [np.array([max(self._passes)], dtype=np.int64)] if self._micro_max else []
        return np.concatenate([np.array(self._tokens, dtype=np.int64), *blocks, *self._spread_vectors(), *passes])

    def _spread_vectors(self) -> list[IntArray]:
        """Return sums of the passes' ratios [L] in millionths, and numbers of passes [L], if they are asked for."""
        if not self._spread:
            return []
        ratio_L = np.array([round(_MICRO * float(ratio)) for ratio in self._ratios], dtype=np.int64)
        return [ratio_L, np.array(self._passes, dtype=np.int64)]

    def _step_counts(self, vector: IntArray) -> StepCounts:
        count = len(self.routers)
        imbalance_L = None
        if self._spread:
            ratio_L, passes_L, vector = vector[-2 * count : -count], vector[-count:], vector[: -2 * count]
            imbalance_L = np.divide(ratio_L, _MICRO * passes_L, out=np.full(count, np.nan), where=passes_L > 0)
        tokens_L, block_XLE = vector[:count], vector[count:].reshape(-1, count, self.experts[0] or 0)
        if len(block_XLE) == 2:
            half_LE, dropped_LE = block_XLE[1].copy(), None
            load_LE = block_XLE[0] + half_LE
        else:
            half_LE, dropped_LE = block_XLE[1] + block_XLE[3], block_XLE[2] + block_XLE[3]
            load_LE = block_XLE[0] + block_XLE[2] + half_LE
        self._check_sums(tokens_L, load_LE)
        return StepCounts(tokens_L, load_LE, half_LE, dropped_LE, imbalance_L)

    def _check_sums(self, tokens_L: IntArray, load_LE: IntArray) -> None:
        pairs_L = load_LE.sum(axis=1)
        for router, tokens, pairs, k in zip(self.routers, tokens_L.tolist(), pairs_L.tolist(), self.top_k, strict=True):
            if k is not None and pairs != tokens * k:
                raise RecordingError(
                    f"counts do not add up in {router.name}: loads sum to {pairs}, expected tokens x top_k = "
                    f"{tokens} x {k} = {tokens * k}"
                )

    def _check_complete(self) -> None:
        sizes = {0 if counts_C is None else len(counts_C) for counts_C in self._counts}
        if 0 in sizes:
            silent = [r.name for r, counts_C in zip(self.routers, self._counts, strict=True) if counts_C is None]
            raise RecordingError(
                f"no training pass went through {len(silent)} of {len(self.routers)} routers in this step, first "
                f"{silent[0]}: was the model in training mode, with gradients on? (A model that ran compiled before it "
                "was recorded keeps the code without hooks: torch.compiler.reset())"
            )
        if len(set(self.experts)) != 1:
            raise RecordingError(
                "layers differ in their number of experts, which the format cannot hold: record those that agree, "
                f"one recording for each number: {_by_experts(self.routers, self.experts)}"
            )
        if len(sizes) != 1:
            raise RecordingError("some routers drop tokens and others do not, which the format cannot hold")

    def _hook(self, layer: int) -> Any:
        router = self.routers[layer]
        gradients_on = torch.is_grad_enabled
        # torch has no public name for this; torch.utils.checkpoint itself asks the same function
        backward_pass = torch._C._current_graph_task_id

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._broken is not None or self._skipped or not module.training or gradients_on() != self._gradients:
                return
            if self._is_recomputation(layer, backward_pass() != -1):
                return
            try:
                self._add(layer, router.adapter(module, args, output))
            except Exception as error:  # an adapter is the user's code; its errors must not end a forward pass
                self._broken = _as_recording_error(router, error)

        return untraced(hook)

    def _before_pass(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._skipped = self._skip is not None and self._skip()
        if not self._skipped and module.training and torch.is_grad_enabled() == self._gradients:
            self.halves.see_inputs(module, args, kwargs)
            if self.mask is not None:
                self.mask.see_inputs(module, args, kwargs)

    def _is_recomputation(self, layer: int, in_backward: bool) -> bool:
        """Return whether a pass with gradients repeats a pass of a checkpointed layer.

        A layer whose forward passes have gradients (non-reentrant checkpointing) is run again by each backward pass
        over it, of which a step may have several. A layer whose forward passes have none is counted in the backward
        pass.
        """
        if not in_backward:
            self._passed_forward[layer] = True
            return False
        return self._passed_forward[layer]

    def _add(self, layer: int, routing: Routing) -> None:
        if not isinstance(routing, Routing):
            raise RecordingError(
                f"the adapter of {self.routers[layer].name} returned {type(routing).__name__}, expected "
                "moeload_bench.recording.Routing(expert_P, token_P, tokens, experts, top_k)"
            )
        if routing.experts != self.experts[layer] or routing.top_k != self.top_k[layer]:
            self._set_shape(layer, routing)
        cell_P, size = _cells(routing, self.halves.of_pairs(routing))
        tokens = routing.tokens
        keep_P = None
        if self.mask is not None:
            keep_P, tokens = self.mask.of_pairs(self.routers[layer], routing)
            cell_P = cell_P[keep_P]
        if self.kept is not None:
            self.kept.add(layer, routing, keep_P)
        self._pending[layer].append((cell_P, size))
        self._tokens[layer] += tokens
        self._passes[layer] += 1
        self._pending_tokens += routing.tokens
        if self._keep_routing:
            self.last_routing[layer] = routing
        if self._pending_tokens > _MOST_PENDING:
            self._count_pending()

    def _set_shape(self, layer: int, routing: Routing) -> None:
        shape, got = (self.experts[layer], self.top_k[layer]), (routing.experts, routing.top_k)
        if shape[0] is not None:
            raise RecordingError(
                f"(experts, top-k) of {self.routers[layer].name} changed from {shape} to {got}: a trace holds one shape"
            )
        self.experts[layer], self.top_k[layer] = got

    def _count_pending(self) -> None:
        self._pending_tokens = 0
        for layer, cells in enumerate(self._pending):
            while cells:
                self._count(layer, *cells.pop())

    def _count(self, layer: int, cell_P: torch.Tensor, size: int) -> None:
        before = self._counts[layer]
        try:
            counts_C = _bincount(cell_P, size)
            self._counts[layer] = counts_C if before is None else before + counts_C
            if self._spread or self._micro_max:
                self._measure(layer, counts_C.reshape(self.experts[layer] or 1, -1).sum(1))
        except Exception as error:  # as in the hook
            raise _as_recording_error(self.routers[layer], error) from error

    def _measure(self, layer: int, load_E: Any) -> None:
        """Take in one pass's loads: the largest over the mean, and each expert's largest so far.

        Both stay on the device, so that nothing waits.
        """
        on_device = isinstance(load_E, torch.Tensor)
        if self._spread:
            total = load_E.sum().clamp(min=1) if on_device else max(1, load_E.sum())
            self._ratios[layer] = self._ratios[layer] + load_E.max() * len(load_E) / total
        if self._micro_max:
            before_E = self._largest[layer]
            larger = torch.maximum if on_device else np.maximum
            self._largest[layer] = load_E if before_E is None else larger(before_E, load_E)


def untraced(hook: Callable[..., None]) -> Any:
    """Return the hook in a form that Python runs as it is, inside a compiled model too.

    The hook counts passes. If it were traced, its counts would become guards, and each further pass of a step would
    compile the model again, up to the compiler's limit.
    """
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call]  # torch does not say


def chosen_routers(routers: list[Router], layers: Sequence[int] | None) -> list[Router]:
    """Return the routers of the named blocks, in forward order; raise `RecordingError` for a block without a router."""
    if layers is None:
        return routers
    unknown = sorted(set(layers) - {router.block for router in routers})
    if unknown or not layers:
        there = sorted({router.block for router in routers})
        raise RecordingError(f"layers={list(layers)}: {unknown or 'none'} is not an MoE layer; there is: {there}")
    return [router for router in routers if router.block in layers]


def _by_experts(routers: list[Router], experts: list[int | None]) -> str:
    """Return the blocks of each number of experts, written as the argument that records them."""
    numbers = sorted({e for e in experts if e is not None})
    blocks = [[r.block for r, e in zip(routers, experts, strict=True) if e == number] for number in numbers]
    return "; ".join(
        f"layers={list(dict.fromkeys(b))} ({number} experts)" for b, number in zip(blocks, numbers, strict=True)
    )


def _as_recording_error(router: Router, error: Exception) -> RecordingError:
    if isinstance(error, RecordingError):
        return error
    return RecordingError(f"the adapter of {router.name} failed with {type(error).__name__}: {error}")


def _cells(routing: Routing, half_P: torch.Tensor | int) -> tuple[torch.Tensor, int]:
    """Return the cell [P] that each pair is counted in, and the number of cells.

    Cells are [E, half] flattened or, if pairs may be dropped, [E, dropped, half]: an index beyond the last expert falls
    outside of them. The tensor is a new one, because an engine may change its indices in place before they are counted.
    """
    kinds, kind_P = 2, half_P
    if routing.kept_P is not None:
        kinds, kind_P = 4, half_P + 2 * ~routing.kept_P
    if isinstance(kind_P, int):
        return routing.expert_P.to(torch.int64) * kinds + kind_P, kinds * routing.experts
    return torch.add(kind_P, routing.expert_P, alpha=kinds), kinds * routing.experts


def _bincount(cell_P: torch.Tensor, size: int) -> Counts:
    """Return how many pairs each cell got, int64 [size]."""
    if not cell_P.is_cpu:
        return bincount_on_device(cell_P, size)
    # numpy does the same in half the time on vectors of a few thousand
    plain = type(cell_P) is torch.Tensor
    counts_C: Counts = np.bincount(cell_P.numpy(), minlength=size) if plain else torch.bincount(cell_P, minlength=size)
    if len(counts_C) != size:
        raise IndexError(f"an index is beyond the last expert: cell {len(counts_C) - 1} of {size}")
    return counts_C


def bincount_on_device(cell_P: torch.Tensor, size: int) -> torch.Tensor:
    """Count as `torch.bincount` does, but without waiting for the device (torch reads the largest value from it).

    Whole numbers add up in any order. A cell outside of 0 to ``size`` - 1 would stop the device, so it is left out; the
    counts do not add up then, which is detected later.
    """
    edged = torch.zeros(size + 2, dtype=torch.int64, device=cell_P.device)
    return edged.scatter_add_(0, cell_P.clamp(-1, size) + 1, torch.ones_like(cell_P))[1:-1]
