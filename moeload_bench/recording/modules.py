"""The modules of a model that compute experts, and how large an expert is, with the state of its optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from moeload_bench.recording.distributed import this_rank
from moeload_bench.recording.routers import Router

LISTS = nn.ModuleList | nn.ModuleDict
"""Modules that hold one module for each expert."""
LEAST_AXES = 3
"""Axes of a weight that holds several experts: [experts, in, out]."""


class Experts(NamedTuple):
    """A module that computes experts, and how many it holds; None where that cannot be seen."""

    module: nn.Module
    held: int | None


def expert_modules(model: nn.Module, routers: Sequence[Router]) -> list[Experts]:
    """Return the modules that compute the experts of these routers; empty if one router has none.

    They stand beside the router, or in it where an adapter reads the whole layer: those named after experts, shared
    ones left out; else those with a weight [experts, in, out].
    """
    found: list[Experts] = []
    for router in routers:
        above = model.get_submodule(router.name.rpartition(".")[0])
        each = next(filter(None, (_inside(place, router.module) for place in (router.module, above))), [])
        if not each:
            return []
        found += each
    return list({id(one.module): one for one in found}.values())


def _inside(place: nn.Module, router: nn.Module) -> list[Experts]:
    """Return the modules of experts among the children of a module."""
    others = {name: one for name, one in place.named_children() if one is not router}
    named = [one for name, one in others.items() if "expert" in name and "shared" not in name]
    found = [one for one in named if any(True for _ in one.parameters())]
    found = found or [one for one in others.values() if _stacked(one, recurse=False) is not None]
    each: list[Experts] = []
    for one in found:
        if isinstance(one, LISTS):
            each += [Experts(expert, 1) for expert in one.children()]
        else:
            inner = next((len(child) for child in one.children() if isinstance(child, LISTS)), None)
            each.append(Experts(one, inner or _stacked(one)))
    return each


def _stacked(module: nn.Module, *, recurse: bool = True) -> int | None:
    """Return the experts that a weight [experts, in, out] of a module holds; None without one."""
    return next((p.shape[0] for p in module.parameters(recurse) if p.ndim >= LEAST_AXES), None)


def expert_bytes(experts: Sequence[Experts], of_layer: int, optimizer: Any) -> tuple[int | None, int | None]:
    """Return the bytes of one expert's weights, and of the state that the optimizer holds for them (AdamW: 2 moments).

    A module whose number of experts cannot be seen holds all ``of_layer`` of its layer if there is one process. None
    for what is not known: the state where the optimizer holds other tensors than the model's parameters.
    """
    held = [one.held or (of_layer if this_rank()[1] == 1 else 0) for one in experts]
    if not experts or 0 in held:
        return None, None
    parameters = [p for one in experts for p in one.module.parameters()]
    weights = sum(map(_bytes, parameters)) / sum(held)
    while hasattr(optimizer, "optimizer"):  # accelerate and others wrap it
        optimizer = optimizer.optimizer
    groups = getattr(optimizer, "param_groups", [])
    optimized = {id(p) for group in groups for p in group["params"]}
    trained = [p for p in parameters if p.requires_grad]
    if not groups or not optimized.issuperset(map(id, trained)):
        return round(weights), None
    # an expert without a token has no state yet
    states = [(_bytes(p), optimizer.state[p].values()) for p in trained if p in optimizer.state]
    state = sum(_bytes(one) for _, values in states for one in values if isinstance(one, torch.Tensor) and one.ndim)
    part = sum(map(_bytes, trained)) / sum(map(_bytes, parameters))
    return round(weights), round(weights * part * state / max(1, sum(size for size, _ in states)))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
