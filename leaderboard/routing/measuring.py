"""Measure the catalogue: busiest ranks beside made-up loads, and what passes between ranks in recorded routing.

Axis letters: T tokens, K choices per token, E experts, R ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from leaderboard.routing.families import FAMILIES, busiest_rank, fitted
from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.ops.facts.balance import sizes_of
from moeload_bench.ops.interchange.dealing import INDEPENDENT, Bursts, deal
from moeload_bench.publishing.routing_cases import CASES, CASES_FILE
from moeload_bench.scoring.metrics import DEAD_SHARE

RANKS = 8
"""Source ranks, and as many expert-parallel ranks, of the traffic that is measured."""


class CaseLayer(NamedTuple):
    """A row of the catalogue."""

    case: str
    about: str
    mark: str
    run: str
    step: int
    layer: str
    experts: int
    top_k: int
    bursts: Bursts
    topk_ids_TK: Array

    @property
    def load_E(self) -> IntArray:
        """Return how many tokens each expert gets."""
        return np.bincount(self.topk_ids_TK.ravel(), minlength=self.experts)

    @property
    def imbalance(self) -> float:
        """Return the busiest expert's load over the mean one."""
        return float(self.load_E.max() / self.load_E.mean())

    @property
    def dead(self) -> int:
        """Return how many experts are below a tenth of the even share."""
        return int((self.load_E < DEAD_SHARE * self.load_E.mean()).sum())


class Busiest(NamedTuple):
    """The busiest rank of an expert-parallel size over the mean: recorded, and by family its mean, 5 % and 95 %."""

    case: str
    size: int
    recorded: float
    made_up: dict[str, tuple[float, float, float]]


class Traffic(NamedTuple):
    """Flows of tokens between ranks: ranks that a token goes to, such as 5.2, and the largest flow over the mean one.

    ``spread``: the variance of a sequence's counts over that of independent tokens, NaN where its length is not known.
    """

    ranks_per_token: float
    largest_flow: float
    spread: float


def read_cases(folder: Path) -> list[CaseLayer]:
    """Return the layers of the catalogue in a folder of traces."""
    rows = pq.read_table(folder / CASES / CASES_FILE, columns=[*_READ]).to_pylist()
    return [
        CaseLayer(
            **{name: row[name] for name in CaseLayer._fields[:-2]},
            bursts=Bursts(row["burst_tokens"], row["burst_spread"]),
            topk_ids_TK=np.array(row["topk_ids"], dtype=np.int32),
        )
        for row in rows
    ]


_READ = (*CaseLayer._fields[:-2], "burst_tokens", "burst_spread", "topk_ids")


def worst_layers(layers: list[CaseLayer]) -> list[CaseLayer]:
    """Return of each case the layer with the largest imbalance."""
    rising = sorted(layers, key=lambda layer: layer.imbalance)
    worst = {layer.case: layer for layer in rising}
    return [worst[case] for case in dict.fromkeys(layer.case for layer in layers)]


def busiest_ranks(layers: list[CaseLayer]) -> Iterator[Busiest]:
    """Yield a row for each layer and expert-parallel size: recorded loads, and families fitted to their imbalance."""
    for layer in layers:
        load_E = layer.load_E.astype(np.float64)
        made_up = {name: fitted(name, layer.imbalance, layer.experts, layer.top_k) for name in FAMILIES}
        for size in sizes_of(layer.experts):
            of_families = {}
            for name, chance_DE in made_up.items():
                busiest_D = busiest_rank(chance_DE, size)
                low, high = np.quantile(busiest_D, [0.05, 0.95]).tolist()
                of_families[name] = (float(busiest_D.mean()), low, high)
            yield Busiest(layer.case, size, float(busiest_rank(load_E[None], size)[0]), of_families)


def traffic(layer: CaseLayer) -> dict[str, Traffic]:
    """Return what passes between ranks: recorded, by the recorded counts with bursts, and with independent tokens."""
    tokens = len(layer.topk_ids_TK)
    kinds = {"counts-only": layer.bursts, "independent": INDEPENDENT}
    made_up = {name: deal(layer.load_E, tokens, bursts, np.random.default_rng(0)) for name, bursts in kinds.items()}
    return {name: flows(layer, ids_TK) for name, ids_TK in {"recorded": layer.topk_ids_TK, **made_up}.items()}


def flows(layer: CaseLayer, topk_ids_TK: Array) -> Traffic:
    """Return what tokens send, each once to a rank; tokens and experts are split over the ranks in their order."""
    sent_RR = sent_tokens(topk_ids_TK, layer.experts, RANKS)
    spread = sequence_spread(topk_ids_TK, layer.experts, layer.bursts.tokens)
    return Traffic(float(sent_RR.sum() / len(topk_ids_TK)), float(sent_RR.max() / sent_RR.mean()), spread)


def sequence_spread(topk_ids_TK: Array, experts: int, sequence: int) -> float:
    """Return the variance of counts within sequences, over experts, over what independent tokens have."""
    whole = len(topk_ids_TK) // sequence
    if sequence == 1 or whole < 2:
        return math.nan
    sequence_P = np.repeat(np.arange(whole), sequence * topk_ids_TK.shape[1])
    pair_P = topk_ids_TK[: whole * sequence].ravel()
    load_GE = np.bincount(sequence_P * experts + pair_P, minlength=whole * experts).reshape(whole, experts)
    chance_E = load_GE.mean(axis=0) / sequence
    return float(load_GE.var(axis=0, ddof=1).sum() / (sequence * chance_E * (1 - chance_E)).sum())


def sent_tokens(topk_ids_TK: Array, experts: int, ranks: int) -> FloatArray:
    """Return the tokens that each source rank sends to each expert-parallel rank; a token goes to a rank once."""
    T = len(topk_ids_TK)
    goes_TR = np.zeros((T, ranks))
    np.put_along_axis(goes_TR, topk_ids_TK // (experts // ranks), 1.0, axis=1)
    source_T = np.arange(T) * ranks // T
    return np.stack([goes_TR[source_T == rank].sum(axis=0) for rank in range(ranks)])
