"""What a season of drawn recipes says of its candidate, as text and tables; all numbers are those of `claims.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product

from leaderboard.season_tools.claims import Estimate, Test, against_others, cell_gains, claim_lines, headline
from leaderboard.season_tools.records import DrawnSet, DrawPlan
from leaderboard.season_tools.scored import ScoredSeason
from leaderboard.season_tools.sets import recipes_by_stratum
from moeload_bench.errors import ResultError, counted
from moeload_bench.results.comparison import Errors, errors_of
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import signed_percent
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS

LACKING = "lacking"
MOST_ALIKE = 1
"""Other entries that may be as good as the candidate, as far as can be told, in each state on the first set."""
CELL_HEADS = ("set", "cell", "recipes", "gain, %", "at least, %", "95 % interval", "p", "Holm p")
CELL_WORDS = (
    "A row is a cell: a size of batch and a state of a set. Gain: the error that `{candidate}` saves of that of "
    "`{average}`, in percent, more is better. At least: the lower end, one-sided at 95 %. p: one-sided, of no gain; "
    "Holm p: corrected over the four cells of the set."
)


class Drawn:
    """A scored season of drawn recipes and its errors; raises `ResultError` where an entry that it tests is lacking."""

    def __init__(self, season: ScoredSeason) -> None:
        draws = season.draws
        if draws is None:
            raise ResultError(f"season {season.name}: its recipes were known before closing, expected drawn ones")
        self.season, self.draws, self.errors = season, draws, errors_of(season.results, PRIMARY)
        for name in (draws.candidate, draws.tuned_average):
            if name not in self.errors.by_forecaster:
                raise ResultError(f"season {season.name}: no result of {name}, which its plan names")

    @property
    def answer(self) -> str:
        """Return the plan's sentence, with the numbers of the worse set, and which set that is."""
        return f"{headline(self.draws, self.errors)} That is the set with the lowest lower end."

    @property
    def sets_say(self) -> list[str]:
        """Return what each set says, state by state."""
        *lines, _ = claim_lines(self.draws, self.errors)
        return lines

    def against(self, drawn: DrawnSet, state: str) -> list[Test]:
        """Return the candidate against every other entry, the rival that comes nearest first."""
        tests = against_others(self.errors.select(state=state), self.draws.candidate, drawn.stratum_of, drawn.weights)
        return sorted(tests, key=lambda one: one.estimate.gain if one.estimate else float("-inf"))

    def cells(self, drawn: DrawnSet) -> list[Test]:
        """Return the gain over the tuned average in the four cells of a set."""
        return cell_gains(self.errors, self.draws.candidate, self.draws.tuned_average, drawn.stratum_of)


def brief_cells(season: ScoredSeason, page: str = "") -> str:
    """Return the gain over the tuned average by set, size of batch and state, and the plan's sentence below.

    ``page``: where the name of the season leads to.
    """
    found = Drawn(season)
    draws, rows = found.draws, []
    for one in draws.sets:
        by_cell = {test.what: test.estimate for test in found.cells(one)}
        for stratum in recipes_by_stratum(one):
            gains = (_gain_words(by_cell[f"{stratum} batches, {state}"]) for state in LABELS)
            rows.append((f"set {one.name}, {stratum} batches", *gains))
    name = f"Season `{season.name}`"
    words = (
        f"{f'[{name}]({page})' if page else name}. {found.answer} A row is a set "
        f"({'; '.join(map(_set_words, draws.sets))}) and a size of batch, a column a state: the part of the error "
        f"(`{PRIMARY}`: misplaced tokens) of `{draws.tuned_average}` that `{draws.candidate}` saves, in parentheses "
        "its lower end, one-sided at 95 %; more is better."
    )
    heads = (f"`{draws.candidate}` against `{draws.tuned_average}`", *LABELS)
    return f"{markdown_table(heads, rows)}\n\n{words}"


def _set_words(one: DrawnSet) -> str:
    new = f", each with levels of at least {one.new_levels} kinds that no `train` run has" if one.new_levels else ""
    return f"{one.name}: {one.recipes} recipes{new}"


def _gain_words(one: Estimate | None) -> str:
    return LACKING if one is None else f"{signed_percent(one.gain)} % (at least {signed_percent(one.low)} %)"


