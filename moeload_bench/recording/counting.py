"""Counts of one optimizer step, summed in the router's forward hooks.

Axis letters: L routers, E experts, B sequences and T tokens of a forward pass, P routed (token, expert) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecordingError
from moeload_bench.recording.distributed import RankSum
from moeload_bench.recording.halves import Halves
from moeload_bench.recording.routers import Adapter, Router, Routing, find_routers

if TYPE_CHECKING:
    import torch
    from torch import nn

IntArray = NDArray[np.int64]
Reduce = Callable[[IntArray], IntArray]


@dataclass(frozen=True, eq=False)
class StepCounts:
    """One optimizer step: `tokens_L`, `load_LE`, `load_half_LE`, and `dropped_LE` where something can be dropped."""

    tokens_L: IntArray
    load_LE: IntArray
    load_half_LE: IntArray
    dropped_LE: IntArray | None


class RouterCounter:
    """Hooks on every router of a model that sum its decisions over the passes of an optimizer step.

    Counted are training passes only: the module is in training mode and the pass is one that gradients flow through.
    A recomputation under activation checkpointing is not a second pass. With reentrant checkpointing the first pass
    runs without gradients, then it is the recomputation that counts.

    ``adapters`` reads routers that transformers does not declare. ``reduce`` sums an int64 vector over the
    data-parallel ranks (see `rank_sum`); it is called once per step, with a vector of the same length on every rank.
    ``keep_routing`` keeps the last pass's decisions, logits included, in `last_routing`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: dict[type, Adapter] | None = None,
        *,
        reduce: Reduce | None = None,
        keep_routing: bool = False,
    ) -> None:
        self.routers: list[Router] = find_routers(model, adapters)
        self.experts: list[int | None] = [None] * len(self.routers)
        self.top_k: list[int | None] = [None] * len(self.routers)
        self.halves = Halves(rank=reduce.index if isinstance(reduce, RankSum) else 0)
        self._broken: RecordingError | None = None
        self._keep_routing = keep_routing
        self._reduce = reduce
        self._handles = [r.module.register_forward_hook(self._hook(i)) for i, r in enumerate(self.routers)]
        self._handles.append(model.register_forward_pre_hook(self.halves.see_inputs, with_kwargs=True))
        self.discard()

    def discard(self) -> None:
        """Forget what was counted since the last step was closed."""
        count = len(self.routers)
        self._tokens = [0] * count
        self._counts: list[torch.Tensor | None] = [None] * count
        self._awaiting_recomputation = [0] * count
        self.last_routing: list[Routing | None] = [None] * count
        self.halves.start_step()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @property
    def passes_counted(self) -> bool:
        """Whether a training pass was counted since the last step was closed."""
        return any(counts is not None for counts in self._counts)

    def take(self) -> StepCounts:
        """The counts since the last call, summed over data-parallel ranks; starts the next step.

        Raises `RecordingError` when loads do not add up to tokens x top-k, when layers differ in experts, when a
        router's output was not understood, or when experts or top-k changed.
        """
        try:
            self.check()
            self._check_complete()
        except RecordingError:
            self.leave()
            raise
        experts = self.experts[0] or 0
        vector = self._vector()
        if self._reduce is not None:
            vector = self._reduce(vector)
        self.discard()
        tokens_L, flat = np.split(vector, [len(self.routers)])
        all_LXE = flat.reshape(len(self.routers), -1, experts)
        half_LE, load_LE = all_LXE[:, 1].copy(), all_LXE[:, 0] + all_LXE[:, 1]
        self._check_sums(tokens_L, load_LE)
        return StepCounts(tokens_L, load_LE, half_LE, all_LXE[:, 2].copy() if all_LXE.shape[1] > 2 else None)

    def check(self) -> None:
        """Raise what went wrong in a hook; until then the forward pass goes on and nothing more is counted."""
        if self._broken is not None:
            raise self._broken

    def leave(self) -> None:
        """Stop counting with the other ranks; they are told in the step that they close next."""
        if isinstance(self._reduce, RankSum):
            self._reduce.leave()

    def _vector(self) -> IntArray:
        """Tokens [L], then the counts of all layers."""
        import torch

        table = torch.stack([counts for counts in self._counts if counts is not None]).cpu().numpy()
        return np.concatenate([np.array(self._tokens, dtype=np.int64), table.reshape(-1).astype(np.int64)])

    def _check_sums(self, tokens_L: IntArray, load_LE: IntArray) -> None:
        for router, tokens, load_E, k in zip(self.routers, tokens_L, load_LE, self.top_k, strict=True):
            if k is not None and load_E.sum() != tokens * k:
                raise RecordingError(
                    f"counts do not add up in {router.name}: loads sum to {load_E.sum()}, expected tokens x top_k = "
                    f"{tokens} x {k} = {tokens * k}"
                )

    def _check_complete(self) -> None:
        silent = [router.name for router, counts in zip(self.routers, self._counts, strict=True) if counts is None]
        if silent:
            raise RecordingError(
                f"no training pass went through {len(silent)} of {len(self.routers)} routers in this step, first "
                f"{silent[0]}: was the model in training mode, with gradients on?"
            )
        if len(set(self.experts)) != 1:
            sizes = ", ".join(f"{r.name}: {e}" for r, e in zip(self.routers, self.experts, strict=True))
            raise RecordingError(f"layers differ in their number of experts, which the format does not hold: {sizes}")
        if len({counts.shape for counts in self._counts if counts is not None}) != 1:
            raise RecordingError("some routers drop tokens and others do not, which the format does not hold")

    def _hook(self, layer: int) -> Any:
        router = self.routers[layer]

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._broken is None and self._counts_now(layer, module):
                try:
                    routing = router.adapter(module, args, output)
                    self._check_same(layer, routing)
                    self._add(layer, routing)
                except Exception as error:  # an adapter is anybody's code, and a forward pass must not fail by it
                    self._broken = _as_recording_error(router, error)

        return hook

    def _counts_now(self, layer: int, module: Any) -> bool:
        import torch

        if not (module.training and torch.is_grad_enabled()):
            return False
        if in_backward():
            if self._awaiting_recomputation[layer] > 0:
                self._awaiting_recomputation[layer] -= 1
                return False
            return True
        self._awaiting_recomputation[layer] += 1
        return True

    def _check_same(self, layer: int, routing: Routing) -> None:
        got = (routing.experts, routing.top_k)
        known = (self.experts[layer], self.top_k[layer])
        if known[0] is not None and known != got:
            raise RecordingError(
                f"(experts, top-k) of {self.routers[layer].name} changed from {known} to {got}: a trace holds one shape"
            )
        self.experts[layer], self.top_k[layer] = got

    def _add(self, layer: int, routing: Routing) -> None:
        counts = _count(routing, self.halves.of_pairs(routing))
        before = self._counts[layer]
        self._counts[layer] = counts if before is None else before + counts
        self._tokens[layer] += routing.tokens
        if self._keep_routing:
            self.last_routing[layer] = routing


