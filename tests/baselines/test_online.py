"""`online`: it finds cycles and new levels, returns to 1/E where a controller does, and uses complete rows only.

`online.guarded`: it begins between its two members and moves to the one that is nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baselines._history import BLOCK, SINGLE, History
from baselines._pooled import pooled_ridge, similar_rows
from baselines._totals import Totals
from baselines.guarded import Guarded
from baselines.online import HORIZONS, Online
from baselines.online_guarded import CHECK, OnlineGuarded
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo

REQUEST = ForecastRequest(0, 2000, HORIZONS)
Loads = NDArray[np.int64]


def counted(share_SLE: NDArray[np.float64], tokens: int = 100_000, seed: int = 0) -> Loads:
    """Loads of so many tokens per layer and row."""
    return np.random.default_rng(seed).multinomial(tokens, share_SLE).astype(np.int64)


def levels(steps: int, layers: int = 2, experts: int = 8, seed: int = 1) -> NDArray[np.float64]:
    """Uneven shares that stay as they are."""
    share_LE = np.random.default_rng(seed).dirichlet(np.full(experts, 2.0), layers)
    return np.broadcast_to(share_LE, (steps, layers, experts))


def forecaster(
    load_SLE: Loads, balancing: str = "none", portions: tuple[int, ...] = (), kind: Callable[..., Any] = Online
) -> Any:
    _, L, E = load_SLE.shape
    found = kind(TraceInfo(L, E, 2, tuple(range(L)), 512, 1, balancing, 0.0, 0), 0)
    for start, stop in zip((0, *portions), (*portions, len(load_SLE)), strict=True):
        rows = load_SLE[start:stop]
        found.observe(StepBlock(np.arange(start, stop), rows, rows.sum(axis=2)))
    return found


def means(load_SLE: Loads, *more: Any, **named: Any) -> NDArray[np.float64]:
    """[K, L, E] at `HORIZONS`, of what `forecaster` makes."""
    found: NDArray[np.float64] = forecaster(load_SLE, *more, **named).forecast(REQUEST).window_means(HORIZONS)
    return found


def error(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(0.5 * np.abs(one - other).sum(axis=-1).mean())


@pytest.mark.parametrize("period", [2, 3, 8])
def test_it_knows_the_phase_of_a_cycle(period: int) -> None:
    """The next row, and the mean of the next ten, of loads of which every row is unlike the one before."""
    phase_PLE = np.random.default_rng(3).dirichlet(np.full(8, 0.2), (period, 2))
    share_SLE = phase_PLE[np.arange(300) % period]
    found_KLE = means(counted(share_SLE))
    assert error(found_KLE[0], share_SLE[300 % period]) < 0.01
    coming_SLE = phase_PLE[np.arange(300, 310) % period]
    assert error(found_KLE[1], coming_SLE.mean(axis=0)) < 0.02
    assert error(phase_PLE.mean(axis=0), phase_PLE) > 0.3


def test_it_returns_to_equal_shares_where_a_controller_makes_them_equal() -> None:
    """After 60 rows that wander, over 2,000: the less the balancing method promises, the less it moves."""
    log_SLE = np.random.default_rng(4).normal(0, 0.3, (60, 2, 8)).cumsum(axis=0)
    load_SLE = counted(np.exp(log_SLE) / np.exp(log_SLE).sum(axis=2, keepdims=True))
    methods = ("loss_free_bias", "aux_loss", "none")
    far = [error(means(load_SLE, method)[-1], np.full((2, 8), 1 / 8)) for method in methods]
    assert far[0] < far[1] < far[2]
    assert far[0] < 0.2 * far[2]


def test_a_level_that_changed_lately_is_followed_over_long_horizons() -> None:
    """60 rows after a switch, no target of 250 rows has ended on the new level yet."""
    old_SLE, new_SLE = levels(1500), levels(60, seed=2)
    found_KLE = means(counted(np.concatenate([old_SLE, new_SLE])))
    assert error(found_KLE[3], new_SLE[0]) < 0.2 * error(old_SLE[0], new_SLE[0])


def test_a_ridge_follows_loads_that_return_to_their_mean() -> None:
    """x(t + 1) - m = 0.8 (x(t) - m): better than the newest row and than the mean, far ahead it is the mean."""
    rng, mean_LE = np.random.default_rng(5), levels(1)[0]
    off_SLE = np.zeros((800, 2, 8))
    for step in range(1, len(off_SLE)):
        shock_LE = 0.01 * rng.normal(size=(2, 8))
        off_SLE[step] = 0.8 * off_SLE[step - 1] + shock_LE - shock_LE.mean(axis=1, keepdims=True)
    share_SLE = np.maximum(mean_LE + off_SLE, 1e-6)
    share_SLE /= share_SLE.sum(axis=2, keepdims=True)
    load_SLE, tried = counted(share_SLE, 10_000_000), range(500, 800, 20)
    found = [error(means(load_SLE[:at])[0], mean_LE + 0.8 * off_SLE[at - 1]) for at in tried]
    newest = [error(share_SLE[at - 1], mean_LE + 0.8 * off_SLE[at - 1]) for at in tried]
    assert np.mean(found) < 0.75 * np.mean(newest)


def test_order_of_experts_and_size_of_portions_do_not_matter() -> None:
    """Under loss-free balancing, with enough rows for every part of the forecaster."""
    load_SLE = counted(levels(700), 2_000)
    expected_KLE = means(load_SLE, "loss_free_bias")
    order = np.random.default_rng(7).permutation(8)
    np.testing.assert_allclose(means(load_SLE[..., order], "loss_free_bias"), expected_KLE[..., order], atol=1e-9)
    np.testing.assert_allclose(means(load_SLE, "loss_free_bias", (1, 17, 400, 641)), expected_KLE, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 21, 129])
def test_few_rows_are_enough(rows: int) -> None:
    """Shares that sum to 1 from the first row on, though one layer had no load and one expert never has any."""
    load_SLE = counted(levels(rows))
    load_SLE[:, :, 3], load_SLE[-1, 0] = 0, 0
    share_BLE = forecaster(load_SLE).forecast(REQUEST).share_BLE
    np.testing.assert_allclose(share_BLE.sum(axis=2), 1)
    assert (share_BLE[:, 1, 3] == 0).all()


def test_totals_are_means_of_stretches() -> None:
    """Exact for the newest rows, and between borders of blocks for older ones."""
    row_SLE = np.random.default_rng(0).random((400, 1, 3))
    history = History(TraceInfo(1, 3, 1, (0,), None, 1, "none", 0.0, 0))
    history.push(row_SLE)
    totals, newest_SLE = Totals(history), row_SLE[::-1]
    assert totals.reach == 400
    np.testing.assert_allclose(totals.means(3, SINGLE), newest_SLE[3:SINGLE].mean(axis=0))
    near, far = 144, 144 + 5 * BLOCK
    np.testing.assert_allclose(totals.means([near + 2], [far - 2])[0], newest_SLE[near:far].mean(axis=0))
    np.testing.assert_allclose(totals.windows([0, 5], [1, 9])[1, 1], newest_SLE[5:14].mean(axis=0))


def test_similar_rows_have_a_complete_future_at_the_origin() -> None:
    """None of them is newer than what the origin had seen, less the rows that are forecast."""
    row_JLE = np.random.default_rng(0).random((60, 2, 4))
    nearest_NKL, weight_NKL = similar_rows(row_JLE, np.array([0, 7, 20]), 10)
    assert (nearest_NKL >= np.array([10, 17, 30])[:, None, None]).all()
    np.testing.assert_allclose(weight_NKL.sum(axis=1), 1)


def test_the_ridge_finds_planted_coefficients() -> None:
    """Less its penalty; a weight of 0 leaves a target out."""
    rng = np.random.default_rng(0)
    feature_NFLE = rng.normal(size=(40, 2, 3, 8))
    residual_NLE = np.einsum("f,nfle->nle", [0.5, -0.2], feature_NFLE)
    residual_NLE[:10] = 9.0
    weight_N = (np.arange(40) >= 10).astype(np.float64)
    np.testing.assert_allclose(pooled_ridge(feature_NFLE, residual_NLE, weight_N), [0.5, -0.2], atol=0.02)


def test_before_any_target_has_come_both_members_count_half() -> None:
    """Over each horizon the mean is that of the two."""
    load_SLE = counted(levels(CHECK - 1), 2_000)
    each = [means(load_SLE, kind=kind) for kind in (Guarded, Online)]
    np.testing.assert_allclose(means(load_SLE, kind=OnlineGuarded), np.mean(each, axis=0), atol=1e-9)


def test_it_moves_to_the_member_that_was_nearer() -> None:
    """Loads swing from row to row, which `online` foresees and `guarded` does not."""
    phase_PLE = np.random.default_rng(3).dirichlet(np.full(8, 0.2), (2, 2))
    load_SLE = counted(phase_PLE[np.arange(6 * CHECK) % 2])
    wrong, right = (error(means(load_SLE, kind=kind)[0], phase_PLE[0]) for kind in (Guarded, OnlineGuarded))
    assert right < 0.1 * wrong


def test_size_of_portions_does_not_matter_to_the_mixture() -> None:
    """Checks fall on the same rows, whatever a portion holds."""
    load_SLE = counted(levels(3 * CHECK), 2_000)
    expected_KLE = means(load_SLE, kind=OnlineGuarded)
    np.testing.assert_allclose(means(load_SLE, "none", (1, 130, 300), OnlineGuarded), expected_KLE, atol=1e-9)
