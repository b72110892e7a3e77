"""How far routers specialise: what a token's id says of its experts, on text that is not trained on.

Axis letters: L routers, V token ids, E experts, B sequences and N tokens of a sequence, P routed pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import RecordingError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.recording.routers import Router

EARLY = 500
"""Steps after which it is measured, and once more at the end."""
SEEN = 100
"""Token ids that occur less often are left out: so few choices say little."""


def specialisation(count_LVE: IntArray, seen_V: IntArray) -> float:
    """Return the mean over token ids of H(expert | token id), over the layer's H(expert), as a mean over layers.

    1: the token's id says nothing of its experts. With top-k of E experts and a fixed choice for each id it is
    log k / log E, with top-1 it is 0. ``count_LVE``: how often each id was sent to each expert; ``seen_V``: how often
    it occurs. Raise `RecordingError` if no id occurs `SEEN` times.
    """
    often_V = seen_V >= SEEN
    if not often_V.any():
        raise RecordingError(f"specialisation: no token id occurs {SEEN} times in {seen_V.sum():,} held-out tokens")
    given_L = entropy(count_LVE[:, often_V]).mean(axis=1)
    whole_L = entropy(count_LVE.sum(axis=1))
    return float(np.divide(given_L, whole_L, out=np.ones_like(given_L), where=whole_L > 0).mean())


def entropy(count_E: IntArray) -> FloatArray:
    """Return the entropy of counts [..., E] in nats, corrected for their number (Miller and Madow).

    Without the correction, (cells with a count - 1) / 2 n for n counts, a hundred tokens over many experts seem
    specialised by chance.
    """
    n = np.maximum(1, count_E.sum(axis=-1))
    share_E = count_E / n[..., None]
    plain = -np.sum(share_E * np.log(np.where(share_E > 0, share_E, 1.0)), axis=-1)
    return np.asarray(plain + np.maximum(0, (count_E > 0).sum(axis=-1) - 1) / (2 * n))


class Specialisation:
    """Measures a model's routers on held-out sequences, if there are any; ``by_steps`` has the values by steps trained.

    ``model`` is called without gradients and in evaluation mode, so no recorder counts these passes and no random
    number is drawn.
    """

    def __init__(self, recipe: Recipe, model: Any, routers: list[Router], token_BN: NDArray[np.int64]) -> None:
        self.by_steps: dict[str, float] = {}
        self._model, self._routers, self._token_BN = model, routers, token_BN
        self._at_once = recipe.data.sequences // recipe.data.micro_batches
        self._vocabulary = recipe.data.vocabulary

    def measure(self, steps: int, last: int, say: Callable[[str], None]) -> None:
        """Measure after the first `EARLY` and after the ``last`` of the steps trained, and say the value."""
        if not len(self._token_BN) or steps not in (EARLY, last):
            return
        seen_V = np.bincount(self._token_BN.reshape(-1), minlength=self._vocabulary)
        self.by_steps[str(steps)] = round(specialisation(self._counted_LVE(), seen_V), 4)
        say(f"specialisation after {steps} steps: {self.by_steps[str(steps)]:.3f} (1: a token's id says nothing)")

    def _counted_LVE(self) -> IntArray:
        """Return how often each token id was sent to each expert."""
        counts: list[Any] = [0] * len(self._routers)
        token_T = torch.empty(0, dtype=torch.int64)

        def hook(layer: int) -> Callable[..., None]:
            def count(module: Any, args: Any, output: Any) -> None:
                routing = self._routers[layer].adapter(module, args, output)
                token_P = routing.token_P
                id_P = token_T.repeat_interleave(routing.top_k or 1) if token_P is None else token_T[token_P]
                cell_P = id_P * routing.experts + routing.expert_P
                counts[layer] += torch.bincount(cell_P, minlength=self._vocabulary * routing.experts)

            return count

        handles = [router.module.register_forward_hook(hook(i)) for i, router in enumerate(self._routers)]
        self._model.eval()
        with torch.no_grad():
            for part_BN in torch.split(torch.from_numpy(self._token_BN), self._at_once):
                token_T = part_BN.reshape(-1).to(self._model.device)
                self._model(input_ids=token_T.view(part_BN.shape))
        self._model.train()
        for handle in handles:
            handle.remove()
        return np.asarray(torch.stack(counts).view(len(counts), self._vocabulary, -1).cpu())
