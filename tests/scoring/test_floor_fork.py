"""`floor_fork`: what is left to a forecaster that knows everything but the order of the text to come."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.scoring.forks import floor_fork, horizon_means, mean_floor, share_distance


def test_the_floor_is_the_error_of_a_forecaster_that_knows_the_centre_of_the_futures() -> None:
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


def test_two_futures_give_a_floor_without_an_error() -> None:
    """The jackknife leaves out one future, and one alone has no floor."""
    floor_K, error_K = floor_fork(np.array([[[[0.6, 0.4]]], [[[0.4, 0.6]]]]))
    np.testing.assert_allclose(floor_K, [0.2 / np.sqrt(2)])
    assert np.isnan(error_K).all()


def test_a_layer_without_load_is_left_out_of_the_mean_over_layers() -> None:
    """A window of one step may hold none: no warning, and no number that is none."""
    load_SLE = np.array([[[3, 1], [0, 0]], [[1, 3], [2, 2]]])
    mean_KLE = horizon_means(load_SLE, (1, 2))
    assert np.isnan(mean_KLE[0, 1]).all()
    other_KLE = np.full_like(mean_KLE, 0.5)
    np.testing.assert_allclose(share_distance(mean_KLE, other_KLE), [0.25, 0.0])
