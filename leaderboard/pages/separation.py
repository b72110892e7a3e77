"""Which forecasters can be told apart, in each state and at each horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.ranking import win_rates
from moeload_bench.results.comparison import errors_of, reference_of
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import PairedTest, compare, rank_groups
from moeload_bench.states.rule import LABELS

ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One state and horizon: each forecaster against the reference (one family for Holm), and the rank groups.

    ``groups`` None: too few recipes for a test.
    """

    state: str
    horizon: int
    against_reference: tuple[PairedTest, ...]
    groups: tuple[tuple[str, ...], ...] | None
    win_rate: dict[str, float]

    @property
    def apart(self) -> tuple[str, ...]:
        """Forecasters that differ from the reference after Holm's correction."""
        return tuple(c.forecaster for c in self.against_reference if c.p_holm is not None and c.p_holm < ALPHA)

    @property
    def tested(self) -> bool:
        """Return whether there were recipes enough."""
        return self.groups is not None


def compared_cells(results: Sequence[Result], metric: str) -> list[Cell]:
    """Return every state and horizon that has tasks; [] where the reference is not among the results."""
    reference = reference_of(results)
    if reference is None or reference not in results:
        return []
    errors = errors_of(results, metric)
    found = []
    for state in LABELS:
        for horizon in results[0].suite.horizons:
            here = errors.select(state=state, horizon=horizon)
            if not here.state_T:
                continue
            base_T = here.by_forecaster[reference.name]
            groups = rank_groups(here.by_forecaster, here.tasks, ALPHA, base_T=base_T)
            against = tuple(compare(here.by_forecaster, reference.name, here.tasks))
            ranked = None if groups is None else tuple(map(tuple, groups))
            found.append(Cell(state, horizon, against, ranked, win_rates(here.by_forecaster)))
    return found
