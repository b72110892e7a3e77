"""docs/reports/season-NAME.md: what a scored season says, on runs that nobody had when the entries closed.

Skill is that of the primary metric over all tasks of a state. Intervals for new seeds of the season's recipes take the
spread of seeds from the season and from the public suite together: a season has mostly one run of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from leaderboard.pages.headline import drop_parts
from leaderboard.pages.openings import season_answer
from leaderboard.ranking import PossibleRanks, rank_cell, rank_sets, rank_text
from leaderboard.season_tools.drops import run_ratios
from leaderboard.season_tools.folder import read_record
from leaderboard.season_tools.forks import mean_floor
from leaderboard.season_tools.public_value import order_sentence
from leaderboard.season_tools.records import EntryForks
from leaderboard.season_tools.scored import FLOOR, ScoredSeason, spread_of
from leaderboard.seeds import SkillInterval, seed_p_value, skill_interval
from leaderboard.templates import render_text
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError
from moeload_bench.results.captions import failure_lines
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.grid import NOTHING, Standings
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Interval, Runs, Spread
from moeload_bench.results.tables import signed_skill, three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES

RankSets = Mapping[str, PossibleRanks | None]
"""By claim and entry the least and the greatest rank; None where there are too few runs or recipes to tell."""
NEW_SEEDS, NEW_RECIPE = "new seeds", "a new recipe"
HOPED = {"transient": 0.40, "stable": 0.20}
"""What was hoped for before the first season: a lower bound of the best entry's skill above these."""


def report(season: ScoredSeason, public: Sequence[Result]) -> str:
    """Return the whole page of a season beside a public suite's results."""
    errors, known = errors_of(season.results, PRIMARY), errors_of(public, PRIMARY)
    reference = _reference(season.results)
    states: list[str] = [state for state in STATES if state in errors.state_T]
    runs, recipes = len(season.suite.traces), len({trace.id.split("/")[0] for trace in season.suite.traces})
    spreads = {state: spreads_of(errors, known, reference, state) for state in states}
    sets = {state: rank_sets_of(errors, known, state) for state in states}
    leaders = {state: leader(errors, reference, state) for state in states}
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        season=season,
        order=order_sentence(season.folder),
        runs=runs,
        recipes=recipes,
        reference=reference,
        answer=f"{season_answer(season)} {seed_words(leaders, sets)}",
        came_out=[
            line
            for state in states
            for line in came_out(errors, reference, state, leaders[state], spreads[state], sets[state])
        ],
        ranks=[part for state in states for part in rank_parts(errors, reference, state, spreads[state], sets[state])],
        by_recipe=[recipe_table(errors, reference, state, leaders[state], spreads[state]) for state in states],
        drops=drop_parts(season, public),
        distance=distance_parts(season, reference, leaders),
        demonstrations=demonstration_parts(season, public, reference, states),
        failures=list(failure_lines([*season.results, *season.unranked])),
    )


def seed_words(leaders: Mapping[str, str], sets: Mapping[str, RankSets]) -> str:
    """Say which ranks the best can have on new seeds of the season's recipes."""
    said = [f"{rank_text(found[name])} ({state})" for state, name in leaders.items()
            if (found := sets[state][NEW_SEEDS])]  # fmt: skip
    return f"On new seeds of the same recipes it can be {' and '.join(said)}." if said else ""


def _reference(results: Sequence[Result]) -> str:
    reference = reference_of(results)
    if reference is None or reference not in results:
        raise ResultError(f"{results[0].suite.name}: the season's results are without the reference's")
    return reference.name


def spreads_of(errors: Errors, public: Errors, reference: str, state: str) -> dict[str, Spread]:
    """Return by entry how far seeds move its runs in a state."""
    sides = [side.select(state=state) for side in (errors, public)]
    return {name: spread_of(sides, name, reference) for name in errors.by_forecaster}


def rank_sets_of(errors: Errors, public: Errors, state: str) -> RankSets:
    """Return the ranks in a state on new seeds of the season's recipes, and on a new recipe."""
    here, known = errors.select(state=state), public.select(state=state)

    def seeds(one: str, other: str) -> float | None:
        return seed_p_value(run_ratios(here, one, other), spread_of((here, known), one, other))

    errors_F = here.by_forecaster
    return {NEW_SEEDS: rank_sets(errors_F, here.tasks, seeds), NEW_RECIPE: rank_sets(errors_F, here.tasks)}


