"""The generated parts of docs/reports/rivals.md, and the sentence of README.md."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker, Page, aligned_table, fill_parts
from leaderboard.rivals.choosing import (
    AGAINST,
    CELLS,
    GRADIENTS,
    KINDS,
    PRIMARY,
    STATE,
    WITHIN,
    Cell,
    Chosen,
    Difference,
    chosen,
    differences,
)
from leaderboard.rivals.measuring import EVERY, LEAST, NODE, ROWS, RUNS, WINDOW, Facts, Measured, Policy, known_rows
from moeload_bench import style
from moeload_bench.errors import counted
from moeload_bench.results.formats import signed
from moeload_bench.results.strata import WORDS
from moeload_bench.traces.meta import Stratum, stratum_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, FIGURE = "docs/reports/rivals.md", "docs/reports/rivals.svg"
SIZES: tuple[Stratum, ...] = ("large", "small")
TESTS = len(CELLS) * (len(KINDS) - 1)
"""Differences whose intervals hold at once."""
EQUAL = ("within", "bytes")
"""Kinds that save nearly the same; the tables show the first, and a sentence how far the other is from it."""
LATE = "late"
"""A kind that saves so little that a sentence has it."""
SHOWN = {kind: words for kind, (words, _) in KINDS.items() if kind not in (EQUAL[1], LATE)}
"""The kinds of the tables, in words."""


class Study(NamedTuple):
    """Policies of all runs with their facts, the facts alone, and what was chosen in each cell."""

    rows: pd.DataFrame
    runs: pd.DataFrame
    chosen: Mapping[Cell, Mapping[str, Chosen]]


def study_of(rows: pd.DataFrame, runs: pd.DataFrame) -> Study:
    """Return the study of measured policies."""
    sizes = runs.assign(size=runs["expert_tokens"].map(stratum_of), test=~runs["run"].str.contains("/train/"))
    stay = rows.loc[rows["does"] == "stay", ["run", "imbalance"]].rename(columns={"imbalance": "stay"})
    joined = rows.merge(stay, on="run").merge(sizes, on="run")
    return Study(joined, sizes, {cell: chosen(joined, cell) for cell in CELLS})


@functools.cache
def studied(root: Path = ROOT) -> Study:
    """Return the study of the recorded runs; seconds to minutes for a run that is not in the files."""
    return study_of(*known_rows(root / "traces"))


def _span(gap: Difference) -> str:
    return f"{signed(gap.points, 1)} [{signed(gap.low, 1)}, {signed(gap.high, 1)}]"


def _policy(policy: Policy) -> str:
    """Return a policy in a few words: `sw_avg, 10`."""
    if policy.does == "stay":
        return "stay"
    if policy.does == "quotas":
        return f"at least {policy.least:,}"
    if policy.does == "even":
        return ""
    name = "" if policy.does in ("late", "oracle") else f"{policy.does}, "
    return f"{name}{policy.every:,}{', spare' if policy.memory == 'slots' else ''}"


def _cell(cell: Cell) -> str:
    return f"{cell.size}, {100 * cell.fetch:g} %, {'hidden' if cell.hidden else 'exposed'}"


def _who(study: Study, size: Stratum) -> str:
    """Return on which test runs of a size the study rests: `8 test runs of 4 families of models in large batches`."""
    runs = study.runs[study.runs["test"] & (study.runs["size"] == size)]
    return (
        f"{counted(len(runs), 'test run')} of {runs['family'].nunique()} families of models in "
        f"{WORDS[size][0].lower()}{WORDS[size][1:]}"
    )


def claim(study: Study) -> str:
    """Return the study's claim: the primary cell, with batch size and runs, and an interval of its own."""
    by_kind = study.chosen[PRIMARY]
    gap = differences(by_kind, 1)["within"]
    within, plans = (by_kind[kind].saved_F.mean() for kind in ("within", AGAINST))
    shown = "it saves more" if gap.low > 0 else "it saves less" if gap.high < 0 else "neither is shown to save more"
    return (
        f"On {_who(study, PRIMARY.size)}, balancing within the step (UltraEP's quotas, one slot on a device) saves "
        f"{within:.1f} % of the step time and plans from forecasts {plans:.1f} %: {_span(gap)} points (95 %, over "
        f"families), so {shown}. Assumed: half of a step waits for the busiest device, fetching an expert takes "
        f"{100 * PRIMARY.fetch:g} % of a layer's time, and all other traffic is hidden"
    )


