"""Counts of one optimizer step, summed in the router's forward hooks.

Axis letters: L routers, E experts, T tokens of a forward pass, P routed pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Adapter, Router, Routing, find_routers

if TYPE_CHECKING:
    import torch
    from torch import nn

IntArray = NDArray[np.int64]


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
    """

    def __init__(self, model: nn.Module, adapters: dict[type, Adapter] | None = None) -> None:
        self.routers: list[Router] = find_routers(model, adapters)
        self.experts: list[int | None] = [None] * len(self.routers)
        self.top_k: list[int | None] = [None] * len(self.routers)
        self.last_routing: list[Routing | None] = [None] * len(self.routers)
        self._half_B: torch.Tensor | None = None
        self._handles = [
            router.module.register_forward_hook(self._hook(i)) for i, router in enumerate(self.routers)
        ]
        self.reset()

    def reset(self) -> None:
        """Forget what was counted since the last step was closed."""
        count = len(self.routers)
        self._tokens = [0] * count
        self._counts: list[torch.Tensor | None] = [None] * count
        self._awaiting_recomputation = [0] * count
        self.last_routing = [None] * count

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def set_halves(self, half_B: torch.Tensor) -> None:
        """Say to which half of the step (0 or 1) each sequence of the next forward pass belongs."""
        self._half_B = half_B

    def take(self) -> StepCounts:
        """The counts since the last call; starts the next step.

        Raises `RecordingError` when loads do not add up to tokens x top-k, or when layers differ in experts.
        """
        import torch

        self._check_complete()
        experts = self.experts[0] or 0
        table_L = [counts for counts in self._counts if counts is not None]
        all_LXE = torch.stack(table_L).cpu().numpy().reshape(len(table_L), -1, experts).astype(np.int64)
        half_LE, load_LE = all_LXE[:, 1], all_LXE[:, 0] + all_LXE[:, 1]
        tokens_L = np.array(self._tokens, dtype=np.int64)
        for router, tokens, load_E, k in zip(self.routers, tokens_L, load_LE, self.top_k, strict=True):
            if k is not None and load_E.sum() != tokens * k:
                raise RecordingError(
                    f"counts do not add up in {router.name}: loads sum to {load_E.sum()}, expected tokens x top_k = "
                    f"{tokens} x {k} = {tokens * k}"
                )
        dropped_LE = all_LXE[:, 2] if all_LXE.shape[1] > 2 else None
        self.reset()
        return StepCounts(tokens_L, load_LE, half_LE, dropped_LE)

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

    def _hook(self, layer: int) -> Any:
        router = self.routers[layer]

        def hook(module: Any, args: Any, output: Any) -> None:
            if self._counts_now(layer, module):
                routing = router.adapter(module, args, output)
                self._check_same(layer, routing)
                self._add(layer, routing)

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
        counts = _count(routing, self._halves(routing))
        before = self._counts[layer]
        self._counts[layer] = counts if before is None else before + counts
        self._tokens[layer] += routing.tokens
        self.last_routing[layer] = routing

    def _halves(self, routing: Routing) -> torch.Tensor | None:
        """Half of the step that each token belongs to [T]; the router sees sequences one after another."""
        half_B = self._half_B
        if half_B is None or routing.tokens == 0:
            return None
        if routing.tokens % len(half_B):
            raise RecordingError(f"{routing.tokens} routed tokens do not divide into {len(half_B)} sequences")
        return half_B.to(routing.expert_P.device).repeat_interleave(routing.tokens // len(half_B))


def _count(routing: Routing, half_T: torch.Tensor | None) -> torch.Tensor:
    """int64 [2 E]: counts of half 0, then of half 1; with drops [3 E], last the dropped ones."""
    import torch

    cell_P = routing.expert_P
    if half_T is not None:
        pairs = routing.top_k or 0
        half_P = half_T.repeat_interleave(pairs) if routing.token_P is None else half_T[routing.token_P]
        cell_P = cell_P + half_P * routing.experts
    counts = _bincount(cell_P, 2 * routing.experts)
    if routing.kept_P is not None:
        counts = torch.cat([counts, _bincount(routing.expert_P[~routing.kept_P], routing.experts)])
    return counts


def _bincount(cell_P: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    if cell_P.is_cuda:  # torch.bincount waits for the device to learn its largest value
        return torch.zeros(size, dtype=torch.int64, device=cell_P.device).scatter_add_(
            0, cell_P, torch.ones_like(cell_P)
        )
    return torch.bincount(cell_P, minlength=size)


def in_backward() -> bool:
    """Whether this thread is inside a backward pass, where checkpointed forwards are run again."""
    import torch

    return bool(torch._C._current_graph_task_id() != -1)