def leader(errors: Errors, reference: str, state: str) -> str:
    """Return the entry of most skill in a state."""
    here = errors.select(state=state)
    return max(here.by_forecaster, key=lambda name: skill(here, name, reference)[0])


def came_out(
    errors: Errors, reference: str, state: str, name: str, spreads: Mapping[str, Spread], sets: RankSets
) -> Iterator[str]:
    """Yield the state's answer, and every hope that it confirms or not, in plain words."""
    if name == reference:
        yield f"**{state}**: no entry has more skill than `{reference}`."
        return
    runs, spread = run_ratios(errors.select(state=state), name, reference), spreads[name]
    found = skill_interval(runs, spread)
    yield f"**{state}**: `{name}` is best, with a skill of {_signed(found)}."
    if not spread.freedom:
        yield f"{state}: no recipe has two runs, so nothing says how far new seeds move that."
        return
    hoped = HOPED.get(state)
    if hoped is not None:
        kept = "as hoped" if found.low > hoped else "not as hoped"
        yield f"{state}: the lower bound is {found.low:+.2f}, {kept}: above {hoped:+.2f}."
    worse = [recipe for recipe, own in by_recipe(runs, spread).items() if own.high < 0]
    said = f"worse than `{reference}` beyond chance on {', '.join(worse)}, not as hoped" if worse else (
        f"on no recipe worse than `{reference}` beyond chance, as hoped"
    )  # fmt: skip
    yield f"{state}: `{name}` is {said}."
    for claim, ranks in (("new seeds of these recipes", sets[NEW_SEEDS]), (NEW_RECIPE, sets[NEW_RECIPE])):
        if ranks is not None:
            not_first = f"not first beyond chance, not as hoped: its rank is {rank_text(ranks[name])}"
            first = "first beyond chance, as hoped" if ranks[name][1] == 1 else not_first
            yield f"{state}, on {claim}: `{name}` is {first}."


def by_recipe(runs: Runs, spread: Spread) -> dict[str, SkillInterval]:
    """Return each recipe's skill with its interval for new seeds."""
    return {recipe: skill_interval({recipe: runs_R}, spread) for recipe, runs_R in sorted(runs.items())}


def rank_parts(errors: Errors, reference: str, state: str, spreads: Mapping[str, Spread], sets: RankSets) -> list[str]:
    """Return a state's entries in the order of skill, and how many pairs can be told apart."""
    here = errors.select(state=state)
    found = {name: skill(here, name, reference) for name in here.by_forecaster}
    lines = []
    for name in sorted(found, key=lambda name: -found[name][0]):
        own = skill_interval(run_ratios(here, name, reference), spreads[name])
        new = next((one for one in found[name][1] if one.claim == "a new recipe"), None)
        lines.append((
            f"`{name}`", f"{own.skill:+.3f}", _span(own), rank_cell(sets[NEW_SEEDS], name), _span(new),
            rank_cell(sets[NEW_RECIPE], name),
        ))  # fmt: skip
    heads = (state, "skill", "new seeds", "ranks, new seeds", "new recipe", "ranks, new recipe")
    return [markdown_table(heads, lines), f"{state}: {pairs_words(len(found), sets)}"]


def pairs_words(count: int, by_claim: Mapping[str, PossibleRanks | None]) -> str:
    """Say how many of all pairs of so many entries can be told apart, from the ranks on each claim."""
    apart = " and ".join(
        f"{sum(low - 1 for low, _ in ranks.values())} on {claim}" if ranks else f"none on {claim}, for want of runs,"
        for claim, ranks in by_claim.items()
    )
    return f"of {count * (count - 1) // 2} pairs {apart} can be told apart."


def recipe_table(errors: Errors, reference: str, state: str, name: str, spread: Mapping[str, Spread]) -> str:
    """Return the leader's skill on every recipe."""
    found = by_recipe(run_ratios(errors.select(state=state), name, reference), spread[name])
    lines = [(f"`{recipe}`", f"{own.skill:+.3f}", _span(own)) for recipe, own in found.items()]
    return markdown_table((f"{state}, `{name}`", "skill", "new seeds"), lines)


