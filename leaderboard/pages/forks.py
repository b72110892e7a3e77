"""The parts of docs/reports/forks.md, from the pilot in leaderboard/pilots/: how much of a future can be known, and
whether the test finds who knew the recorded one.

A forecaster's error at an origin is its mean over all futures there, which are equally good to an honest one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.grouped import grouped
from leaderboard.pages.parts import parts_from
from leaderboard.season_tools.folder import read_record
from leaderboard.season_tools.forks import ForkTest, floor_fork, permutation_test
from leaderboard.season_tools.futures import ForkPoint, fork_points
from leaderboard.season_tools.recording import recorded_futures
from leaderboard.season_tools.records import EntryForks
from leaderboard.season_tools.scored import FLOOR, ScoredSeason, scored_seasons
from leaderboard.templates import render_text
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import SeasonError
from moeload_bench.results.comparison import reference_of
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import floors_from
from moeload_bench.style import legend_above, log_axis, panels, save_figure, style

PILOTS = ROOT / "leaderboard" / "pilots"
WEIGHTS = (0.03, 0.1, 0.3, 1.0)
"""Of the memories of the recorded futures that are mixed into the reference."""
BATCH = "floor_batch"


@dataclass(frozen=True, eq=False)
class Pilot:
    """A scored and revealed season of few origins, and where its runs fork."""

    season: ScoredSeason
    points: tuple[ForkPoint, ...]
    losses: Mapping[str, EntryForks]
    reference: str

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.points[0].horizons

    @property
    def by_state(self) -> dict[str, list[ForkPoint]]:
        return grouped(self.points, lambda point: point.state)

    def error_K(self, name: str, point: ForkPoint) -> FloatArray:
        """Return an entry's `window_tv` at an origin, mean over all futures; raise `SeasonError` where it gave no
        answer.
        """
        for task in self.losses[name].tasks:
            if (task.trace, task.origin) == (point.trace.id, point.origin) and task.failure is None:
                return np.asarray(np.mean(task.loss_JK, axis=0))
        raise SeasonError(f"{name} gave no forecast at step {point.origin} of {point.trace.id}")

    def best_error_K(self, point: ForkPoint) -> FloatArray:
        """Return the least error of any entry at each horizon."""
        return np.asarray(np.min([self.error_K(name, point) for name in self.losses], axis=0))


@functools.cache
def pilot(root: Path = PILOTS) -> Pilot:
    """Return the newest pilot; raise `SeasonError` where none is revealed."""
    season = next(iter(scored_seasons(root)), None)
    reveal = season.folder.reveal() if season else None
    reference = reference_of(season.results) if season else None
    if season is None or reveal is None or reference is None:
        raise SeasonError(f"{root}: no season that is scored and revealed, with the reference among its entries")
    folder, plan = season.folder, season.folder.plan()
    count = recorded_futures(folder.runs(), plan)
    points = tuple(fork_points(folder.traces, plan, season.suite, reveal.runs, count))
    losses = {name: read_record(EntryForks, folder.forks / f"{name}.json") for name in season.scores.forks}
    return Pilot(season, points, losses, reference.name)


def setup(found: Pilot) -> str:
    """Return what was recorded."""
    plan = found.season.folder.plan()
    where: dict[str, list[str]] = {}
    for point in found.points:
        where.setdefault(point.task.recipe, []).append(f"{point.origin:,} ({point.state})")
    left_out = plan.forks.futures + 1 - _futures(found)
    short = f", of the {plan.forks.futures} that were planned: there was no time for the others" if left_out else ""
    lines = [
        (f"`{recipe.name}`", f"{recipe.steps:,}", " and ".join(where[recipe.name]))
        for recipe in plan.recipes
        if recipe.name in where
    ]
    words = (
        f"At each origin {_futures(found) - 1} forks of {plan.forks.steps:,} steps each{short}. "
        f"{len(found.losses)} entries were frozen before the seeds were drawn, and asked once at each origin."
    )
    return f"{markdown_table(('recipe', 'steps', 'forks at step'), lines)}\n\n{words}"


def answer(found: Pilot) -> str:
    """Return how much of the best entry's error is left whatever one knows, and whom the test took for a knower."""
    shares = [share for share in _shares(found) if "least" in str(share["what"])]
    first, far = (" and ".join(f"{share[at]} % ({share['state']})" for share in shares) for at in ("first", "far"))
    tests, level = found.season.tests, found.season.folder.plan().forks.level
    wrong = sum(test.p_value <= level for test in tests.values())
    few = " The runs are too few to reject one that did." if memory_test(found.points, 1.0).least_p > level else ""
    return (
        f"Of the best entry's error over the next step, {first} is left even to one that knows the whole state of "
        f"training; over the next {found.horizons[-1]:,} steps {far}, so that the rest comes from what forecasts make "
        f"of the past, not from the text to come. Of {len(tests)} honest entries {wrong or 'none'} "
        f"{'were' if wrong > 1 else 'was'} taken for one that knew the recorded future.{few}"
    )


def lead(found: Pilot) -> str:
    """Say what it showed: how much of the errors is there whatever one knows, and whom the test finds."""
    tests, level = found.season.tests, found.season.folder.plan().forks.level
    least = min(tests, key=lambda name: tests[name].p_value)
    whole = memory_test(found.points, 1.0)
    weights = [weight for weight in WEIGHTS if memory_test(found.points, weight).p_value <= whole.least_p]
    return render_text(
        Path(__file__).with_name("forks_lead.md.j2"),
        shares=list(_shares(found)),
        last=f"{found.horizons[-1]:,}",
        tests=len(tests),
        wrong=[f"`{name}`" for name, test in tests.items() if test.p_value <= level],
        level=f"{level:g}",
        least=least,
        least_p=f"{tests[least].p_value:.2g}",
        reference=found.reference,
        whole_p=f"{whole.least_p:.2g}",
        weight=f"{min(weights):g}" if weights else "",
        weights=WEIGHTS,
        above=whole.least_p > level,
        runs=tests[least].runs,
        futures=_futures(found),
    )


