"""The tables of a dataset card, made from the traces of a folder; no number is typed by hand.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean, median

from moeload_bench.results.render import markdown_table
from moeload_bench.scoring.description import (
    DRIFT_STEPS,
    END_STEPS,
    LayerDescription,
    Run,
    RunFacts,
    drift_words,
    rounded,
)
from moeload_bench.traces.meta import COLUMNS, ShapeMeta, SourceMeta, TraceMeta
from moeload_bench.words import listed, ordinal

MAX_SPANS = 8
"""Spans of states that a cell shows; the others are only counted."""
SHAPES = {"": "one number", "L": "[layers]", "LE": "[layers, experts]"}
"""What a column holds per step, by its axes."""


# ---------------------------------------------------------------- tables


Cells = Mapping[str, Callable[[Run], object]]
"""A table with a row for each run: the head of each column, and what its cell says of a run."""
RUNS: Cells = {
    "Run": lambda run: f"`{run.id}`",
    "Steps": lambda run: f"{run.steps:,}" + (f" (every {ordinal(run.meta.stride)})" if run.meta.stride > 1 else ""),
    "MoE layers": lambda run: len(run.meta.layers),
    "Experts": lambda run: run.meta.experts,
    "Top-k": lambda run: run.meta.top_k or "varies",
    "Tokens per step": lambda run: run.step_tokens,
    "Balancing": lambda run: balancing_words(run.meta),
    "Text": lambda run: source_names(run.meta.sources),
    "Seed": lambda run: "-" if run.meta.seed is None else run.meta.seed,
    "Size": lambda run: f"{run.bytes / 1e6:.2f} MB",
}
"""The columns that say how each run was made."""
LOADS: Cells = {
    "Run": lambda run: f"`{run.id}`",
    "States of the run, in steps": lambda run: first_spans(run.spans),
    "Onset of stability: median (by layer; band)": lambda run: onset_summary(run.layers),
    f"Imbalance, first {END_STEPS}": lambda run: layer_mean(layer.imbalance_first for layer in run.layers),
    f"Imbalance, last {END_STEPS}": lambda run: layer_mean(layer.imbalance_last for layer in run.layers),
    "Dead experts": lambda run: sum(layer.dead_experts or 0 for layer in run.layers),
    f"Floor, {END_STEPS}-step mean": lambda run: layer_mean(layer.floor_window_tv for layer in run.layers),
    "Floor, per step": lambda run: layer_mean(layer.floor_tv for layer in run.layers),
    "Over-dispersion": lambda run: layer_mean(layer.over_dispersion for layer in run.layers),
}
"""The columns that say what the loads of each run did."""
SHAPED: Cells = {
    "Run": lambda run: f"`{run.id}`",
    "Shape of": lambda run: _shape(run).model,
    "Read from": lambda run: _shape(run).source,
    "Assumed": lambda run: ", ".join(_shape(run).assumed) or "nothing",
    "Layers x experts": lambda run: f"{run.facts.layers} x {run.facts.experts}",
    "Width (the model's)": lambda run: f"{run.meta.config['hidden_size']:,} ({_shape(run).width:,})",
    "Width / experts (the model's)": lambda run: rank_bounds(run.meta),
    "Tokens per expert and step (the model's)": lambda run: expert_tokens(run),
    "Specialisation": lambda run: specialisation_words(run.meta.specialisation),
}
"""The columns that set a narrow model beside the public model whose shape it has."""
HASHES: Cells = {"Run": lambda run: f"`{run.id}`", "`data_sha256`": lambda run: f"`{run.data_sha256}`"}
"""Each run's content hash, which does not depend on compression."""


def table_of(cells: Cells, runs: Sequence[Run]) -> str:
    """Return a table with a row for each run."""
    return markdown_table(tuple(cells), [[cell(run) for cell in cells.values()] for run in runs])


def facts_table(runs: Sequence[Run]) -> str:
    """Return the table of what each run is: size, tokens, measured noise and drift, passes over its text, hardware."""
    horizons = ", ".join(f"{steps:,}" for steps in DRIFT_STEPS)
    head = (
        "Run", "Parameters", "Layers x experts", "Sequences per step", "Tokens per expert and step", "Noise of a row",
        "Independent tokens", f"Drift over noise, h = {horizons}", "Passes", "Trained on",
    )  # fmt: skip
    rows = [(f"`{run.id}`", *facts_cells(run.facts)) for run in runs]
    return markdown_table(head, rows)


