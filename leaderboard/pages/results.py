"""docs/reports/results.md: everything that the committed results of a suite say, as Markdown.

Each section is a function of the results; `suite_page` puts them together. Every table says over what its cells are
means; states and horizons are never averaged away.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import RESULTS, committed_results, suites_with_results
from leaderboard.pages.disagreement import Disagreement, disagreements
from leaderboard.pages.parts import Maker
from leaderboard.pages.separation import ALPHA, Cell, compared_cells
from leaderboard.pages.variation import recipe_tables, seeds
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.captions import failure_lines
from moeload_bench.results.comparison import reference_of
from moeload_bench.results.grid import metrics_in, result_grid
from moeload_bench.results.markdown import captioned, markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import CLIP, MIN_RECIPES
from moeload_bench.results.strata import by_stratum
from moeload_bench.results.tables import metric_table, three_digits
from moeload_bench.scoring.catalogue import PRIMARY, forecast_metrics
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import Suite, load_suite

MOST_DISAGREEMENTS = 12


@functools.cache
def results_of(suite: str) -> tuple[Result, ...]:
    """Return the committed results of a suite, read once."""
    return tuple(committed_results(suite))


def results_by_size(suite: str) -> Mapping[str, Sequence[Result]]:
    """Return the committed results of a suite on each size of batch by its words; all under "" where it has one."""
    return by_stratum(results_of(suite), load_suite(suite))


def largest_suite() -> Suite:
    """Return the suite with the most test runs, of those with committed results."""
    return max(map(load_suite, suites_with_results()), key=lambda suite: len(suite.traces))


def results_page() -> str:
    """Return every suite with results, the latest first."""
    return "\n\n".join(suite_page(load_suite(name), results_of(name)) for name in reversed(suites_with_results()))


def suite_page(suite: Suite, results: Sequence[Result]) -> str:
    """Return all sections of one suite, those of each size of batch apart."""
    sections = [f"## Suite `{suite.name}`\n\n{about(suite, results)}"]
    for size, part in by_stratum(results, suite).items():
        sections += [f"### {size}", *_sections(part, "####")] if size else _sections(part, "###")
    return "\n\n".join(sections)


def _sections(results: Sequence[Result], level: str) -> list[str]:
    primary = compared_cells(results, PRIMARY)
    return [
        f"{level} Which differences can be told\n\n{told_apart(results, primary)}",
        f"{level} Win rate\n\n{win_rate_table(primary)}",
        f"{level} Every metric\n\n{metric_tables(results)}",
        f"{level} Cost\n\n{cost_table(results)}",
        f"{level} Error and decision\n\n{decisions(results, primary)}",
        f"{level} By recipe\n\n{recipe_tables(results)}",
        f"{level} Seeds\n\n{seeds(results)}",
        f"{level} Failures\n\n{failures(results)}",
    ]


def about(suite: Suite, results: Sequence[Result]) -> str:
    """Return what was run."""
    runs = results[0].runs
    recipes = len({run.recipe for run in runs})
    origins = {state: [sum(task.state == state for task in run.tasks) for run in runs] for state in LABELS}
    lines = [
        suite.description,
        "",
        f"{len(runs)} scored runs of {recipes} recipes, {len(suite.fit)} open runs to fit on; "
        + "; ".join(
            f"{sum(counts)} origins {state} in {sum(map(bool, counts))} runs" for state, counts in origins.items()
        )
        + f". Horizons {', '.join(f'{h:,}' for h in suite.horizons)}; reference `{suite.reference}`. Suite hash "
        f"`{suite.sha256()}`. Results of {len(results)} forecasters: {', '.join(f'`{r.name}`' for r in results)}.",
    ]
    absent = [name for name in suite.baselines if name not in {result.name for result in results}]
    if absent:
        lines += ["", f"Baselines of the suite without a result: {', '.join(f'`{name}`' for name in absent)}."]
    return "\n".join(lines)


# ---------------------------------------------------------------- pairs


def told_apart(results: Sequence[Result], found: Sequence[Cell]) -> str:
    """Skill and corrected p of every forecaster against the reference, rank groups, and what that comes to."""
    reference = reference_of(results)
    if reference is None or not found:
        return "The reference is not among the results: nothing is compared."
    head = ("state", "forecaster", *(f"h = {h}" for h in results[0].suite.horizons))
    rows = []
    for state in LABELS:
        here = [cell for cell in found if cell.state == state]
        for i, comparison in enumerate(here[0].against_reference if here else ()):
            texts = [_skill_p(cell, i) for cell in here]
            rows.append((state, f"`{comparison.forecaster}`", *texts))
    words = (
        f"Skill in {PRIMARY} against `{reference.name}` in one state and at one horizon (ratios clipped to "
        f"[1/{CLIP:g}, {CLIP:g}]), in parentheses p of a paired t test over recipe means, corrected by Holm over the "
        f"forecasters of the cell; bold where p < {ALPHA:g}; n/a with fewer than {MIN_RECIPES} recipes."
    )
    return "\n\n".join([markdown_table(head, rows), words, *rank_lines(found), *conclusion(found, reference.name)])


def _skill_p(cell: Cell, i: int) -> str:
    comparison = cell.against_reference[i]
    if comparison.p_holm is None:
        return f"{comparison.skill:+.3f} (n/a)"
    text = f"{comparison.skill:+.3f} ({comparison.p_holm:.2g})"
    return f"**{text}**" if comparison.p_holm < ALPHA else text


def rank_lines(found: Sequence[Cell]) -> Iterator[str]:
    """Yield the groups that cannot be told from their leader."""
    rows = [
        (cell.state, cell.horizon, " > ".join(", ".join(f"`{name}`" for name in group) for group in cell.groups))
        for cell in found
        if cell.groups is not None
    ]
    if rows:
        yield "Ranks, in the order of skill: a group (`>` between) ends before one told apart from its first."
        yield markdown_table(("state", "h", "groups"), rows)


def conclusion(found: Sequence[Cell], reference: str) -> Iterator[str]:
    """At how many horizons the suite tells baselines apart; where all tie, that is said."""
    for state in LABELS:
        here = [cell for cell in found if cell.state == state]
        if not here:
            yield f"{state}: no run has origins in this state."
        elif not any(cell.tested for cell in here):
            yield f"{state}: too few recipes to tell any two forecasters apart."
        else:
            some = [cell.horizon for cell in here if cell.apart]
            besides = [cell.horizon for cell in here if set(cell.apart) - {"uniform"}]
            ties = [cell.horizon for cell in here if not cell.apart]
            text = (
                f"{state}: at {len(some)} of {len(here)} horizons some forecaster differs from `{reference}`, at "
                f"{len(besides)} one other than `uniform`"
            )
            yield f"{text}; all tie at {', '.join(f'{h:,}' for h in ties)}." if ties else f"{text}."


def win_rate_table(found: Sequence[Cell]) -> str:
    """Return the fraction of tasks won, averaged over the others."""
    if not found:
        return "The reference is not among the results: nothing is compared."
    horizons = list(dict.fromkeys(cell.horizon for cell in found))
    at = {(cell.state, cell.horizon): cell.win_rate for cell in found}
    rows = [
        (state, f"`{name}`", *(_rate(at.get((state, h), {}).get(name)) for h in horizons))
        for state in LABELS
        if any(cell.state == state for cell in found)
        for name in found[0].win_rate
    ]
    words = (
        "A row is a forecaster, a column a horizon h in training steps: the fraction of tasks with the smaller "
        f"{PRIMARY}, a tie counting half, mean over the other forecasters; more is better."
    )
    return "\n\n".join([markdown_table(("state", "forecaster", *(f"h = {h}" for h in horizons)), rows), words])


def _rate(value: float | None) -> str:
    """Format two digits; "-" without another forecaster, or without a common task, to win against."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