def _shares(found: Pilot) -> Iterator[dict[str, object]]:
    """Yield how much of the errors is there whatever one knows, by state."""
    for state, here in found.by_state.items():
        floor_TK = np.stack([floor_fork(point.task.future_JKLE)[0] for point in here])
        for what, error_TK in (
            (f"of the error of `{found.reference}`", [found.error_K(found.reference, point) for point in here]),
            ("of the least error of any entry", [found.best_error_K(point) for point in here]),
        ):
            first, *_, far = 100 * floor_TK.mean(axis=0) / np.mean(error_TK, axis=0)
            yield {"state": state, "origins": len(here), "what": what, "first": f"{first:.0f}", "far": f"{far:.0f}"}


def _futures(found: Pilot) -> int:
    return len(found.points[0].task.future_JKLE)


def memory_test(points: Sequence[ForkPoint], weight: float) -> ForkTest:
    """Return the test for the reference's forecasts moved by ``weight`` of the way to the recorded future."""
    tasks = [point.task.knowing(0, weight) for point in points]
    return permutation_test([(task.recipe, task.run, task.loss_JK()) for task in tasks])


def floors_table(found: Pilot) -> str:
    """Return errors by origin and horizon, and what nobody could have known."""
    lines = []
    for point in found.points:
        floor_K, error_K = floor_fork(point.task.future_JKLE)
        best_K = found.best_error_K(point)
        batch = floors_from(point.trace, _window(point), point.horizons)[BATCH].values.get(PRIMARY)
        rows: dict[str, Sequence[str]] = {
            f"`{found.reference}`": [three_digits(x) for x in found.error_K(found.reference, point)],
            "the best entry": [three_digits(x) for x in best_K],
            f"*{FLOOR}*": [f"{three_digits(x)} ± {three_digits(e)}" for x, e in zip(floor_K, error_K, strict=True)],
        }
        if batch is not None:
            rows[f"*{BATCH}*"] = [three_digits(x) for x in batch.mean(axis=1)]
        rows[f"*{FLOOR}* / the best"] = [f"{100 * x:.0f} %" for x in floor_K / best_K]
        where = (f"`{point.task.recipe}`", f"{point.origin:,}, {point.state}")
        for i, (what, cells) in enumerate(rows.items()):
            lines.append((*(where if i == 0 else ("", "")), what, *cells))
    heads = ("recipe", "origin", PRIMARY, *(f"h = {h:,}" for h in found.horizons))
    return markdown_table(heads, lines)


def _window(point: ForkPoint) -> dict[int, IntArray]:
    return {layer: np.array([point.row], dtype=np.int64) for layer in range(point.trace.num_layers)}


def p_values_table(found: Pilot) -> str:
    """Return the fork test of every entry, and of memories of several weights."""
    tests = {f"`{name}`": test for name, test in found.season.tests.items()}
    tests |= {
        f"*`{found.reference}` with a memory, weight {weight:g}*": memory_test(found.points, weight)
        for weight in WEIGHTS
    }
    lines = [(name, f"{test.nearer:+.3f}", f"{test.p_value:.2g}") for name, test in tests.items()]
    return markdown_table(("forecaster", "log ratio of the losses, recorded to forks", "p"), lines)


def power_table(found: Pilot) -> str:
    """Return how often the test finds a memory of all runs, or of one recipe's."""
    floors = found.season.floors
    assert floors is not None
    names = list(next(iter(floors.power.values())))
    heads = ("weight", *("of all runs" if name == "all" else f"of `{name}`" for name in names))
    lines = [(weight, *(f"{100 * by_name[name]:.0f} %" for name in names)) for weight, by_name in floors.power.items()]
    return markdown_table(heads, lines)


def draw_floors() -> None:
    """Draw errors against the horizon by state, beside what is left to one that knows the whole state of training."""
    found, path = pilot(), ROOT / "docs" / "reports" / "forks.svg"
    with style():
        figure, axes = panels(len(found.by_state), height=2.2, columns=len(found.by_state))
        for ax, (state, here) in zip(axes, found.by_state.items(), strict=True):
            lines = {
                found.reference: [found.error_K(found.reference, point) for point in here],
                "the best entry": [found.best_error_K(point) for point in here],
                FLOOR: [floor_fork(point.task.future_JKLE)[0] for point in here],
            }
            for (name, values), dashes in zip(lines.items(), ("-", "-", "--"), strict=True):
                ax.plot(found.horizons, np.mean(values, axis=0), label=name, linestyle=dashes, marker="o")
            ax.set(title=f"{state}: mean over {len(here)} origins")
            log_axis(ax.xaxis, min(found.horizons), max(found.horizons))
            ax.grid(axis="y")
        figure.supxlabel("horizon [training steps]")
        figure.supylabel(f"{PRIMARY} [fraction of tokens]")
        legend_above(figure, "", axes[0].get_legend_handles_labels()[0])
        save_figure(figure, path)


PARTS = parts_from(
    pilot, answer=answer, setup=setup, lead=lead, floors=floors_table, tests=p_values_table, power=power_table
)
