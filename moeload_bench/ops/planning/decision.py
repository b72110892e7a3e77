"""One decision about a run: which forecaster, how often to look, what moving experts saves, how sure, what was assumed.

`decide` is pure: the candidates of a watched run in, a `Decision` out. Every command prints this decision and makes
none of its own. Candidates are compared part by part, over disjoint parts of the run, by a paired 95 % t interval: it
says what this run shows, not what another would. Moving is advised only where each of the newest five windows repays
its share of the moves, with every assumed constant at the unfavourable end of half to twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import json_value
from moeload_bench.baseline_facts import ordered
from moeload_bench.errors import counted
from moeload_bench.files import PACKAGE
from moeload_bench.ops.planning.cluster import Constant
from moeload_bench.results.skill import interval_of
from moeload_bench.words import listed, page

SAME_PERCENT = 0.1
"""Points of the step time below which two candidates save alike."""
WORSE_BY = 0.05
"""Part of the best saving that is never given up, however wide the interval."""
LEAST_PERCENT = 1.0
"""Percent of the step time that re-planning must save; below that the experts stay where they are."""
WINDOWS = 5
"""Newest disjoint windows, each of which has to repay its share of the moves."""
ORDER = f"measured at 60 x 256, {page('docs/reports/performance.md')}"
"""Where the order comes from in which forecasters are cheap."""
ADVICE_WORTH = PACKAGE / "ops" / "planning" / "advised.json"
"""What advice to move was worth (`benchmarks/advised_moves.py`), by how experts move."""
Verdict = Literal["move", "leave", "cannot tell"]


@dataclass(frozen=True)
class Candidate:
    """A forecaster, looked at every so many steps, as the run would have gone with it.

    Percentages are of the step time under the layout that the run began with: ``gain_percent`` before moving,
    ``saved_percent`` after it.
    ``misplaced``: mean part of the tokens that its forecasts put with the wrong expert; ``cpu_ms`` of a forecast,
    observing included, all candidates timed side by side. ``moved_at``: steps of its moves; ``breaks_even``: steps
    after which one of them is repaid by what the newest windows gain, None for never. ``saved_N``: by disjoint parts in
    order; ``newest_N``: by the newest windows; ``worst_N``: the same, every assumed constant at its unfavourable end.
    """

    forecaster: str
    every: int
    replans: int
    moved_gb: float
    imbalance: float
    gain_percent: float
    saved_percent: float
    misplaced: float
    cpu_ms: float = field(compare=False)
    moved_at: tuple[int, ...] = ()
    breaks_even: int | None = None
    saved_N: tuple[float, ...] = field(repr=False, default=())
    newest_N: tuple[float, ...] = field(repr=False, default=())
    worst_N: tuple[float, ...] = field(repr=False, default=())

    @property
    def record(self) -> dict[str, Any]:
        """Return the fields of its row in a table, NaN for what is not known."""
        return {name: value for name, value in vars(self).items() if not name.endswith("_N")}

    @property
    def misplaced_percent(self) -> float | None:
        """Return the misplaced tokens in percent; None before a forecast was judged."""
        return 100 * self.misplaced if np.isfinite(self.misplaced) else None

    @property
    def pays(self) -> bool:
        """Whether each of the newest five windows repays its share of the moves, whatever was assumed."""
        return len(self.worst_N) == WINDOWS and min(self.worst_N) > 0

    def dominates(self, other: Candidate) -> bool:
        """Return whether it is nowhere worse and somewhere better: in saving, re-plans and gigabytes moved."""
        prices = [(-candidate.saved_percent, candidate.replans, candidate.moved_gb) for candidate in (self, other)]
        return prices[0] != prices[1] and all(a <= b for a, b in zip(*prices, strict=True))


class Begun(NamedTuple):
    """What savings are measured from: the layout in force when the run begins, and the first step that was seen."""

    layout: str
    first_step: int


class Terms(NamedTuple):
    """What a decision is made for: steps of the run to come, their length, and the windows that it is judged by.

    ``window``: steps of one window; ``missing``: steps more until there are five, 0 where there are. ``layout`` and
    ``first_step`` as in `Begun`.
    """

    steps_left: int
    step_ms: float
    window: int
    missing: int
    layout: str
    first_step: int


@dataclass(frozen=True)
class Decision:
    """What to do about a run, from what was seen before ``step``.

    ``take``: the forecaster with its interval. ``verdict``: whether re-planning pays; if not, the experts stay where
    they are. ``low`` and ``high``: 95 % interval of what ``take`` saves.
    ``inseparable``: forecasters that this run cannot tell from the best one. ``start``: max/mean under the layout that
    the run began with.
    ``vllm``: what its default would have saved; it is compared, and never taken.
    """

    step: int
    take: Candidate
    verdict: Verdict
    low: float
    high: float
    inseparable: tuple[str, ...]
    candidates: tuple[Candidate, ...] = field(repr=False)
    start: float
    constants: tuple[Constant, ...]
    terms: Terms
    vllm: Candidate | None

    @property
    def moves(self) -> bool:
        """Whether moving experts is advised."""
        return self.verdict == "move"

    @property
    def net_hours(self) -> tuple[float, float, float]:
        """Return the hours that the steps left save, with a 95 % interval over the newest windows; NaN from none."""
        newest_N = self.take.newest_N
        mean = float(np.mean(newest_N)) if newest_N else float("nan")
        scale = self.terms.steps_left * self.terms.step_ms / 3.6e6 / 100
        low, high = interval_of(newest_N)
        return mean * scale, low * scale, high * scale

    @property
    def matters(self) -> bool:
        """Whether the forecasters differ."""
        return len(self.inseparable) < len({candidate.forecaster for candidate in self.candidates})

    @property
    def record(self) -> dict[str, Any]:
        """Return all of it as a JSON record."""
        facts = {
            "step": self.step, "verdict": self.verdict, "moves": self.moves, "take": self.take.record,
            "interval": (self.low, self.high), "net_hours": self.net_hours, **self.terms._asdict(),
            "vllm": None if self.vllm is None else self.vllm.record,
            "judged_by": "step time saved", "inseparable": self.inseparable, "matters": self.matters,
            "imbalance": self.start,
            "candidates": [candidate.record for candidate in self.candidates], "constants": self.constants,
        }  # fmt: skip
        return dict(json_value(facts))

    def lines(self, *, details: bool = False) -> list[str]:
        """Return what to do, how a plan ages, and what it rests on: a sentence or two each.

        The forecaster is a line where this run tells it from others, or with ``details``.
        """
        forecaster = [self._forecaster()] if details or self.matters else []
        return [self._answer(), *self._moves(), *self._ages(), *forecaster, *self._rests_on()]

    def _answer(self) -> str:
        take = self.take
        lead, saved = f"Decision at step {self.step:,}:", f"{take.saved_percent:.1f} % of the step time"
        if self.verdict == "leave":
            return f"{lead} leave the experts where they are ({self._imbalance}): {self.doubt}."
        if self.verdict == "cannot tell":
            return (
                f"{lead} cannot tell whether moving experts pays. {take.forecaster}, every {take.every:,} steps, saved "
                f"{saved} so far; {self.doubt}."
            )
        return (
            f"{lead} re-plan with {take.forecaster} every {take.every:,} steps where it pays: saves "
            f"{saved} ({self.low:.1f} to {self.high:.1f} %, 95 % interval over parts "
            f"of the run) with {counted(take.replans, 're-plan')} and {volume(take.moved_gb)} moved; "
            f"{self._imbalance} -> {take.imbalance:.2f} (this plan)."
        )

    @property
    def _imbalance(self) -> str:
        """Return the imbalance without moves, the steps that it is a mean over, and the layout."""
        return (
            f"max/mean over steps {self.terms.first_step:,} to {self.step - 1:,}: {self.start:.2f} "
            f"({self.terms.layout} layout)"
        )

    @property
    def doubt(self) -> str | None:
        """Return why a saving is no reason to move, or not yet; None where moving is advised."""
        window, missing = self.terms.window, self.terms.missing
        if self.moves:
            return None
        if self.verdict == "leave":
            below = np.floor(100 * self.take.saved_percent) / 100  # 0.996 is not 1.00, which would not be below 1
            return (
                f"re-planning with {self.take.forecaster} saves {below:.2f} % of the step time, below "
                f"{LEAST_PERCENT:g} %"
            )
        if missing:
            return f"five windows of {window:,} steps are needed: {missing:,} steps more"
        lost = sum(value <= 0 for value in self.take.worst_N)
        if lost:
            return (
                f"in {lost} of the last five windows of {window:,} steps moves cost more than they saved, with what is "
                "ASSUMED at the worse of half and twice"
            )
        return "vLLM's default saved no less, with no more moves"

    def _moves(self) -> Iterator[str]:
        """Return which steps it moved at, what the steps left save, and when a move is repaid."""
        if not self.moves:
            return
        take, (net, low, high) = self.take, self.net_hours
        steps = [f"{step:,}" for step in take.moved_at]
        last = steps if len(steps) <= 6 else ["...", *steps[-5:]]
        yield (
            f"Replayed, it moved at {'step' if len(steps) == 1 else 'steps'} {', '.join(last)}. If it trains for "
            f"{self.terms.steps_left:,} steps more, it saves {net:.3g} hours ({low:.3g} to {high:.3g}, 95 % interval "
            f"over the newest five windows of {self.terms.window:,} steps); a move breaks even after "
            f"{counted(take.breaks_even or 0, 'step')}."
        )

    def _ages(self) -> Iterator[str]:
        """Return how much less is saved by plans that are renewed less often, where loads move enough to tell."""
        of_take = sorted(
            (candidate for candidate in self.candidates if candidate.forecaster == self.take.forecaster),
            key=lambda candidate: candidate.every,
        )
        often, seldom = of_take[0], of_take[-1]
        if often.gain_percent - seldom.gain_percent > max(SAME_PERCENT, WORSE_BY * often.gain_percent):
            yield (
                f"Loads move, so a plan saves less each step: looked at every {often.every:,} steps, plans save "
                f"{often.gain_percent:.1f} % before the cost of moves; every {seldom.every:,} steps, "
                f"{seldom.gain_percent:.1f} %."
            )

    def _forecaster(self) -> str:
        names = list(dict.fromkeys(candidate.forecaster for candidate in self.candidates))
        if len(names) == 1:
            return f"{names[0]} is the only forecaster compared."
        values = sorted(
            max(candidate.saved_percent for candidate in self.candidates if candidate.forecaster == name)
            for name in names
        )
        each = ", each at its best interval" if len({candidate.every for candidate in self.candidates}) > 1 else ""
        span = f"save {values[0]:.2f} to {values[-1]:.2f} % of the step time{each}"
        take = self.take
        why = f"needs the least CPU time ({ORDER})"
        if names != [name for name in compared_forecasters() if name in names]:
            why = "was named first"
        cost = f"{take.forecaster} is taken, as it {why}"
        if not self.matters:
            return f"This run cannot tell the forecasters apart: they {span}; {cost}."
        apart = listed([name for name in names if name not in self.inseparable])
        if len(self.inseparable) == 1:
            return f"By step time saved, {self.inseparable[0]} is ahead of {apart} (all {span})."
        return f"By step time saved, {listed(self.inseparable)} are ahead of {apart} (all {span}); {cost}."

    def _rests_on(self) -> Iterator[str]:
        for source, lead in (("stated", "Stated"), ("measured", "Measured"), ("of the model", "Of the model")):
            words = [constant.words for constant in self.constants if constant.source == source]
            if words:
                yield f"{lead}: {', '.join(words)}."
        assumed = [
            f"{constant.words} ({constant.doubt})" for constant in self.constants if constant.source == "ASSUMED"
        ]
        if assumed:
            yield f"ASSUMED, state yours: {', '.join(assumed)}."


def decide(
    step: int,
    candidates: Sequence[Candidate],
    start: float,
    constants: Sequence[Constant],
    terms: Terms,
    vllm: Candidate | None = None,
) -> Decision:
    """Return the decision. Candidates come in the order of what their forecasters cost, cheapest first, or as named.

    Candidates that save as much as the least of those that cannot be told from the best are eligible. One that another
    candidate dominates is never taken. Of the rest those go first that repaid their moves in each of the newest
    windows, then the first forecaster is taken, with the interval that moves least.
    """
    best = max(candidates, key=lambda candidate: candidate.saved_percent)
    floor = min(candidate.saved_percent for candidate in candidates if _as_good(best, candidate))
    eligible = [candidate for candidate in candidates if candidate.saved_percent >= floor]
    free = [candidate for candidate in eligible if not any(other.dominates(candidate) for other in candidates)]
    names = list(dict.fromkeys(candidate.forecaster for candidate in candidates))
    take = min(
        free,
        key=lambda candidate: (
            not candidate.pays,
            names.index(candidate.forecaster),
            candidate.moved_gb,
            candidate.replans,
            -candidate.saved_percent,
        ),
    )
    low, high = interval_of(take.saved_N)
    inseparable = tuple(name for name in names if any(candidate.forecaster == name for candidate in eligible))
    verdict: Verdict = "cannot tell"
    if not terms.missing and take.saved_percent < LEAST_PERCENT:
        verdict = "leave"
    elif take.pays and not (vllm and vllm.dominates(take)):
        verdict = "move"
    return Decision(
        step, take, verdict, low, high, inseparable, tuple(candidates), start, tuple(constants), terms, vllm
    )


def compared_forecasters() -> tuple[str, ...]:
    """Return the forecasters that are compared unless others are named, the cheapest first.

    By the CPU time of a forecast at 60 x 256, observing included, all measured in one sitting
    (`benchmarks/live_size.py`): clocks vary from call to call, decisions must not.
    """
    return ordered("plan")


def worth_sentence(move: str) -> str:
    """Return what such advice was worth on runs that were held out; ``move``: `live` or `restart`."""
    record = json.loads(ADVICE_WORTH.read_text(encoding="utf-8"))[move]
    return (
        f"On {record['runs']} held-out runs such advice saved {record['net_percent']:.1f} % of the step time, net of "
        f"moves (95 % interval for a new recipe {record['low']:.1f} to {record['high']:.1f} %, for a new family of "
        f"models {record['family_low']:.1f} to {record['family_high']:.1f} %; runs without advice count as 0; "
        f"{page('docs/methods/placement.md')}): {record['paid']} of {record['advised']} moves paid."
    )


def too_short(steps: int, first: int) -> str:
    """Return why nothing can be decided about a run that ends before the first look."""
    return f"{steps:,} steps, the first look comes after {first:,}"


def volume(gb: float) -> str:
    """Return gigabytes in the unit that shows them: `0.3 GB`, `4.1 MB`, `16.3 TB`."""
    scale, unit = (1e-3, "TB") if gb >= 1000 else (1.0, "GB") if gb >= 0.1 or gb == 0 else (1e3, "MB")
    return f"{gb * scale:,.1f} {unit}"


def _as_good(best: Candidate, other: Candidate) -> bool:
    """Return whether a candidate saves hardly less than the best, or parts of the run do not show that it does."""
    gap = best.saved_percent - other.saved_percent
    if gap <= SAME_PERCENT:
        return True
    low, _ = interval_of(np.subtract(best.saved_N, other.saved_N))
    return gap <= max(SAME_PERCENT, WORSE_BY * best.saved_percent) and not low > 0
