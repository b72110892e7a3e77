"""What makes balancing stronger, by what the trace says of it: one table of cases and remedies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from moeload_bench.ops.facts.inspector import Inspection
from moeload_bench.traces.meta import BalancingMeta

MET = 1.1
"""A loss over pooled layers is met where no expert has more than so many times an equal share of all layers' tokens."""

Case = Literal[
    "none", "zero", "pooled, met", "pooled", "layer", "micro-batch", "sequence", "global", "bias", "quantile",
    "quantile, global", "hash", "unknown",
]  # fmt: skip


class Remedy(NamedTuple):
    """``when``: what the trace says. ``words``: what to do, a phrase; {now} is the coefficient, {low} and {high} the
    least and the largest pooled share over an equal one.
    """

    when: str
    words: str


REMEDIES: Mapping[Case, Remedy] = {
    "none": Remedy("method `none`", "turn balancing on (auxiliary loss or router bias)"),
    "zero": Remedy("an auxiliary loss or a router bias, coefficient 0", "give balancing a coefficient above 0 (now 0)"),
    "pooled, met": Remedy(
        f"an auxiliary loss pooled over layers, and no pooled share is above {MET:g} equal ones",
        "take the auxiliary loss in each layer: pooled over layers it is met (shares {low:.2f} to {high:.2f} of an "
        "equal one), and a larger coefficient (now {now:g}) changes little",
    ),
    "pooled": Remedy(
        f"an auxiliary loss pooled over layers, and a pooled share is above {MET:g} equal ones",
        "take the auxiliary loss in each layer, then raise it (now {now:g}, pooled over layers)",
    ),
    "layer": Remedy(
        "an auxiliary loss per layer, or of a scope that is not stated", "raise the auxiliary loss (now {now:g})"
    ),
    "micro-batch": Remedy(
        "an auxiliary loss per micro-batch",
        "raise the auxiliary loss (now {now:g}); as it acts in each micro-batch, one over the global batch limits the "
        "router less",
    ),
    "sequence": Remedy(
        "an auxiliary loss per sequence",
        "add a router bias or a loss over the global batch: the loss within sequences (now {now:g}) limits the router "
        "most if it is raised",
    ),
    "global": Remedy(
        "an auxiliary loss over the step's micro-batches so far (Megatron-Core's `global_aux_loss`)",
        "raise the auxiliary loss over the global batch (now {now:g})",
    ),
    "bias": Remedy("a router bias (`loss_free_bias`)", "raise the step of the router's bias (now {now:g})"),
    "quantile": Remedy(
        "a router bias by quantiles per micro-batch",
        "take the quantiles over the tokens of the whole global batch: they have no strength that can be raised",
    ),
    "quantile, global": Remedy(
        "a router bias by quantiles over more than a micro-batch",
        "check of which tokens the quantiles are: they make shares of those equal, and have no strength to raise",
    ),
    "hash": Remedy("a hash of tokens", "choose another hash or a learned router: a hash does not learn from loads"),
    "unknown": Remedy(
        "another method, or nothing", "make balancing stronger (the trace does not say which balancing it has)"
    ),
}
"""By case; the guide has it as a table."""
OF_SCOPE: Mapping[str, Case] = {
    "per_layer": "layer",
    "unknown": "layer",
    "none": "layer",
    "per_micro_batch": "micro-batch",
    "per_sequence": "sequence",
    "running_mean": "global",
}
OF_METHOD: Mapping[str, Case] = {"none": "none", "loss_free_bias": "bias", "hash": "hash"}


def stronger(facts: Inspection) -> str:
    """Return what makes balancing stronger in a run, as a phrase."""
    pooled_E = facts.pooled_E
    words = REMEDIES[case_of(facts.meta.balancing, float(np.nanmax(pooled_E, initial=0.0)))].words
    return words.format(now=facts.meta.balancing.coefficient, low=pooled_E.min(), high=pooled_E.max())


def case_of(balancing: BalancingMeta, pooled: float) -> Case:
    """Return the row of the table; ``pooled``: the largest pooled share over an equal one."""
    if balancing.method in ("aux_loss", "loss_free_bias") and not balancing.coefficient:
        return "zero"
    if balancing.method == "quantile":
        return "quantile" if balancing.scope == "per_micro_batch" else "quantile, global"
    if balancing.method != "aux_loss":
        return OF_METHOD.get(balancing.method, "unknown")
    if balancing.scope == "pooled_over_layers":
        return "pooled, met" if pooled <= MET else "pooled"
    return OF_SCOPE[balancing.scope]


def pooled_balance(facts: Inspection) -> Iterator[str]:
    """Yield the pooled balance, to stand beside that of each layer, where the loss pools layers and they differ."""
    busiest = float(np.nanmax(facts.pooled_E, initial=0.0))
    pools = facts.meta.balancing.scope == "pooled_over_layers"
    if pools and MET * busiest < np.nanmax(facts.busiest_L, initial=0.0):
        yield f"pooled over layers, as the loss has it, {busiest:.2f}"
