"""Routing biases that keep loads equal: routers add them to their scores to choose experts, and use them nowhere else.

transformers' routers of the DeepSeek-V3 kind have such a bias, the buffer `e_score_correction_bias`, but transformers
never updates it. Axis letters: L routers, E experts, T tokens of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing

if TYPE_CHECKING:
    import torch


class RoutingBias:
    """The biases of all routers of a model; raises `RecordingError` for a router without one."""

    def __init__(self, routers: Sequence[Router]) -> None:
        self._bias: list[Any] = [getattr(router.module, "e_score_correction_bias", None) for router in routers]
        for router, bias in zip(routers, self._bias, strict=True):
            if bias is None:
                raise RecordingError(
                    f"a routing bias needs a router with the buffer e_score_correction_bias; {router.name} is a "
                    f"{type(router.module).__name__} without it"
                )

    def value_LE(self) -> NDArray[np.float32]:
        """Return the biases that the next step routes with."""
        return np.stack([bias.detach().cpu().numpy() for bias in self._bias]).astype(np.float32)

    def see(self, routings: Sequence[Routing | None]) -> None:
        """Take in one forward pass of training; a bias that needs only loads does nothing here."""

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Set the biases after an optimizer step with these loads, summed over all data-parallel ranks."""
        raise NotImplementedError


class LossFreeBias(RoutingBias):
    """Loss-free balancing: after each step, a routing bias moves by ``rate`` towards the mean load.

    b_e += rate * sign(mean load - load_e), Wang et al., arXiv 2408.15664, algorithm 1.
    """

    def __init__(self, routers: Sequence[Router], rate: float) -> None:
        super().__init__(routers)
        self._rate = rate

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Move each bias by the rate."""
        import torch

        sign_LE = np.sign(load_LE.mean(axis=1, keepdims=True) - load_LE)
        with torch.no_grad():
            for bias, sign_E in zip(self._bias, sign_LE, strict=True):
                bias.add_(torch.from_numpy(sign_E).to(bias), alpha=self._rate)


class QuantileBias(RoutingBias):
    """Quantile balancing: after each step, biases are the quantiles that give each expert its share of the step.

    It follows Megatron core at d98e8a64 (`qb_dual_update`, `_update_router_qb_beta`; the idea is of kexue.fm 11619).
    The same: `quantile_bias` of each micro-batch, their mean over micro-batches and processes, centred to mean 0; the
    next step routes with it; nothing is kept of earlier steps (its moving average at the default of 0). Different: the
    bias is added to the scores, while Megatron subtracts its negative; scores are the sigmoids (or softmax) that these
    routers choose by, while Megatron takes the logits; if T x k is not a multiple of E, the share is rounded down,
    while Megatron stops. Only sums of quantiles are held, one number per router and expert, no scores.

    ``mean`` averages a tensor over processes. Raise `RecordingError` for a router that limits its choice to groups.
    """

    def __init__(
        self, routers: Sequence[Router], score_function: str, mean: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__(routers)
        for router in routers:
            groups = getattr(router.module, "num_group", getattr(router.module, "n_group", 1))
            if groups not in (None, 1):
                raise RecordingError(
                    f"quantile balancing needs a router that chooses among all experts; {router.name} has {groups} "
                    "groups of them (n_group), expected 1"
                )
        self._score_function, self._mean = score_function, mean
        self._passes: list[torch.Tensor] = []

    def see(self, routings: Sequence[Routing | None]) -> None:
        """Note the quantiles of one micro-batch."""
        import torch

        found = []
        with torch.no_grad():
            for routing, bias_E in zip(routings, self._bias, strict=True):
                if routing is None or routing.logits_TE is None or routing.top_k is None:
                    raise RecordingError("quantile balancing needs the logits and top-k of routers, and one gave none")
                logits_TE = routing.logits_TE.float()
                sigmoid = self._score_function == "sigmoid"
                score_TE = logits_TE.sigmoid() if sigmoid else logits_TE.softmax(dim=-1)
                found.append(quantile_bias(score_TE, bias_E, routing.top_k))
        self._passes.append(torch.stack(found))

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Set each bias to the step's mean quantile; the loads are not needed."""
        import torch

        new_LE = self._mean(torch.stack(self._passes).mean(dim=0))
        self._passes = []
        with torch.no_grad():
            for bias, new_E in zip(self._bias, new_LE - new_LE.mean(dim=1, keepdim=True), strict=True):
                bias.copy_(new_E)


def quantile_bias(score_TE: torch.Tensor, bias_E: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the bias [E] with which each expert gets T x k / E of the tokens, at the present cutoffs.

    A token takes an expert whose score with its bias is above the token's (k+1)-th largest. That cutoff is the one
    under ``bias_E``. With these cutoffs, exactly T x k / E tokens (rounded down) take each expert under the new bias,
    if no scores are equal. The cutoffs then move too, so one call is one step of coordinate descent, not its end. Raise
    `RecordingError` if every token takes every expert.
    """
    tokens, experts = score_TE.shape
    if top_k >= experts:
        raise RecordingError(f"quantile balancing needs more experts than choices, got {experts} and top-{top_k}")
    cutoff_T1 = (score_TE + bias_E).topk(top_k + 1, dim=1).values[:, -1:]
    share = tokens * top_k // experts
    return -(score_TE - cutoff_T1).topk(share + 1, dim=0).values[-1]
