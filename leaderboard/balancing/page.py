"""The generated parts of docs/reports/balancing.md and its figure, from the runs that are in traces/."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from leaderboard.balancing.claims import Claim, Outcome, committed_claims, outcome
from leaderboard.balancing.forecasts import FORECASTERS, FORECASTS, HORIZONS, ORIGINS, known_rows
from leaderboard.balancing.measuring import BACK, FACTORS, MOVED, UNIT, WINDOWS, Measured, measured
from leaderboard.committed import ROOT, TRACES, recipe_name
from leaderboard.pages.parts import Maker, Page, aligned_table, fill_parts
from moeload_bench import style
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import counted
from moeload_bench.results.formats import horizon_heads, three_digits
from moeload_bench.scoring.floors import excess
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, FIGURE = "docs/reports/balancing.md", "docs/reports/balancing.svg"
PREFIX = "balancing-"
LENGTHS = (f"{PREFIX}quantile-n32", f"{PREFIX}quantile-n128")
ONCE = ("aux-weak", "aux-running", "lossfree", "histogram")
"""Recipes that are recorded with the first of the paired seeds alone."""
AROUND = 100
"""Steps before and after the switch in the figure."""


def planned_runs() -> dict[str, tuple[int, ...]]:
    """Return the seeds of each recipe, the paired ones first."""
    claims = committed_claims()
    paired, length = claims.claim[0], claims.claim[-1]
    return {
        **dict.fromkeys((paired.against, paired.runs), claims.seeds),
        **dict.fromkeys((PREFIX + name for name in ONCE), claims.seeds[:1]),
        **dict.fromkeys(LENGTHS, claims.seeds_of(length)),
    }


def run_id(recipe: str, seed: int) -> str:
    """Return the id of the run of a recipe with a seed."""
    return f"{recipe}/test/seed{seed}"


class Study(NamedTuple):
    """All that the page says: runs by recipe and seed, claims, and what was forecast."""

    runs: Mapping[tuple[str, int], Measured]
    outcomes: Sequence[Outcome]
    forecasts: pd.DataFrame

    def by_recipe(self) -> dict[str, list[Measured]]:
        """Return the runs of each recipe that has any."""
        recipes = dict.fromkeys(recipe for recipe, _ in self.runs)
        return {recipe: [run for (name, _), run in self.runs.items() if name == recipe] for recipe in recipes}


@functools.cache
def studied(folder: Path = TRACES) -> Study | None:
    """Return what the recorded runs give, None where there is none; some seconds a run."""
    claims, planned = committed_claims(), planned_runs()
    paths = {ref.id: ref.path for ref in list_traces(folder)} if folder.is_dir() else {}
    traces: dict[tuple[str, int], Trace] = {
        (recipe, seed): read_trace(paths[run_id(recipe, seed)])
        for recipe, seeds in planned.items()
        for seed in seeds
        if run_id(recipe, seed) in paths
    }
    if not traces:
        return None
    recorded = {recipe: tuple(seed for name, seed in traces if name == recipe) for recipe in planned}

    def series(claim: Claim, recipe: str, seed: int) -> FloatArray:
        return claim.metric_of(traces[recipe, seed].load_SLE)

    return Study(
        {key: measured(trace, claims.switch) for key, trace in traces.items()},
        [outcome(claims, claim, recorded, series) for claim in claims.claim],
        known_rows(list(traces.values())),
    )


# ------------------------------------------------------------------------------------------------ parts of the page


def answer(study: Study) -> str:
    """Return which runs there are, which are missing, and what each claim came to."""
    planned = [(recipe, seed) for recipe, seeds in planned_runs().items() for seed in seeds]
    missing = [f"`{run_id(*key)}`" for key in planned if key not in study.runs]
    of_these = f"Still missing: {listed(missing)}." if missing else "None is missing."
    verdicts = [
        f'- "{outcome.claim.quote}": **{outcome.verdict or "described only"}**.{_so_far(outcome)}'
        for outcome in study.outcomes
    ]
    return "\n".join([f"{len(study.runs)} of {len(planned)} runs are recorded. {of_these}", "", *verdicts])


def _so_far(outcome: Outcome) -> str:
    """Return how many times the base the metric is, over the pairs, beside the threshold."""
    if not outcome.pairs:
        return ""
    if not outcome.claim.base:
        ratio = math.exp(outcome.runs_N[0])
        return f" Seen once: the {outcome.claim.metric} is {ratio:.1f} times that of `{outcome.claim.against}`."
    means = [math.exp(float(np.mean(values))) for values in (outcome.runs_N, outcome.against_N)]
    return (
        f" The {outcome.claim.metric} is {means[0]:.3f} times that of the base, the seeds' geometric mean (threshold "
        f"{outcome.claim.factor:g}); under auxiliary loss {means[1]:.3f} times."
    )


def claims_table(study: Study) -> str:
    """Return what was measured for each claim, beside its threshold."""
    rows = [
        (
            outcome.claim.name,
            f"{outcome.claim.factor:g}",
            _ratios(outcome.runs_N),
            _span(outcome.interval),
            _ratios(outcome.against_N) if outcome.claim.base else "-",
            _span(outcome.contrast),
            outcome.verdict or ("described only" if outcome.pairs else "not recorded yet"),
        )
        for outcome in study.outcomes
    ]
    heads = ("claim", "threshold", "quantile bias", "95 % interval", "auxiliary loss", "contrast, 95 %", "verdict")
    caption = (
        "A row is a claim. Its metric over the window is divided by that over the "
        "base, for each seed in order; less is better for the balancing. *Contrast*: quantile bias over auxiliary "
        "loss, paired by seed. In row `length` the base is the run with short sequences."
    )
    return f"{caption}\n\n{aligned_table(heads, rows)}"


def _ratios(value_N: FloatArray) -> str:
    return ", ".join(f"{math.exp(value):.3f}" for value in value_N) or "-"


def _span(interval: tuple[float, float]) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"{math.exp(low):.3f} to {math.exp(high):.3f}"


def balance_table(study: Study) -> str:
    """Return a row per run: its first stable steps, and its imbalance over the floor in the fixed windows."""
    rows = [
        (f"`{run.id}`", *_onsets(run), *(_over_floor(run, name) for name in WINDOWS)) for run in study.runs.values()
    ]
    heads = ("run", "first stable step", "layers never stable", *map(_window_words, WINDOWS))
    caption = (
        "A row is a run. *First stable step*: of the first and of the last layer "
        "to settle. The other columns are imbalance, in parentheses what noise alone would give (measured from half "
        "batches); less is better."
    )
    return f"{caption}\n\n{aligned_table(heads, rows, 2)}"


def _window_words(name: str) -> str:
    first, end = WINDOWS[name]
    return f"{name}: {first:,} to {end - 1:,}"


def _onsets(run: Measured) -> tuple[str, str]:
    settled = [step for step in run.onset_L if step >= 0]
    span = f"{min(settled):,} to {max(settled):,}" if settled else "never"
    return span, str(len(run.onset_L) - len(settled))


def _over_floor(run: Measured, name: str) -> str:
    return f"{run.imbalance[name]:.2f} ({run.floor[name]:.2f})" if name in run.imbalance else "-"


def switch_table(study: Study) -> str:
    """Return a row per run that switches its text: what that moves, and how many steps until loads are back."""
    rows = [
        (
            f"`{run.id}`",
            f"{100 * run.switch.moved:.1f} %",
            f"{100 * run.switch.moved_before:.1f} %",
            "not in the run" if run.switch.back is None else f"{run.switch.back:,}",
        )
        for run in study.runs.values()
        if run.switch
    ]
    caption = (
        f"A row is a run. *Moved*: tokens that go to other experts, between the {MOVED} steps before the switch and "
        f"those after it; *before it*: between the two stretches of {MOVED} steps before. *Back*: the imbalance of "
        f"{UNIT} steps is at most {BACK:g} times that of the 50 before the switch. Less is better."
    )
    return (
        f"{caption}\n\n{aligned_table(('run', 'moved by the switch', 'moved before it', 'steps until back'), rows, 1)}"
    )


def training_table(study: Study) -> str:
    """Return a row per recipe: the most dead experts of a seed and the mean loss in the fixed windows."""
    rows = [
        (
            _seen(recipe, len(runs)),
            *(str(max(run.dead[name] for run in runs)) if _all_have(runs, name) else "-" for name in WINDOWS),
            *(three_digits(float(np.mean([run.loss[name] for run in runs]))) if _all_have(runs, name) else "-"
              for name in WINDOWS),
        )
        for recipe, runs in study.by_recipe().items()
    ]  # fmt: skip
    heads = ("recipe (seeds)", *(f"dead, {name}" for name in WINDOWS), *(f"loss, {name}" for name in WINDOWS))
    experts = next(iter(study.runs.values())).experts
    caption = (
        f"A row is a recipe, a column one of the windows above. *Dead*: of {experts:,} experts those below a tenth of "
        "the even share, in the seed with the most. Loss: nats a token, the mean over its seeds, without the auxiliary "
        "loss. Less is better."
    )
    return f"{caption}\n\n{aligned_table(heads, rows, 1)}"


def _all_have(runs: Sequence[Measured], window: str) -> bool:
    return all(window in run.loss for run in runs)


def overflow_table(study: Study) -> str:
    """Return a row per recipe and window: the part of the tokens over each capacity factor."""
    rows = [
        (
            _seen(recipe, len(seeds)),
            window,
            *(_percents([run.overflow[window, factor] for run in seeds]) for factor in FACTORS),
        )
        for recipe, runs in study.by_recipe().items()
        for window in ("before", "after", "late")
        if (seeds := [run for run in runs if window in run.imbalance])
    ]
    heads = ("recipe (seeds)", "window", *(f"factor {factor:g}" for factor in FACTORS))
    caption = (
        "A row is a recipe, the mean over its seeds, in one of the windows above; "
        "a column is a capacity factor. A cell: the part of the routed pairs above that many times the even share, "
        "of whole batches, and at most of single micro-batches (each expert's largest of a step, times their number); "
        "less is better."
    )
    return f"{caption}\n\n{aligned_table(heads, rows, 2)}"


def _seen(recipe: object, seeds: int) -> str:
    return f"`{recipe}` ({seeds})"


def _percents(over: Sequence[tuple[float, float]]) -> str:
    batch, micro = 100 * np.mean(over, axis=0)
    return f"{batch:.1f} to {micro:.1f} %"


def forecast_table(study: Study) -> str:
    """Return a row per recipe and window: what is left of each forecaster's error over the floor at each horizon."""
    rows = []
    for (recipe, window), means in _of_seeds(study.forecasts).groupby(["recipe", "window"], sort=False):
        over = [
            ", ".join(
                f"{value:.4f}" for value in excess(of_horizon["error"].to_numpy(), of_horizon["floor"].to_numpy())
            )
            for _, of_horizon in means.groupby("horizon")
        ]
        rows.append((_seen(recipe, means["seeds"].iloc[0]), str(window), *over))
    names = listed([f"`{name}`" for name in FORECASTERS])
    spans = "; ".join(f"{name} {origins[0]:,} to {origins[-1]:,}" for name, origins in ORIGINS.items())
    caption = (
        f"A row is a recipe, the "
        f"mean over its seeds, asked every 10 steps ({spans}). A cell: what is left of the misplaced tokens, as a "
        f"fraction (`window_tv`), over the floor of batch noise (`floor_batch`), of {names}; less is better. 0: no "
        "more than the floor."
    )
    return f"{caption}\n\n{aligned_table(('recipe (seeds)', 'origins', *horizon_heads(HORIZONS)), rows, 2)}"


