"""Advice by what a trace says of its balancing: each row of the table of docs/guide/inspect.md, with a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leaderboard.committed import ROOT
from leaderboard.pages.tables import remedy_table
from moeload_bench.arrays import FloatArray
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.facts.page import report
from moeload_bench.ops.facts.remedies import REMEDIES, Case
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.traces.trace import Trace
from tests.support.synthetic import draw

ROWS = 300
SKEWED = np.array([0.55, 0.15, 0.15, 0.15])
ALIKE = np.stack([SKEWED] * 4)
"""Four layers with the same favourite: pooled shares are as uneven as those of a layer."""
CANCELLING = np.stack([np.roll(SKEWED, layer) for layer in range(4)])
"""Each layer has a favourite of its own, so that shares pooled over layers are even."""
PHRASES: tuple[tuple[Case, dict[str, Any], FloatArray, str], ...] = (
    ("none", {"method": "none", "scope": "none"}, ALIKE, "Turn balancing on"),
    ("zero", {"method": "aux_loss", "scope": "per_layer"}, ALIKE, "Give balancing a coefficient above 0"),
    ("zero", {"method": "loss_free_bias", "scope": "per_layer"}, ALIKE, "Give balancing a coefficient above 0"),
    (
        "pooled, met",
        {"method": "aux_loss", "coefficient": 0.001, "scope": "pooled_over_layers"},
        CANCELLING,
        "Take the auxiliary loss in each layer: pooled over layers it is met (shares 1.00 to 1.00 of an equal one)",
    ),
    (
        "pooled",
        {"method": "aux_loss", "coefficient": 0.001, "scope": "pooled_over_layers"},
        ALIKE,
        "Take the auxiliary loss in each layer, then raise it (now 0.001, pooled over layers)",
    ),
    (
        "layer",
        {"method": "aux_loss", "coefficient": 0.01, "scope": "per_layer"},
        ALIKE,
        "Raise the auxiliary loss (now 0.01):",
    ),
    (
        "micro-batch",
        {"method": "aux_loss", "coefficient": 0.01, "scope": "per_micro_batch"},
        ALIKE,
        "Raise the auxiliary loss (now 0.01); as it acts in each micro-batch",
    ),
    (
        "sequence",
        {"method": "aux_loss", "coefficient": 1e-4, "scope": "per_sequence"},
        ALIKE,
        "Add a router bias or a loss over the global batch: the loss within sequences (now 0.0001)",
    ),
    (
        "global",
        {"method": "aux_loss", "coefficient": 0.01, "scope": "running_mean"},
        ALIKE,
        "Raise the auxiliary loss over the global batch (now 0.01)",
    ),
    (
        "bias",
        {"method": "loss_free_bias", "coefficient": 0.001, "scope": "per_layer"},
        ALIKE,
        "Raise the step of the router's bias (now 0.001)",
    ),
    (
        "quantile",
        {"method": "quantile", "scope": "per_micro_batch"},
        ALIKE,
        "Take the quantiles over the tokens of the whole",
    ),
    (
        "quantile, global",
        {"method": "quantile", "scope": "per_layer"},
        ALIKE,
        "Check of which tokens the quantiles are",
    ),
    ("hash", {"method": "hash", "scope": "none"}, ALIKE, "Choose another hash"),
    ("unknown", {}, ALIKE, "Make balancing stronger (the trace does not say"),
)


def run_of(share_LE: FloatArray, **balancing: Any) -> Trace:
    """Return a run whose loads stay."""
    load_SLE, half_SLE = draw(np.broadcast_to(share_LE, (ROWS, *share_LE.shape)), 4096)
    return Trace.from_arrays(
        load_SLE, top_k=1, columns={"load_half": half_SLE}, balancing=balancing, format_version="1.5"
    )


@pytest.mark.parametrize(("case", "balancing", "share_LE", "words"), PHRASES)
def test_advice_is_that_of_the_balancing_in_use(
    case: Case, balancing: dict[str, Any], share_LE: FloatArray, words: str
) -> None:
    """By method, scope and coefficient; a pooled loss that is met is not to be raised."""
    found = inspect_trace(run_of(share_LE, **balancing))
    (advice,) = [text for text in assess(found).to_do if "what noise alone gives" in text]
    assert advice.startswith(words)
    fixed = REMEDIES[case].words.split("{")[0]
    assert advice[1:].startswith(fixed[1:])


def test_every_row_of_the_table_has_a_trace_and_stands_on_the_page() -> None:
    """The page's table is that of the code."""
    assert {case for case, *_ in PHRASES} == set(REMEDIES)
    assert remedy_table() in (ROOT / "docs/guide/inspect.md").read_text(encoding="utf-8")


def test_pooled_balance_stands_beside_that_of_layers_where_they_differ() -> None:
    """Where the loss pools layers and each has a favourite of its own; on the screen, the page and in JSON."""
    pooled = {"method": "aux_loss", "coefficient": 0.001, "scope": "pooled_over_layers"}
    trace = run_of(CANCELLING, **pooled)
    found, words = inspect_trace(trace), "pooled over layers, as the loss has it, 1.00"
    assert words in assess(found).balance
    assert words in report(trace).html
    np.testing.assert_allclose(found.record["pooled"], 1.0, atol=0.02)
    for other in (run_of(ALIKE, **pooled), run_of(CANCELLING, **{**pooled, "scope": "per_layer"})):
        assert "pooled" not in assess(inspect_trace(other)).balance


def test_dead_experts_under_a_pooled_loss_that_is_met_ask_for_a_loss_per_layer() -> None:
    """Two of four experts of each layer are dead, others in each layer: raising the loss is not what revives them."""
    dead_LE = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    found = inspect_trace(run_of(dead_LE, method="aux_loss", coefficient=0.001, scope="pooled_over_layers"))
    (revive,) = [text for text in assess(found).to_do if text.startswith("Revive 4 of 8 experts")]
    assert "take the auxiliary loss in each layer: pooled over layers it is met" in revive
    assert "raise" not in revive
