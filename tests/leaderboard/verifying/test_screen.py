"""The screen: honest forecasts pass, forecasts that know the future are found at any weight, by their own numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leaderboard.committed import ROOT
from leaderboard.verifying.screen import (
    MAX_MEAN,
    MAX_RECIPE,
    MIN_VALUES,
    SPARE,
    Screened,
    screen_strata,
    strata_of,
    summed_by_recipe,
)
from leaderboard.verifying.verify import MAX_GROWTH, Request, verify
from moeload_bench.publishing.folder import CODE, MAX_BYTES
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.support.memoriser import TARGET, memoriser
from tests.support.submitted import World, submitted

HORIZONS = (1, 10, 100)
Forecasts = Callable[[NDArray[np.float64], int], NDArray[np.float64]]


def wandering(seed: int, recipe: str, steps: int = 700) -> Trace:
    """Loads whose probabilities wander: the past says something of the future, and not all."""
    random = np.random.default_rng(seed)
    walk_SLE = np.cumsum(random.standard_normal((steps, 3, 8)) * 0.03, axis=0)
    p_SLE = np.exp(walk_SLE - walk_SLE.mean(axis=0))
    load_SLE = random.multinomial(1024, p_SLE / p_SLE.sum(axis=2, keepdims=True))
    return Trace.from_arrays(load_SLE, 512, 2, global_batch_tokens=512, recipe=recipe, split="test", run=1)


def look(forecast: Forecasts, seeds: Sequence[int] = (1, 2, 3, 4)) -> Screened:
    """What the screen says of window means [K, L, E] made from all shares and the origin's row."""
    runs = []
    for seed in seeds:
        trace = wandering(seed, f"recipe{seed % 2}")
        origins: dict[str, Any] = {"transient": tuple(range(100, 400, 15)), "stable": tuple(range(405, 600, 10))}
        entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), **origins)
        mean = np.stack([forecast(trace.share_SLE(), origin) for origin, _ in entry.origins()])
        runs.append(strata_of(trace, entry, mean, HORIZONS))
    found = screen_strata(summed_by_recipe(runs))
    assert found is not None
    return found


def past(window: int) -> Forecasts:
    return lambda share, row: np.stack([share[max(0, row - window) : row].mean(axis=0)] * len(HORIZONS))


def future(share: NDArray[np.float64], row: int) -> NDArray[np.float64]:
    return np.stack([share[row : row + horizon].mean(axis=0) for horizon in HORIZONS])


def decayed(share: NDArray[np.float64], row: int) -> NDArray[np.float64]:
    """An honest forecast that is no combination of window means."""
    weight_S = 0.97 ** np.arange(row)[::-1]
    level = np.tensordot(weight_S / weight_S.sum(), share[:row], axes=1)
    return np.stack([level**0.9 / (level**0.9).sum(axis=1, keepdims=True)] * len(HORIZONS))


@pytest.mark.parametrize("forecast", [past(1), past(37), past(500), decayed])
def test_forecasts_of_the_past_pass(forecast: Forecasts) -> None:
    """In the span of the public forecasts or not."""
    found = look(forecast)
    assert list(found.reasons()) == []
    assert found.recipe < 0.5


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("base", [past(37), past(100), decayed])
def test_a_memory_of_any_weight_is_found(base: Forecasts, weight: float) -> None:
    """Whatever it is mixed with: what is left points at the future."""
    found = look(lambda share, row: (1 - weight) * base(share, row) + weight * future(share, row))
    assert any("it knows the suite's traces" in reason for reason in found.reasons())


def test_a_memory_of_long_horizons_only_is_found() -> None:
    """At these horizons; the others are honest."""

    def forecast(share: NDArray[np.float64], row: int) -> NDArray[np.float64]:
        made = past(37)(share, row)
        made[-1] = future(share, row)[-1]
        return made

    found = look(forecast)
    assert found.recipe_where[2] == HORIZONS[-1]
    assert found.recipe > 0.99


def test_noise_hides_a_memory_only_where_it_costs_as_much_as_it_brings() -> None:
    """With partial correlation r no less than 1 - r^2 of the squared error is left: the bound that is said."""
    random = np.random.default_rng(0)

    def forecast(share: NDArray[np.float64], row: int) -> NDArray[np.float64]:
        noise = 0.1 * random.standard_normal((len(HORIZONS), *share.shape[1:]))
        return past(100)(share, row) + 0.2 * (future(share, row) - past(100)(share, row)) + noise

    assert list(look(forecast).reasons()) == []


def test_too_few_values_are_not_judged() -> None:
    """Chance correlates what is left of a few numbers."""
    trace = wandering(5, "one")
    few = MIN_VALUES // (3 * 7)
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), stable=tuple(range(100, 100 + few)))
    mean = np.stack([future(trace.share_SLE(), origin) for origin, _ in entry.origins()])
    assert screen_strata(strata_of(trace, entry, mean, HORIZONS)) is None


def test_the_page_names_the_limits_that_are_applied() -> None:
    """Typed into docs/guide/leaderboard.md, so tied to it here."""
    text = " ".join((ROOT / "docs" / "guide" / "leaderboard.md").read_text().split())
    assert f"The limits are {MAX_RECIPE} in one recipe, and {MAX_MEAN} + {SPARE} / n in the mean over n recipes" in text
    assert f"fewer than {MIN_VALUES} values" in text
    assert f"the relative loss may grow by {100 * MAX_GROWTH['fresh_runs']:.0f} %" in text


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A suite of two recipes with as many origins as the screen needs."""
    root = tmp_path_factory.mktemp("wide")
    entries, paths = [], {}
    for seed, recipe in enumerate(("one", "two")):
        trace = wandering(seed, recipe)
        paths[trace.id] = write_trace(trace, root / f"{trace.id}.parquet")
        origins: dict[str, Any] = {"transient": tuple(range(100, 400, 24)), "stable": tuple(range(410, 590, 14))}
        entries.append(SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), **origins))
    return World(Suite(name="small", horizons=HORIZONS, traces=tuple(entries)), paths)


def test_a_memoriser_s_file_is_rejected(wide: World, tmp_path: Path) -> None:
    """It holds every public run in a file of a submission's size, undoes renumbering and shifting, and is honest when
    it is asked out of order: its published forecasts show what it knows.
    """
    code = memoriser(wide.paths, wide.suite, every=5)
    assert len(code) <= MAX_BYTES[CODE]
    folder = submitted(tmp_path, wide, code=code, target=TARGET)
    made = verify(Request(folder, wide.suite, wide.paths, level="none"))
    assert made.reasons[0].startswith("memory: "), (made.reasons, made.record.findings)
    assert (made.record.status, made.results) == ("failed", None)


def test_an_honest_file_passes_the_screen(wide: World, tmp_path: Path) -> None:
    """The same file without its memory."""
    made = verify(Request(submitted(tmp_path, wide), wide.suite, wide.paths, level="none"))
    assert made.reasons == []
    assert made.record.findings["memory_recipe"] < 0.5
