"""Which half of the step a routed token belongs to, for `load_half`.

Axis letters: B sequences and T tokens of a forward pass, P routed (token, expert) pairs.
"""

from __future__ import annotations

from typing import Any

import torch

from moeload_bench.recording.routers import Routing

_PADDING_CHECKS = 20


class Halves:
    """Splits the sequences of an optimizer step into two halves.

    Sequences are numbered over the passes of a step and alternate, unless `set` names the halves of the next pass.
    ``rank`` is the number of parallel batches that come before this one. A pass whose tokens cannot be assigned to
    sequences (packed batches) counts as one sequence; `known` becomes False if a router does not report tokens.
    """

    def __init__(self, rank: int = 0) -> None:
        self.padded = False
        self.known = True
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
        first = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if first is None:
            first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        count = int(first.shape[0]) if first is not None and first.ndim > 1 else 1
        at = self._rank * count + self.sequences
        self._pass_parity = at % 2
        self._half_B = self._named or tuple(i % 2 for i in range(at, at + count))
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
            self.known = False
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