def _as_recording_error(router: Router, error: Exception) -> RecordingError:
    if isinstance(error, RecordingError):
        return error
    return RecordingError(f"the adapter of {router.name} failed with {type(error).__name__}: {error}")


def _count(routing: Routing, half_P: torch.Tensor | int) -> torch.Tensor:
    """int64 [2 E]: counts of half 0, then of half 1; with drops [3 E], last the dropped ones."""
    import torch

    counts = _count_halves(routing.expert_P, half_P, routing.experts)
    if routing.kept_P is not None:
        counts = torch.cat([counts, _bincount(routing.expert_P[~routing.kept_P], routing.experts)])
    return counts


def _count_halves(expert_P: torch.Tensor, half_P: torch.Tensor | int, experts: int) -> torch.Tensor:
    import torch

    if expert_P.device.type != "cpu" or type(expert_P) is not torch.Tensor:
        return _bincount(expert_P + half_P * experts, 2 * experts)
    # numpy does the same in half the time on vectors of a few thousand
    half = half_P.numpy() if isinstance(half_P, torch.Tensor) else half_P
    return torch.from_numpy(np.bincount(expert_P.numpy() + half * experts, minlength=2 * experts))


def _bincount(cell_P: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    if cell_P.device.type == "cpu":
        return torch.bincount(cell_P, minlength=size)
    # elsewhere torch.bincount waits for the device to learn its largest value; whole numbers add up in any order
    zeros = torch.zeros(size, dtype=torch.int64, device=cell_P.device)
    return zeros.scatter_add_(0, cell_P, torch.ones_like(cell_P))


def in_backward() -> bool:
    """Whether this thread is inside a backward pass, where checkpointed forwards are run again."""
    import torch

    # torch has no public name for this; torch.utils.checkpoint itself asks the same function
    return bool(torch._C._current_graph_task_id() != -1)
