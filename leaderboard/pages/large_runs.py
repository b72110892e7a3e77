"""The tables of docs/reports/large-runs.md: statistics of the recorded test runs, beside those of large runs.

Numbers about our runs are computed here from traces/ and the bundled runs; the founding paper's stand in
`leaderboard/paper/paper.toml`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leaderboard.committed import ROOT, TRACES, committed_run
from leaderboard.pages.parts import Maker, parts_from
from leaderboard.paper.facts import paper
from leaderboard.properties import layer_medians, properties_of
from leaderboard.templates import render_text
from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.publishing.card_tables import balancing_words, layer_mean, onset_band, onset_summary, scale_summary
from moeload_bench.results.grid import present_mean
from moeload_bench.results.markdown import markdown_table
from moeload_bench.scoring.description import Run
from moeload_bench.states.rule import label_states
from moeload_bench.style import GREY, MARKERS, PALETTE, legend_above, log_axis, new_figure, save_figure, style
from moeload_bench.traces.store import bundled_folder, list_traces, read_trace

EARLY = 300
"""Training steps before which the rule calls nothing stable."""
LONG, WINDOW = 20_000, 1_000
"""Steps of a run that is asked what comes after the stable state has begun, and of the windows in which it is asked."""
MILESTONES = (1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000)


class Later(NamedTuple):
    """The `WINDOW` steps before one: largest over mean share of each layer, and the rule's X, median, mean over
    layers."""

    imbalance_L: tuple[float, ...]
    drift: float | None


MOST_TOKENS = 2e6
"""Tokens per expert and step of the largest runs that people train, about."""


@dataclass(frozen=True)
class Statistics:
    """One run. ``drift``: median over stable steps of the rule's X, mean over layers; None where nothing is stable.
    ``first_drift`` the same over the steps EARLY .. EARLY + 200. ``onsets``: first stable step of the layers that have
    one. ``later``: by the steps of `MILESTONES` that it reaches."""

    run: Run
    drift: float | None
    first_drift: float | None
    onsets: tuple[int, ...]
    later: Mapping[int, Later]

    @property
    def tokens_per_expert(self) -> float:
        """Mean tokens of an expert in a step: what decides how large the sampling noise is."""
        return self.run.tokens * (self.run.meta.top_k or 1) / self.run.meta.experts

    @property
    def tokens_words(self) -> str:
        """Return the same, of a batch that grows from its first step on."""
        first, last = (n / self.run.tokens * self.tokens_per_expert for n in (self.run.tokens_first, self.run.tokens))
        return f"{last:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"

    @property
    def over_dispersion(self) -> float | None:
        return present_mean([layer.over_dispersion for layer in self.run.layers])

    @property
    def imbalance(self) -> float | None:
        return present_mean([layer.imbalance_last for layer in self.run.layers])


def statistics(folders: Sequence[Path]) -> Iterator[Statistics]:
    """Yield every run of the folders that the state rule can label, in the order of their ids."""
    refs = {ref.id: ref for folder in folders for ref in list_traces(folder)}
    for _, ref in sorted(refs.items()):
        trace = read_trace(ref.path)
        if trace.meta.stride != 1:
            continue
        labels = label_states(trace.load_SLE)
        stable_SL = ~labels.transient_SL
        first_SL = np.zeros_like(stable_SL)
        first_SL[EARLY : EARLY + 200] = True
        yield Statistics(
            committed_run(ref.path),
            _median(labels.drift_SL, stable_SL),
            _median(labels.drift_SL, first_SL),
            tuple(int(row) for row in labels.onset_L if row >= 0),
            {step: _later(trace.load_SLE, labels.drift_SL, step) for step in MILESTONES if step <= trace.steps},
        )


def _later(load_SLE: IntArray, drift_SL: FloatArray, step: int) -> Later:
    load_LE = load_SLE[step - WINDOW : step].sum(axis=0)
    inside_SL = np.zeros_like(drift_SL, dtype=bool)
    inside_SL[step - WINDOW : step] = True
    return Later(tuple((load_LE.max(axis=1) / load_LE.mean(axis=1)).tolist()), _median(drift_SL, inside_SL))


def _median(drift_SL: FloatArray, keep_SL: BoolArray) -> float | None:
    return present_mean(layer_medians(drift_SL, keep_SL))


def answer(found: Sequence[Statistics]) -> str:
    """Return how far the recorded runs are below those that people train."""
    return (
        "What was recorded here comes from models far below those that people train, with up to about "
        f"{MOST_TOKENS:,.0f} tokens per expert and step, and almost nothing contiguous is public about larger ones. "
        "The tables say where the small runs lie in tokens per expert, drift, imbalance and noise, and what is stated "
        f"about large ones; what leads on the leaderboard has not been tried there. The {len(found)} test runs: "
        f"{scale_summary([s.run.facts for s in found])}"
    )


def runs_table(found: Sequence[Statistics]) -> str:
    """Return one row per run."""
    head = ("run", "layers x experts, top-k", "balancing", "tokens per expert and step",
            "onset, steps: median (by layer; band)", "drift from step 300 on", "drift, stable", "imbalance, first 100",
            "imbalance, last 100", "over-dispersion")  # fmt: skip
    rows = [
        (
            f"`{s.run.id}`",
            f"{len(s.run.meta.layers)} x {s.run.meta.experts}, {s.run.meta.top_k or 'varies'}",
            balancing_words(s.run.meta),
            s.tokens_words,
            onset_summary(s.run.layers),
            _percent(s.first_drift),
            _percent(s.drift),
            layer_mean(layer.imbalance_first for layer in s.run.layers),
            layer_mean(layer.imbalance_last for layer in s.run.layers),
            layer_mean(layer.over_dispersion for layer in s.run.layers),
        )
        for s in found
    ]
    return markdown_table(head, rows)


def later_table(found: Sequence[Statistics]) -> str:
    """Return, of every run of `LONG` steps or more, imbalance (that of the last layer) and drift on the way."""
    long = [s for s in found if s.run.steps >= LONG]
    steps = [step for step in MILESTONES if any(step in s.later for s in long)]
    cells: dict[str, Callable[[Later], str]] = {
        "imbalance (last layer)": lambda one: f"{_number(one)} ({one.imbalance_L[-1]:.2f})",
        "drift": lambda one: _percent(one.drift),
    }
    rows = [
        (f"`{s.run.id}`", what, *("-" if (one := s.later.get(step)) is None else cell(one) for step in steps))
        for s in long
        for what, cell in cells.items()
    ]
    return markdown_table(("run", "up to step", *(f"{step:,}" for step in steps)), rows)


def _number(later: Later) -> str:
    return f"{np.mean(later.imbalance_L):.2f}"


def _longest(found: Sequence[Statistics]) -> str:
    """Return what the longest run says of balance late in training."""
    longest = max(found, key=lambda s: s.run.steps)
    first, *_, last = (10_000, *longest.later)
    if first not in longest.later or last == first:
        return f"nothing: the longest run has {longest.run.steps:,} steps"
    return (
        f"of the first {last:,} steps only: imbalance {_number(longest.later[first])} up to step {first:,}, "
        f"{_number(longest.later[last])} up to step {last:,}, in `{longest.run.id}`"
    )


def beside_table(found: Sequence[Statistics]) -> str:
    """Return what is public about larger runs, and the range of the same thing here."""
    facts = paper()
    return render_text(
        Path(__file__).with_name("large_runs_beside.md.j2"),
        facts=facts,
        setup=next(s for s in facts.setups if s.name == facts.onset.setup),
        cong=facts.url.rsplit("/", 1)[-1],
        count=len(found),
        onsets=_range([step for s in found for step in s.onsets], ",.0f"),
        band=onset_band([layer for s in found for layer in s.run.layers]) if found else "-",
        never=sum(len(s.run.layers) - len(s.onsets) for s in found),
        early=EARLY,
        first_drift=_range([s.first_drift for s in found], ".1%"),
        drift=_range([s.drift for s in found], ".1%"),
        longest=_longest(found),
        imbalance=_range([s.imbalance for s in found], ".2f"),
        over_dispersion=_range([s.over_dispersion for s in found], ".2f"),
        tokens=_range([s.tokens_per_expert for s in found], ",.0f"),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"


def _range(values: Sequence[float | int | None], spec: str) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    return f"{known[0]:{spec}} to {known[-1]:{spec}} ({float(np.median(known)):{spec}})"


@functools.cache
def _found() -> tuple[Statistics, ...]:
    return tuple(statistics([bundled_folder(), TRACES]))


def _tests() -> list[Statistics]:
    return [s for s in _found() if s.run.meta.split == "test"]


def draw_sizes() -> None:
    """Draw the drift of the stable state against the tokens of an expert and step, a point for each test run."""
    refs = [ref for ref in list_traces(TRACES) if "/test/" in ref.id and ".probe/" not in ref.id]
    known = [found for found in (properties_of(ref.path) for ref in refs) if found.drift is not None]
    with style():
        figure = new_figure(2.8)
        axes = figure.add_subplot()
        for i, kind in enumerate(sorted({found.balancing for found in known})):
            own = [found for found in known if found.balancing == kind]
            axes.plot([found.expert_tokens for found in own], [100 * (found.drift or 0.0) for found in own], MARKERS[i],
                      color=PALETTE[i], label=kind)  # fmt: skip
        axes.axvline(MOST_TOKENS, color=GREY, linestyle=":", label="the most of runs that people train")
        log_axis(axes.xaxis, min(found.expert_tokens for found in known), MOST_TOKENS)
        axes.set(xlabel="tokens per expert and step", ylabel="drift, stable state [%]")
        axes.grid(axis="y")
        legend_above(figure, "", axes.get_legend_handles_labels()[0], columns=4)
        save_figure(figure, ROOT / "docs" / "reports" / "large-runs.svg")


PARTS: Mapping[str, Maker] = {
    **parts_from(_tests, answer=answer, runs=runs_table, beside=beside_table),
    **parts_from(_found, later=later_table),
}