def reaction_table(study: Study) -> str:
    """Return a row per recipe and window: the busiest device under plans from forecasts, and under the reacting one."""
    means = _of_seeds(study.forecasts)
    rows = [
        (
            _seen(recipe, cell["seeds"].iloc[0]),
            str(window),
            *(f"{load:.3f}" for load in cell["imbalance"]),
            f"{cell['reaction'].iloc[0]:.3f}",
        )
        for (recipe, window), cell in means[means["horizon"] == 1].groupby(["recipe", "window"], sort=False)
    ]
    heads = ("recipe (seeds)", "origins", *(f"`{name}`" for name in FORECASTERS), "reaction in the same step")
    caption = (
        "A row is one of the table before. A cell: load of the busiest of 16 "
        "devices over the mean one in the next step, four experts on each, placed by the forecast (`uniform`: without "
        "one, so experts stay where they are); *reaction*: placed by that step's own loads, before its tokens are "
        "sent. Less is better."
    )
    return f"{caption}\n\n{aligned_table(heads, rows, 2)}"


def _of_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the seeds of a recipe, by window, horizon and forecaster, and how many seeds there are."""
    by = ["recipe", "window", "horizon", "forecaster"]
    groups = rows.assign(recipe=rows["run"].map(recipe_name)).groupby(by, sort=False)
    means = groups[["error", "floor", "imbalance", "reaction"]].mean()
    return means.assign(seeds=groups.size()).reset_index()


# ------------------------------------------------------------------------------------------------ figures and files


def draw_along(study: Study) -> Figure:
    """Draw a line a recipe: imbalance over the floor, along the run and around the switch; first stable steps."""
    switch = committed_claims().switch
    with style.style():
        figure = style.new_figure(6.2)
        whole, around, onsets = figure.subplots(3, 1)
        for ax, title in ((whole, "whole run"), (around, "around the switch of the text")):
            _draw_lines(ax, study)
            ax.axvline(switch, color=style.GREY, linewidth=0.8, linestyle=":")
            ax.set(title=title, xlabel="training step", ylabel="imbalance over noise")
        around.set_xlim(switch - AROUND, switch + AROUND)
        for place, runs in enumerate(study.by_recipe().values()):
            for run in runs:
                step_L = [step if step >= 0 else math.nan for step in run.onset_L]
                onsets.plot(range(len(step_L)), step_L, "o-", color=style.PALETTE[place], markersize=2.5, linewidth=0.6)
        onsets.set(title="first stable step of each layer", xlabel="MoE layer, the first one left", ylabel="step")
        for ax in (whole, around, onsets):
            ax.grid(axis="y")
        handles, labels = whole.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _draw_lines(ax: Axes, study: Study) -> None:
    for place, (recipe, runs) in enumerate(study.by_recipe().items()):
        mean_U = np.mean([run.imbalance_U / run.floor_U for run in runs], axis=0)
        step_U = UNIT * np.arange(len(mean_U)) + UNIT / 2
        label = f"{recipe.removeprefix(PREFIX)} ({counted(len(runs), 'seed')})"
        ax.plot(step_U, mean_U, color=style.PALETTE[place], label=label, linewidth=0.9)


def page_files(root: Path = ROOT) -> dict[Path, str]:
    """Return the page with its parts made again, and the forecasts that it rests on; nothing where no run is."""
    study = studied(root / "traces")
    if study is None:
        return {}
    parts = {
        "balancing-answer": answer,
        "balancing-claims": claims_table,
        "balancing-balance": balance_table,
        "balancing-switch": switch_table,
        "balancing-training": training_table,
        "balancing-overflow": overflow_table,
        "balancing-forecasts": forecast_table,
        "balancing-reaction": reaction_table,
    }
    makers: Mapping[str, Maker] = {name: functools.partial(make, study) for name, make in parts.items()}
    page = root / PAGE
    return {
        page: fill_parts(page.read_text(encoding="utf-8"), makers),
        root / FORECASTS.relative_to(ROOT): study.forecasts.to_csv(index=False),
    }


def draw(root: Path = ROOT) -> None:
    """Draw the page's figure, where the runs are."""
    study = studied(root / "traces")
    if study is not None:
        style.save_figure(draw_along(study), root / FIGURE)


BALANCING = Page(PAGE, page_files, draw)
