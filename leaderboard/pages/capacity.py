"""docs/reports/capacity.md: how well the need of capacity is forecast, over the runs of leaderboard/capacity.json."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.fit.capacity import HORIZONS
from leaderboard.grouped import grouped
from leaderboard.pages.parts import Maker, Page, aligned_table, fill_parts
from leaderboard.studies import alarms, capacity
from leaderboard.studies.alarms import AlarmRun
from leaderboard.studies.capacity import ENTRIES, NAIVE, SHIPPED, CapacityRun, Scored
from leaderboard.studies.clusters import groups_of
from leaderboard.studies.kept import records_text
from moeload_bench.capacity.alarms import BLOCK_STEPS, AlarmCounts, added
from moeload_bench.capacity.answer import RISKS
from moeload_bench.capacity.forecast import CAPACITY_VERSION
from moeload_bench.results.statistics import MIN_RECIPES, RunMeans, t_quantile
from moeload_bench.results.tables import signed_skill, span
from moeload_bench.style import GREY, MARKERS, PALETTE, legend_above, log_axis, new_figure, save_figure, style
from moeload_bench.words import listed

PAGE = ROOT / "docs" / "reports" / "capacity.md"
STRATA = {
    "small": "up to 1,024 tokens per expert and step",
    "large": "2,048 tokens per expert and step or more",
    "merged": "ten steps of the first stratum counted as one row",
}
Groups = Mapping[str, str]
TENTH, TWENTIETH, HUNDREDTH = range(3)
"""Places in `RISKS`."""
RATES = ("deaths", "episodes", "recall", "precision", "false per 100,000 layer-steps")
"""Heads of `rates`."""


@functools.cache
def _runs() -> Sequence[CapacityRun]:
    return capacity.all_runs()


@functools.cache
def _drawn_runs() -> Sequence[CapacityRun]:
    return capacity.drawn_runs()


@functools.cache
def _alarms() -> Sequence[AlarmRun]:
    return alarms.all_runs()


@functools.cache
def _board() -> Sequence[Scored]:
    return capacity.board(_runs(), _drawn_runs())


@functools.cache
def _groups() -> Groups:
    known = groups_of([*(run.recipe for run in _runs()), *(run.recipe for run in _alarms())])
    return {**known, **{run.recipe: run.recipe for run in _drawn_runs()}}


def chosen(entry: str, horizon: int, stratum: str) -> list[Scored]:
    """Return an entry's scores at one horizon in a stratum."""
    return [one for one in _board() if (one.entry, one.horizon, one.run.stratum) == (entry, horizon, stratum)]


def means(found: Sequence[Scored | AlarmRun], values: Sequence[float], groups: Groups | None = None) -> RunMeans:
    """Return values of runs as the means that votes are made of; ``groups`` of near twins, else those of traces/."""
    recipes = tuple(one.recipe for one in found)
    twins = _groups() if groups is None else groups
    return RunMeans(np.array([values]), recipes, tuple(twins[name] for name in recipes))


def mean(found: Sequence[Scored], values: Sequence[float]) -> float:
    """Return the mean over recipes of values of runs."""
    return float(means(found, values).votes[0].center_F[0])


def mean_part(found: Sequence[Scored | AlarmRun], parts: Sequence[float], groups: Groups | None = None) -> str:
    """Return the mean over recipes in percent, with its interval where there are enough recipes."""
    votes = means(found, parts, groups).votes[0]
    center = float(votes.center_F[0])
    if votes.groups < MIN_RECIPES:
        return f"{100 * center:.1f}"
    error_F, freedom = votes.new_recipe
    half = t_quantile(freedom, 0.95) * float(error_F[0])
    return f"{100 * center:.1f} [{100 * max(0.0, center - half):.1f}, {100 * min(1.0, center + half):.1f}]"


def skill(found: Sequence[Scored], loss: str) -> str:
    """Return by how much less quantile loss than the naive rule has, with its interval over recipes.

    A run on which either has no loss at all has no ratio, and is left out.
    """
    naive = {one.run.id: getattr(one, loss) for one in chosen(NAIVE, found[0].horizon, found[0].run.stratum)}
    found = [one for one in found if getattr(one, loss) > 0 and naive[one.run.id] > 0]
    ratios = [float(np.log(getattr(one, loss) / naive[one.run.id])) for one in found]
    run_means = means(found, ratios)
    interval = run_means.intervals("a new recipe")[0]
    return signed_skill(float(run_means.skill_F[0])) + (f" {span(interval)}" if interval else "")