def distance_parts(
    season: ScoredSeason, reference: str, leaders: Mapping[str, str], who: str = "the state's leader"
) -> list[str]:
    """Say how much of the way from the reference to `floor_fork` the leader closes where runs fork; [] without forks.

    A forecaster's error at an origin is the mean over all futures of that past, of which one was recorded.
    """
    if season.floors is None:
        return []
    lines, seen, last = [], 0, who.split()[-1]
    for state, name in leaders.items():
        floors = [one for one in season.floors.floors if one.state == state]
        if not floors:
            continue
        seen += len(floors)
        floor_K, error_K = mean_floor([(one.trace, np.array(one.floor_K), np.array(one.error_K)) for one in floors])
        at = {(one.trace, one.origin) for one in floors}
        own_K, reference_K = (_fork_error(season, who, at) for who in (name, reference))
        if own_K is None or reference_K is None:
            continue
        for k, horizon in enumerate(season.floors.horizons):
            own, other, floor = own_K[k], reference_K[k], floor_K[k]
            closed = f"{100 * (other - own) / (other - floor):.0f} %" if other > floor else NOTHING
            lines.append((
                f"{state}, `{name}`", f"{horizon:,}", three_digits(other), three_digits(own),
                f"{three_digits(floor)} ± {three_digits(error_K[k])}", closed,
            ))  # fmt: skip
    words = (
        f"{PRIMARY} where runs fork, at the {seen} of {len(season.floors.floors)} origins in these states: means over "
        f"{season.floors.futures} futures of the same past, of `{reference}` and of {who}. "
        f"*{FLOOR}*: what is left to whoever knows the whole state of training and not the text to come, ± its "
        f"standard error. Closed: the part of the distance between the two that the {last} closes."
    )
    without = [state for state in leaders if state not in {one.state for one in season.floors.floors}]
    if without:
        words += f" No origin of forks was drawn in the {' or '.join(without)} state."
    heads = ("state, leader", "h", reference, last, FLOOR, "closed")
    return [markdown_table(heads, lines), words, _power(season)]


def _fork_error(season: ScoredSeason, name: str, at: set[tuple[str, int]]) -> FloatArray | None:
    """Return [K]: the mean over origins of the mean over futures; None where the entry failed at all of them."""
    tasks = read_record(EntryForks, season.folder.forks / f"{name}.json").tasks
    found = [np.mean(task.loss_JK, axis=0) for task in tasks if (task.trace, task.origin) in at and not task.failure]
    return np.mean(found, axis=0) if found else None


def _power(season: ScoredSeason) -> str:
    assert season.floors is not None
    found = [f"{100 * each['all']:.0f} % with weight {weight}" for weight, each in season.floors.power.items()]
    level = season.floors.level
    return (
        f"The fork test, at {level:g}, finds one that knows the futures of all forked runs exactly in "
        f"{', in '.join(found)} (weight: how far its forecast moves from the moving average towards what it knows)."
    )


def demonstration_parts(
    season: ScoredSeason, public: Sequence[Result], reference: str, states: Sequence[str]
) -> list[str]:
    """Return skill of the unranked here and on public runs, and the p of their fork test; [] without any."""
    if not season.unranked:
        return []
    lines = []
    for result in season.unranked:
        here, shown = _skills(result, season.results, reference), season.shown.get(result.name)
        there = {} if shown is None else _skills(shown, public, reference)
        test = season.tests.get(result.name)
        cells = [side.get(state, NOTHING) for state in states for side in (there, here)]
        lines.append((f"`{result.name}`", *cells, f"{test.p_value:.2g}" if test else NOTHING))
    name = public[0].suite.name if public else "public"
    heads = [head for state in states for head in (f"{state}, {name}", f"{state}, season")]
    return [markdown_table(("skill", *heads, "fork test p"), lines)]


def _skills(result: Result, beside: Sequence[Result], reference: str) -> dict[str, str]:
    """Return it by state, on the runs of the results beside it; raise `ResultError` for another suite."""
    scores = Standings([result], PRIMARY, next(one for one in beside if one.name == reference))
    return {state: signed_skill(scores.rows(state)[0].skill) for state in STATES}


def _signed(found: SkillInterval) -> str:
    span = f" {_span(found)} for new seeds of these recipes" if np.isfinite(found.low) else ""
    return f"{found.skill:+.3f}{span}"


def _span(found: SkillInterval | Interval | None) -> str:
    if found is None or not np.isfinite(found.low):
        return NOTHING
    return f"[{found.low:+.2f}, {found.high:+.2f}]"
