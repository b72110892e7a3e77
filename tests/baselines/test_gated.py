"""`gated` and `adaptive`: their memory, what they measure, the network's weights, and every rule for unusual input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from moeload_bench.baselines import _gate, _measures
from moeload_bench.baselines._history import BLOCK, REACH, SINGLE, History
from moeload_bench.baselines._path import block_edges, hat_weights
from moeload_bench.baselines.gated import MIN_ROWS, Gated
from moeload_bench.baselines.sw_avg import SlidingWindowAverage
from numpy.typing import NDArray

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, check_forecast
from moeload_bench.traces.trace import shares
from tests.conftest import synthetic_load_SLE
from tests.support.archives import changed_archive

HORIZONS = (5, 50, 500, 5000)
INFO = TraceInfo(2, 4, 2, (0, 1), 512, 1, "none", 0.0, 0)


def followed(cls: Any, load_SLE: NDArray[np.int64], sizes: tuple[int, ...] = (400,), **changes: Any) -> Any:
    """A forecaster that has seen all rows, in blocks of these sizes in turn."""
    _, L, E = load_SLE.shape
    info = replace(INFO, num_layers=L, num_experts=E, layer_indices=tuple(range(L)), **changes)
    forecaster, start, turn = cls(info, 0), 0, 0
    while start < len(load_SLE):
        rows = load_SLE[start : start + sizes[turn % len(sizes)]]
        step_S = np.arange(start, start + len(rows)) * info.stride
        forecaster.observe(StepBlock(step_S, rows, rows.sum(axis=2) // 2))
        start, turn = start + len(rows), turn + 1
    return forecaster


def ask(forecaster: Any, load_SLE: NDArray[np.int64], horizons: tuple[int, ...] = HORIZONS) -> Forecast:
    """The forecast, checked as the harness checks it."""
    _, L, E = load_SLE.shape
    info = replace(INFO, num_layers=L, num_experts=E, layer_indices=tuple(range(L)))
    request = ForecastRequest(len(load_SLE), horizons[-1], horizons)
    return check_forecast(forecaster.forecast(request), request, info)


# -------------------------------------------------------------------------------------------------- memory and path


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 128, 145, 1000, REACH + 500])
def test_history_sums_are_those_of_the_rows(rows: int) -> None:
    """Exact sums of the stretch that is named: as asked up to 128 rows, within a block beyond, cut at the reach."""
    row_SLE = np.random.default_rng(0).random((rows, 1, 3))
    history = History(replace(INFO, num_layers=1, num_experts=3))
    for start in range(0, rows, 37):
        history.push(row_SLE[start : start + 37])
    back = [0, 1, 5, SINGLE, SINGLE + 1, 300, 1000, REACH]
    held, sums = history.sums(back)
    for asked, got, total in zip(back, held, sums, strict=True):
        np.testing.assert_allclose(total, row_SLE[rows - got :].sum(axis=0), rtol=1e-12)
        assert got == min(asked, rows) if asked <= SINGLE else abs(got - min(asked, rows)) <= BLOCK
    assert history.reach <= min(rows, REACH + BLOCK)


def test_history_does_not_grow() -> None:
    """After ten times its reach it holds no more rows than after once."""
    history = History(INFO)
    row_SLE = np.ones((512, 2, 4))
    sizes = []
    for _ in range(10 * REACH // 512):
        history.push(row_SLE)
        sizes.append(len(history._single._buffer) + len(history._blocks._buffer))
    assert max(sizes) <= 2 * (SINGLE + BLOCK) + 2 * (REACH // BLOCK) + 1024 // BLOCK


@pytest.mark.parametrize("horizon", [1, 5, 50, 500, 5000])
def test_path_means_are_convex_and_exact(horizon: int) -> None:
    """A block's weights are a convex mixture, equal to the mean of the interpolated path, whatever the other edges."""
    anchors = _measures.ANCHORS
    edges = block_edges(ForecastRequest(0, 5000, (horizon, 5000)), 1)
    weight_BA = hat_weights(anchors, edges)
    assert horizon in edges
    assert (weight_BA >= 0).all()
    np.testing.assert_allclose(weight_BA.sum(axis=1), 1)
    path = np.array([np.interp(np.log(s), np.log(anchors), np.arange(len(anchors))) for s in range(1, horizon + 1)])
    inside = np.diff((0, *edges))[: edges.index(horizon) + 1]
    mean = inside @ weight_BA[: len(inside)] @ np.arange(len(anchors)) / horizon
    assert mean == pytest.approx(path.mean(), rel=1e-9)
    np.testing.assert_allclose(
        hat_weights(anchors, (horizon,))[0], inside @ weight_BA[: len(inside)] / horizon, atol=1e-12
    )


# ------------------------------------------------------------------------------------------------------ conformance


@pytest.mark.parametrize("balancing", ["none", "aux_loss", "loss_free_bias", "a method nobody has heard of"])
@pytest.mark.parametrize("stride", [1, 10])
def test_numbering_and_block_sizes_do_not_matter(balancing: str, stride: int) -> None:
    """On 700 rows, where blocks, back-tests and the controller's signs are in use: the same to 1e-9."""
    load = synthetic_load_SLE(700, experts=5)
    how = {"balancing": balancing, "stride": stride}
    single_block = ask(followed(Gated, load, **how), load)
    order = np.array([3, 0, 4, 1, 2])
    permuted = ask(followed(Gated, load[:, :, order], (1, 99, 7), **how), load)
    np.testing.assert_allclose(permuted.share_BLE, single_block.share_BLE[:, :, order], rtol=1e-9, atol=1e-12)


