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

from moeload_bench.recipes.distribution import Distribution, FamilyTable, StratumTable

SHAPE = ("experts", "top_k", "tokens", "sequence_length", "micro_batches", "width", "layers", "inner")
"""Keys of a stratum that its limits and the budget tie together, in the order in which they are drawn."""

T = TypeVar("T")


def pick(options: Sequence[T], key: str) -> T:
    """Return one of the options by the hash of ``key``: a stream that stays the same for good."""
    digest = hashlib.sha256(key.encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]


class Shapes:
    """All shapes of a stratum and family that keep its limits and, in its fewest steps, its budget."""

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
        seconds = min(stratum.steps) * step_seconds(distribution, family, self.of)
        self.keep(fits & (seconds <= 60 * stratum.minutes))

    def keep(self, mask: NDArray[Any]) -> None:
        """Forget all others."""
        self.of = {key: values[mask] for key, values in self.of.items()}

    def draw(self, key: str) -> dict[str, Any]:
        """Return one shape, drawn key by key."""
        for name in SHAPE:
            self.keep(self.of[name] == pick(np.unique(self.of[name]).tolist(), f"{key}/{name}"))
        return {name: values[0].item() for name, values in self.of.items()}


def step_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any]) -> Any:
    """Return the seconds of one core that a training step takes, for numbers or arrays of them.

    Counted are products (multiply-adds of a token, times 3 for the backward pass), values (those that a token's layers
    read and write beside products), parameters of the optimizer, and what each micro-batch costs by layer and expert.
    """
    cost = distribution.cost
    products, values, parameters = _operations(distribution, family, shape)
    passes = shape["micro_batches"] * shape["layers"] * (cost.layer + cost.expert * shape["experts"])
    per_token = 3 * cost.product * products + cost.value * values
    return cost.step + family.cost * (passes + shape["tokens"] * per_token) + cost.parameter * parameters


def probe_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any], tokens: int) -> Any:
    """Return the seconds of a probe: a share of what the same tokens cost in training."""
    training = step_seconds(distribution, family, shape)
    return distribution.cost.probe * training * tokens / shape["tokens"]


def _operations(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """(multiply-adds of a token, values of a token, parameters of the model)."""
    width, experts, active = shape["width"], shape["experts"], shape["top_k"] + family.shared
    inner = shape["inner"] * width
    weights = 4 * width * width + width * experts
    products = shape["layers"] * (weights + 2 * width * shape["sequence_length"] + 3 * width * inner * active)
    heads = width // distribution.head_dim
    values = 16 * width + heads * shape["sequence_length"] + active * (2 * width + 3 * inner) + 4 * experts
    parameters = shape["layers"] * (weights + 3 * width * inner * (experts + family.shared))
    vocabulary = distribution.vocabulary
    return (
        products + width * vocabulary,
        shape["layers"] * values + 4 * vocabulary,
        parameters + width * vocabulary,
    )
