"""docs/reports/ladder.md: what changes with the size of the model, over the runs of leaderboard/ladder.json.

Three quantities were named before the first rung was recorded: the onset in steps, the drift in the stable state, and
the strong forecaster's skill. A trend of one of them is claimed only where every run of each rung lies on the same side
of every run of the rung below, in both families of rungs; of everything else the numbers are shown, and nothing is
claimed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from leaderboard.committed import ROOT
from leaderboard.ladder import (
    HORIZONS,
    OUT,
    PLAN,
    STATES,
    STEPS,
    STRONG,
    LadderRun,
    all_runs,
    by_rung,
    parameters_of,
    planned,
    records_text,
)
from leaderboard.pages.parts import Maker, Page, fill_parts
from leaderboard.suites.plan import load_plan
from moeload_bench.plots.style import MARKERS, PALETTE, legend_above, log_axis, new_figure, save_figure, style
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.results.grid import present_mean
from moeload_bench.results.render import markdown_table, three_digits

PAGE = ROOT / "docs" / "reports" / "ladder.md"
FIGURES = PAGE.parent / "ladder"
CANNOT = "cannot tell"
Value = Callable[[LadderRun], float | None]


class Quantity(NamedTuple):
    """One number of a run; ``log``: its runs differ by factors, so that intervals are taken of its logarithm."""

    name: str
    title: str
    value: Value
    log: bool = True


def onset_of(run: LadderRun) -> float | None:
    """Median over layers of the first stable step; None where half of them or more never are."""
    steps = sorted(float("inf") if step is None else step for step in run.onset_L)
    middle = float(np.median(steps))
    return middle if np.isfinite(middle) else None


def skill_in(state: str, forecaster: str) -> Value:
    """A run's skill of a forecaster in a state."""

    def value(run: LadderRun) -> float | None:
        score = run.scores.get(forecaster, {}).get(state)
        return None if score is None else score.skill

    return value


LOADS = (
    Quantity("onset", "onset, steps", onset_of),
    Quantity("onset-tokens", "onset, tokens", lambda run: _times(onset_of(run), run.step_tokens)),
    Quantity("onset-fraction", "onset, fraction of the run", lambda run: _times(onset_of(run), 1 / run.steps)),
    Quantity("onset-rates", "onset, sum of learning rates", lambda run: _times(onset_of(run), run.learning_rate)),
    Quantity("drift", "drift, stable", lambda run: present_mean(run.drift_L)),
    Quantity("over-dispersion", "over-dispersion", lambda run: run.over_dispersion),
    Quantity("imbalance", f"imbalance at step {STEPS:,}", lambda run: run.imbalance),
    Quantity("dead", f"dead experts at step {STEPS:,}", lambda run: float(run.dead), False),
    Quantity("floor", "floor, 100-step mean", lambda run: run.floor),
)
SKILLS = tuple(
    Quantity(f"skill-{state}", f"skill of `{STRONG}`, {state}", skill_in(state, STRONG), False) for state in STATES
)
TESTED = (LOADS[0], LOADS[4], *SKILLS)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


# ---------------------------------------------------------------- what is claimed


class Rung(NamedTuple):
    """A recipe of the plan with the runs that are there; ``missing`` are planned ones that are not."""

    recipe: Recipe
    runs: Sequence[LadderRun]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def family(self) -> str:
        return self.recipe.balancing.method

    def values(self, quantity: Quantity) -> list[float | None]:
        """The quantity of each run; of skills, each `test` run."""
        scored = quantity in SKILLS
        return [quantity.value(run) for run in self.runs if not scored or run.scores]


def rungs_of(runs: Sequence[LadderRun], plan: str = PLAN) -> list[Rung]:
    """The rungs of the plan, those without balancing first, each family by size."""
    plan_runs, found = load_plan(plan), by_rung(runs)
    there = {run.id for run in runs}
    return [
        Rung(recipe, found.get(recipe.name, []),
             [run for run in plan_runs.runs if run.split("/")[0] == recipe.name and run not in there])
        for recipe in planned(plan_runs)
    ]  # fmt: skip


def trend(rungs: Sequence[Rung], quantity: Quantity) -> str:
    """`rises with size`, `falls with size`, or `cannot tell` and why."""
    empty = [rung.name for rung in rungs if not rung.values(quantity)]
    if empty:
        return f"{CANNOT}: no run of {', '.join(f'`{name}`' for name in empty)}"
    said = set()
    for family in dict.fromkeys(rung.family for rung in rungs):
        own = [rung.values(quantity) for rung in rungs if rung.family == family]
        for small, large in itertools.pairwise(own):
            said.add(_direction(small, large))
    if said == {"rises"} or said == {"falls"}:
        return f"{said.pop()} with size, in every rung, seed and family"
    return f"{CANNOT}: runs of different rungs overlap or disagree"