def shapes_table(runs: Sequence[Run]) -> str:
    """Return the table of the runs that have the shape of a public model."""
    shaped = [run for run in runs if run.meta.shape is not None]
    return table_of(SHAPED, shaped) if shaped else "No such run is here yet."


def sources_table(runs: Sequence[Run]) -> str:
    """Return the table of the texts that the models were trained on, with their licences."""
    users: dict[tuple[str, str, str, str, int], set[str]] = {}
    for run in runs:
        for source in run.meta.sources:
            key = (source.name, source.version, source.licence, source.sha256, source.bytes)
            users.setdefault(key, set()).add(run.recipe)
    rows = [
        (name, version, licence, f"{size / 1e6:.1f} MB", f"`{sha[:16]}`", ", ".join(f"`{r}`" for r in sorted(recipes)))
        for (name, version, licence, sha, size), recipes in sorted(users.items())
    ]
    return markdown_table(("Source", "Version", "Licence", "Size", "SHA-256 begins", "Recipes"), rows)


def columns_table(runs: Sequence[Run]) -> str:
    """Return the table of the format's columns, and which runs have them."""
    rows = []
    for name, spec in COLUMNS.items():
        have = sum(name in run.columns for run in runs)
        rows.append(
            (f"`{name}`", spec.dtype, SHAPES[spec.axes], spec.unit, "all runs" if have == len(runs) else f"{have} runs")
        )
    return markdown_table(("Column", "Type", "Per step", "Meaning and unit", "Recorded in"), rows)


def size_summary(runs: Sequence[Run]) -> str:
    """Return one sentence that says how much data there is."""
    if not runs:
        return "The folder holds no run yet."
    recipes = len({run.recipe for run in runs})
    splits = {split: sum(run.split == split for run in runs) for split in sorted({run.split for run in runs})}
    parts = ", ".join(f"{count} in split `{split}`" for split, count in splits.items())
    steps, megabytes = sum(run.steps for run in runs), sum(run.bytes for run in runs) / 1e6
    sentence = f"{len(runs)} runs of {recipes} recipes ({parts}), {steps:,} recorded steps, {megabytes:.1f} MB."
    return f"{sentence} {scale_summary([run.facts for run in runs])}"


def scale_summary(facts: Sequence[RunFacts]) -> str:
    """Return how large the runs are, least and largest: parameters and tokens; and what they were trained on."""
    parameters = [run.parameters for run in facts if run.parameters is not None]
    sizes = [
        f"{rounded(min(parameters))} to {rounded(max(parameters))} parameters (median {rounded(median(parameters))})"
        if parameters
        else "unknown size",
        f"{_range(run.tokens for run in facts)} tokens a step",
        f"{_range(round(run.expert_tokens) for run in facts)} per expert",
    ]
    return f"Models of {', '.join(sizes)}. Trained on {machines(run.hardware for run in facts)}."


def machines(hardware: Iterable[str]) -> str:
    """Return `1 thread of A, B or C`: what is counted once for all that have as many, makers' marks left out."""
    names_by_count: dict[str, list[str]] = {}
    for words in sorted({re.sub(r"\(R\)| Processor", "", text) for text in hardware}):
        count, separator, name = words.rpartition(" of ")
        names_by_count.setdefault(count + separator, []).append(name)
    return " or ".join(f"{count}{listed(names, 'or')}" for count, names in names_by_count.items())