def readme_claim() -> str:
    """Return the claim for README, with its page."""
    return f"{claim(studied())} ([rivals]({PAGE}))."


def answer(study: Study) -> str:
    """Return the claim, what forecasts without error would add, and on how many runs it rests."""
    more = max(differences(by_kind, TESTS)["oracle"].points for by_kind in study.chosen.values())
    counts = []
    for size in SIZES:
        for split, test in (("train", False), ("test", True)):
            runs = study.runs[(study.runs["size"] == size) & (study.runs["test"] == test)]
            several = int(runs["accumulates"].sum())
            counts.append(f"{len(runs)} {split} runs in {size} batches ({several} accumulate micro-batches)")
    return (
        f"{claim(study)}.\n\nDescribed, not claimed: in no cell do plans by an oracle save more than {more:.1f} points "
        "more than plans from forecasts. What plans lack is the noise of the step itself, not a better forecast of its "
        f"mean.\n\nMeasured: {', '.join(counts)}."
    )


def cells_table(study: Study) -> str:
    """Return a row per cell: what each kind saves on test runs, with the policy chosen."""
    rows = []
    for cell in CELLS:
        by_kind = study.chosen[cell]
        mark = "**" if cell == PRIMARY else ""
        shown = (by_kind[kind] for kind in SHOWN)
        cells = [f"{choice.saved_F.mean():.1f} ({_policy(choice.policy)})".replace(" ()", "") for choice in shown]
        rows.append((f"{mark}{_cell(cell)}{mark}", *cells))
    caption = (
        "A row is a cell: size of batch, fetch of an expert in percent of a layer's time, whether the rest is hidden "
        "(**primary**). A column is a kind. A cell: percent of the step time saved, mean over the families of `test` "
        "runs; more is better. In parentheses the policy that saved most on `train` runs: *at least N* tokens a "
        "replica; a forecaster and the steps between re-plans, *spare* with a spare slot on each device."
    )
    apart = max(abs(first.saved_F.mean() - second.saved_F.mean()) for first, second in _equal_kinds(study))
    late = max(by_kind[LATE].saved_F.mean() for by_kind in study.chosen.values())
    equal = (
        f"{KINDS[EQUAL[1]][0].capitalize()}, save the same to {apart:.1g} points in every cell. "
        f"{KINDS[LATE][0].capitalize()} saves {late:.1f} % at most."
    )
    return f"{caption}\n\n{aligned_table(('cell', *SHOWN.values()), rows)}\n\n{equal}"


def _equal_kinds(study: Study) -> Iterator[tuple[Chosen, ...]]:
    """Return, cell by cell, the choices of the kinds that save the same."""
    return (tuple(by_kind[kind] for kind in EQUAL) for by_kind in study.chosen.values())


def differences_table(study: Study) -> str:
    """Return a row per cell: each kind less plans from forecasts."""
    kinds = [kind for kind in SHOWN if kind != AGAINST]
    rows = []
    for cell in CELLS:
        gaps = differences(study.chosen[cell], TESTS)
        mark = "**" if cell == PRIMARY else ""
        rows.append((f"{mark}{_cell(cell)}{mark}", *(_span(gaps[kind]) for kind in kinds)))
    caption = (
        "A row is a cell as above. A column is a kind less plans from forecasts, in points of the step time, paired by "
        "run and family; more is better. In brackets 95 % intervals for a new family of models, wide enough for all "
        f"{TESTS} differences at once."
    )
    return f"{caption}\n\n{aligned_table(('cell', *(SHOWN[kind] for kind in kinds)), rows)}"


def families_table(study: Study) -> str:
    """Return a row per family: what each kind saves in the primary cell."""
    saved = pd.DataFrame({kind: study.chosen[PRIMARY][kind].saved_F for kind in SHOWN})
    rows = [(f"`{family}`", *(f"{value:.1f}" for value in saved_K)) for family, saved_K in saved.iterrows()]
    caption = (
        "A row is a family of models. A cell: percent of the step time saved in the primary cell, mean over `test` "
        "runs; more is better."
    )
    return f"{caption}\n\n{aligned_table(('family', *SHOWN.values()), rows, 1)}"


