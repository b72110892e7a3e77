"""Routers of engines other than transformers, read from their outputs.

Each function is an adapter for one router class: `record(model, out, adapters={TopKRouter: megatron_routing})`. The
versions that they were run on: docs/guide/recording.md.
Axis letters: B sequences, T tokens of a forward pass, E experts, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

from typing import Any

import torch

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Routing


def megatron_routing(module: Any, args: Any, output: Any, *, after_drops: bool = False) -> Routing:
    """Read Megatron-core's `TopKRouter`: (probabilities, map [T, E] of the pairs that are kept).

    With a capacity (`moe_expert_capacity_factor`) the map lacks the dropped tokens, and the choices before drops are
    not in the output. That is refused, unless ``after_drops`` says that loads after drops are wanted. Then pass
    `functools.partial(megatron_routing, after_drops=True)` and `meta={"count_semantics": "post_drop"}`.
    """
    map_TE = output[1].detach()
    if map_TE.dtype != torch.bool:
        return _chosen(map_TE, module.config.num_moe_experts)
    capacity = getattr(module.config, "moe_expert_capacity_factor", None)
    if capacity is not None and not after_drops:
        raise RecordingError(
            f"moe_expert_capacity_factor is {capacity}: TopKRouter gives its choices after drops only; pass "
            'functools.partial(megatron_routing, after_drops=True) and meta={"count_semantics": "post_drop"}'
        )
    token_P, expert_P = map_TE.nonzero(as_tuple=True)
    tokens, experts = map_TE.shape
    # tokens come position by position, so their order does not show which sequence they are of
    return Routing(expert_P, token_P, tokens, experts, module.topk if capacity is None else None, tokens_known=False)


def nemo_automodel_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read NeMo Automodel's `Gate`: (weights [T, K], indices [T, K], auxiliary loss or None)."""
    return _chosen(output[1], module.n_experts)


def torchtitan_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read torchtitan's `TokenChoiceTopKRouter`: (scores [B, T, K], indices [B, T, K], all scores [B, T, E])."""
    return _chosen(output[1], module.num_experts)


def olmo_core_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read OLMo-core's `MoERouter`: (weights [B, T, K], indices [B, T, K], counts [E], auxiliary loss or None)."""
    return _chosen(output[1], module.num_experts)


def _chosen(index: torch.Tensor, experts: int) -> Routing:
    """Return the routing of indices [..., K] in token order."""
    index_TK = index.detach().reshape(-1, index.shape[-1]).to(torch.int64)
    return Routing(index_TK.reshape(-1), None, len(index_TK), experts, index_TK.shape[1])


def deepspeed_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read DeepSpeed's `TopKGate`, both forms of 0.19; the last item holds the counts before drops [E].

    As `MOELayer` calls it: (loss, C, E, experts of kept pairs [k, T] with -1 where dropped, ..., ..., counts). Called
    alone: (loss, combine weights, dispatch mask [T, E, C], counts). Pass it as
    ``adapters={deepspeed.moe.sharded_moe.TopKGate: deepspeed_routing}``. The output does not show which token a dropped
    pair came from, so there is no `load_half`.
    """
    count_E = output[-1].detach().to(torch.int64)
    experts = len(count_E)
    if len(output) == 7:
        kept_KT = output[3]
        tokens = kept_KT.shape[1]
        kept_E = torch.bincount(kept_KT[kept_KT >= 0].to(torch.int64), minlength=experts)
    else:
        mask_TEC = output[2].detach()
        tokens, kept_E = mask_TEC.shape[0], mask_TEC.to(torch.bool).sum(dim=(0, 2))
    kept_E = kept_E.to(count_E.device)
    expert_P = torch.arange(experts, device=count_E.device).repeat_interleave(count_E)
    first_E = count_E.cumsum(0) - count_E
    rank_P = torch.arange(len(expert_P), device=count_E.device) - first_E[expert_P]
    return Routing(
        expert_P=expert_P,
        token_P=None,
        tokens=tokens,
        experts=experts,
        top_k=module.k,
        kept_P=rank_P < kept_E[expert_P],
        tokens_known=False,
    )
