"""Forks: an honest forecaster is rejected as often as the level says, one that knows the recorded future is found."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.season_tools.forks import (
    ForkTask,
    detection_power,
    floor_fork,
    mean_floor,
    permutation_test,
    share_distance,
)
from leaderboard.season_tools.futures import window_means
from moeload_bench.errors import SeasonError

LEVEL = 0.05


def tasks(seed: int, runs: int = 6, origins: int = 2, J: int = 5, spread: float = 0.02) -> list[ForkTask]:
    """Futures that wander independently around a level; the forecast is off by a mistake of its own."""
    random = np.random.default_rng(seed)
    K, L, E = 2, 2, 8
    made = []
    for run in range(runs):
        for _ in range(origins):
            level_LE = random.dirichlet(np.full(E, 20.0), L)
            future = level_LE + spread * random.standard_normal((J, K, L, E)) * random.uniform(0.5, 2)
            forecast = np.broadcast_to(level_LE + 0.01 * random.standard_normal((L, E)), (K, L, E))
            made.append(ForkTask(f"recipe{run % 3}", run, forecast, future))
    return made


def p_value(found: list[ForkTask]) -> float:
    return permutation_test([(task.recipe, task.run, task.loss_JK()) for task in found]).p_value


def test_an_honest_forecaster_is_rejected_as_often_as_the_level_says() -> None:
    """Of 200 seasons under the null at 5 %, at most 10 % (a binomial of 200 exceeds 20 in 0.1 % of all cases)."""
    rejected = sum(p_value(tasks(seed, runs=4)) <= LEVEL for seed in range(200))
    assert rejected <= 20


def test_one_that_knows_the_recorded_future_is_found() -> None:
    """Wholly, or by a third of the way."""
    for seed in range(5):
        for weight in (0.3, 1.0):
            known = [task.knowing(0, weight) for task in tasks(seed)]
            assert p_value(known) <= 0.001
    test = permutation_test([(t.recipe, t.run, t.knowing(0, 1.0).loss_JK()) for t in tasks(0)])
    assert test.nearer < -1
    assert test.runs == 6


def test_a_test_says_the_least_p_that_it_can_give() -> None:
    """One run of five futures cannot reject at 5 %."""
    test = permutation_test([(t.recipe, t.run, t.knowing(0, 1.0).loss_JK()) for t in tasks(0, runs=1)])
    assert test.p_value == pytest.approx(0.2)
    assert test.least_p == pytest.approx(0.2)
    with pytest.raises(SeasonError, match="nothing can be tested"):
        permutation_test([])


def test_power_rises_with_the_weight_of_the_memory() -> None:
    """And a memory of one recipe is found less often than one of all."""
    found = {weight: detection_power(tasks(1), weight, LEVEL, draws=40) for weight in (0.0, 0.3, 1.0)}
    assert found[0.0]["all"] <= 0.25
    assert found[1.0]["all"] == 1.0
    assert found[0.0]["all"] <= found[0.3]["all"] <= found[1.0]["all"]
    assert set(found[1.0]) == {"all", "recipe0", "recipe1", "recipe2"}
    assert all(found[1.0][recipe] <= found[1.0]["all"] for recipe in found[1.0])


def test_the_floor_of_forks_is_the_error_of_whoever_knows_their_centre() -> None:
    """Within three of its own standard errors and 5 % of an oracle's error on futures that it has not seen."""
    random = np.random.default_rng(3)
    centre = random.dirichlet(np.full(8, 20.0), 2)
    floors = []
    for run in range(40):
        future = centre + 0.02 * random.standard_normal((5, 1, 2, 8))
        floors.append((str(run), *floor_fork(future)))
    oracle = share_distance(centre + 0.02 * random.standard_normal((4000, 1, 2, 8)), centre).mean()
    floor_K, error_K = mean_floor(floors)
    assert floor_K[0] == pytest.approx(oracle, rel=0.05)
    assert abs(floor_K[0] - oracle) < 3 * error_K[0] + 0.02 * oracle
    single_K = np.mean([error for _, _, error in floors])
    assert single_K == pytest.approx(np.std([floor for _, floor, _ in floors]), rel=0.5)


def test_a_layer_without_load_is_left_out_of_the_mean_over_layers() -> None:
    """A window of one step may hold none: no warning, and no number that is none."""
    load_SLE = np.array([[[3, 1], [0, 0]], [[1, 3], [2, 2]]])
    mean_KLE = window_means(load_SLE, (1, 2))
    assert np.isnan(mean_KLE[0, 1]).all()
    other_KLE = np.full_like(mean_KLE, 0.5)
    np.testing.assert_allclose(share_distance(mean_KLE, other_KLE), [0.25, 0.0])