def cell_words(draws: DrawPlan) -> str:
    """Return the caption of a table of cells."""
    return CELL_WORDS.format(candidate=draws.candidate, average=draws.tuned_average)


def cells_table(found: Drawn, sets: Sequence[DrawnSet]) -> str:
    """Return the gain over the tuned average in each cell of these sets."""
    rows = [(one.name, test.what, *_cells(test)) for one in sets for test in found.cells(one)]
    return markdown_table(CELL_HEADS, rows)


def _cells(test: Test) -> tuple[str, ...]:
    one = test.estimate
    if one is None:
        return (LACKING, *[NOTHING] * (len(CELL_HEADS) - 3))
    p = "{:.2g}"
    return str(one.recipes), *gain_cells(one), p.format(one.p), p.format(test.p_holm)


def gain_cells(one: Estimate) -> tuple[str, str, str]:
    """Return a gain, its one-sided lower end and its interval, in percent."""
    ends = ", ".join(map(signed_percent, one.interval))
    return signed_percent(one.gain), signed_percent(one.low), f"[{ends}]"


def against_table(found: Drawn, drawn: DrawnSet, state: str) -> str:
    """Return the candidate against every other entry on a set in a state."""
    rows = []
    for test in found.against(drawn, state):
        one = test.estimate
        if one is None:
            rows.append((f"`{test.what}`", *[LACKING] * 3, NOTHING, NOTHING, NOTHING))
            continue
        needed = NOTHING if test.apart or one.recipes_needed is None else f"{one.recipes_needed:,}"
        told = "yes" if test.apart else "**no**"
        rows.append((f"`{test.what}`", *gain_cells(one), f"{test.p_holm:.2g}", told, needed))
    heads = (f"set {drawn.name}, {state}", *CELL_HEADS[3:6], "Holm p", "told apart", "recipes asked for")
    return markdown_table(heads, rows)


def hopes(found: Drawn) -> Iterator[str]:
    """Yield every hope of the plan with what came out, in plain words; sets after the first have the second hope."""
    draws, first = found.draws, found.draws.sets[0].name
    for one, state in product(draws.sets, LABELS):
        tests = found.against(one, state)
        if not any(test.estimate for test in tests):
            yield f"set {one.name}, {state}: **{LACKING}**, a size of batch has no recipe in this state."
            continue
        alike = [test for test in tests if not test.apart]
        said = f"set {one.name}, {state}: {_alike_words(draws, alike, len(tests))}"
        if one.name == first:
            kept = len(alike) <= MOST_ALIKE
            said += f"; hoped for was at most {MOST_ALIKE}: **{'as hoped' if kept else 'not as hoped'}**"
        yield f"{said}."
    for one in draws.sets:
        cells = found.cells(one)
        short = [
            f"{test.what} {_low_words(test.estimate)}"
            for test in cells
            if test.estimate is None or test.estimate.low <= 0
        ]
        over = f"set {one.name}: the gain over `{draws.tuned_average}` has a lower bound above 0 in"
        if short:
            yield f"{over} {len(cells) - len(short)} of {len(cells)} cells, **not as hoped**: {'; '.join(short)}."
        else:
            yield f"{over} each of the {len(cells)} cells, **as hoped**."


def _alike_words(draws: DrawPlan, alike: Sequence[Test], count: int) -> str:
    if not alike:
        return f"`{draws.candidate}` errs less than every other entry, {count} in all"
    words = (f"`{test.what}` ({_asked(test.estimate)})" for test in alike)
    return f"`{draws.candidate}` is not told apart from {len(alike)} of {count} other entries: {', '.join(words)}"


def _low_words(one: Estimate | None) -> str:
    return f"({_asked(one)})" if one is None else f"(at least {signed_percent(one.low)} %; {_asked(one)})"


def _asked(one: Estimate | None) -> str:
    """Return how many recipes a gain of this size and spread asks for."""
    if one is None:
        return LACKING
    needed = one.recipes_needed
    if needed is None:
        return "no gain to show"
    return f"its spread asks for {counted(needed, 'recipe')}, there are {one.recipes}"


def on_recipes(errors: Errors, recipes: Collection[str]) -> Errors:
    """Return the errors on the runs of these recipes."""
    return errors.at([i for i, name in enumerate(errors.tasks.recipe_T) if name in recipes])
