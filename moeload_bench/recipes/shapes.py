"""Shapes of drawn recipes, and what one costs: a formula of operations, so that nothing is measured to draw.

A shape is what decides the cost of a step: experts, top-k, tokens, sequence length, micro-batches, width, layers and
the experts' inner size relative to the width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from moeload_bench.recipes.distribution import SHAPE, Distribution, FamilyTable, StratumTable

T = TypeVar("T")


def pick(options: Sequence[T], key: str) -> T:
    """Return one of the options by the hash of ``key``: the choice never changes."""
    digest = hashlib.sha256(key.encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]


class Shapes:
    """All shapes of a stratum and family that keep its limits and, in its fewest steps, its budget.

    ``of`` has them by key; `probed` says where the budget has room for the probe too.
    """

    def __init__(self, distribution: Distribution, stratum: StratumTable, family: FamilyTable) -> None:
        options = [np.array(getattr(stratum, key)) for key in SHAPE]
        grid = np.meshgrid(*options, indexing="ij")
        self.of: dict[str, NDArray[Any]] = {key: values.ravel() for key, values in zip(SHAPE, grid, strict=True)}
        sequences, parts = self.of["tokens"] // self.of["sequence_length"], self.of["micro_batches"]
        fits = (sequences >= stratum.sequences_least) & (sequences % parts == 0) & (sequences // parts >= 2)
        fits &= self.of["tokens"] % self.of["sequence_length"] == 0
        fits &= 2 * self.of["top_k"] <= self.of["experts"]
        fits &= self.of["tokens"] * self.of["top_k"] >= stratum.per_expert_least * self.of["experts"]
        if stratum.per_expert_most is not None:
            fits &= self.of["tokens"] * self.of["top_k"] <= stratum.per_expert_most * self.of["experts"]
        budget = 60 * stratum.minutes / min(stratum.steps) - step_seconds(distribution, family, self.of)
        self.of["probed"] = np.zeros(len(fits), dtype=bool)
        if stratum.probe is not None:
            probe = probe_seconds(distribution, family, self.of, stratum.probe.tokens)
            self.of["probed"] = budget >= probe / stratum.probe.every
        self.keep(fits & (budget >= 0))

    def keep(self, mask: NDArray[Any]) -> None:
        """Keep only the shapes in ``mask``."""
        self.of = {key: values[mask] for key, values in self.of.items()}

    def draw(self, key: str) -> dict[str, Any]:
        """Return one shape, drawn key by key; prefer shapes with a probe among those of its number of experts."""
        for name in SHAPE:
            if name == "top_k" and self.of["probed"].any():
                self.keep(self.of["probed"])
            self.keep(self.of[name] == pick(np.unique(self.of[name]).tolist(), f"{key}/{name}"))
        return {name: values[0].item() for name, values in self.of.items()}


def step_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any]) -> Any:
    """Return the seconds of one core that a training step takes, for numbers or arrays of them.

    Layers, then parameters for the optimizer, and for each token the vocabulary: its logits and their loss.
    """
    cost = distribution.cost
    experts, width = shape["experts"], shape["width"]
    matrices = 4 * width * width + width * experts + 3 * shape["inner"] * width * width * (experts + family.shared)
    parameters = shape["layers"] * matrices + width * distribution.vocabulary
    vocabulary = shape["tokens"] * distribution.vocabulary
    layers = _layers(distribution, family, shape, shape["tokens"], shape["micro_batches"])
    return layers + cost.parameter * parameters + cost.vocabulary * vocabulary


def probe_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any], tokens: int) -> Any:
    """Return the seconds of a probe, which goes through the layers in passes as large as the step's micro-batches."""
    passes = -(-tokens * shape["micro_batches"] // shape["tokens"])
    return distribution.cost.probe * _layers(distribution, family, shape, tokens, passes)


def _layers(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any], tokens: Any, passes: Any) -> Any:
    """Return the seconds of all layers: for each pass and its experts, and for each token what it reads and writes.

    A token reads and writes the width, attention scores (heads times the length of a sequence), and for each expert
    that it goes to twice the width and three times the inner size.
    """
    cost, width = distribution.cost, shape["width"]
    per_pass = cost.layer + cost.expert * shape["experts"]
    per_token = cost.width * width + cost.score * shape["sequence_length"] * (width // distribution.head_dim)
    active = shape["top_k"] + family.shared
    per_token = per_token + cost.value * active * width * (2 + 3 * shape["inner"])
    return shape["layers"] * (passes * per_pass + tokens * per_token)
