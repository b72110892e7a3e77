"""Experts dealt to tokens so that every count is exact: routing that is made up from the counts of a step.

The tokens of a step are halved again and again, and each half gets its part of every expert's count. In a small group
the experts are then laid out in a random order, one after the other, over its tokens: an expert has at most as many
pairs as the group has tokens, so no token meets it twice.

Axis letters: G groups of tokens, T tokens, K choices per token, P routed (token, expert) pairs, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, IntArray
from moeload_bench.errors import TraceError

MAX_SCALE = 4
"""Times the recorded tokens at most: counts of more tokens keep the noise of few, which exaggerates imbalance."""
GROUP_TOKENS = 8
"""Groups of at most so many tokens are halved no further."""


class Bursts(NamedTuple):
    """How unlike groups of tokens are. ``spread``: variance of counts over that of independent tokens, in groups of
    more than ``tokens``; smaller groups are as independent tokens are.
    """

    tokens: int
    spread: float


INDEPENDENT = Bursts(1, 1.0)
"""What is assumed where halves of the batch were not recorded."""


def bursts_shown(load_E: IntArray, half_E: IntArray, tokens: int, sequence: int) -> Bursts:
    """Return the bursts that the two halves of a step's sequences show: tokens of one sequence choose alike.

    The spread is the squared difference of the halves' counts, summed over experts, over what it would be if each half
    held every other token: 1 for tokens that choose on their own, at most the sequence's length.
    """
    top_k = int(load_E.sum()) / tokens
    first = float(half_E.sum()) / top_k
    if not 0 < first < tokens:
        return INDEPENDENT
    expected_E = load_E * (first / tokens)
    variance_E = first * (tokens - first) / max(1, tokens - 1) * (load_E / tokens) * (1 - load_E / tokens)
    total = float(variance_E.sum())
    spread = float(((half_E - expected_E) ** 2).sum()) / total if total else 1.0
    return Bursts(sequence, min(max(1.0, spread), float(sequence)))


def scaled_counts(load_E: IntArray, tokens: int, wanted: int) -> IntArray:
    """Return the counts of ``wanted`` tokens in the proportions of those of ``tokens``, by largest remainder.

    Raise `TraceError` for less than one token, and for more than MAX_SCALE times the recorded ones.
    """
    if not 1 <= wanted <= MAX_SCALE * tokens:
        raise TraceError(
            f"--tokens is {wanted:,}, expected 1 to {MAX_SCALE * tokens:,}: {tokens:,} were recorded, and counts of "
            f"more than {MAX_SCALE} times as many would keep the noise of few, which exaggerates imbalance"
        )
    product_E = load_E * wanted
    floor_E, remainder_E = product_E // tokens, product_E % tokens
    missing = int(load_E.sum()) * wanted // tokens - int(floor_E.sum())
    largest = np.argsort(-remainder_E, kind="stable")[:missing]
    floor_E[largest] += 1
    return floor_E


def check_counts(load_E: IntArray, tokens: int, top_k: int, where: str) -> None:
    """Raise `TraceError` unless ``tokens`` that choose ``top_k`` different experts each can have these counts."""
    most = int(load_E.argmax())
    if load_E[most] > tokens:
        raise TraceError(
            f"{where}: expert {most} has load {load_E[most]:,}, expected at most the {tokens:,} tokens: a token "
            "chooses an expert once"
        )
    if int(load_E.sum()) != tokens * top_k:
        raise TraceError(
            f"{where}: loads sum to {load_E.sum():,}, expected {tokens:,} tokens x top-{top_k} = {tokens * top_k:,}: "
            "counts after drops, or of a varying number of experts, say for no token which it chose"
        )


def deal(load_E: IntArray, tokens: int, bursts: Bursts, rng: np.random.Generator) -> Array:
    """Return experts [T, K] int32: each as often as its count, none twice for one token.

    The counts must pass `check_counts`. Equal states of ``rng`` give equal experts.
    """
    top_k = int(load_E.sum()) // tokens
    size_G, load_GE = np.array([tokens], dtype=np.int64), load_E[None, :].astype(np.int64)
    while size_G[0] > GROUP_TOKENS:  # the first group is never smaller than another
        size_G, load_GE = _halved(size_G, load_GE, top_k, bursts, rng)
    G, E = load_GE.shape
    order_GE = np.argsort(rng.random((G, E), dtype=np.float32), axis=1)
    load_of_ordered_GE = np.take_along_axis(load_GE, order_GE, axis=1)
    expert_P = np.repeat(order_GE.ravel().astype(np.int32), load_of_ordered_GE.ravel())
    first_G = np.cumsum(size_G) - size_G
    pairs_G = size_G * top_k
    place_P = np.arange(tokens * top_k) - np.repeat(first_G * top_k, pairs_G)
    size_P = np.repeat(size_G, pairs_G)
    choice_P = place_P // size_P
    token_P = np.repeat(first_G, pairs_G) + place_P - choice_P * size_P
    group_T = np.repeat(np.arange(G), size_G)
    shuffled_T = np.argsort(group_T + rng.random(tokens))  # within each group
    topk_ids_TK = np.empty((tokens, top_k), dtype=np.int32)
    topk_ids_TK[shuffled_T[token_P], choice_P] = expert_P
    return topk_ids_TK


def _halved(
    size_G: IntArray, load_GE: IntArray, top_k: int, bursts: Bursts, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return twice as many groups of half the size, with their counts.

    The first half's counts vary around its part as those of a random half do, times the bursts' spread; they are whole
    numbers that both halves can hold, and sum to top-k pairs for each of its tokens.
    """
    half_G = (size_G + 1) // 2
    size_G1, half_G1 = size_G[:, None], half_G[:, None]
    low_GE, high_GE = np.maximum(0, load_GE - (size_G1 - half_G1)), np.minimum(load_GE, half_G1)
    part_GE = load_GE / size_G1
    spread = bursts.spread if size_G[0] > bursts.tokens else 1.0
    E = load_GE.shape[1]
    scale_G1 = spread * half_G1 * (size_G1 - half_G1) / np.maximum(1, size_G1 - 1) * (E / max(1, E - 1))
    variance_GE = scale_G1 * part_GE * (1 - part_GE)
    moved_GE = rng.standard_normal(load_GE.shape) * np.sqrt(variance_GE)
    total_G1 = variance_GE.sum(axis=1, keepdims=True)
    moved_GE -= variance_GE * (moved_GE.sum(axis=1, keepdims=True) / np.where(total_G1 > 0, total_G1, 1.0))
    first_GE = np.clip(np.rint(part_GE * half_G1 + moved_GE).astype(np.int64), low_GE, high_GE)
    missing_G = half_G * top_k - first_GE.sum(axis=1)
    room_GE = np.where(missing_G[:, None] > 0, high_GE - first_GE, first_GE - low_GE)
    first_GE += np.sign(missing_G)[:, None] * _shared(np.abs(missing_G), room_GE, rng)
    both_GE = np.stack([first_GE, load_GE - first_GE], axis=1).reshape(-1, E)
    return np.stack([half_G, size_G - half_G], axis=1).ravel(), both_GE


def _shared(units_G: IntArray, room_GE: IntArray, rng: np.random.Generator) -> IntArray:
    """Return ``units_G`` shared out in proportion to the room of each place, in whole numbers that the room holds."""
    end_GE = np.cumsum(room_GE, axis=1)
    total_G1 = np.maximum(1, end_GE[:, -1:])
    offset_G1 = np.asarray(rng.random((len(units_G), 1)) * total_G1, dtype=np.int64)
    taken_GE = (end_GE * units_G[:, None] + offset_G1) // total_G1
    return np.diff(taken_GE, axis=1, prepend=0)