def test_group_is_not_used() -> None:
    """Withholding the group changes nothing: no run's weights are its own recipe's."""
    load = synthetic_load_SLE(300)
    one, other = (ask(followed(Gated, load, group=group), load) for group in (0, 7))
    np.testing.assert_array_equal(one.share_BLE, other.share_BLE)


# --------------------------------------------------------------------------------------------------- unusual input


def test_fewer_than_five_rows_give_their_mean() -> None:
    """Nothing is measured on four rows; it is counted."""
    load = synthetic_load_SLE(MIN_ROWS - 1)
    forecaster = followed(Gated, load)
    np.testing.assert_allclose(ask(forecaster, load).share_BLE[0], shares(load).mean(axis=0), rtol=1e-12)
    assert forecaster.counts == {"forecasts": 1, "early": 1, "shipped": 1}


@pytest.mark.parametrize("balancing", ["none", "loss_free_bias"])
def test_dead_experts(balancing: str) -> None:
    """A dead expert stays at exactly 0, except where a loss-free controller raises its bias."""
    load = synthetic_load_SLE(300, experts=5)
    load[:, :, 2] = 0
    share = ask(followed(Gated, load, balancing=balancing), load).share_BLE[:, :, 2]
    assert (share == 0).all() if balancing == "none" else share[-1].max() > 0


def test_starved_experts_are_not_woken() -> None:
    """An expert at a thousandth of 1/E is not forecast at more than five times its share at any horizon."""
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.19975, 0.00025])
    load = rng.multinomial(40_000, p, size=(600, 2)).astype(np.int64)
    forecast = ask(followed(Gated, load, balancing="aux_loss"), load)
    assert forecast.window_means(HORIZONS)[..., 3].max() < 5 * p[3]


@pytest.mark.parametrize("stride", [1, 10])
@pytest.mark.parametrize("steps", [50, 400])
def test_odd_input_costs_little_against_the_reference(steps: int, stride: int) -> None:
    """Dead experts, holes and a second layer without any load: at most 5 % worse than `sw_avg` beside it, 50 rows seen
    or 400, where its window is no better than what there is to know."""
    truth = np.random.default_rng(3).dirichlet(np.full(8, 2.0))
    truth[5] = 0
    truth /= truth.sum()
    ratio = []
    for seed in range(6):
        load = np.random.default_rng(seed).multinomial(2000, truth, size=(steps, 2)).astype(np.int64)
        load[:, 1] = 0
        load[steps // 3] = 0
        told = [ask(followed(cls, load, stride=stride), load) for cls in (Gated, SlidingWindowAverage)]
        mine, theirs = (0.5 * np.abs(f.window_means(HORIZONS)[:, 0] - truth).sum(axis=1) for f in told)
        ratio.append(np.log(mine / theirs))
    assert np.exp(np.mean(ratio)) < 1.05


# ---------------------------------------------------------------------------------------------------------- weights


def some_gate() -> _gate.Gate:
    """Weights that were never fitted."""
    rng = np.random.default_rng(0)
    C, outer = len(_measures.context_names()), len(_measures.ANCHORS) * _gate.WEIGHTS
    sizes: list[tuple[int, ...]] = [(C,), (C,), (C, 3), (3,), (3, outer), (outer,)]
    arrays = [rng.normal(size=size).astype(np.float32) for size in sizes]
    arrays[1] = np.abs(arrays[1]) + 1
    return _gate.Gate(*arrays)


def test_shipped_weights_are_the_pinned_ones() -> None:
    """Reading the file checks that its hash is the one in the source."""
    assert _gate.shipped_gate().inner_U.shape == (32,)


def test_weights_come_back_as_they_were() -> None:
    """Archives hold all of the weights, and the same weights give the same bytes."""
    gate = some_gate()
    data = gate.to_bytes()
    again = _gate.read_gate(data, "a test")
    assert again.to_bytes() == data
    load = synthetic_load_SLE(100)
    one, other = (Gated(INFO, 0, fitted=bytes_) for bytes_ in (data, None))
    for forecaster in (one, other):
        forecaster.observe(StepBlock(np.arange(100), load, load.sum(axis=2) // 2))
    assert (ask(one, load).share_BLE != ask(other, load).share_BLE).any()
    assert (one.counts["shipped"], other.counts["shipped"]) == (0, 1)


def _archive(**changes: Any) -> bytes:
    return changed_archive(some_gate().to_bytes(), **changes)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no archive", "no archive"),
        (some_gate().to_bytes()[:-50], "no archive"),
        (bytes(_gate.MAX_BYTES + 1), "expected at most"),
        (_archive(signature=np.zeros(32, dtype=np.uint8)), "another version"),
        (_archive(signature=None), "another version"),
        (_archive(mean_C=np.zeros(3, dtype=np.float32)), "mean_C"),
        (_archive(inner_U=np.zeros((3, 1), dtype=np.float32)), "expected finite float32"),
        (_archive(outer_M=None), "outer_M"),
        (_archive(scale_C=np.full(len(_measures.context_names()), np.nan, dtype=np.float32)), "scale_C"),
        (_archive(outer_M=np.array([object()], dtype=object)), "no archive"),
    ],
)
def test_other_weights_are_refused_by_name(data: bytes, says: str) -> None:
    """Broken, too large, pickled, of another version or shape, not finite: one line that says which."""
    with pytest.raises(TargetError, match=says):
        Gated(INFO, 0, fitted=data)


def test_few_recipes_fit_nothing() -> None:
    """Runs of fewer than six recipes leave the shipped weights in use; asking for these fits nothing either."""
    block = StepBlock(np.arange(9), synthetic_load_SLE(9), np.full((9, 2), 512))
    assert Gated.fit([(INFO, block)] * 9, 0) == b""
    assert Gated.fit([(replace(INFO, group=g), block) for g in range(9)], 0, weights="shipped") == b""
