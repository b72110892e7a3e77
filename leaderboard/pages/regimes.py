"""docs/reports/regimes.md: who leads in small and in large batches, by how much and how sure, from the regimes' runs.

Axis letters: F forecasters, R runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.grouped import grouped
from leaderboard.pages.openings import Dot, draw_dots
from leaderboard.pages.parts import aligned_table, parts_from
from leaderboard.studies.kept import read_records
from leaderboard.studies.regimes import OUT, TUNED, RegimeRun, StateScores, suite_runs
from leaderboard.suites.plan import first_training
from moeload_bench.arrays import FloatArray
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.statistics import MIN_RECIPES, RunMeans, skill_of
from moeload_bench.results.tables import three_digits
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.meta import STRATA

HORIZONS = (100, 1000)
BESIDE = "adaptive"
"""The best entry of the suite that learns nothing beforehand."""
SUBJECT = "guarded"
AVERAGES = (TUNED, "sw_avg", "ema", "last_value", "since_plan")
ALIKE = 0.02
"""A gain below which two forecasters serve alike."""
KINDS = {
    "small": "small batch",
    "large": "large batch",
    "probe": "large batch, probes (no noise of training)",
    "summed": "ten steps summed to a row",
}
SIZES = {"small": f"up to {STRATA['small'][1]:,}", "large": f"{STRATA['large'][0]:,} and more"}
"""Kinds that differ in size alone, by their tokens per expert and step."""
BIAS = "loss_free_bias"


class Cell:
    """The runs of one kind in one state at one horizon."""

    def __init__(self, runs: Sequence[RegimeRun], state: str, horizon: int) -> None:
        found = [(run, run.states[state], run.horizons.index(horizon)) for run in runs
                 if state in run.states and horizon in run.horizons]  # fmt: skip
        self.state, self.horizon = state, horizon
        self.runs = [run for run, _, _ in found]
        self.names = list(dict.fromkeys(name for _, scores, _ in found for name in scores.error_K))
        self._found = found

    @property
    def recipes(self) -> int:
        return len({first_training(run.recipe) for run in self.runs})

    @functools.cached_property
    def ratio_FR(self) -> Mapping[str, FloatArray]:
        """The mean log ratio of each run to the tuned average; NaN for none."""
        known = {name: [scores.log_ratio_K[name][k] for _, scores, k in self._found] for name in self.names}
        return {name: np.array(ratio_R, dtype=np.float64) for name, ratio_R in known.items()}

    def error(self, name: str) -> float | None:
        """Return the part of the tokens that is planned for the wrong expert, the mean over recipes of their runs."""
        return self._mean(lambda scores, k: scores.error_K[name][k])

    def floor(self) -> float | None:
        return self._mean(lambda scores, k: scores.floor_K[k] if scores.floor_K else None)

    def means(self, name: str, against: str) -> RunMeans:
        """Return the runs' mean log ratios of one forecaster to another."""
        ratio_R = self.ratio_FR[name] - self.ratio_FR[against]
        recipes = tuple(run.recipe for run in self.runs)
        return RunMeans(ratio_R[None], recipes, tuple(map(first_training, recipes)))

    def gain(self, name: str, against: str) -> float:
        """Return how much less one errs than another: 1 - geometric mean of the ratio, recipes counting once."""
        return float(self.means(name, against).skill_F[0])

    def leader(self) -> str:
        return max(self.names, key=lambda name: self.gain(name, TUNED))

    def average(self) -> str:
        """Return the average with the least error, in hindsight."""
        return max((name for name in AVERAGES if name in self.names), key=lambda name: self.gain(name, TUNED))

    def gain_words(self, name: str, against: str, digits: int = 1) -> str:
        """Return the gain with its interval over recipes, or with the least and the largest of the runs."""
        means = self.means(name, against)
        ends = means.intervals("a new recipe")[0]
        known = sorted(map(skill_of, means.mean_FR[0]))
        low, high = (known[0], known[-1]) if ends is None else (ends.low, ends.high)
        value, low_, high_ = (f"{100 * one:+.{digits}f}" for one in (means.skill_F[0], low, high))
        return f"{value} % ({low_} to {high_})" if ends is None else f"{value} % [{low_}, {high_}]"

    def _mean(self, value: Callable[[StateScores, int], float | None]) -> float | None:
        known = [(run, one) for run, scores, k in self._found if (one := value(scores, k)) is not None]
        by_recipe = grouped(known, lambda pair: first_training(pair[0].recipe)).values()
        return float(np.mean([np.mean([one for _, one in pairs]) for pairs in by_recipe])) if known else None


