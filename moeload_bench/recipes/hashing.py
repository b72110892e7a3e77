"""Hash routing: a token's id alone decides its experts, so loads change only as the text does.

Axis letters: V token ids, B sequences, N tokens of a sequence, T tokens of a forward pass, E experts, K choices per
token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from moeload_bench.errors import RecordingError
from moeload_bench.recipes.batches import random_of
from moeload_bench.recording.routers import Adapter, find_routers, top_k_routing


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
        known = router.adapter is top_k_routing and hasattr(old, "top_k") and hasattr(old, "num_experts")
        if not known or config.is_encoder_decoder:
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