def stratum_table(stratum: str) -> str:
    """Return the entries at each horizon in a stratum."""
    rows = []
    for horizon in HORIZONS:
        for name in ENTRIES:
            found = chosen(name, horizon, stratum)
            if len(found) < 2:
                continue
            over = (exceeded(found, at) for at in (TENTH, TWENTIETH))
            losses = (skill(found, loss) if name != NAIVE else "reference" for loss in ("loss_tenth", "loss_last"))
            rows.append((f"{horizon:,}", f"`{name}`", *losses, *over, f"{_waste(found):.0f}"))
    recipe_of = {one.run.id: one.recipe for one in _board() if one.run.stratum == stratum}
    recipes = set(recipe_of.values())
    groups = {_groups()[name] for name in recipes}
    heads = ("rows", "entry", "skill at 0.9", "skill at 0.99", "over, risk 10 %", "over, risk 5 %", "waste %")
    said = f"{len(recipe_of)} runs of {len(recipes)} recipes in {len(groups)} groups of near twins."
    few = f" Fewer than {MIN_RECIPES}: no intervals." if len(groups) < MIN_RECIPES else ""
    title = f"{STRATA[stratum][0].upper()}{STRATA[stratum][1:]}"
    return f"{title}: {said}{few}{_without_loss(stratum)}\n\n{aligned_table(heads, rows, 2)}"


def _without_loss(stratum: str) -> str:
    """Return which runs some entry forecasts without any loss: they count in no skill at that risk."""
    without = {
        f"`{one.run.id}`" for one in _board() if one.run.stratum == stratum and not (one.loss_tenth and one.loss_last)
    }
    if not without:
        return ""
    return f" Not in the skills at the risk where an entry has no loss at all: {listed(sorted(without))}."


def pooled_table() -> str:
    """Return the risk of 1 % over strata and horizons together, and what 0.1 % would keep."""
    rows = []
    for name, entry in ENTRIES.items():
        scored = [one for one in _board() if one.entry == name and one.run.merged == 1]
        kept = mean(scored, [float(one.waste_Q[-1]) for one in scored])
        rows.append((f"`{name}`", entry.about, *pooled_over(scored), f"{100 * kept:.0f}"))
    heads = ("entry", "what it is", "over, risk 1 %", "of all windows", "windows", "waste % at 0.1 % (extrapolated)")
    return aligned_table(heads, rows, 2)


def pooled_over(scored: Sequence[Scored], groups: Groups | None = None) -> tuple[str, str, str]:
    """Return how often the factor for a risk of 1 % is exceeded, over horizons together, and in how many windows.

    In percent: the mean over recipes, and the part of all windows.
    """
    by_run = grouped(scored, lambda one: one.run.id).values()
    over = mean_part([runs[-1] for runs in by_run], [_over(runs) for runs in by_run], groups)
    return over, f"{100 * _over(scored):.1f}", f"{sum(one.windows for one in scored):,}"


def _over(scored: Sequence[Scored]) -> float:
    """Return the part of all windows that exceed the factor for a risk of 1 %."""
    exceeded = sum(one.windows * float(one.exceeded_Q[HUNDREDTH]) for one in scored)
    return exceeded / sum(one.windows for one in scored)


def worst_table() -> str:
    """Return the recipe that exceeds most often at 5 %, and the one with the most waste, of the shipped forecaster."""
    rows = []
    for stratum in STRATA:
        for horizon in HORIZONS:
            found = chosen(SHIPPED, horizon, stratum)
            if len(found) < 2:
                continue
            by_recipe = grouped(found, lambda one: one.recipe)
            over = {name: np.mean([one.exceeded_Q[TWENTIETH] for one in runs]) for name, runs in by_recipe.items()}
            waste = {name: np.mean([one.waste_Q[TWENTIETH] for one in runs]) for name, runs in by_recipe.items()}
            most, idle = max(over, key=over.__getitem__), max(waste, key=waste.__getitem__)
            windows = sum(one.windows for one in by_recipe[most])
            rows.append((STRATA[stratum], f"{horizon:,}", f"`{most}`", f"{100 * over[most]:.0f} % of {windows} windows",
                         f"`{idle}`", f"{100 * waste[idle]:.0f}"))  # fmt: skip
    heads = ("stratum", "rows", "exceeds most often", "over, risk 5 %", "wastes most", "waste %")
    return aligned_table(heads, rows)


def rates(counts: AlarmCounts) -> tuple[str, ...]:
    """Return deaths, episodes, recall, precision and false episodes for each 100,000 layer-steps."""
    parts = ("-" if part is None else f"{100 * part:.0f} %" for part in (counts.recall, counts.precision))
    return (str(counts.deaths), str(counts.episodes), *parts, f"{counts.false_rate:.1f}")


def alarm_table() -> str:
    """Return the rates of each alarm: of all runs of a split together, and as means over recipes."""
    rows = []
    broken = ("test, `unbalanced-*`", "test", capacity.BROKEN)
    for split, where, begins in (("train", "train", ""), ("test", "test", ""), broken):
        runs = [run for run in _alarms() if f"/{where}/" in run.id and run.id.startswith(begins)]
        for name in alarms.ENTRIES:
            total = added(run.counts[name] for run in runs)
            by_recipe = (over_recipes(runs, name, rate) for rate in ("recall", "precision"))
            rows.append((split, name, *rates(total), *by_recipe))
    heads = ("split", "warns below", *RATES, "recall %, by recipe", "precision %, by recipe")
    return aligned_table(heads, rows, 2)