# ---------------------------------------------------------------- metrics and cost


def metric_names(results: Sequence[Result]) -> list[str]:
    """Return every metric of the results: those of forecasts in their order, then those of plans."""
    there = metrics_in(results)
    listed = [spec.name for spec in forecast_metrics() if spec.name in there]
    return [*listed, *sorted(there - set(listed))]


def metric_tables(results: Sequence[Result]) -> str:
    """Return one table per metric; forecasters without the metric are left out of its table."""
    parts = []
    for name in metric_names(results):
        grid = result_grid([result for result in results if name in metrics_in([result])], name)
        if grid is not None:
            parts.append(f"#### {name}\n\n{captioned(metric_table(grid, False, '`{}`', '*{}*')).strip()}")
    return "\n\n".join(parts)


def cost_table(results: Sequence[Result]) -> str:
    """Time and memory, as measured by the harness."""
    costs = [costs_of(result) for result in results]
    rows = [
        (f"`{result.name}`", *map(three_digits, cells.values()), result.isolation)
        for result, cells in zip(results, costs, strict=True)
    ]
    machines = " and ".join(dict.fromkeys(result.environment.hardware for result in results))
    words = (
        "Totals over all runs, divided by what they were spent on; peak memory is the largest of a run. Fitting is "
        f"done once. Measured on {machines}; costs are not compared by `make reproduce`."
    )
    return "\n\n".join([markdown_table(("forecaster", *costs[0], "isolation"), rows), words])


def costs_of(result: Result) -> dict[str, float | None]:
    """Return the totals over all runs, each divided by what it was spent on, by what it is."""
    costs = [run.cost for run in result.runs]
    forecasts = [cost.forecasts for cost in costs]
    steps = [run.cost.observed_rows * run.layers * run.experts for run in result.runs]
    wall_s = [cost.observe_wall_s + cost.forecast_wall_s for cost in costs]
    trained_s = [(cost.training_step_s or 0.0) * cost.observed_rows for cost in costs]
    return {
        "fit, s": result.fit_wall_s,
        "observe, CPU ns per step, layer and expert": _total([cost.observe_cpu_s for cost in costs], steps, 1e9),
        "forecast, CPU ms per origin": _total([cost.forecast_cpu_s for cost in costs], forecasts, 1e3),
        "wall ms per origin, observing included": _total(wall_s, forecasts, 1e3),
        "peak memory, MB": max((cost.peak_memory_bytes or 0) / 1e6 for cost in costs) or None,
        "% of training time": _total(wall_s, trained_s, 100.0),
    }


