"""Balancers within the step on a run: what they can use, what they cost, and the loads that they leave.

A row of a trace is taken as one micro-batch of one expert-parallel group, and as one step. A balancer (`quotas`,
`reaction.even_tokens`) pays in each layer of it: it runs (``launch_ms``); the busiest device fetches its replicas
before the forward pass, which waits for them, and again before the backward pass; then their gradients are reduced into
the masters. Of the second fetch and the reduction, ``hidden_ms`` a layer are hidden behind other work.

    layer(k) = launch + k w / b + max(0, k (w + g) / b - hidden)        k replicas on the busiest device

Axis letters: S steps, L MoE layers, E experts, N layers of steps, K replicas on the busiest device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import PlacementError, counted, not_found, short
from moeload_bench.ops.planning.quotas import Pool, quotas
from moeload_bench.ops.planning.reaction import Reaction, even_tokens, masters_of
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.traces.means import mean_known
from moeload_bench.traces.trace import Trace, shares

MOST_LAYERS = 6144
"""Layers of steps that balancers are tried on, in steps that are spread over the run."""
LEAST = (1, 1024)
"""Tokens that a replica takes at least; 1,024 is UltraEP's default."""
GRADIENT = 2.0
"""Bytes of an expert's gradient (fp32) over those of its weights (bf16)."""
WEIGHTS = 1 / 7
"""Of the bytes that move with an expert (weights in bf16, AdamW in fp32: 14 a parameter), its weights."""
COUNTS = ("slots", "domain")


@dataclass(frozen=True)
class WithinStep:
    """What a balancer within the step can use and costs; ``slots`` for replicas on a device serve all layers in turn.

    ``domain``: devices that replicas stay within; ``weight_mb``: weights of an expert; ``gb_s`` into a device, within
    the domain.
    """

    slots: float = 2
    domain: float = 8
    weight_mb: float = 200 * WEIGHTS
    gb_s: float = 400.0
    launch_ms: float = 0.1
    hidden_ms: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            positive, whole = name in (*COUNTS, "gb_s"), name in COUNTS
            if not (np.isfinite(value) and (value > 0 if positive else value >= 0) and (value % 1 == 0 or not whole)):
                kind, limit = "whole" if whole else "finite", "above 0" if positive else "of at least 0"
                raise PlacementError(f"--within-step: {name} is {value:g}, expected a {kind} number {limit}")

    def layer_ms(self, fetched: Any) -> Any:
        """Return what a layer pays whose busiest device fetches so many replicas; a number or an array."""
        forward_ms = fetched * self.weight_mb / self.gb_s
        return self.launch_ms + forward_ms + np.maximum(0.0, forward_ms * (1 + GRADIENT) - self.hidden_ms)

    def pool_mb(self, slots: float) -> float:
        """Return the MB that slots of a device take: weights and gradients."""
        return slots * self.weight_mb * (1 + GRADIENT)


def stated_within(text: str) -> dict[str, float]:
    """Return the constants in `slots=2,domain=8` by name; raise `MoeloadError` for other text."""
    stated: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in (names := [field.name for field in fields(WithinStep)]):
            raise not_found("constant of --within-step", name, names)
        try:
            stated[name] = float(value)
        except ValueError:
            raise PlacementError(f"--within-step: {name} is {short(value)}, expected a number") from None
    WithinStep(**stated)
    return stated


class Reacted(NamedTuple):
    """A balancer on some layers of steps: mean max / mean, layers by replicas on the busiest device [K], its slots.

    ``beyond``: whether replicas leave the domain, so that they are fetched over the network.
    """

    how: str
    imbalance: float
    layers_K: IntArray
    slots: int
    beyond: bool = False

    def ms(self, within: WithinStep, network_gb_s: float) -> float:
        """Return what a layer of a step pays, in the mean."""
        rate = replace(within, gb_s=network_gb_s) if self.beyond else within
        return float(self.layers_K @ rate.layer_ms(np.arange(len(self.layers_K))) / self.layers_K.sum())


def reacted(load_NE: IntArray, shape: ClusterShape, within: WithinStep) -> Iterator[Reacted]:
    """Yield balancers on layers of steps, experts by number of their masters; raise `PlacementError` as `quotas`."""
    slots, domain = int(within.slots), int(within.domain)
    for least in LEAST:
        reaction = quotas(load_NE, shape.devices, Pool(slots, domain, least))
        yield _reacted(f"quotas, at least {counted(least, 'token')} a replica", reaction, slots)
    even, masters = even_tokens(load_NE, shape.devices), masters_of(load_NE, shape.devices).shape[2]
    yield _reacted("even tokens", even, masters, beyond=shape.devices > domain)


def _reacted(how: str, reaction: Reaction, slots: int, *, beyond: bool = False) -> Reacted:
    busiest_N = reaction.fetched_ND.max(axis=1)
    return Reacted(how, mean_known(reaction.imbalance_N), np.bincount(busiest_N), slots, beyond)


class Sample(NamedTuple):
    """Some steps of a run: loads in the order of the slots, mean tokens of a layer, max / mean as the experts are."""

    load_NE: IntArray
    tokens: float
    imbalance: float


def sample_of(trace: Trace, start_LR: IntArray, devices: int) -> Sample:
    """Return steps that are spread over a run; ``start_LR``: the layout in force, whose devices hold the masters.

    Where it has replicas, masters are held by number.
    """
    S, L, E = trace.load_SLE.shape
    steps = np.unique(np.linspace(0, S - 1, max(1, min(S, MOST_LAYERS // L))).astype(np.int64))
    load_SLE = np.stack([trace.load_SLE[step].copy() for step in steps.tolist()])  # a view would hold its row group
    imbalance = mean_known(step_imbalance(start_LR, shares(load_SLE), devices))
    if start_LR.shape[1] == E:
        load_SLE = np.take_along_axis(load_SLE, start_LR[None], axis=2)
    return Sample(load_SLE.reshape(-1, E), float(trace.tokens_SL[steps].mean()), imbalance)
