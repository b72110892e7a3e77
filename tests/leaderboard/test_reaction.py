"""Forecasting beside exact reaction: what is measured on a run, and what the page makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.pages import reaction as page
from leaderboard.studies import reaction
from moeload_bench.forecaster import Forecast
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE


def test_bounds_hold_on_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan for every step from its loads is never worse than the static layout or a plan held for ten steps; only the
    static layout moves nothing."""
    monkeypatch.setattr(reaction, "EVERY", (10,))
    monkeypatch.setattr(reaction, "LATE", (0, 10))
    trace = Trace.from_arrays(synthetic_load_SLE(300, experts=8), 512, 2)
    found = reaction.measure_run(trace, (0.5,), (1.0,))
    both = {
        "exact@1", "spill above 1@1", "spill above 1.1@1", "sw_avg@10", "gated@10", "last steps + 0.674 sd@10",
        *(f"{name}, below {used} use@10" for name in ("last steps", "gated") for used in ("90%", "95%")),
    }  # fmt: skip
    once = {"static", "true mean@10", "gated + 0.5 sd@10", "gated + 1 sd, covariance of steps@10"}
    assert set(found) == once | both | {f"{name}~10" for name in both}
    assert min(found, key=lambda name: found[name][0]) == "spill above 1@1"
    assert found["spill above 1@1"][0] == pytest.approx(1.0)
    assert found["exact@1"][0] < min(found["static"][0], found["gated@10"][0], found["exact@1~10"][0])
    assert found["static"][1] == 0


def test_devices_that_change_names_move_nothing() -> None:
    """Replicas are counted after devices are renumbered."""
    shape = ClusterShape("two", 2, 8)
    before = plan(np.random.default_rng(0).dirichlet(np.ones(8), 3), shape)
    swapped = before.reshape(3, 2, 4)[:, ::-1].reshape(3, 8)
    assert reaction._moved(before, swapped, shape) == 0


TWO = ClusterShape("two", 2, 4)
SKEWED = np.array([0.6, 0.2, 0.1, 0.1])
"""On devices that hold experts 0, 1 and 2, 3: loads 0.8 and 0.2, max / mean 1.6."""


def test_a_plan_for_each_step_is_judged_on_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads 0.4, 0.3, 0.2, 0.1 are even with experts 0, 3 | 1, 2; the next step's 0.4, 0.1, 0.2, 0.3 with 0, 1 | 2, 3.

    From its own loads every step is even, and each device receives one expert. A step late, it has 0.7 and 0.3.
    """
    monkeypatch.setattr(reaction, "FIRST", 2)
    monkeypatch.setattr(reaction, "EXACT_EVERY", 2)
    one, two = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.4, 0.1, 0.2, 0.3])
    share_SLE = np.stack([one, two] * 4)[:, None]
    assert reaction._exact(share_SLE, TWO, 0) == pytest.approx([1.0, 1.0])
    assert reaction._exact(share_SLE, TWO, 1) == pytest.approx([1.4, 1.0])


def test_plans_that_hold_are_charged_for_what_changes_between_them() -> None:
    """Experts 0, 1 | 2, 3 for two steps of 1.6, then 0, 3 | 1, 2 of 1.4: one expert moves into each device."""
    share_SLE = np.tile(SKEWED, (4, 1, 1))
    plans_NLR = np.array([[[0, 1, 2, 3]], [[0, 3, 1, 2]]])
    found = reaction._charged(plans_NLR, share_SLE, np.array([0, 2]), 2, TWO)
    assert found == pytest.approx([(1.6 + 1.4) / 2, 1.0])


def test_a_forecast_made_late_is_of_the_steps_that_it_is_for() -> None:
    """The mean of two steps is 0.4, that of the first one 0.5: the second one has 0.3."""
    forecast = Forecast.path([[[0.5, 0.5]], [[0.3, 0.7]]])
    assert reaction._window(forecast, 1, 1) == pytest.approx(np.array([[0.3, 0.7]]))


def test_the_page_charges_moving() -> None:
    """Free moving favours exact reaction; from the cost in the words on a forecast saves as much."""
    forecast = next(kind for kind in page.measured() if "covariance" in kind)
    assert page.best("exact", 0.0)[0] > page.best(forecast, 0.0)[0] > page.best("sw_avg", 0.0)[0] > 0
    cost = page._cheaper(forecast)
    assert page.best(forecast, cost)[0] >= page.best("exact", cost)[0]
    assert page.best(forecast, cost / 2)[0] < page.best("exact", cost / 2)[0]
    assert page.best(forecast, 1e4) == (0.0, 0)
    assert f"{cost:.2g} % of a step" in page.reaction_words()
