"""How routers are kept balanced: losses, noisy gates, biases and hash routing, where transformers does not supply them.

Routing biases are added to a router's scores to choose experts, and used nowhere else: transformers' routers of the
DeepSeek-V3 kind have such a buffer, `e_score_correction_bias`, but transformers never updates it. Under hash routing a
token's id alone decides its experts, so that loads change only as the text does.

Axis letters: L routers, E experts, V token ids, B sequences, N tokens of a sequence and T tokens of a forward pass, K
choices per token, H bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moeload_bench.errors import RecordingError
from moeload_bench.generator.batches import random_of
from moeload_bench.recording.routers import Adapter, Router, Routing, find_routers, top_k_routing


class RouterStatistics(NamedTuple):
    """Per-layer auxiliary loss [L] and mean entropy [L] of one forward pass, both as tensors."""

    aux_L: torch.Tensor
    entropy_L: torch.Tensor


class RunningShares:
    """Each expert's share of the routed pairs of the step so far, over its micro-batches and all processes.

    Megatron-LM's `global_aux_loss` takes f_e so (`TopKRouter._apply_global_aux_loss`, megatron/core/transformer/moe/
    router.py 507 to 554 at d98e8a64): counts are summed over processes, then averaged over the micro-batches seen since
    the last optimizer step. The first micro-batch of a step therefore has its own shares and only the last one those of
    the whole batch. Nothing is kept from one step to the next, so a checkpoint needs none of it.

    ``mean`` averages a tensor over processes.
    """

    def __init__(self, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._mean = mean
        self._count_E: dict[int, torch.Tensor] = {}

    def start_step(self) -> None:
        """Forget the step before."""
        self._count_E = {}

    def add(self, layer: int, count_E: torch.Tensor) -> torch.Tensor:
        """Take in a layer's counts [E] of one micro-batch; return its shares [E] of the step so far."""
        total_E = self._mean(count_E.float()) + self._count_E.get(layer, 0.0)
        self._count_E[layer] = total_E
        return total_E / total_E.sum().clamp(min=1)


def router_statistics(
    routings: Sequence[Routing | None], score_function: str, running: RunningShares | None = None
) -> RouterStatistics:
    """Return the Switch auxiliary loss of each layer, E sum_e f_e P_e, and the entropy of the router.

    f_e is the share of routed pairs that went to expert e, and P_e the mean over tokens of the router's probability for
    e; the loss is 1 when balanced. Fedus et al., arXiv 2101.03961, equations 4 to 6, with f_e divided by k for k
    choices per token. The loss of training is the coefficient times the *sum* over layers, as there and in Megatron-LM.
    Gradients flow through P only. Probabilities are the softmax of the logits or, for `score_function` sigmoid,
    sigmoids normalised to sum 1. The entropy is in nats. With ``running``, f_e is the share of the step so far, and P_e
    that of this pass.
    """
    aux, entropy = [], []
    for layer, routing in enumerate(routings):
        routing, prob_TE = _probabilities(routing, score_function)
        count_E = torch.bincount(routing.expert_P, minlength=routing.experts)
        share_E = count_E.to(prob_TE.dtype) / max(1, routing.expert_P.numel())
        if running is not None:
            share_E = running.add(layer, count_E)
        aux.append(routing.experts * (share_E * prob_TE.mean(0)).sum())
        with torch.no_grad():
            entropy.append(torch.special.entr(prob_TE).sum(-1).mean())
    return RouterStatistics(torch.stack(aux), torch.stack(entropy))


def sequence_aux_loss(routings: Sequence[Routing | None], score_function: str, sequences: int) -> torch.Tensor:
    """Return E sum_e f_e P_e of each layer, both taken within a sequence, then the mean over ``sequences``; [L].

    This is the complementary loss of DeepSeek-V3, arXiv 2412.19437, equations 17 to 20. Raise `RecordingError` unless
    the pass has this number of sequences, all of one length.
    """
    losses = []
    for routing in routings:
        routing, prob_TE = _probabilities(routing, score_function)
        if routing.tokens % sequences or routing.top_k is None or not routing.tokens_known:
            raise RecordingError(f"{routing.tokens} tokens of a router are not {sequences} sequences of one length")
        length, experts = routing.tokens // sequences, routing.experts
        token_P = routing.token_P
        if token_P is None:
            token_P = torch.arange(routing.tokens, device=prob_TE.device).repeat_interleave(routing.top_k)
        cell_P = token_P // length * experts + routing.expert_P
        count_BE = torch.bincount(cell_P, minlength=sequences * experts).view(sequences, experts)
        share_BE = count_BE.to(prob_TE.dtype) / (length * routing.top_k)
        losses.append(experts * (share_BE * prob_TE.view(sequences, length, experts).mean(1)).sum(-1).mean())
    return torch.stack(losses)


