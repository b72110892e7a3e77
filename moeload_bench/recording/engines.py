"""Routers of engines other than transformers, read from their outputs.

Each function is an adapter for one router class: `record(model, out, adapters={TopKRouter: megatron_routing})`. The
versions that they were run on: docs/guide/recording.md.
Axis letters: B sequences, T tokens of a forward pass, E experts, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Routing


def megatron_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read Megatron-core's `TopKRouter`: (probabilities, map [T, E] of the pairs that are kept).

    With a capacity (`moe_expert_capacity_factor`) the map lacks the dropped pairs, and with
    `moe_pad_expert_input_to_capacity` it has pairs that no token chose. The choices before drops are then made once
    more, by Megatron's own functions on the router's input. Raise `RecordingError` if they cannot be repeated.
    """
    map_TE = output[1].detach()
    if map_TE.dtype != torch.bool:
        return _chosen(map_TE, module.config.num_moe_experts)
    has_capacity = getattr(module.config, "moe_expert_capacity_factor", None) is not None
    chosen_TE = _megatron_choice(module, args[0], output[0]) if has_capacity else map_TE
    token_P, expert_P = chosen_TE.nonzero(as_tuple=True)
    tokens, experts = map_TE.shape
    # tokens come position by position, so their order does not show which sequence they are of
    return Routing(
        expert_P=expert_P,
        token_P=token_P,
        tokens=tokens,
        experts=experts,
        top_k=module.topk,
        kept_P=map_TE[token_P, expert_P] if has_capacity else None,
        tokens_known=False,
    )


def _megatron_choice(module: Any, hidden: torch.Tensor, prob_TE: torch.Tensor) -> torch.Tensor:
    """Return the map [T, E] before drops; ``prob_TE`` are the probabilities after them, above 0 where chosen and kept.

    Raise `RecordingError` where the router draws at random, and where a kept pair was not chosen this time.
    """
    config = module.config
    for name in ("moe_input_jitter_eps", "moe_router_force_load_balancing", "moe_router_force_biased"):
        if getattr(config, name, None) not in (None, False):
            raise RecordingError(
                f"{name} with a capacity: the router draws at random, so its choices before drops are lost"
            )
    utils = importlib.import_module("megatron.core.transformer.moe.moe_utils")
    with torch.no_grad():
        logits_TE = module.gating(hidden).view(-1, config.num_moe_experts)
        chosen_TE: torch.Tensor = utils.topk_routing_with_score_function(
            logits_TE,
            module.topk,
            use_pre_softmax=config.moe_router_pre_softmax,
            num_groups=config.moe_router_num_groups,
            group_topk=config.moe_router_group_topk,
            scaling_factor=config.moe_router_topk_scaling_factor,
            score_function=module.score_function,
            expert_bias=module.expert_bias,
            fused=config.moe_router_fusion,
        )[1]
    wrong = int(((prob_TE.detach() > 0) & ~chosen_TE).sum())
    if wrong:
        raise RecordingError(f"{wrong} pairs were kept that the router, asked once more, does not choose")
    return chosen_TE


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
