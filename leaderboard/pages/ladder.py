"""docs/reports/ladder.md: what changes with the size of the model, over the runs of leaderboard/ladder.json."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.pages.ladder_figures import draw_figures
from leaderboard.pages.parts import Maker, Page, fill_parts, parts_from
from leaderboard.studies import rungs as study
from leaderboard.studies.kept import records_text
from leaderboard.studies.ladder import OUT, STEPS, STRONG, all_runs, parameters_of
from leaderboard.studies.rungs import CANNOT, LOADS, TESTED, Quantity, Rung, trend
from leaderboard.studies.unseen import known_recipes
from leaderboard.suites.plan import near_twins
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import signed, three_digits
from moeload_bench.states.rule import LABELS

PAGE = ROOT / "docs" / "reports" / "ladder.md"
FIGURES = PAGE.parent / "ladder"


def rungs_table(rungs: Sequence[Rung]) -> str:
    """Return what each rung is, which runs are there, and which are not."""
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


def cell(rungs: Sequence[Rung], rung: Rung, quantity: Quantity, form: Callable[[float], str] = three_digits) -> str:
    """Mean and interval; `never` for runs that are there and have no value."""
    if not rung.values(quantity):
        return "-"
    mean, bounds = study.mean_of(rung, quantity), study.interval(rungs, rung, quantity)
    said = "never" if mean is None else form(mean)
    return said if bounds is None else f"{said} [{form(bounds[0])}, {form(bounds[1])}]"


def loads_table(rungs: Sequence[Rung]) -> str:
    """Return every described quantity of the loads, a row each, a column for each rung."""
    rows = [(quantity.title, *(cell(rungs, rung, quantity) for rung in rungs)) for quantity in LOADS]
    return markdown_table(("", *(f"`{rung.name}`" for rung in rungs)), rows)


def tested_table(rungs: Sequence[Rung]) -> str:
    """Return the three quantities named beforehand, skill in both states, with what can be claimed."""
    rows = [
        (quantity.title, *(cell(rungs, rung, quantity) for rung in rungs), trend(rungs, quantity))
        for quantity in TESTED
    ]
    return markdown_table(("tested", *(f"`{rung.name}`" for rung in rungs), "with size"), rows)


def skill_table(rungs: Sequence[Rung], state: str) -> str:
    """Skill of every forecaster in each rung with its interval, and in parentheses its rank there."""
    rows = []
    for name in study.names_of(rungs):
        quantity = Quantity("skill", name, study.skill_in(state, name), False)
        cells = []
        for rung in rungs:
            ranks = [rank for run in rung.runs if (rank := study.rank_in(run, state, name)) is not None]
            cells.append(f"{cell(rungs, rung, quantity, signed)} ({_span(ranks)})" if ranks else "-")
        rows.append((f"`{name}`", *cells))
    return markdown_table((f"{state}: skill (rank)", *(f"`{rung.name}`" for rung in rungs)), rows)


def _span(ranks: Sequence[int]) -> str:
    return f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"


def regret_table(rungs: Sequence[Rung], state: str) -> str:
    """Regret of the plan for the next 100 and 1,000 steps with its interval, a row for each."""
    rows = []
    for name in study.names_of(rungs):
        for horizon in (100, 1000):
            quantity = Quantity("regret", name, study.regret_in(state, name, horizon), False)
            rows.append(
                (f"`{name}`", f"{horizon:,}", *(cell(rungs, rung, quantity, "{:.2%}".format) for rung in rungs))
            )
    return markdown_table((f"{state}: regret", "h", *(f"`{rung.name}`" for rung in rungs)), rows)


def opening(rungs: Sequence[Rung]) -> str:
    """Return what changes with size, what cannot be told, and who leads on every rung."""
    sizes = sorted({parameters_of(rung.recipe) for rung in rungs})
    said = {f"*{quantity.title}*": trend(rungs, quantity) for quantity in TESTED}
    unknown = [title for title, words in said.items() if words.startswith(CANNOT)]
    known = [f"{title} {words}" for title, words in said.items() if title not in unknown]
    leaders = " and ".join(f"{_first(rungs, state)} ({state})" for state in LABELS)
    claims = " and ".join(known) or "nothing can be said to change"
    rest = f" Of {', '.join(unknown)} it cannot be told from these runs." if unknown else ""
    start = f"Over {len(sizes)} sizes of one training, {sizes[0] / 1e6:.1f} to {sizes[-1] / 1e6:.1f} million parameters"
    return f"{start}, {claims}.{rest} First by skill is {leaders}."


def _first(rungs: Sequence[Rung], state: str) -> str:
    firsts = [order[0] for rung in rungs for run in rung.runs if (order := study.order_in(run, state))]
    if not firsts:
        return "unknown"
    name = max(dict.fromkeys(firsts), key=firsts.count)
    return f"`{name}` in {firsts.count(name)} of {len(firsts)} runs"


def answers(rungs: Sequence[Rung]) -> str:
    """Return what carries over, a sentence for each question; every number in them is in the tables."""
    lines = [f"- *{quantity.title.replace('`', '')}*: {trend(rungs, quantity)}." for quantity in TESTED]
    lines += [f"- *Order of forecasters, {state}*: {order_answer(rungs, state)}." for state in LABELS]
    lines += [
        f"- *What the onset scales with*: {scaling_answer(rungs)}.",
        f"- *Which layer moves most*: {layer_answer(rungs)}.",
    ]
    lines.append(f"- *Onset near 5,000 steps*, as the founding paper saw it: {onset_answer(rungs)}.")
    return "\n".join(lines)


def order_answer(rungs: Sequence[Rung], state: str) -> str:
    """Who is first, and whether runs that differ in size alone agree on the order more than others do."""
    scored = [(rung, run) for rung in rungs for run in rung.runs if study.order_in(run, state)]
    missing = [f"`{rung.name}`" for rung in rungs if not any(rung is one for one, _ in scored)]
    if not scored:
        return f"{CANNOT}: no scored run"
    first = sorted({study.order_in(run, state)[0] for _, run in scored})
    runs = f"{len(scored)} run{'s' if len(scored) > 1 else ''}"
    start = f"{CANNOT}, no scored run of {', '.join(missing)}; in {runs} so far" if missing else f"in {runs}"
    said = f"{start}: first is {', '.join(f'`{name}`' for name in first)}"
    size: list[float] = []
    balancing: list[float] = []
    for (rung, run), (other, second) in itertools.combinations(scored, 2):
        if rung is not other:
            (size if rung.family == other.family else balancing).append(study.agreement(run, second, state))
    if missing or not size or not balancing:
        return said
    return (
        f"{said}; {_changes(size, balancing)} (Kendall's tau of two runs' orders: {_range(size)} between sizes, "
        f"{_range(balancing)} between balancing and none)"
    )


def _changes(size: Sequence[float], balancing: Sequence[float]) -> str:
    if min(*size, *balancing) == 1:
        return "one order in every run"
    if min(size) > max(balancing):
        return "the order changes less with size than with balancing"
    return f"{CANNOT} whether size or balancing changes the order more"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def scaling_answer(rungs: Sequence[Rung]) -> str:
    """Return by what factor rungs without balancing differ in each measure of the onset."""
    plain = [rung for rung in rungs if rung.family == "none" and rung.runs]
    if len(plain) < 2:
        return f"{CANNOT}: one rung is no comparison"
    factors = {}
    for quantity in LOADS[:4]:
        means = [study.mean_of(rung, quantity) for rung in plain]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(means):
            factors[quantity.title.removeprefix("onset, ")] = max(known) / min(known)
    if not factors:
        return f"{CANNOT}: a run never becomes stable"
    # rounded: steps and tokens share a factor, and the last digit of a mean must not put one before the other
    ordered = sorted(factors.items(), key=lambda item: round(item[1], 9))
    listed = ", ".join(f"{factor:.2f} in {name}" for name, factor in ordered)
    nearest = [name for name, factor in ordered if round(factor / ordered[0][1], 9) == 1]
    return (
        f"over {len(plain)} rungs without balancing the largest is a multiple of the least of {listed}; nearest to "
        f"constant in {' and '.join(nearest)}"
    )


def layer_answer(rungs: Sequence[Rung]) -> str:
    """Return in how many runs the first MoE layer moves most, as the founding paper has it."""
    runs = [run for rung in rungs for run in rung.runs]
    if not runs:
        return f"{CANNOT}: no run"
    first = sum(int(np.argmax(run.unrest_L)) == 0 for run in runs)
    return f"the first in {first} of {len(runs)} runs, by the mean drift of all {STEPS:,} steps"


def onset_answer(rungs: Sequence[Rung]) -> str:
    """Return the range of the onsets of all layers."""
    steps = [step for rung in rungs for run in rung.runs for step in run.onset_L]
    known = [step for step in steps if step is not None]
    if not known:
        return f"{CANNOT}: no layer of any run is stable within {STEPS:,} steps"
    return (
        f"layers become stable at steps {min(known):,} to {max(known):,}, "
        f"{len(steps) - len(known)} of {len(steps)} not within {STEPS:,}"
    )


def twins_note(rungs: Sequence[Rung], learned: Collection[str]) -> str:
    """Return which rungs are near twins of recipes that the strong forecaster's weights were learned from."""
    groups = near_twins({rung.name for rung in rungs} | set(learned))
    known = [
        f"`{rung.name}` (of {', '.join(f'`{name}`' for name in sorted(set(group) & set(learned)))})"
        for rung in rungs
        for group in groups
        if rung.name in group and set(group) & set(learned)
    ]
    if not known:
        return f"No rung is a near twin of a recipe that the weights of `{STRONG}` were learned from."
    return (
        f"The weights of `{STRONG}` were learned from near twins of {' and '.join(known)}, and of no other rung: where "
        "its skill is larger there than on the rungs above, that may be why."
    )


def parts_of(rungs: Sequence[Rung]) -> Mapping[str, Maker]:
    """Return the generated parts of the page."""
    return parts_from(
        lambda: rungs, rungs=rungs_table, opening=opening, answers=answers, tested=tested_table, loads=loads_table,
        twins=lambda rungs: twins_note(rungs, known_recipes()), skill=skill_table, regret=regret_table,
    )  # fmt: skip


@functools.cache
def _rungs() -> tuple[Rung, ...]:
    return tuple(study.rungs_of(all_runs()))


def made() -> dict[Path, str]:
    """Return the page, and the file of records that it is made from."""
    runs = [run for rung in _rungs() for run in rung.runs]
    return {
        OUT: records_text(runs, lambda run: run.id),
        PAGE: fill_parts(PAGE.read_text(encoding="utf-8"), parts_of(_rungs())),
    }


LADDER = Page("docs/reports/ladder.md", made, lambda: draw_figures(_rungs(), FIGURES))