def router_z_loss(routings: Sequence[Routing | None]) -> torch.Tensor:
    """Return the z-loss, the mean squared log-sum-exp of logits [L]; Zoph et al., arXiv 2202.08906, eq. 5."""
    return torch.stack([_logits(routing)[1].logsumexp(-1).square().mean() for routing in routings])


def _logits(routing: Routing | None) -> tuple[Routing, torch.Tensor]:
    """Return the routing and its logits [T, E] in single precision."""
    if routing is None or routing.logits_TE is None:
        raise RecordingError("a loss on routers needs their logits, and a router gave none")
    return routing, routing.logits_TE.float()


def _probabilities(routing: Routing | None, score_function: str) -> tuple[Routing, torch.Tensor]:
    """Return the routing and the router's probabilities [T, E]: scores that sum to 1."""
    routing, logits_TE = _logits(routing)
    score_TE = _scores(logits_TE, score_function)
    return routing, score_TE / score_TE.sum(-1, keepdim=True) if score_function == "sigmoid" else score_TE


def _scores(logits_TE: torch.Tensor, score_function: str) -> torch.Tensor:
    """Return what the router chooses by [T, E]."""
    return torch.sigmoid(logits_TE) if score_function == "sigmoid" else torch.softmax(logits_TE, dim=-1)


def add_noise_to_gates(routers: Sequence[Router]) -> None:
    """Add noisy top-k gating: while training, each router chooses by logits + n softplus(x W), n standard normal.

    Shazeer et al., arXiv 1701.06538, equations 3 to 5. W [E, d] is a parameter of the router, `noise_weight`, which
    starts at 0 and learns with the rest; weights of the chosen experts come from the noisy logits too. Call it before
    hooks are set that read the router's output. Raise `RecordingError` for a router that does not choose the top-k of
    the softmax of its logits.
    """
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


# ------------------------------------------------------------------------------------------------ routing biases


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
        with torch.no_grad():
            self._passes.append(torch.stack([quantile_bias(*each) for each in self._scored(routings)]))

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Set each bias to the step's mean quantile; the loads are not needed."""
        self._set(self._mean(torch.stack(self._passes).mean(dim=0)))
        self._passes = []

    def _scored(self, routings: Sequence[Routing | None]) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Yield scores [T, E], present bias [E] and top-k of each router."""
        for routing, bias_E in zip(routings, self._bias, strict=True):
            routing, logits_TE = _logits(routing)
            assert routing.top_k is not None, "a router with such a bias chooses as many experts for every token"
            yield _scores(logits_TE, self._score_function), bias_E, routing.top_k

    def _set(self, new_LE: torch.Tensor) -> None:
        """Set the biases, centred to mean 0 in each layer."""
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
    share = tokens * top_k // experts
    return -(score_TE - _cutoffs(score_TE, bias_E, top_k)).topk(share + 1, dim=0).values[-1]


def _cutoffs(score_TE: torch.Tensor, bias_E: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return each token's (k+1)-th largest score with the bias, [T, 1]."""
    experts = score_TE.shape[1]
    if top_k >= experts:
        raise RecordingError(f"quantile balancing needs more experts than choices, got {experts} and top-{top_k}")
    return (score_TE + bias_E).topk(top_k + 1, dim=1).values[:, -1:]


class HistogramBias(QuantileBias):
    """Quantile balancing over the whole batch: one quantile of a histogram that all micro-batches are counted in.

    It follows pull request 6637 of Megatron-LM for its `dev` branch, at 3c4e4eab (Kimi K3's estimator): the counts in
    megatron/core/transformer/moe/moe_utils.py 863 to 884, the quantile there at 1264 to 1321, the sum over processes in
    megatron/core/distributed/finalize_model_grads.py 381 to 416. The same: 1,000 equal bins from the least bias - 1 to
    the largest + 1, a quantile that is linear within its bin, biases centred to mean 0; the next step routes with them.
    So the bins follow from the bias, which is the one state, a buffer of the model. Different: the quantile is taken of
    any score function that these routers choose by, while Megatron takes sigmoids only.
    """

    _count_LEH: torch.Tensor | None = None
    _top_k = 0

    def see(self, routings: Sequence[Routing | None]) -> None:
        """Count the biases that the tokens of one micro-batch ask for."""
        with torch.no_grad():
            scored = list(self._scored(routings))
            count_LEH = torch.stack([bias_histogram(*each) for each in scored])
        self._count_LEH = count_LEH if self._count_LEH is None else self._count_LEH + count_LEH
        self._top_k = scored[0][-1]

    def update(self, load_LE: NDArray[np.int64]) -> None:
        """Set each bias to the quantile of the step's histogram; the loads are not needed."""
        assert self._count_LEH is not None, "a step has at least one pass"
        count_LEH = self._mean(self._count_LEH.double())
        self._count_LEH = None
        new = [histogram_quantile(*each, self._top_k) for each in zip(count_LEH, self._bias, strict=True)]
        self._set(torch.stack(new))


