"""Which half of the step a routed token belongs to, for `load_half`.

Axis letters: B sequences and T tokens of a forward pass, P routed (token, expert) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeload_bench.recording.routers import Routing

if TYPE_CHECKING:
    import torch

_PADDING_CHECKS = 20


class Halves:
    """Splits the sequences of an optimizer step into two halves.

    Sequences are numbered over the passes of a step and alternate, unless `set` names the halves of the next pass;
    ``rank`` counts the batches that are trained beside this one and come before it. A pass whose tokens cannot be told
    apart by sequence (packed batches) counts as one sequence; `known` turns False when a router does not tell tokens.
    """

    def __init__(self, rank: int = 0) -> None:
        self.padded = False
        self.known = True
        self._rank = rank
        self._checks_left = _PADDING_CHECKS
        self._named: torch.Tensor | None = None
        self.start_step()

    def start_step(self) -> None:
        """A new optimizer step begins."""
        self.sequences = 0
        self._half_B: torch.Tensor | None = None
        self._pass_parity = 0
        self._cache: dict[tuple[int, int], torch.Tensor] = {}

    def set(self, half_B: torch.Tensor) -> None:
        """Say to which half (0 or 1) each sequence of the next forward pass belongs."""
        self._named = half_B

    def see_inputs(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model: how many sequences come, and whether some of it is padding."""
        import torch

        if not (module.training and torch.is_grad_enabled()):
            return
        first = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if first is None:
            first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        count = int(first.shape[0]) if first is not None and first.ndim > 1 else 1
        at = self._rank * count + self.sequences
        self._pass_parity = at % 2
        if self._named is not None:
            self._half_B, self._named = self._named, None
        else:
            self._half_B = (torch.arange(count) + at) % 2
        self.sequences += count
        self._cache = {}
        self._look_for_padding(kwargs.get("attention_mask"))

    def _look_for_padding(self, mask: Any) -> None:
        # each look waits for the device, so a run without padding is looked at only so often
        if mask is not None and getattr(mask, "ndim", 0) == 2 and self._checks_left and not self.padded:
            self._checks_left -= 1
            self.padded = bool((mask == 0).any())

    def of_pairs(self, routing: Routing) -> torch.Tensor | int:
        """Half of each routed pair [P], or one number for all of them."""
        half_B = self._half_B
        self.known = self.known and routing.tokens_known
        if half_B is None or not routing.tokens_known or routing.tokens == 0 or routing.tokens % len(half_B):
            return self._pass_parity
        if routing.token_P is not None:
            return self._of_tokens(half_B, routing, 1)[routing.token_P]
        return self._of_tokens(half_B, routing, routing.top_k or 1)

    def _of_tokens(self, half_B: torch.Tensor, routing: Routing, times: int) -> torch.Tensor:
        """Half of each token, repeated; the router sees the sequences of a pass one after another."""
        key = (routing.tokens, times)
        if key not in self._cache:
            each = routing.tokens // len(half_B) * times
            self._cache[key] = half_B.to(routing.expert_P.device).repeat_interleave(each)
        return self._cache[key]