def over_recipes(runs: Sequence[AlarmRun], name: str, rate: str) -> str:
    """Return a rate as the mean over recipes, in percent, of the runs that have it."""
    having = [run for run in runs if getattr(run.counts[name], rate) is not None]
    return mean_part(having, [getattr(run.counts[name], rate) for run in having]) if having else "-"


def deaths_table() -> str:
    """Return the recipes in which experts die, with the rates of the alarm that is shipped."""
    rows = []
    for recipe, runs in sorted(grouped(_alarms(), lambda run: run.recipe).items()):
        counts = added(run.counts[alarms.SHIPPED] for run in runs)
        if counts.deaths:
            rows.append((f"`{recipe}`", str(len(runs)), *rates(counts)))
    return aligned_table(("recipe", "runs", *RATES), rows, 1)


def answer() -> str:
    """Return how far the shipped forecaster and the alarm can be trusted: exceeded and wasted, found and false."""
    said = []
    for stratum in ("small", "large"):
        found = [chosen(SHIPPED, horizon, stratum) for horizon in HORIZONS]
        recipes = {one.recipe for scored in found for one in scored}
        over = " and ".join(f"{exceeded(scored, TWENTIETH)} % of windows of {horizon:,} rows"
                            for horizon, scored in zip(HORIZONS, found, strict=True))  # fmt: skip
        waste = " and ".join(f"{_waste(scored):.0f} %" for scored in found)
        said.append(f"With {STRATA[stratum]} ({len(recipes)} recipes) {over} need more, and {waste} is kept in vain.")
    runs = [run for run in _alarms() if "/test/" in run.id]
    counts = added(run.counts[alarms.SHIPPED] for run in runs)
    return (
        f"Asked for a risk of 5 %: {said[0][0].lower()}{said[0][1:]} {said[1]} The alarm warns of "
        f"{100 * (counts.recall or 0.0):.0f} % of the deaths of experts at least 100 steps before; "
        f"{100 * (counts.precision or 0.0):.0f} % of its warnings end in a death."
    )


def exceeded(found: Sequence[Scored], at: int, groups: Groups | None = None) -> str:
    """Return the part of windows that need more than the factor for a risk of `RISKS`, in percent."""
    return mean_part(found, [float(one.exceeded_Q[at]) for one in found], groups)


def _waste(found: Sequence[Scored]) -> float:
    """Return what is kept in vain for a risk of 5 %, in percent of the need, the mean over recipes."""
    return 100 * mean(found, [float(one.waste_Q[TWENTIETH]) for one in found])


def draw() -> None:
    """Draw in how many windows the need exceeds the factor, against the risk that was asked for, small batches."""
    with style():
        figure = new_figure(2.6)
        panels = figure.subplots(1, len(HORIZONS), sharey=True)
        asked = [100 * risk for risk in RISKS[: HUNDREDTH + 1]]
        for horizon, ax in zip(HORIZONS, panels, strict=True):
            ax.plot(asked, asked, "--", color=GREY, label="as often as asked")
            for i, name in enumerate(ENTRIES):
                found = chosen(name, horizon, "small")
                values = ([float(one.exceeded_Q[at]) for one in found] for at in range(len(asked)))
                over = [100 * mean(found, one) for one in values]
                ax.plot(asked, over, MARKERS[i], linestyle="-", color=PALETTE[i], label=name)
            log_axis(ax.xaxis, asked[-1], asked[0])
            ax.set(title=f"windows of {horizon:,} rows", xlabel="risk asked for [%]")
            ax.grid()
        panels[0].set_ylabel("windows that need more [%]")
        legend_above(figure, "", panels[0].get_legend_handles_labels()[0])
        save_figure(figure, PAGE.with_suffix(".svg"))


def collapse_list() -> str:
    """Return every layer in which most experts died; too few for rates."""
    found = [
        f"- `{run.id}`, layer {layer}: from step {block * BLOCK_STEPS:,} on"
        for run in _alarms()
        for layer, block in run.collapsed
    ]
    return f"Layers with most of their experts dead in some block, {len(found)} in all:\n\n" + (
        "\n".join(found) or "none"
    )


def version() -> str:
    """Return which version of the board this is, and for which risks."""
    return f"Version {CAPACITY_VERSION} of this board; risks {', '.join(f'{100 * r:g} %' for r in RISKS)}."


PARTS: Mapping[str, Maker] = {
    "answer": answer, "version": version, "stratum": stratum_table, "pooled": pooled_table, "worst": worst_table,
    "alarm": alarm_table, "deaths": deaths_table, "collapses": collapse_list,
}  # fmt: skip


def made() -> dict[Path, str]:
    """Return the page, and the records that it is made from."""
    runs = _runs()
    return {
        capacity.OUT: records_text(runs, lambda run: (run.id, run.merged)),
        alarms.OUT: records_text(_alarms(), lambda run: run.id),
        PAGE: fill_parts(PAGE.read_text(encoding="utf-8"), PARTS),
    }


CAPACITY = Page("docs/reports/capacity.md", made, draw)