BINS = 1000


def bias_histogram(score_TE: torch.Tensor, bias_E: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return how many tokens ask each expert for which bias, [E, H]: cutoff - score, the least at which they take it.

    What lies outside of the bins counts in the first or the last. Raise `RecordingError` as `quantile_bias` does.
    """
    experts = score_TE.shape[1]
    low, width = _bins(bias_E)
    bin_TE = ((_cutoffs(score_TE, bias_E, top_k) - score_TE - low) / width).floor().long().clamp(0, BINS - 1)
    cell_TE = bin_TE + BINS * torch.arange(experts, device=bin_TE.device)
    return torch.bincount(cell_TE.reshape(-1), minlength=experts * BINS).view(experts, BINS)


def histogram_quantile(count_EH: torch.Tensor, bias_E: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the bias [E] at which k / E of the counted tokens take each expert, linear within a bin.

    ``bias_E`` is the one that tokens were counted under. A factor common to all counts changes nothing.
    """
    low, width = _bins(bias_E)
    below_EH = count_EH.double().cumsum(dim=1)
    wanted_E1 = below_EH[:, -1:] * top_k / len(bias_E) * (1 - 1e-12)  # rounding must not skip to the next bin
    bin_E1 = torch.searchsorted(below_EH, wanted_E1)
    inside_E1 = count_EH.double().gather(1, bin_E1)
    part_E1 = 1 - (below_EH.gather(1, bin_E1) - wanted_E1) / inside_E1
    return (low + (bin_E1 + part_E1) * width).squeeze(1).to(bias_E.dtype)


def _bins(bias_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the histogram's first bin begins, and how wide each is."""
    low = bias_E.min() - 1
    return low, (bias_E.max() + 1 - low) / BINS


# ------------------------------------------------------------------------------------------------ hash routing


class HashRouter(nn.Module):
    """A router that looks up each token's experts in a fixed table; it learns nothing.

    It returns what the router that it replaces returns: logits [T, E], weights [T, K] and indices [T, K]. Weights are 1
    / K. Logits are 0 for a token's experts and -inf for others, so their softmax gives the same weights. (Hash layers
    of DeepSeek-V4 learn the weights; their choice is the same kind of table.)
    """

    expert_VK: torch.Tensor

    def __init__(self, expert_VK: torch.Tensor, experts: int) -> None:
        super().__init__()
        self.register_buffer("expert_VK", expert_VK, persistent=False)
        self.experts = experts
        self.token_T = torch.empty(0, dtype=torch.int64)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Route the tokens whose ids `route_by_token`'s hook has noted."""
        index_TK = self.expert_VK[self.token_T]
        tokens, top_k = index_TK.shape
        logits_TE = hidden_states.new_full((tokens, self.experts), -torch.inf).scatter(1, index_TK, 0.0)
        return logits_TE, hidden_states.new_full((tokens, top_k), 1 / top_k), index_TK


ADAPTERS: dict[type, Adapter] = {HashRouter: top_k_routing}
"""The adapter with which a recorder reads them."""


def route_by_token(model: nn.Module, seed: int) -> None:
    """Replace every router of a model by a `HashRouter` with its own table (Roller et al., arXiv 2106.04426).

    Call it before the optimizer takes the parameters. Raise `RecordingError` for a router that does not return indices
    [T, K], and for an encoder-decoder, whose two stacks read different tokens.
    """
    config: Any = model.config
    for layer, router in enumerate(find_routers(model)):
        old: Any = router.module
        returns_indices = router.adapter is top_k_routing and hasattr(old, "top_k") and hasattr(old, "num_experts")
        if not returns_indices or config.is_encoder_decoder:
            raise RecordingError(
                f"hash routing needs a decoder whose routers return indices, as Qwen3-MoE's do; {router.name} is a "
                f"{type(old).__name__}"
            )
        table_VK = expert_table(seed, layer, config.vocab_size, old.num_experts, old.top_k)
        parent, _, leaf = router.name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, HashRouter(torch.from_numpy(table_VK), old.num_experts))
    body: Any = model.base_model  # a probe runs it without the head
    body.register_forward_pre_hook(_note_tokens, with_kwargs=True)


def expert_table(seed: int, layer: int, vocabulary: int, experts: int, top_k: int) -> np.ndarray:
    """Return the experts of each token id [V, K]: K different ones, drawn from (seed, layer)."""
    random = random_of(f"{seed}/hash/{layer}")
    return random.random_sample((vocabulary, experts)).argsort(axis=1, kind="stable")[:, :top_k].copy()


def _note_tokens(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Give the ids to the model's routers (a forward pre-hook of the model)."""
    token_BN = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
    for module in model.modules():
        if isinstance(module, HashRouter):
            module.token_T = token_BN.reshape(-1)
