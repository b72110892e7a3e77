"""Which tokens count: with `count="attended"`, those that the model's attention mask keeps.

Engines pad batches, and padding tokens are routed like others, so some experts get several percent more load than their
real tokens. The mask is taken from the model's arguments, once per forward pass, or set for the next pass by
`TokenMask.set`.
Axis letters: B sequences and T tokens of a forward pass, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing

_NAMES = ("attention_mask", "decoder_attention_mask")


class TokenMask:
    """The mask of the current forward pass, for every router of a model."""

    def __init__(self, routers: list[Router]) -> None:
        self._two_stacks = any(router.stack == "encoder" for router in routers)
        self._given: torch.Tensor | None = None
        self._masks: dict[str, Any] = {}
        self._counted: dict[tuple[str, torch.device], tuple[torch.Tensor, int]] = {}

    def set(self, mask_BT: torch.Tensor) -> None:
        """Set which tokens of the next forward pass count, for models that are called without a mask."""
        self._given = mask_BT

    def see_inputs(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Take the mask from the model's arguments, before a counted forward pass."""
        self._counted = {}
        if self._given is not None:
            self._masks, self._given = dict.fromkeys(_NAMES, self._given), None
            return
        named = kwargs
        if args:
            try:
                named = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
            except (TypeError, ValueError):  # the model itself reports wrong arguments
                named = kwargs
        self._masks = {name: named.get(name) for name in _NAMES}

    def of_pairs(self, router: Router, routing: Routing) -> tuple[torch.Tensor, int]:
        """Return which pairs count, bool [P], and how many tokens do.

        Raise `RecordingError` if the pass came without a mask that has one value per token that the router saw.
        """
        name = _NAMES[1] if self._two_stacks and router.stack == "decoder" else _NAMES[0]
        keep_T, tokens = self._of_tokens(name, router, routing)
        if routing.token_P is not None:
            return keep_T[routing.token_P], tokens
        return keep_T.repeat_interleave(routing.top_k or 1), tokens

    def _of_tokens(self, name: str, router: Router, routing: Routing) -> tuple[torch.Tensor, int]:
        device = routing.expert_P.device
        if (name, device) not in self._counted:
            mask = self._masks.get(name)
            if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
                got = f"{list(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
                raise RecordingError(
                    f'count="attended" needs {name} [sequences, tokens] in every pass, got {got}: call the model with '
                    "it, give it to Recorder.attended(mask) before the pass, or count all tokens"
                )
            keep_T = mask.detach().to(device).reshape(-1) != 0
            self._counted[name, device] = keep_T, int(keep_T.sum())
        keep_T, tokens = self._counted[name, device]
        if not routing.tokens_known or len(keep_T) != routing.tokens:
            saw = f"{routing.tokens} tokens" if routing.tokens_known else "counts without tokens"
            raise RecordingError(
                f'count="attended": {name} has {len(keep_T)} tokens, router {router.name} gives {saw}; expected as many'
            )
        return keep_T, tokens
