"""Balancing losses and gates that transformers does not supply; `biases` and `hashing` have the other methods.

Axis letters: L routers, E experts, B sequences, N tokens of a sequence and T tokens of a forward pass, K choices per
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing

if TYPE_CHECKING:
    import torch


class RouterStatistics(NamedTuple):
    """Per-layer auxiliary loss [L] and mean entropy [L] of one forward pass, both as tensors."""

    aux_L: torch.Tensor
    entropy_L: torch.Tensor


def router_statistics(routings: Sequence[Routing | None], score_function: str) -> RouterStatistics:
    """Return the Switch auxiliary loss of each layer, E sum_e f_e P_e, and the entropy of the router.

    f_e is the share of routed pairs that went to expert e, and P_e the mean over tokens of the router's probability for
    e; the loss is 1 when balanced. Fedus et al., arXiv 2101.03961, equations 4 to 6, with f_e divided by k for k
    choices per token. The loss of training is the coefficient times the *sum* over layers, as there and in Megatron-LM.
    Gradients flow through P only. Probabilities are the softmax of the logits or, for `score_function` sigmoid,
    sigmoids normalised to sum 1. The entropy is in nats.
    """
    import torch

    aux, entropy = [], []
    for routing in routings:
        known, prob_TE = _probabilities(routing, score_function)
        count_E = torch.bincount(known.expert_P, minlength=known.experts)
        share_E = count_E.to(prob_TE.dtype) / max(1, known.expert_P.numel())
        aux.append(known.experts * (share_E * prob_TE.mean(0)).sum())
        with torch.no_grad():
            entropy.append(torch.special.entr(prob_TE).sum(-1).mean())
    return RouterStatistics(torch.stack(aux), torch.stack(entropy))


def sequence_aux_loss(routings: Sequence[Routing | None], score_function: str, sequences: int) -> torch.Tensor:
    """Return E sum_e f_e P_e of each layer, both taken within a sequence, then the mean over ``sequences``; [L].

    This is the complementary loss of DeepSeek-V3, arXiv 2412.19437, equations 17 to 20. Raise `RecordingError` unless
    the pass has this number of sequences, all of one length.
    """
    import torch

    losses = []
    for routing in routings:
        known, prob_TE = _probabilities(routing, score_function)
        if known.tokens % sequences or known.top_k is None or not known.tokens_known:
            raise RecordingError(f"{known.tokens} tokens of a router are not {sequences} sequences of one length")
        length, experts = known.tokens // sequences, known.experts
        token_P = known.token_P
        if token_P is None:
            token_P = torch.arange(known.tokens, device=prob_TE.device).repeat_interleave(known.top_k)
        cell_P = token_P // length * experts + known.expert_P
        count_BE = torch.bincount(cell_P, minlength=sequences * experts).view(sequences, experts)
        share_BE = count_BE.to(prob_TE.dtype) / (length * known.top_k)
        losses.append(experts * (share_BE * prob_TE.view(sequences, length, experts).mean(1)).sum(-1).mean())
    return torch.stack(losses)


def router_z_loss(routings: Sequence[Routing | None]) -> torch.Tensor:
    """Return the z-loss, the mean squared log-sum-exp of logits [L]; Zoph et al., arXiv 2202.08906, eq. 5."""
    import torch

    return torch.stack([_logits(routing)[1].logsumexp(-1).square().mean() for routing in routings])


def _logits(routing: Routing | None) -> tuple[Routing, torch.Tensor]:
    """Return the routing and its logits [T, E] in single precision."""
    if routing is None or routing.logits_TE is None:
        raise RecordingError("a loss on routers needs their logits, and a router gave none")
    return routing, routing.logits_TE.float()


def _probabilities(routing: Routing | None, score_function: str) -> tuple[Routing, torch.Tensor]:
    """Return the routing and the router's probabilities [T, E]."""
    import torch

    known, logits_TE = _logits(routing)
    if score_function == "sigmoid":
        score_TE = torch.sigmoid(logits_TE)
        return known, score_TE / score_TE.sum(-1, keepdim=True)
    return known, torch.softmax(logits_TE, dim=-1)


def add_noise_to_gates(routers: Sequence[Router]) -> None:
    """Add noisy top-k gating: while training, each router chooses by logits + n softplus(x W), n standard normal.

    Shazeer et al., arXiv 1701.06538, equations 3 to 5. W [E, d] is a parameter of the router, `noise_weight`, which
    starts at 0 and learns with the rest; weights of the chosen experts come from the noisy logits too. Call it before
    hooks are set that read the router's output. Raise `RecordingError` for a router that does not choose the top-k of
    the softmax of its logits.
    """
    import torch

    for router in routers:
        module: Any = router.module
        softmax = all(hasattr(module, name) for name in ("top_k", "norm_topk_prob", "weight"))
        if not softmax or hasattr(module, "e_score_correction_bias"):
            raise RecordingError(
                f"noisy_gate needs a router that chooses the top-k of a softmax, as Qwen3-MoE's does; {router.name} is "
                f"a {type(module).__name__}"
            )
        module.noise_weight = torch.nn.Parameter(torch.zeros_like(module.weight))
        module.register_forward_hook(_noisy_choice)


def _noisy_choice(module: Any, args: Any, output: Any) -> Any:
    """Return the router's output with choices by noisy logits (a forward hook)."""
    import torch

    logits_TE, weight_TK, _ = output
    if not module.training:
        return output
    x_TD = args[0].reshape(-1, args[0].shape[-1])
    scale_TE = torch.nn.functional.softplus(torch.nn.functional.linear(x_TD, module.noise_weight))
    noisy_TE = logits_TE + torch.randn_like(logits_TE) * scale_TE
    chosen_TK, index_TK = torch.softmax(noisy_TE.float(), dim=-1).topk(module.top_k, dim=-1)
    if module.norm_topk_prob:
        chosen_TK = chosen_TK / chosen_TK.sum(dim=-1, keepdim=True)
    return noisy_TE, chosen_TK.to(weight_TK.dtype), index_TK