def _total(spent: Sequence[float | None], on: Sequence[float], unit: float) -> float | None:
    known = [value for value in spent if value is not None]
    return unit * sum(known) / sum(on) if sum(on) and len(known) == len(spent) else None


# ---------------------------------------------------------------- decisions


def decisions(results: Sequence[Result], primary: Sequence[Cell]) -> str:
    """Return whether plans tell forecasters apart that window_tv does not, and the pairs that they order
    differently.
    """
    return "\n\n".join([*separated(results, primary), *ordered_apart(results, _shapes(results))])


def _shapes(results: Sequence[Result]) -> list[str]:
    return [name.partition("@")[2] for name in metric_names(results) if name.startswith("imbalance@")]


def separated(results: Sequence[Result], primary: Sequence[Cell]) -> Iterator[str]:
    """Forecasters told from the reference by the error, and by the imbalance of the plans made from them."""
    if not any(cell.tested for cell in primary):
        yield f"Too few recipes (fewer than {MIN_RECIPES}) to test what plans tell apart."
        return
    plans = {
        shape: {(c.state, c.horizon): c for c in compared_cells(results, f"imbalance@{shape}")}
        for shape in _shapes(results)
    }
    rows, more, fewer, untested = [], 0, 0, False
    for cell in primary:
        texts = []
        for by_place in plans.values():
            plan = by_place[cell.state, cell.horizon]
            if not (cell.tested and plan.tested):
                untested = True
                texts.append("n/a")
                continue
            apart = set(plan.apart)
            more += len(apart - set(cell.apart))
            fewer += len(set(cell.apart) - apart)
            gained = "".join(f" +`{name}`" for name in sorted(apart - set(cell.apart)))
            texts.append(f"{len(apart)}{gained}")
        rows.append((cell.state, cell.horizon, len(cell.apart) if cell.tested else "n/a", *texts))
    yield markdown_table(("state", "h", PRIMARY, *(f"imbalance@{shape}" for shape in plans)), rows)
    yield (
        f"How many forecasters differ from the reference (Holm, p < {ALPHA:g}) by {PRIMARY} and by the imbalance of "
        "the plans made from their forecasts (regret is that imbalance over one oracle's, so the test is the same); "
        f"`+` marks those that only the plans tell apart. Over all states, horizons and shapes: {more} are told apart "
        f"by plans and not by {PRIMARY}, {fewer} by {PRIMARY} and not by plans."
        + (f" Not counted, n/a: cells with fewer than {MIN_RECIPES} recipes that have the metric." if untested else "")
    )


def ordered_apart(results: Sequence[Result], shapes: Sequence[str]) -> Iterator[str]:
    """Pairs that the two order differently."""
    counts = {shape: len(disagreements(results, shape)) for shape in shapes}
    if not counts:
        return
    largest = disagreements(results, HEADLINE)[:MOST_DISAGREEMENTS] if HEADLINE in counts else []
    yield (
        f"Ordered pairs of forecasters in which one has a {PRIMARY} lower by more than 5 % and the other a regret "
        "lower by more than 0.2 points of imbalance (means over runs and origins; no significance is claimed): "
        + ", ".join(f"{count} at `{shape}`" for shape, count in counts.items())
        + (f". The largest at `{HEADLINE}`:" if largest else ".")
    )
    if not largest:
        return
    yield disagreement_table(largest, "regret", "h")


def disagreement_table(apart: Sequence[Disagreement], regret: str, horizon: str) -> str:
    """Pairs that error and decision order apart, one a row."""
    heads = ("state", horizon, f"lower {PRIMARY}", f"lower {regret}", f"{PRIMARY} ratio", "regret gap, points")
    rows = [
        (d.state, f"{d.horizon:,}", f"`{d.by_error}`", f"`{d.by_regret}`", f"{d.error_ratio:.2f}",
         f"{100 * d.regret_gap:.2f}")
        for d in apart
    ]  # fmt: skip
    return markdown_table(heads, rows)


def failures(results: Sequence[Result]) -> str:
    """Return every failed task, grouped; what forecasters counted themselves stands under the tables."""
    lines = [f"- {line}" for line in failure_lines(results)]
    return "\n".join(lines) or "No task failed."


PARTS: Mapping[str, Maker] = {"results": results_page}


def results(
    suite: Annotated[str, typer.Argument(help="A suite's name, or its TOML file.")],
    folder: Annotated[Path, typer.Argument(help="The folder with SUITE/NAME.json.")] = RESULTS,
) -> None:
    """Print what docs/reports/results.md would say of a suite, from results in any folder."""
    print(suite_page(load_suite(suite), committed_results(suite, folder)))
