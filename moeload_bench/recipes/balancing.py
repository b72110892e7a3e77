"""Balancing methods that transformers does not supply.

Axis letters: L routers, E experts, T tokens of a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing

if TYPE_CHECKING:
    import torch


class RouterStatistics(NamedTuple):
    """Per-layer auxiliary loss [L] and mean entropy [L] of one forward pass, both as tensors."""

    aux_L: torch.Tensor
    entropy_L: torch.Tensor


def router_statistics(routings: Sequence[Routing | None], score_function: str) -> RouterStatistics:
    """The Switch auxiliary loss of each layer, E sum_e f_e P_e, and the entropy of the router.

    f_e is the share of routed pairs that went to expert e and P_e the mean over tokens of the router's probability
    for e; 1 when balanced. Fedus et al., arXiv 2101.03961, equations 4 to 6, with f_e divided by k for k choices per
    token. The loss of training is the coefficient times the *sum* over layers, as there and in Megatron-LM. Gradients
    flow through P only. Probabilities are the softmax of the logits or, for `score_function` sigmoid, sigmoids
    normalised to sum 1. The entropy is in nats.
    """
    import torch

    aux, entropy = [], []
    for routing in routings:
        if routing is None or routing.logits_TE is None:
            raise RecordingError("the auxiliary loss needs the router's logits, and a router gave none")
        logits_TE = routing.logits_TE.float()
        if score_function == "sigmoid":
            score_TE = torch.sigmoid(logits_TE)
            prob_TE = score_TE / score_TE.sum(-1, keepdim=True)
        else:
            prob_TE = torch.softmax(logits_TE, dim=-1)
        count_E = torch.bincount(routing.expert_P, minlength=routing.experts)
        share_E = count_E.to(prob_TE.dtype) / max(1, routing.expert_P.numel())
        aux.append(routing.experts * (share_E * prob_TE.mean(0)).sum())
        with torch.no_grad():
            entropy.append(torch.special.entr(prob_TE).sum(-1).mean())
    return RouterStatistics(torch.stack(aux), torch.stack(entropy))


class LossFreeBias:
    """Loss-free balancing: after each step, a routing bias moves by ``rate`` towards the mean load.

    b_e += rate * sign(mean load - load_e), Wang et al., arXiv 2408.15664, algorithm 1. transformers' routers of the
    DeepSeek-V3 kind add a buffer `e_score_correction_bias` before choosing, but nothing there updates it.
    """

    def __init__(self, routers: Sequence[Router], rate: float) -> None:
        self._rate = rate
        self._bias: list[Any] = [getattr(router.module, "e_score_correction_bias", None) for router in routers]
        for router, bias in zip(routers, self._bias, strict=True):
            if bias is None:
                raise RecordingError(
                    f"loss-free balancing needs a router with the buffer e_score_correction_bias; {router.name} is a "
                    f"{type(router.module).__name__} without it"
                )

    def value_LE(self) -> NDArray[np.float32]:
        """The biases that the next step routes with."""
        return np.stack([bias.detach().cpu().numpy() for bias in self._bias]).astype(np.float32)

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Move the biases after an optimizer step with these loads, summed over all data-parallel ranks."""
        import torch

        sign_LE = np.sign(load_LE.mean(axis=1, keepdims=True) - load_LE)
        with torch.no_grad():
            for bias, sign_E in zip(self._bias, sign_LE, strict=True):
                bias.add_(torch.from_numpy(sign_E).to(bias), alpha=self._rate)
