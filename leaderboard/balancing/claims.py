"""Decide by the recorded runs what is said of quantile balancing, such as "robust to changes of the data mix".

Axis letters: S steps, L MoE layers, E experts, N seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import ResultError
from moeload_bench.results.skill import CONFIDENCE, interval_of
from moeload_bench.schema import Schema, read_toml

CLAIMS = Path(__file__).with_name("claims.toml")
Window = tuple[int, int]
"""The first step, and the one after the last."""
SeriesOf = Callable[["Claim", str, int], FloatArray]
"""The metric of a claim along the run [S], by recipe and seed."""


class Claim(Schema):
    """One sentence that somebody wrote, and the fixed windows, metric and threshold that decide it."""

    name: str
    quote: str
    source: str
    author: str
    question: str
    metric: Literal["imbalance", "overflow"]
    capacity: float | None = None
    window: Window
    base: Window | None = None
    factor: float
    runs: str
    against: str
    verdict: bool
    seeds: tuple[int, ...] = ()

    def metric_of(self, load_SLE: IntArray) -> FloatArray:
        """Return the claim's metric in each step, the mean over layers [S]."""
        if self.metric == "imbalance":
            return np.asarray(imbalance(load_SLE).mean(axis=1))
        assert self.capacity is not None, "a claim on overflow names its capacity"
        return np.asarray(overflow(load_SLE, self.capacity).mean(axis=1))


class Claims(Schema):
    """The committed claims; ``seeds`` are those of a claim that names none."""

    confidence: float = Field(ge=CONFIDENCE, le=CONFIDENCE)
    seeds: tuple[int, ...]
    switch: int
    claim: tuple[Claim, ...]

    def seeds_of(self, claim: Claim) -> tuple[int, ...]:
        """Return the seeds of a claim's runs."""
        return claim.seeds or self.seeds


class Outcome(NamedTuple):
    """A claim with its values and its verdict. Values are natural logarithms by seed of ``pairs``: 0.1 is 1.105 times.

    ``interval`` and ``contrast`` are ends of 95 % intervals, of the same logarithms and of their difference.

    ``verdict``: held, contradicted or cannot be told; how many pairs there are while some are missing; "" for a claim
    without verdict.
    """

    claim: Claim
    pairs: tuple[int, ...]
    runs_N: FloatArray
    against_N: FloatArray
    interval: tuple[float, float]
    contrast: tuple[float, float]
    verdict: str


@functools.cache
def committed_claims() -> Claims:
    """Return the claims as they were committed before the first recording."""
    return read_toml(Claims, CLAIMS, "claims", ResultError)


def imbalance(load_SLE: IntArray) -> FloatArray:
    """Return the largest over the mean load of an expert [S, L]."""
    return np.asarray(load_SLE.max(axis=2) / load_SLE.mean(axis=2))


def overflow(load_SLE: IntArray, capacity: float) -> FloatArray:
    """Return the part of the routed pairs above ``capacity`` times the mean load [S, L]."""
    mean_SL = load_SLE.mean(axis=2)
    over_SLE = np.maximum(load_SLE - capacity * mean_SL[..., None], 0.0)
    return np.asarray(over_SLE.mean(axis=2) / mean_SL)


def outcome(claims: Claims, claim: Claim, recorded: Mapping[str, tuple[int, ...]], series: SeriesOf) -> Outcome:
    """Return what the recorded seeds of both recipes say; ``recorded``: seeds by recipe."""
    seeds = claims.seeds_of(claim)
    both = {*recorded.get(claim.runs, ())} & {*recorded.get(claim.against, ())}
    pairs = tuple(seed for seed in seeds if seed in both)
    runs_N, against_N = _values(claim, pairs, series)
    complete = claim.verdict and pairs == seeds
    interval = interval_of(runs_N) if complete else (math.nan, math.nan)
    contrast = interval_of(runs_N - against_N) if complete else (math.nan, math.nan)
    return Outcome(
        claim, pairs, runs_N, against_N, interval, contrast, _verdict(claim, interval, len(pairs), len(seeds))
    )


def _values(claim: Claim, pairs: tuple[int, ...], series: SeriesOf) -> tuple[FloatArray, FloatArray]:
    """Return the values of ``runs`` and of ``against`` [N]; without a base both are runs over against."""
    runs, against = ([series(claim, recipe, seed) for seed in pairs] for recipe in (claim.runs, claim.against))
    base = claim.base
    if base is None:
        return _log_ratios(runs, claim.window, against, claim.window), np.zeros(len(pairs))
    return _log_ratios(runs, claim.window, runs, base), _log_ratios(against, claim.window, against, base)


def _log_ratios(runs: Sequence[FloatArray], window: Window, bases: Sequence[FloatArray], base: Window) -> FloatArray:
    """Return by run the logarithm of its mean over a window, over the mean of its base over another [N]."""
    pairs = zip(runs, bases, strict=True)
    return np.log([series[slice(*window)].mean() / base_series[slice(*base)].mean() for series, base_series in pairs])


def _verdict(claim: Claim, interval: tuple[float, float], pairs: int, expected: int) -> str:
    if not claim.verdict:
        return ""
    if pairs < expected:
        return f"cannot be told yet: {pairs} of {expected} pairs"
    low, high = interval
    threshold = math.log(claim.factor)
    return "held" if high < threshold else "contradicted" if low > threshold else "cannot be told"