@functools.cache
def all_runs() -> tuple[RegimeRun, ...]:
    """Return every run of every regime: committed results of the suite and the kept records of the others."""
    return (*suite_runs(), *read_records(RegimeRun, OUT))


def cells(runs: Sequence[RegimeRun], kind: str) -> list[Cell]:
    """Return the cells of a kind that have runs, by state and horizon."""
    own = [run for run in runs if run.kind == kind]
    found = [Cell(own, state, horizon) for state in LABELS for horizon in HORIZONS]
    return [cell for cell in found if cell.runs]


def answer(runs: Sequence[RegimeRun]) -> str:
    """Return who leads in small and in large batches, a sentence for each kind, state and horizon."""
    return "\n".join(f"- {sentence(KINDS[kind], cell)}" for kind in ("small", "large") for cell in cells(runs, kind))


def sentence(kind: str, cell: Cell) -> str:
    """Return who leads in a cell, by how much less error than the best average, and how sure that is."""
    leader, average, where = cell.leader(), cell.average(), f"*{kind}, {cell.state}, next {cell.horizon:,} steps*"
    of = f"{cell.recipes} recipes" if cell.recipes > 1 else "one recipe"
    if leader == average:
        return f"{where}: no entry errs less than {_named(average)} ({of})."
    gain, found = cell.gain(leader, average), cell.means(leader, average).intervals("a new recipe")[0]
    if found is None:
        sure = f"{of}: too few for an interval"
    else:
        sure = f"{of}; the interval {'lies above' if found.low > 0 else 'holds'} zero"
    if gain < ALIKE:
        return f"{where}: the choice does not matter; `{leader}` errs {gain:.1%} less than {_named(average)} ({sure})."
    other = f"{cell.gain(leader, others(leader)):.1%} less than `{others(leader)}`"
    return f"{where}: `{leader}` errs {gain:.1%} less than {_named(average)} and {other} ({sure})."


def _named(average: str) -> str:
    return "the tuned average" if average == TUNED else f"`{average}`, the best average there,"


def errors_table(runs: Sequence[RegimeRun], kind: str) -> str:
    """Return, of 100 tokens, how many each forecaster plans for the wrong expert, and the floor."""
    found = cells(runs, kind)
    if not found:
        return "No run of this kind is scored yet."
    names = sorted(found[0].names, key=lambda name: found[0].error(name) or 0.0)
    rows = [(f"`{name}`", *(_of_100(cell.error(name)) for cell in found)) for name in names]
    rows.append(("*noise of the batches*", *(_of_100(cell.floor()) for cell in found)))
    return aligned_table(("forecaster", *(f"{cell.state}, h = {cell.horizon:,}" for cell in found)), rows, 1)


def _of_100(value: float | None) -> str:
    return NOTHING if value is None else three_digits(100 * value, zeros=True)


def gains_table(runs: Sequence[RegimeRun]) -> str:
    """Return the gains of `guarded` and `adaptive` over the tuned average, and of one over the other, by kind."""
    free = [run for run in runs if run.balancing != BIAS]
    rows = [
        (f"{words}{note}", cell.state, f"{cell.horizon:,}", f"{len(cell.runs)} of {cell.recipes}",
         cell.gain_words(SUBJECT, TUNED), cell.gain_words(SUBJECT, BESIDE), cell.gain_words(BESIDE, TUNED))
        for kind, words in KINDS.items()
        for note, own in (("", runs), (", without loss-free bias", free))
        for cell in cells(own, kind)
    ]  # fmt: skip
    head = ("runs", "state", "h", "runs of recipes", f"`{SUBJECT}` over the tuned average",
            f"`{SUBJECT}` over `{BESIDE}`", f"`{BESIDE}` over the tuned average")  # fmt: skip
    return aligned_table(head, rows, 2)