def _range(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


TABLES: Mapping[str, Callable[[Sequence[Run]], str]] = {
    "summary": size_summary,
    "runs": partial(table_of, RUNS),
    "facts": facts_table,
    "loads": partial(table_of, LOADS),
    "shapes": shapes_table,
    "hashes": partial(table_of, HASHES),
    "sources": sources_table,
    "columns": columns_table,
}

# ---------------------------------------------------------------- cells


def facts_cells(facts: RunFacts) -> tuple[str, ...]:
    """Return what a run is, as the cells of a table; "-" where it is not known."""
    return (
        "-" if facts.parameters is None else rounded(facts.parameters),
        f"{facts.layers} x {facts.experts}",
        "-" if facts.sequences is None else f"{facts.sequences:,}",
        f"{facts.expert_tokens:,.0f}",
        "-" if facts.noise is None else f"{facts.noise:.1%}",
        "-" if facts.independent_tokens is None else f"{facts.independent_tokens:,.0f}",
        drift_words(facts),
        "-" if facts.passes is None else f"{facts.passes:.2g}",
        facts.hardware,
    )


def _shape(run: Run) -> ShapeMeta:
    assert run.meta.shape is not None
    return run.meta.shape


def rank_bounds(meta: TraceMeta) -> str:
    """Return width over experts: below 1 it bounds the rank of the router, relative to its experts."""
    assert meta.shape is not None
    return f"{meta.config['hidden_size'] / meta.experts:.3g} ({meta.shape.width / meta.experts:.3g})"


def expert_tokens(run: Run) -> str:
    """Return the tokens per expert and step of a run, and those of the public model."""
    public = _shape(run).expert_tokens
    return f"{run.facts.expert_tokens:,.0f} ({'not published' if public is None else f'{public:,}'})"


def specialisation_words(by_steps: Mapping[str, float]) -> str:
    """Return the values by steps trained, "0.91 after 500 steps, 0.70 after 3,000"."""
    values = sorted((int(steps), value) for steps, value in by_steps.items())
    words = [f"{value:.2f} after {steps:,}" + (" steps" if i == 0 else "") for i, (steps, value) in enumerate(values)]
    return ", ".join(words) or "-"


def balancing_words(meta: TraceMeta) -> str:
    """Return the balancing method with its coefficient and scope, and the drop policy if tokens are dropped."""
    method = meta.balancing.method.replace("_", " ")
    if meta.balancing.method == "quantile":
        method += " balancing"
    elif meta.balancing.method == "hash":
        method += " routing"
    elif meta.balancing.method != "none":
        scope = meta.balancing.scope.replace("_", " ")
        method += f" {meta.balancing.coefficient:g}" + (f", {scope}" if scope not in ("none", "unknown") else "")
    return method + (f"; capacity factor {meta.capacity_factor:g}" if meta.capacity_factor else "")


def source_names(sources: Sequence[SourceMeta]) -> str:
    """Return the names of the sources, by stage of the data if there are several."""
    stages: dict[int, list[str]] = {}
    for source in sources:
        stages.setdefault(source.stage, []).append(source.name)
    return ", then ".join(" + ".join(names) for _, names in sorted(stages.items())) or "unknown"


def first_spans(spans: Sequence[str]) -> str:
    """Return the first spans, and how many more there are."""
    more = len(spans) - MAX_SPANS
    return "; ".join(spans[:MAX_SPANS]) + (f"; and {more} more" if more > 0 else "")


def onset_summary(layers: Sequence[LayerDescription]) -> str:
    """Return median, smallest and largest first stable step of the layers that have one, and their `onset_band`."""
    steps = onset_steps(layers)
    if not steps:
        return "never"
    never = f", {len(layers) - len(steps)} never" if len(steps) < len(layers) else ""
    return f"{median(steps):g} (by layer {steps[0]} to {steps[-1]}{never}; band {onset_band(layers)})"


def onset_steps(layers: Sequence[LayerDescription]) -> list[int]:
    """Return the first stable steps of the layers that have one, in rising order."""
    return sorted(layer.onset.step for layer in layers if layer.onset and layer.onset.step is not None)


def onset_band(layers: Sequence[LayerDescription]) -> str:
    """Return the smallest lower and largest upper bound of the layers' onsets, "390 to 610"; "never" sorts last."""
    onsets = [layer.onset for layer in layers]
    low = min((onset.low for onset in onsets if onset and onset.low is not None), default=None)
    never = any(onset is None or onset.high is None for onset in onsets)
    high = None if never else max(onset.high for onset in onsets if onset and onset.high is not None)
    return f"{'never' if low is None else low} to {'never' if high is None else high}"


def layer_mean(values: Iterable[float | None]) -> str:
    """Return the mean over layers with three significant digits; "-" if no layer has a value."""
    numbers = [value for value in values if value is not None]
    return f"{fmean(numbers):.3g}" if numbers else "-"
