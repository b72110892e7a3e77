"""The tokens of a forward pass, known before routers run: the half of the step that each is of, and whether it counts.

Both are taken from the model's arguments once per pass, or set for the next one. Engines pad batches, and padding
tokens are routed like others, so some experts get several percent more load than their real tokens: with
`count="attended"` only those count that the model's attention mask keeps.
Axis letters: B sequences and T tokens of a forward pass, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing

_PADDING_CHECKS = 20
_NAMES = ("attention_mask", "decoder_attention_mask")


class Halves:
    """Splits the sequences of an optimizer step into two halves.

    Sequences are numbered over the passes of a step and alternate, unless `set` names the halves of the next pass.
    ``rank`` is the number of parallel batches that come before this one. A pass whose tokens cannot be assigned to
    sequences (packed batches) counts as one sequence; `assigned` becomes False if a router does not report tokens.
    """

    def __init__(self, rank: int = 0) -> None:
        self.padded = False
        self.assigned = True
        self._rank = rank
        self._checks_left = _PADDING_CHECKS
        self._named: tuple[int, ...] | None = None
        self._last: tuple[Any, torch.Tensor] = (None, torch.empty(0))
        self.start_step()

    def start_step(self) -> None:
        """Begin a new optimizer step."""
        self.sequences = 0
        self._half_B: tuple[int, ...] = ()
        self._pass_parity = 0

    def set(self, half_B: torch.Tensor) -> None:
        """Set the half (0 or 1) of each sequence of the next forward pass."""
        self._named = tuple(half_B.tolist())

    def see_inputs(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Note how many sequences the next counted forward pass of the model has, and whether some of it is padding."""
        inputs = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if inputs is None:
            inputs = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        count = int(inputs.shape[0]) if inputs is not None and inputs.ndim > 1 else 1
        first = self._rank * count + self.sequences
        self._pass_parity = first % 2
        self._half_B = self._named or tuple(i % 2 for i in range(first, first + count))
        self._named = None
        self.sequences += count
        self._look_for_padding(kwargs.get("attention_mask"))

    def _look_for_padding(self, mask: Any) -> None:
        # each look waits for the device, so a run without padding is checked only now and then
        if mask is not None and getattr(mask, "ndim", 0) == 2 and self._checks_left and not self.padded:
            self._checks_left -= 1
            self.padded = bool((mask == 0).any())

    def of_pairs(self, routing: Routing) -> torch.Tensor | int:
        """Return the half of each routed pair [P], or one number for all of them."""
        half_B, tokens = self._half_B, routing.tokens
        if not routing.tokens_known:
            self.assigned = False
            return self._pass_parity
        if not half_B or tokens == 0 or tokens % len(half_B):
            return self._pass_parity
        times = 1 if routing.token_P is not None else routing.top_k or 1
        key = (half_B, tokens, times, routing.expert_P.device)
        last_key, half_P = self._last
        if key != last_key:
            # the router sees the sequences of a pass one after another
            half_P = torch.tensor(half_B, device=key[-1]).repeat_interleave(tokens // len(half_B) * times)
            self._last = key, half_P
        return half_P if routing.token_P is None else half_P[routing.token_P]


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
