"""What a trace's page says: how the run was made, what its loads did, how the forecasters fared on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from leaderboard.site.forecaster_page import Facts
from leaderboard.site.grids import fact_text, one_run
from leaderboard.site.inputs import Board
from leaderboard.site.words import three_digits
from moeload_bench.files import file_name
from moeload_bench.publishing import card_tables
from moeload_bench.results.comparison import with_runs_of
from moeload_bench.results.grid import present_mean
from moeload_bench.results.html import NONE
from moeload_bench.results.tables import Table, table_of
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import END_STEPS, LayerDescription, Run
from moeload_bench.scoring.run_facts import DRIFT_STEPS
from moeload_bench.words import ordinal

FACTS = (
    "Parameters", "MoE layers x experts", "Sequences per step", "Tokens per expert and step", "Noise of a row's share",
    "As of independent tokens per expert", f"Drift over noise, h = {', '.join(map(str, DRIFT_STEPS))}",
    "Passes over the text read most", "Trained on",
)  # fmt: skip
"""What the cells of `facts_cells` are."""
SHORT = ("Model", *FACTS[:4], "Steps", "Balancing")
"""Facts that open a page: the size of the run and its tokens per expert."""


def page_path(trace_id: str) -> str:
    """Return where the page of a trace lies."""
    return f"traces/{file_name(trace_id.replace('/', '.'))}.html"


def trace_page(run: Run, boards: Sequence[Board]) -> dict[str, Any]:
    """Return the page of a run; scores from every suite whose test run it is."""
    scores = []
    for board in boards:
        results = with_runs_of(board.compared, {run.id})
        if all(result.runs for result in results):
            names = [entry.name for entry in board.entries]
            scores.append((board.suite.name, tuple(one_run(results, names, PRIMARY))))
    return {
        "id": run.id,
        "short": [fact for fact in facts(run) if fact[0] in SHORT],
        "facts": facts(run),
        "spans": card_tables.first_spans(run.spans),
        "layers": layers(run),
        "sources": sources(run),
        "scores": scores,
        "notes": run.meta.notes,
    }


def facts(run: Run) -> Facts:
    """Return how the run was made."""
    meta = run.meta
    return [
        ("Recipe", f"{meta.recipe}, version {meta.recipe_version}"),
        ("Split", meta.split),
        ("Seed", fact_text(meta.seed)),
        ("Model", meta.family),
        ("Steps", f"{run.steps:,}" + (f", every {ordinal(meta.stride)}" if meta.stride > 1 else "")),
        ("Tokens per step", run.step_tokens),
        *zip(FACTS, card_tables.facts_cells(run.facts), strict=True),
        ("Top-k", fact_text(meta.top_k)),
        ("Gate", f"{meta.gate}, {meta.score_function}"),
        ("Balancing", card_tables.balancing_words(meta)),
        ("Text", card_tables.source_names(meta.sources)),
        ("Precision", meta.precision),
        ("Columns", ", ".join(run.columns)),
        ("Licence", meta.licence),
        ("Size", f"{run.bytes / 1e6:.2f} MB"),
        ("SHA-256 of the data", run.data_sha256),
        ("SHA-256 of the metadata", meta.sha256()),
    ]


def layers(run: Run) -> Table:
    """Return one row per layer: states, onset with its band, imbalance, dead experts, floors."""
    columns: dict[str, Callable[[LayerDescription], str]] = {
        "layer": lambda layer: layer.layer,
        "onset (band)": lambda layer: str(layer.onset or "never"),
        f"imbalance, first {END_STEPS}": lambda layer: three_digits(layer.imbalance_first),
        f"last {END_STEPS}": lambda layer: three_digits(layer.imbalance_last),
        "dead experts": lambda layer: fact_text(layer.dead_experts),
        f"floor, {END_STEPS}-step mean": lambda layer: three_digits(layer.floor_window_tv),
        "floor, per step": lambda layer: three_digits(layer.floor_tv),
        "over-dispersion": lambda layer: three_digits(layer.over_dispersion),
        "states, in steps": lambda layer: layer.states,
    }
    caption = (
        "A row is a layer; its columns say what the run is, and no direction is better. "
        "Onset: the first stable step, with the band that thresholds a quarter lower and higher give. "
        "Imbalance: largest over mean share. Dead: below a tenth of an even share at the end. Floors: the tokens, over "
        "a window (window_tv) and step by step (tv), that any forecaster can be expected to misplace, by "
        + " and ".join(sorted({layer.floor for layer in run.layers}))
        + ". Over-dispersion: noise per step over that of top-k draws alone."
    )
    return table_of(caption, run.layers, columns, 8)


def sources(run: Run) -> Table | None:
    """Return the texts that the model was trained on."""
    if not run.meta.sources:
        return None
    rows = tuple(
        (one.name, one.version, one.licence, f"{one.bytes / 1e6:.1f} MB", one.sha256[:16], str(one.stage))
        for one in run.meta.sources
    )
    heads = ("source", "version", "licence", "size", "SHA-256 begins", "stage")
    return Table("The texts that the model was trained on.", heads, rows, 6, 6)


def runs_table(runs: Sequence[Run], boards: Sequence[Board]) -> Table:
    """Return all traces, one row each."""
    use: dict[str, list[str]] = {}
    for board in boards:
        for entry in board.suite.traces:
            use.setdefault(entry.id, []).append(f"scored in {board.suite.name}")
        for fit in board.suite.fit:
            use.setdefault(fit.id, []).append(f"to fit on in {board.suite.name}")
    rows = tuple(
        (
            run.id, ", ".join(use.get(run.id, [NONE])), f"{run.steps:,}",
            f"{len(run.meta.layers)} x {run.meta.experts}, {run.meta.top_k or 'varies'}", run.step_tokens,
            *card_tables.facts_cells(run.facts)[3:5],
            three_digits(present_mean([one.imbalance_first for one in run.layers])),
            three_digits(present_mean([one.imbalance_last for one in run.layers])),
            f"{median(steps):g}" if (steps := card_tables.onset_steps(run.layers)) else "never",
            card_tables.balancing_words(run.meta),
        )
        for run in runs
    )  # fmt: skip
    heads = ("run", "use", "steps", "layers x experts, top\N{NON-BREAKING HYPHEN}k", "tokens per step",
             "per expert", "noise of a row", "imbalance, first", "last", "onset", "balancing")  # fmt: skip
    caption = (
        "A row is a run; its columns say what it is, and no direction is better. "
        f"Imbalance: largest over mean share, mean over layers, in the first and last {END_STEPS} steps. Onset of the "
        "stable state: median over layers; a run's page gives each layer's, with its band, and the text that was read."
    )
    return Table(caption, heads, rows, 2, 10)
