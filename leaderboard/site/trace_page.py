"""What a trace's page says: how the run was made, what its loads did, how forecasters fared on it.

Axis letters: S rows, L MoE layers, E experts, N bins.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from leaderboard.site.board import Board
from leaderboard.site.board_page import digits
from leaderboard.site.words import Facts, direction, fact_text, named
from moeload_bench.arrays import FloatArray
from moeload_bench.files import file_name
from moeload_bench.plots import View, view_trace
from moeload_bench.publishing.card_tables import balancing_words, first_spans, source_names
from moeload_bench.results.formats import horizon_heads
from moeload_bench.results.render import NONE, Table
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import run_spans
from moeload_bench.traces.trace import Trace, shares
from moeload_bench.words import listed, ordinal

ACROSS = 4
"""Bins are as fine as so many panels side by side allow."""
MOST = 3.0
"""The most powers of two around an even load that the map distinguishes."""


class Strip(NamedTuple):
    """A stretch of one state: its width in per cent, and its steps."""

    state: str
    width: float
    steps: str


class LayerMap(NamedTuple):
    """The loads of a layer: the states over training, and a PNG with a row for each expert, in base64."""

    name: str
    states: list[Strip]
    picture: str


def page_path(trace_id: str) -> str:
    """Return where the page of a trace lies."""
    return f"traces/{file_name(trace_id.replace('/', '.'))}.html"


def trace_page(trace: Trace, boards: Sequence[Board], file: str) -> dict[str, Any]:
    """Return what the template shows of a run; scores from every board that it is a run of."""
    view = view_trace(trace)
    first, end = view.span
    return {
        "id": trace.id,
        "file": file,
        "facts": facts(trace),
        "notes": trace.meta.notes,
        "spans": first_spans(run_spans(trace)),
        "steps": (f"{first:,}", f"{end:,}"),
        "maps": [layer_map(view, layer) for layer in view.layers],
        "sources": sources(trace),
        "scores": [(board.title, tables) for board in boards if (tables := scores(board, trace.id))],
    }


def facts(trace: Trace) -> Facts:
    """Return how the run was made."""
    meta, size = trace.meta, trace.load_SLE.shape
    return [
        ("Model", meta.family),
        ("MoE layers x experts", f"{size[1]} x {size[2]}, top-k {fact_text(meta.top_k)}"),
        ("Steps", f"{trace.steps:,}" + (f", every {ordinal(meta.stride)}" if meta.stride > 1 else "")),
        ("Tokens per step", step_tokens(trace)),
        ("Gate", f"{meta.gate}, {meta.score_function}"),
        ("Balancing", balancing_words(meta)),
        ("Text", source_names(meta.sources)),
        ("Precision", meta.precision),
        ("Recipe", f"{meta.recipe}, version {meta.recipe_version}"),
        ("Seed", fact_text(meta.seed)),
        ("Split", meta.split),
        ("Licence", meta.licence),
        ("SHA-256 of the metadata", meta.sha256()),
    ]


def step_tokens(trace: Trace) -> str:
    """Return tokens per step in words; of a batch that grows, from the first to the last."""
    first, last = int(trace.tokens_SL[0].max()), trace.meta.global_batch_tokens or int(trace.tokens_SL[-1].max())
    return f"{last:,}" if first >= last else f"{first:,} to {last:,}"


def layer_map(view: View, layer: int) -> LayerMap:
    """Return the map of a layer."""
    share_NE = view.binned(shares(view.trace.load_SLE[view.rows, layer]), across=ACROSS).mean_NX
    first, end = view.span
    strips = [
        Strip(state, round(100 * (stop - start) / (end - first), 2), f"{start:,.0f} to {stop:,.0f}")
        for start, stop, state in view.spans(layer)
    ]
    return LayerMap(
        f"{view.name(layer)}: {onset(view, layer)}", strips, load_picture(share_NE * view.trace.num_experts)
    )


def load_picture(relative_NE: FloatArray) -> str:
    """Return a PNG of load over even load, red above and blue below; black is no token, transparent no load."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    colours = colormaps["RdBu_r"].with_extremes(under="black", bad=(0, 0, 0, 0))
    with np.errstate(divide="ignore"):
        power_NE = np.log2(relative_NE)
    power_NE = np.where(relative_NE == 0, -2 * MOST, np.clip(power_NE, -MOST, MOST))
    out = io.BytesIO()
    imsave(out, power_NE.T, cmap=colours, vmin=-MOST, vmax=MOST, format="png")
    return base64.b64encode(out.getvalue()).decode()