def _shown() -> Iterator[tuple[str, Policy]]:
    """Yield the policies of the table of imbalance: all within the step, and plans of the forecaster `sw_avg`."""
    yield "stay", Policy("stay")
    for domain in (0, NODE):
        place = f", domains of {NODE}" if domain else ""
        for least in LEAST:
            yield f"quotas, equal slots, at least {least:,}{place}", Policy("quotas", "slots", 1, least, domain)
    yield "even tokens", Policy("even", "masters")
    for does, words in (("late", "loads of the interval before"), ("sw_avg", "`sw_avg`"), ("oracle", "oracle")):
        for every in EVERY:
            yield f"plans, {words}, every {every:,}, spare", Policy(does, "slots", every)


def reached_table(study: Study) -> str:
    """Return a row per policy: imbalance reached, how often the busiest rank is far over, and bytes moved."""
    rows = [(name, *(cell for size in SIZES for cell in _reached(study, policy, size))) for name, policy in _shown()]
    heads = [f"{size}: {what}" for size in SIZES for what in ("max/mean", "over 1.1", "over 1.5", "moved")]
    caption = (
        "A row is a policy, whatever it costs. *max/mean*: load of the busiest device over the mean one. *over 1.1*, "
        "*over 1.5*: part of the layers of steps in which it is above that. *moved*: bytes a layer and step over all "
        "devices, in weights of an expert (within the step weights are fetched twice and gradients reduced; a move "
        "takes the optimizer's state along, a spare slot gradients and weights each step). Means over the families of "
        f"`test` runs, last {WINDOW:,} steps; less is better. Domains of {NODE} devices: only runs with more of them."
    )
    return f"{caption}\n\n{aligned_table(('policy', *heads), rows, 1)}"


def _reached(study: Study, policy: Policy, size: Stratum) -> list[str]:
    rows = study.rows[study.rows["test"] & (study.rows["size"] == size)]
    kept = rows[(rows[list(Policy._fields)] == list(policy)).all(axis=1)]
    if kept.empty:
        return ["-"] * 4
    measures = ["imbalance", "over_11", "over_15", "moved"]
    imbalance, over_11, over_15, moved = kept.assign(moved=_moved(kept)).groupby("family")[measures].mean().mean()
    return [f"{imbalance:.3f}", f"{100 * over_11:.0f} %", f"{100 * over_15:.0f} %", f"{moved:.3g}"]


def _moved(rows: pd.DataFrame) -> pd.Series:
    """Return bytes per layer and step over all devices, in weights of an expert."""
    within = rows["does"].isin(WITHIN)
    spare = ((rows["memory"] == "slots") & ~within) * rows["devices"] * (1 + GRADIENTS)
    return rows["total"] * within.map({True: 2 + GRADIENTS, False: STATE}) + spare


PARTS: Mapping[str, Maker] = {
    "rivals-answer": answer,
    "rivals-cells": cells_table,
    "rivals-differences": differences_table,
    "rivals-families": families_table,
    "rivals-reached": reached_table,
}


def page_files(root: Path = ROOT) -> dict[Path, str]:
    """Return the page with its parts made again, and the files of numbers that it rests on."""
    study, page = studied(root), root / PAGE
    makers = {name: functools.partial(make, study) for name, make in PARTS.items()}
    columns = ["run", *Policy._fields, *Measured._fields]
    return {
        page: fill_parts(page.read_text(encoding="utf-8"), makers),
        root / ROWS.relative_to(ROOT): study.rows[columns].to_csv(index=False),
        root / RUNS.relative_to(ROOT): study.runs[list(Facts._fields)].to_csv(index=False),
    }


def draw_saved(study: Study) -> Figure:
    """Draw what each kind saves on `test` runs over the fetch of an expert, a panel for each size of batch."""
    with style.style():
        figure, panels = style.panels(len(SIZES), height=2.6)
        for ax, size in zip(panels, SIZES, strict=True):
            for color, (kind, (words, _)) in zip(style.PALETTE, KINDS.items(), strict=False):
                for hidden, line in ((True, "-"), (False, "--")):
                    cells = [cell for cell in CELLS if (cell.size, cell.hidden) == (size, hidden)]
                    saved = [study.chosen[cell][kind].saved_F.mean() for cell in cells]
                    fetch = [100 * cell.fetch for cell in cells]
                    ax.plot(fetch, saved, line, color=color, marker=".", label=words if hidden else None)
            ax.set(xscale="log", title=f"{size} batches", xlabel="fetch of an expert, % of a layer's time")
        panels[0].set_ylabel("% of the step time saved")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def draw(root: Path = ROOT) -> None:
    """Draw the page's figure."""
    style.save_figure(draw_saved(studied(root)), root / FIGURE)


RIVALS = Page(PAGE, page_files, draw)
