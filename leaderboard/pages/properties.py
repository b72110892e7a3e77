"""docs/reports/properties.md: skill of every forecaster by what a trace is, and not by the name of its recipe."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from leaderboard.committed import ROOT, TRACES, committed_results
from leaderboard.pages.openings import Dot, draw_dots
from leaderboard.pages.parts import Maker, page_of_parts
from leaderboard.pages.results import largest_suite, results_by_size
from leaderboard.properties import DECAYS, MEASURES, Measure, Properties, Slice, properties_of, slices_of
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import errors_of, reference_of, runs_of, skill
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.strata import with_size
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.run_facts import rounded
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.store import list_traces


def slice_table(results: Sequence[Result], slices: Sequence[Slice], state: str) -> str:
    """Return a row for each slice with origins in the state, a column for each forecaster; the best skill in bold."""
    reference = reference_of(results)
    if reference is None:
        raise ResultError("no result of the reference, against which skill is taken")
    errors = errors_of(results, PRIMARY).select(state=state)
    names = [result.name for result in results]
    everything = Slice("all", "all", frozenset(errors.tasks.run_T))
    rows = []
    for one in (everything, *slices):
        here = runs_of(errors, one.traces)
        if not here.state_T:
            continue
        of = {name: skill(here, name, reference.name)[0] for name in names}
        best = max(of.values())
        cells = [f"**{of[name]:+.3f}**" if of[name] == best else f"{of[name]:+.3f}" for name in names]
        rows.append((one.title, len(set(here.tasks.run_T)), len(set(here.tasks.recipe_T)), *cells))
    return markdown_table((state, "runs", "recipes", *(f"`{name}`" for name in names)), rows)


def runs_table(properties: Mapping[str, Properties]) -> str:
    """Return the properties of each run."""
    rows = [
        (
            f"`{name}`",
            "-" if one.parameters is None else rounded(one.parameters),
            *(_cell(one, measure) for measure in MEASURES[1:]),
            one.balancing,
            ", ".join([one.schedule, *(change for change in one.changes if change != DECAYS)]),
        )
        for name, one in sorted(properties.items())
    ]
    head = ("run", *(measure.title for measure in MEASURES), "balancing", "schedule")
    return markdown_table(head, rows)


def _cell(one: Properties, measure: Measure) -> str:
    value = getattr(one, measure.field)
    return "-" if value is None else f"{value:{measure.form}}"


@functools.cache
def _properties(suite: str) -> Mapping[str, Properties]:
    runs = {run.trace for result in committed_results(suite) for run in result.runs}
    paths = {ref.id: ref.path for ref in list_traces(TRACES) if ref.id in runs}
    missing = sorted(runs - paths.keys())
    if missing:
        raise ResultError(f"{ROOT / 'traces'}: no trace {missing[0]}, which suite {suite} was scored on")
    return {name: properties_of(path) for name, path in paths.items()}


def _groups(suite: str, results: Sequence[Result]) -> Sequence[Slice]:
    """Return what the runs of these results can be grouped by."""
    return slices_of({run.trace: _properties(suite)[run.trace] for run in results[0].runs})


def _slices(of: str) -> str:
    suite, _, state = of.partition("/")
    parts = []
    for size, results in results_by_size(suite).items():
        parts += [*([f"{size}:"] if size else []), slice_table(results, _groups(suite, results), state)]
    return "\n\n".join(parts)


@functools.cache
def _dots(suite: str) -> dict[str, list[Dot]]:
    """Return the skill of the best forecaster in each group of runs, with its interval for a new recipe.

    By state in words, each size of batch apart.
    """
    found: dict[str, list[Dot]] = {}
    for size, results in results_by_size(suite).items():
        for state, dots in _state_dots(results, _groups(suite, results)).items():
            found[with_size(f"{state} state", size)] = dots
    return found


def _state_dots(results: Sequence[Result], slices: Sequence[Slice]) -> dict[str, list[Dot]]:
    errors, reference = errors_of(results, PRIMARY), reference_of(results)
    if reference is None:
        raise ResultError("no result of the reference, against which skill is taken")
    best = max(errors.by_forecaster, key=lambda name: skill(errors, name, reference.name)[0])
    found: dict[str, list[Dot]] = {}
    for state in LABELS:
        here = errors.select(state=state)
        for one in slices:
            group = runs_of(here, one.traces)
            if group.state_T:
                value, claims = skill(group, best, reference.name)
                new = next((claim for claim in claims if claim.claim == "a new recipe"), None)
                found.setdefault(state, []).append(Dot(one.title, best, value, new))
    return found


def answer(suite: str) -> str:
    """Return where the best forecaster gains most and least, in sentences."""
    said = []
    for state, dots in _dots(suite).items():
        most, least = max(dots, key=lambda dot: dot.skill), min(dots, key=lambda dot: dot.skill)
        won = sum(dot.skill > 0 for dot in dots)
        said.append(
            f"In the {state}, `{most.forecaster}`, the best over all, errs less than the moving average in {won} "
            f'of {len(dots)} groups of runs: most in "{most.label}" ({100 * most.skill:.0f} % less error), least in '
            f'"{least.label}" ({100 * least.skill:.0f} %).'
        )
    return " ".join([*said, "Groups overlap and hold few recipes: these are descriptions, not causes."])


def draw() -> None:
    """Draw the skill of the best forecaster by group of runs."""
    draw_dots(_dots(largest_suite().name), ROOT / "docs" / "reports" / "properties.svg")


PARTS: Mapping[str, Maker] = {"answer": answer, "slices": _slices, "runs": lambda suite: runs_table(_properties(suite))}
PROPERTIES = page_of_parts("docs/reports/properties.md", PARTS, draw)