def _direction(small: Sequence[float | None], large: Sequence[float | None]) -> str:
    lower, upper = [v for v in small if v is not None], [v for v in large if v is not None]
    if len(lower) < len(small) or len(upper) < len(large):
        return CANNOT
    if min(upper) > max(lower):
        return "rises"
    return "falls" if max(upper) < min(lower) else CANNOT


def interval(rungs: Sequence[Rung], rung: Rung, quantity: Quantity) -> tuple[float, float] | None:
    """A 95 % t interval on a rung's mean, from the variance of runs in rungs, pooled; not for one run or counts."""
    if quantity.name == "dead":
        return None
    groups = [[_scaled(v, quantity) for v in one.values(quantity) if v is not None] for one in rungs]
    groups = [group for group in groups if len(group) > 1 and np.isfinite(group).all()]
    freedom = sum(len(group) - 1 for group in groups)
    own = [float("nan") if v is None else _scaled(v, quantity) for v in rung.values(quantity)]
    if freedom == 0 or len(own) < 2 or not np.isfinite(own).all():
        return None
    variance = sum(float(np.var(group)) * len(group) for group in groups) / freedom
    half = float(stats.t.ppf(0.975, freedom)) * np.sqrt(variance / len(own))
    low, high = float(np.mean(own) - half), float(np.mean(own) + half)
    return (float(np.exp(low)), float(np.exp(high))) if quantity.log else (low, high)


def _scaled(value: float, quantity: Quantity) -> float:
    if not quantity.log:
        return value
    return float(np.log(value)) if value > 0 else float("-inf")


def mean_of(rung: Rung, quantity: Quantity) -> float | None:
    """The mean of a rung's runs, geometric where they differ by factors; None where a run has no value."""
    values = rung.values(quantity)
    if not values or None in values:
        return None
    own = [value for value in values if value is not None]
    if quantity.log and min(own) > 0:
        return float(np.exp(np.mean(np.log(own))))
    return float(np.mean(own))


# ---------------------------------------------------------------- parts of the page


def rungs_table(rungs: Sequence[Rung]) -> str:
    """What each rung is, which runs are there, and which are not."""
    rows = [
        (
            f"`{rung.name}`",
            f"{parameters_of(rung.recipe) / 1e6:.1f} million",
            rung.recipe.model.config["hidden_size"],
            rung.recipe.model.config["num_hidden_layers"],
            f"{rung.recipe.optimizer.lr:.3g}",
            f"{rung.recipe.steps:,}",
            ", ".join(run.id.split("/", 1)[1] for run in rung.runs) or "none",
            ", ".join(run.split("/", 1)[1] for run in rung.missing) or "none",
        )
        for rung in rungs
    ]
    head = ("rung", "parameters", "width", "layers", "learning rate", "steps", "runs here", "planned and missing")
    return markdown_table(head, rows)


def cell(rungs: Sequence[Rung], rung: Rung, quantity: Quantity) -> str:
    """Mean and interval; `never` for runs that are there and have no value."""
    if not rung.values(quantity):
        return "-"
    mean, bounds = mean_of(rung, quantity), interval(rungs, rung, quantity)
    said = "never" if mean is None else three_digits(mean)
    return said if bounds is None else f"{said} [{three_digits(bounds[0])}, {three_digits(bounds[1])}]"


def loads_table(rungs: Sequence[Rung]) -> str:
    """Every described quantity of the loads, a row each, a column for each rung."""
    rows = [(quantity.title, *(cell(rungs, rung, quantity) for rung in rungs)) for quantity in LOADS]
    return markdown_table(("", *(f"`{rung.name}`" for rung in rungs)), rows)


def tested_table(rungs: Sequence[Rung]) -> str:
    """The three quantities named beforehand, skill in both states, with what can be claimed."""
    rows = [
        (quantity.title, *(cell(rungs, rung, quantity) for rung in rungs), trend(rungs, quantity))
        for quantity in TESTED
    ]
    return markdown_table(("tested", *(f"`{rung.name}`" for rung in rungs), "with size"), rows)


def names_of(rungs: Sequence[Rung]) -> list[str]:
    """The forecasters with scores, in the order of their first rung."""
    return list(dict.fromkeys(name for rung in rungs for run in rung.runs for name in run.scores))


def order_in(run: LadderRun, state: str) -> list[str]:
    """The forecasters of a run in a state, best first; those that say the same by name."""
    known = _skills(run, state)
    return sorted(known, key=lambda name: (-known[name], name))