def runs_table(runs: Sequence[RegimeRun]) -> str:
    """Return each large run's best entry, by state and horizon, with what it gains over the tuned average."""
    rows = []
    for run in (run for run in runs if run.kind in ("large", "probe")):
        for cell in cells([run], run.kind):
            first, second = sorted(cell.names, key=lambda name: -cell.gain(name, TUNED))[:2]
            rows.append((f"`{run.id}`", run.balancing.replace("_", " "), cell.state, f"{cell.horizon:,}",
                         *(f"`{name}` {cell.gain(name, TUNED):+.1%}" for name in (first, second)),
                         _of_100(cell.error(TUNED)), _of_100(cell.floor())))  # fmt: skip
    head = ("run", "balancing", "state", "h", "first, gain", "second, gain", "tuned average, of 100", "noise, of 100")
    return aligned_table(head, rows, 6)


def others(leader: str) -> str:
    """Return who is compared beside the averages: the best that learns nothing beforehand, or the one that does."""
    return SUBJECT if leader == BESIDE else BESIDE


def brief(runs: Sequence[RegimeRun]) -> str:
    """Return who is best in small and in large batches, by how much and how sure, for README."""
    rows = []
    for kind, words in SIZES.items():
        for state in LABELS:
            found = [cell for cell in cells(runs, kind) if cell.state == state]
            rows.append((words, f"{max(cell.recipes for cell in found)}", state, *map(_best, found)))
    heads = ("tokens per expert", "recipes", "state", *(f"best over the next {h:,} steps" for h in HORIZONS))
    return (
        "**Who is best, by size of batch**: its gain, the error that it saves, on the best average (tuned ones among "
        "them) and on the next forecaster; more is better. In brackets the 95 % interval for a new recipe; in "
        "parentheses the worst and the best run, where recipes are few. Real runs have up to two million tokens per "
        "expert and step: what is known, and what is not, is in [regimes](docs/reports/regimes.md).\n\n"
        f"{aligned_table(heads, rows)}"
    )


def _best(cell: Cell) -> str:
    best = cell.leader()
    gains = [cell.gain_words(best, name, 0) for name in (cell.average(), others(best))]
    return f"`{best}` {gains[0]}; on `{others(best)}` {gains[1]}"


def opening(runs: Sequence[RegimeRun]) -> str:
    """Return who leads in small and in large batches and by how much, a sentence for each, and what is not known."""
    lines = []
    for kind, words in SIZES.items():
        found = cells(runs, kind)
        recipes = max(cell.recipes for cell in found)
        few = ", too few for an interval" if recipes < MIN_RECIPES else ""
        by_state = {state: [cell for cell in found if cell.state == state] for state in LABELS}
        said = " and ".join(f"{_leads(own)} in the {state} state" for state, own in by_state.items())
        steps = " / ".join(f"{h:,}" for h in HORIZONS)
        start = f"With {words} tokens per expert and step ({recipes} recipes{few})"
        lines.append(f"{start}, {said} than the best average, over the next {steps} steps.")
    return f"{' '.join(lines)} Real runs have up to two million tokens: nothing of that size is recorded."


def _leads(found: Sequence[Cell]) -> str:
    leaders = [cell.leader() for cell in found]
    gains = (100 * cell.gain(best, cell.average()) for cell, best in zip(found, leaders, strict=True))
    names = " / ".join(f"`{name}`" for name in dict.fromkeys(leaders))
    return f"{names} errs {' / '.join(f'{gain:.0f} %' for gain in gains)} less"


def draw() -> None:
    """Draw what `guarded` and `adaptive` gain on the best average of their cell, by size of batch and horizon."""
    panels: dict[str, list[Dot]] = {state: [] for state in LABELS}
    for kind in SIZES:
        for cell in cells(all_runs(), kind):
            for name in (SUBJECT, BESIDE):
                means = cell.means(name, cell.average())
                label = f"{name}, {kind} batch, h = {cell.horizon:,}"
                ends = means.intervals("a new recipe")[0]
                panels[cell.state].append(Dot(label, name, cell.gain(name, cell.average()), ends))
    draw_dots(panels, ROOT / "docs" / "reports" / "regimes.svg")


BRIEF = parts_from(all_runs, regimes=brief)
PARTS = parts_from(all_runs, opening=opening, answer=answer, errors=errors_table, gains=gains_table, runs=runs_table)
