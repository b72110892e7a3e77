"""docs/reports/travel.md: how `guarded` does on `train` runs that it has not learned from, and on other logs of them.

Axis letters: K horizons, F forecasters, R runs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.pages.openings import Dot, draw_dots
from leaderboard.pages.parts import aligned_table, parts_from
from leaderboard.studies.kept import read_records
from leaderboard.studies.regimes import LEAST_ORIGINS
from leaderboard.studies.travel import HORIZONS, OUT, PLAIN, TravelRun
from leaderboard.suites.plan import first_training
from moeload_bench.results.grid import NOTHING
from moeload_bench.results.statistics import RunMeans
from moeload_bench.states.rule import LABELS

SUBJECT = "guarded"
TUNED, BESIDE, BEFORE = "average_tuned", "adaptive", "gated"
RIVALS = (BEFORE, TUNED, *PLAIN)
KINDS = {
    "small": "small batch, as recorded",
    "large": "large batch, as recorded",
    "probe": "probes of large batches",
    "summed": "ten steps summed to a row",
    "sampled": "every tenth step",
    "thinned": "50 tokens per expert and row",
}
PARTS_OF_IT = {
    "guarded.unguarded": "without the guard",
    "guarded.old": "taught as `gated`, with the guard",
    "guarded.home": "learned from the runs of suite v2 only",
}
CURVE = {f"guarded.drawn{number}": f"{number} drawn recipes" for number in (0, 8, 16)}
ALLOWED = 1.03
"""How far it may be behind the best rival: the upper end over recipes."""


def kind_of(run: TravelRun) -> str:
    """Return the kind of log that a record is of: its stratum where it is as recorded."""
    return run.stratum if run.kind == "as it is" else run.kind


class Cell:
    """The left-out runs of one kind in one state: mean log errors by forecaster, NaN at horizons that a run lacks."""

    def __init__(self, runs: Sequence[TravelRun], kind: str, state: str) -> None:
        self.kind, self.state = kind, state
        self.runs = [one for one in runs if (kind_of(one), one.state) == (kind, state) and one.origins >= LEAST_ORIGINS]

    @functools.cached_property
    def recipes(self) -> int:
        return len({first_training(run.recipe) for run in self.runs})

    def log_RK(self, name: str) -> np.ndarray:
        """[R, K] mean log errors of a forecaster."""
        out = np.full((len(self.runs), len(HORIZONS)), np.nan)
        for r, run in enumerate(self.runs):
            for h, value in zip(run.horizons, run.log_error_K.get(name, ()), strict=False):
                out[r, HORIZONS.index(h)] = value
        return out

    def means(self, name: str, against: np.ndarray, horizons: Sequence[int] = HORIZONS) -> RunMeans:
        """Return the runs' mean log ratios to what is given [R, K], over the horizons that both have."""
        at = [HORIZONS.index(h) for h in horizons]
        with np.errstate(invalid="ignore"):
            ratio_RK = (self.log_RK(name) - against)[:, at]
        known = np.isfinite(ratio_RK)
        ratio_R = np.where(known, ratio_RK, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
        recipes = tuple(run.recipe for run in self.runs)
        return RunMeans(ratio_R[None], recipes, tuple(map(first_training, recipes)))

    def rivals(self) -> list[str]:
        """Return the best rival at each horizon, by the mean over these runs: chosen in hindsight."""
        log_FRK = np.stack([self.log_RK(name) for name in RIVALS])
        known_FRK = np.isfinite(log_FRK)
        total_FK, many_FK = np.where(known_FRK, log_FRK, 0).sum(axis=1), known_FRK.sum(axis=1)
        mean_FK = np.where(many_FK > 0, total_FK / np.maximum(many_FK, 1), np.inf)
        return [RIVALS[n] for n in mean_FK.argmin(axis=0)]

    def best_rival(self) -> np.ndarray:
        """[R, K] mean log errors of the best rival of each horizon."""
        return np.stack([self.log_RK(name)[:, k] for k, name in enumerate(self.rivals())], axis=1)


@functools.cache
def all_runs() -> tuple[TravelRun, ...]:
    """Return every record of the study."""
    return tuple(read_records(TravelRun, OUT))


def cells(runs: Sequence[TravelRun], kinds: Sequence[str] = tuple(KINDS)) -> list[Cell]:
    """Return the cells that have runs, by kind and state."""
    found = [Cell(runs, kind, state) for kind in kinds for state in LABELS]
    return [cell for cell in found if cell.runs]


def ratio_words(found: RunMeans) -> str:
    """Return a ratio with its interval over recipes, or the least and the largest of the runs where there are few."""
    mean_R = found.mean_FR[0][np.isfinite(found.mean_FR[0])]
    if not mean_R.size:
        return NOTHING
    center, ends = np.log(1 - found.skill_F[0]), found.intervals("a new recipe")[0]
    if ends is None:
        return f"{np.exp(center):.3f} ({np.exp(mean_R.min()):.3f} to {np.exp(mean_R.max()):.3f})"
    return f"{np.exp(center):.3f} [{1 - ends.high:.3f}, {1 - ends.low:.3f}]"


def upper(found: RunMeans) -> float | None:
    """Return the upper end of the interval over recipes of a ratio; None where there are too few."""
    ends = found.intervals("a new recipe")[0]
    return None if ends is None else 1 - ends.low


def opening(runs: Sequence[TravelRun]) -> str:
    """Return how far behind the best rival it is at most, what it gains on averages, and on how many large runs."""
    found = cells(runs)
    worst, where = max(((_worst(cell), cell) for cell in found), key=lambda one: one[0][0])
    highs = [high for cell in found if (high := upper(cell.means(SUBJECT, cell.best_rival()))) is not None]
    gains = {name: [100 * float(cell.means(SUBJECT, cell.log_RK(name)).skill_F[0]) for cell in found]
             for name in (TUNED, BESIDE)}  # fmt: skip
    words = [f"{min(of):.0f} to {max(of):.0f} % less than `{name}`" for name, of in gains.items()]
    large = len({one.recipe for one in runs if kind_of(one) == "large"})
    return (
        f"On runs and logs that it has not learned from, `{SUBJECT}` errs {' and '.join(words)}, by kind of log and "
        f"state. Behind the best rival of each, chosen in hindsight, it is by at most {max(highs) - 1:.1%} (upper ends "
        f"over recipes), in the worst run by {worst[0] - 1:.1%} (`{worst[1]}`, {KINDS[where.kind]}, {where.state}). "
        f"Recipes with a large batch among them: {large}."
    )


def _worst(cell: Cell) -> tuple[float, str]:
    """Return the largest ratio to the best rival, and the recipe."""
    ratio_R = cell.means(SUBJECT, cell.best_rival()).mean_FR[0]
    w = int(np.nanargmax(ratio_R))
    return float(np.exp(ratio_R[w])), cell.runs[w].recipe


def draw() -> None:
    """Draw what `guarded` gains on the tuned average, on `adaptive` and on `gated`, by kind of log and state."""
    panels: dict[str, list[Dot]] = {state: [] for state in LABELS}
    for cell in cells(all_runs()):
        for name in (TUNED, BESIDE, BEFORE):
            found = cell.means(SUBJECT, cell.log_RK(name))
            ends = found.intervals("a new recipe")[0]
            panels[cell.state].append(Dot(f"{KINDS[cell.kind]}, over {name}", name, float(found.skill_F[0]), ends))
    draw_dots(panels, ROOT / "docs" / "reports" / "travel.svg")


def answer(runs: Sequence[TravelRun]) -> str:
    """Return how far `guarded` is ahead of, or behind, the best rival in each kind of log."""
    lines = []
    for cell in cells(runs):
        against = cell.means(SUBJECT, cell.best_rival())
        high = upper(against)
        sure = "too few recipes for an interval" if high is None else (
            f"upper end {high:.3f}: {'kept' if high <= ALLOWED else 'missed'}"
        )  # fmt: skip
        lines.append(f"- *{KINDS[cell.kind]}, {cell.state}*: {ratio_words(against)} of the best rival's error, "
                     f"{cell.recipes} {'recipe' if cell.recipes == 1 else 'recipes'} ({sure}).")  # fmt: skip
    return "\n".join(lines)


def rivals_table(runs: Sequence[TravelRun]) -> str:
    """Return the error of `guarded` over that of others, by kind and state, means over horizons."""
    rows = []
    for cell in cells(runs):
        worst, recipe = _worst(cell)
        rows.append((
            KINDS[cell.kind], cell.state, str(cell.recipes),
            *(ratio_words(cell.means(SUBJECT, cell.log_RK(name))) for name in (TUNED, BESIDE, BEFORE)),
            ratio_words(cell.means(SUBJECT, cell.best_rival())),
            f"{worst:.3f} `{recipe}`",
        ))  # fmt: skip
    head = ("logs", "state", "recipes", f"to `{TUNED}`", f"to `{BESIDE}`", f"to `{BEFORE}`", "to the best rival",
            "worst run, to the best rival")  # fmt: skip
    return aligned_table(head, rows, 2)


def horizons_table(runs: Sequence[TravelRun]) -> str:
    """Return the ratio of `guarded` to the best rival at each horizon, and who that is."""
    rows = []
    for cell in cells(runs):
        rivals, best = cell.rivals(), cell.best_rival()
        words = []
        for h, rival in zip(HORIZONS, rivals, strict=True):
            found = cell.means(SUBJECT, best, (h,))
            known = np.isfinite(found.mean_FR[0]).any()
            words.append(f"{1 - found.skill_F[0]:.3f} `{rival}`" if known else NOTHING)
        rows.append((KINDS[cell.kind], cell.state, *words))
    return aligned_table(("logs", "state", *(f"h = {h:,}" for h in HORIZONS)), rows, 2)


def parts_table(runs: Sequence[TravelRun], networks: Mapping[str, str]) -> str:
    """Return what each part, or more runs to learn from, buys: the error without it over the error with it."""
    there = [name for name in networks if any(name in run.log_error_K for run in runs)]
    rows = [(KINDS[cell.kind], cell.state, *(_without(cell, name) for name in there)) for cell in cells(runs)]
    known = [row for row in rows if set(row[2:]) != {NOTHING}]
    return aligned_table(("logs", "state", *(networks[name] for name in there)), known, 2)


def inside_table(runs: Sequence[TravelRun]) -> str:
    """Return which part of experts lies between the quantiles of 0.1 and 0.9, by horizon: 0.80 is asked for."""
    rows = []
    for cell in cells(runs):
        by_run = [dict(zip(run.horizons, run.inside_K.get(SUBJECT, ()), strict=False)) for run in cell.runs]
        found = [[one[h] for one in by_run if h in one] for h in HORIZONS]
        words = (f"{np.mean(of):.2f} ({min(of):.2f} to {max(of):.2f})" if of else NOTHING for of in found)
        rows.append((KINDS[cell.kind], cell.state, *words))
    return aligned_table(("logs", "state", *(f"h = {h:,}" for h in HORIZONS)), rows, 2)


def _without(cell: Cell, name: str) -> str:
    if not np.isfinite(cell.log_RK(name)).any():
        return NOTHING
    found = cell.means(name, cell.log_RK(SUBJECT))
    return f"{1 - found.skill_F[0]:.3f}, worst run {np.exp(np.nanmax(found.mean_FR[0])):.3f}"


def bias_table(runs: Sequence[TravelRun]) -> str:
    """Return the error of `guarded` over that of `gated` under a bias controller, by horizon."""
    rows = []
    for method in ("loss_free_bias", "quantile"):
        for cell in cells([one for one in runs if one.balancing == method and one.kind == "as it is"]):
            words = [ratio_words(cell.means(SUBJECT, cell.log_RK(BEFORE), (h,))) for h in HORIZONS[2:]]
            rows.append((method.replace("_", " "), KINDS[cell.kind], cell.state, str(cell.recipes), *words))
    head = ("balancing", "logs", "state", "recipes", *(f"h = {h:,}" for h in HORIZONS[2:]))
    return aligned_table(head, rows, 3)


def counts(runs: Sequence[TravelRun]) -> str:
    """Return how many runs and recipes there are of each kind of log."""
    words = []
    for kind, said in KINDS.items():
        own = {one.run for one in runs if kind_of(one) == kind}
        if own:
            words.append(f"{said}: {len(own)}")
    return f"Left-out `train` runs: {', '.join(words)}."


PARTS = parts_from(
    all_runs, opening=opening, answer=answer, counts=counts, rivals=rivals_table, horizons=horizons_table,
    parts=functools.partial(parts_table, networks=PARTS_OF_IT), curve=functools.partial(parts_table, networks=CURVE),
    inside=inside_table, bias=bias_table,
)  # fmt: skip