def rank_in(run: LadderRun, state: str, name: str) -> int | None:
    """One more than there are better ones, so that those that say the same share a rank; None without a score."""
    known = _skills(run, state)
    return 1 + sum(skill > known[name] for skill in known.values()) if name in known else None


def _skills(run: LadderRun, state: str) -> dict[str, float]:
    """To nine digits: the same forecasts, summed in another order, differ in the last of sixteen."""
    return {name: round(own[state].skill, 9) for name, own in run.scores.items() if state in own}


def skill_table(rungs: Sequence[Rung], state: str) -> str:
    """Skill of every forecaster in each rung, and in brackets its rank there; a mean over the rung's runs."""
    rows = []
    for name in names_of(rungs):
        cells = []
        for rung in rungs:
            mean = present_mean([skill_in(state, name)(run) for run in rung.runs])
            ranks = [rank for run in rung.runs if (rank := rank_in(run, state, name)) is not None]
            cells.append("-" if mean is None else f"{mean:+.3f} ({_span(ranks)})")
        rows.append((f"`{name}`", *cells))
    return markdown_table((f"{state}: skill (rank)", *(f"`{rung.name}`" for rung in rungs)), rows)


def _span(ranks: Sequence[int]) -> str:
    return f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"


def regret_table(rungs: Sequence[Rung], state: str) -> str:
    """Regret of the plan for the next 100 and 1,000 steps."""
    at = [HORIZONS.index(100), HORIZONS.index(1000)]
    rows = []
    for name in names_of(rungs):
        cells = []
        for rung in rungs:
            scores = [run.scores[name][state] for run in rung.runs if state in run.scores.get(name, {})]
            means = [present_mean([score.regret_K[k] for score in scores]) for k in at]
            cells.append(", ".join(f"{mean:.2%}" for mean in means if mean is not None) or "-")
        rows.append((f"`{name}`", *cells))
    return markdown_table((f"{state}: regret at h = 100, 1,000", *(f"`{rung.name}`" for rung in rungs)), rows)


def answers(rungs: Sequence[Rung]) -> str:
    """What carries over, a sentence for each question; every number in them is in the tables."""
    lines = [f"- *{quantity.title.replace('`', '')}*: {trend(rungs, quantity)}." for quantity in TESTED]
    lines += [f"- *Order of forecasters, {state}*: {order_answer(rungs, state)}." for state in STATES]
    lines += [
        f"- *What the onset scales with*: {scaling_answer(rungs)}.",
        f"- *Which layer moves most*: {layer_answer(rungs)}.",
    ]
    lines.append(f"- *Onset near 5,000 steps*, as the founding paper saw it: {onset_answer(rungs)}.")
    return "\n".join(lines)


def order_answer(rungs: Sequence[Rung], state: str) -> str:
    """Whether every run of every rung ranks the forecasters alike, and who is first."""
    orders = {run.id: order_in(run, state) for rung in rungs for run in rung.runs if state in _states(run)}
    missing = [f"`{rung.name}`" for rung in rungs if not any(run.id in orders for run in rung.runs)]
    if not orders:
        return f"{CANNOT}: no scored run"
    first = sorted({order[0] for order in orders.values()})
    same = len({tuple(order) for order in orders.values()}) == 1
    said = f"{'one order' if same else 'the order differs between runs'}; first is {', '.join(f'`{n}`' for n in first)}"
    runs = f"{len(orders)} run{'s' if len(orders) > 1 else ''}"
    return (
        f"{CANNOT}, no scored run of {', '.join(missing)}; in {runs} so far: {said}"
        if missing
        else f"in {runs}: {said}"
    )


def _states(run: LadderRun) -> set[str]:
    return {state for own in run.scores.values() for state in own}


def scaling_answer(rungs: Sequence[Rung]) -> str:
    """By what factor rungs without balancing differ in each measure of the onset."""
    plain = [rung for rung in rungs if rung.family == "none" and rung.runs]
    if len(plain) < 2:
        return f"{CANNOT}: one rung is no comparison"
    factors = {}
    for quantity in LOADS[:4]:
        means = [mean_of(rung, quantity) for rung in plain]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(means):
            factors[quantity.title.removeprefix("onset, ")] = max(known) / min(known)
    if not factors:
        return f"{CANNOT}: a run never becomes stable"
    listed = ", ".join(f"{factor:.2f} in {name}" for name, factor in sorted(factors.items(), key=lambda item: item[1]))
    return f"over {len(plain)} rungs without balancing the largest is a multiple of the least of {listed}"


def layer_answer(rungs: Sequence[Rung]) -> str:
    """In how many runs the first MoE layer moves most, as the founding paper has it."""
    runs = [run for rung in rungs for run in rung.runs]
    if not runs:
        return f"{CANNOT}: no run"
    first = sum(int(np.argmax(run.unrest_L)) == 0 for run in runs)
    return f"the first in {first} of {len(runs)} runs, by the mean drift of all {STEPS:,} steps"