def onset(view: View, layer: int) -> str:
    """Return the first stable step of a layer, with the least and largest that other thresholds give."""
    labels = view.labels
    if labels is None:
        return "no states"
    step, low, high = (step_of(view.trace, row) for row in (labels.onset_L[layer], *labels.onset_band_L2[layer]))
    return f"stable from {step} ({low} to {high})"


def step_of(trace: Trace, row: int) -> str:
    """Return the training step of a row as text, `never` for -1."""
    return "never" if row < 0 else f"{int(trace.step_S[row]):,}"


def sources(trace: Trace) -> Table | None:
    """Return the texts that the model was trained on."""
    if not trace.meta.sources:
        return None
    rows = tuple(
        (text.name, text.version, text.licence, f"{text.bytes / 1e6:.1f} MB", text.sha256[:16], str(text.stage))
        for text in trace.meta.sources
    )
    heads = ("source", "version", "licence", "size", "SHA-256 begins", "stage")
    return Table("The texts that the model was trained on.", heads, rows, 6, 6)


def scores(board: Board, trace_id: str) -> list[Table]:
    """Return the errors of all forecasters on this run, a table for each state."""
    if trace_id not in board.traces:
        return []
    rows = board.by_run[(board.by_run["trace"] == trace_id) & board.by_run["value"].notna()]
    tables = []
    for state, cells in rows.groupby("state", sort=False):
        values = cells.pivot(index="forecaster", columns="horizon", values="value")
        order = list(dict.fromkeys(cells["forecaster"]))
        lines = tuple((name, *map(digits, values.loc[name])) for name in order)
        caption = (
            f"{str(state).capitalize()}: a row is a forecaster, a column a horizon h in training steps. Errors: "
            f"{named(PRIMARY)}, mean over {cells['origins'].max()} origins and over layers; {direction(PRIMARY)}."
        )
        tables.append(
            Table(caption, ("forecaster", *horizon_heads([int(horizon) for horizon in values.columns])), lines)
        )
    return tables


def list_row(trace: Trace, boards: Sequence[Board]) -> tuple[str, ...]:
    """Return the row of a trace in the list of all."""
    meta, (_, L, E) = trace.meta, trace.load_SLE.shape
    scored = [board.name for board in boards if trace.id in board.traces]
    training = {board.suite.name: None for board in boards if trace.id in {run.id for run in board.suite.fit}}
    uses = [f"{use} {listed(list(names))}" for use, names in (("scored in", scored), ("train of", training)) if names]
    even = step_tokens(trace)
    size = f"{L} x {E}, {meta.top_k or 'varies'}"
    return (trace.id, "; ".join(uses) or NONE, f"{trace.steps:,}", size, even, balancing_words(meta),
            first_spans(run_spans(trace)))  # fmt: skip


def traces_table(rows: Sequence[tuple[str, ...]]) -> Table:
    """Return the list of all traces, those that a board uses first."""
    heads = (
        "run",
        "use",
        "steps",
        "layers x experts, top\N{NON-BREAKING HYPHEN}k",
        "tokens per step",
        "balancing",
        "states",
    )
    caption = (
        "A row is a run, those that a board uses first; its columns say what it is, and no direction is better. States "
        "are given in training steps."
    )
    return Table(caption, heads, tuple(sorted(rows, key=lambda row: row[1] == NONE)), 2, 5)