def onset_answer(rungs: Sequence[Rung]) -> str:
    """The range of the onsets of all layers."""
    steps = [step for rung in rungs for run in rung.runs for step in run.onset_L]
    known = [step for step in steps if step is not None]
    if not known:
        return f"{CANNOT}: no layer of any run is stable within {STEPS:,} steps"
    return (
        f"layers become stable at steps {min(known):,} to {max(known):,}, "
        f"{len(steps) - len(known)} of {len(steps)} not within {STEPS:,}"
    )


def parts_of(rungs: Sequence[Rung]) -> Mapping[str, Maker]:
    """The generated parts of the page."""
    return {
        "rungs": lambda _: rungs_table(rungs),
        "answers": lambda _: answers(rungs),
        "tested": lambda _: tested_table(rungs),
        "loads": lambda _: loads_table(rungs),
        "skill": lambda state: skill_table(rungs, state),
        "regret": lambda state: regret_table(rungs, state),
    }


# ---------------------------------------------------------------- figures


def draw_quantity(rungs: Sequence[Rung], quantity: Quantity, path: Path) -> None:
    """One point per run against the number of parameters, a colour for each family."""
    with style():
        figure = new_figure(2.4, 4.0)
        axes = figure.subplots()
        sizes, handles = [], []
        for i, family in enumerate(dict.fromkeys(rung.family for rung in rungs)):
            own = [(parameters_of(rung.recipe), value) for rung in rungs if rung.family == family
                   for value in rung.values(quantity) if value is not None]  # fmt: skip
            sizes += [size for size, _ in own]
            if own:
                label = "no balancing" if family == "none" else family.replace("_", " ")
                handles += axes.plot(*zip(*own, strict=True), MARKERS[i], color=PALETTE[i], label=label)
        _finish(axes, sizes, quantity.title.replace("`", ""))
        legend_above(figure, "", handles)
        save_figure(figure, path)


def draw_scores(
    rungs: Sequence[Rung], title: str, value: Callable[[LadderRun, str, str], float | None], path: Path
) -> None:
    """A panel for each state, a colour for each forecaster: one point per run of the rungs without balancing."""
    with style():
        figure = new_figure(2.8)
        panels = figure.subplots(1, len(STATES))
        handles: list[object] = []
        for state, axes in zip(STATES, panels, strict=True):
            sizes = []
            for i, name in enumerate(names_of(rungs)):
                own = [(parameters_of(rung.recipe), value(run, name, state)) for rung in rungs if rung.family == "none"
                       for run in rung.runs]  # fmt: skip
                known = [(size, v) for size, v in own if v is not None]
                sizes += [size for size, _ in known]
                if known:
                    line = axes.plot(*zip(*known, strict=True), MARKERS[i % 10], color=PALETTE[i % 10], label=name)
                    handles += line if state == STATES[0] else []
            _finish(axes, sizes, f"{title}, {state}")
        legend_above(figure, "", handles)
        save_figure(figure, path)


def _finish(axes: object, sizes: Sequence[float], label: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    if sizes:
        log_axis(axes.xaxis, min(sizes), max(sizes))
    axes.set(xlabel="parameters", ylabel=label)
    axes.grid(axis="y")


def draw_figures(rungs: Sequence[Rung], folder: Path) -> None:
    """One figure per quantity of the loads, and skill, rank and regret of every forecaster."""

    def regret(run: LadderRun, name: str, state: str) -> float | None:
        score = run.scores.get(name, {}).get(state)
        return None if score is None else score.regret_K[HORIZONS.index(1000)]

    for quantity in LOADS:
        draw_quantity(rungs, quantity, folder / f"{quantity.name}.svg")
    draw_scores(rungs, "skill", lambda run, name, state: skill_in(state, name)(run), folder / "skill.svg")
    draw_scores(rungs, "rank", lambda run, name, state: rank_in(run, state, name), folder / "rank.svg")
    draw_scores(rungs, "regret, h = 1,000", regret, folder / "regret.svg")


@functools.cache
def _rungs() -> tuple[Rung, ...]:
    return tuple(rungs_of(all_runs()))


def made() -> dict[Path, str]:
    """The page, and the file of records that it is made from."""
    runs = [run for rung in _rungs() for run in rung.runs]
    return {
        OUT: records_text(runs),
        PAGE: fill_parts(PAGE.read_text(encoding="utf-8"), parts_of(_rungs())),
    }


LADDER = Page("docs/reports/ladder.md", made, lambda: draw_figures(_rungs(), FIGURES))
