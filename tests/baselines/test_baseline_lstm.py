"""`lstm`: rules of its own. Training is cut to a few updates except where learning is what is tested."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo, check_forecast
from moeload_bench.isolation.targets import load_class, parse_target
from moeload_bench.traces.trace import shares
from tests.conftest import need, synthetic_load_SLE

torch = need("torch", "pip install -e '.[torch]'")

from moeload_bench.baselines import _lstm_net as net  # noqa: E402  needs torch, checked above
from moeload_bench.baselines import lstm  # noqa: E402

HORIZONS = (1, 10, 100, 2000)


@pytest.fixture(autouse=True)
def _few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm, "OFFLINE_UPDATES", 8)
    monkeypatch.setattr(lstm, "ONLINE_UPDATES", 4)
    monkeypatch.setattr(lstm, "ONLINE_EVERY", 200)


def info_of(load_SLE: NDArray[np.int64], group: int = 0, stride: int = 1) -> TraceInfo:
    _, L, E = load_SLE.shape
    return TraceInfo(L, E, 2, tuple(range(L)), 512, stride, "none", 0.0, group)


def block(load_SLE: NDArray[np.int64], start: int = 0, stop: int | None = None) -> StepBlock:
    rows = load_SLE[start:stop]
    return StepBlock(np.arange(start, start + len(rows)), rows, rows.sum(axis=2) // 2)


def ask(forecaster: lstm.Lstm, load_SLE: NDArray[np.int64], horizons: tuple[int, ...] = HORIZONS):  # type: ignore[no-untyped-def]  # a Forecast
    request = ForecastRequest(len(load_SLE), horizons[-1], horizons)
    return check_forecast(forecaster.forecast(request), request, info_of(load_SLE))


def test_fit_is_a_function_of_runs_and_seed() -> None:
    """Two fits give the same bytes, another seed gives others, and torch's generator and threads are left alone."""
    load = synthetic_load_SLE(400)
    runs = [(info_of(load), block(load))]
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = lstm.Lstm.fit(runs, 0)
    assert first == lstm.Lstm.fit(runs, 0)
    assert first != lstm.Lstm.fit(runs, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert threads == torch.get_num_threads()


def test_fitted_network_serves_its_group_and_shape_only() -> None:
    """Another group, another shape, no fit at all: online, and counted as unfitted."""
    load, other = synthetic_load_SLE(400), synthetic_load_SLE(400, experts=6)
    fitted = lstm.Lstm.fit([(info_of(load), block(load))], 0)
    assert lstm.Lstm(info_of(load), 0, fitted).counts["unfitted"] == 0
    for info, data in ((info_of(load, group=1), fitted), (info_of(other), fitted), (info_of(load), None)):
        assert lstm.Lstm(info, 0, data).counts["unfitted"] == 1
    assert lstm.Lstm(info_of(load), 0, fitted, mode="online").counts["unfitted"] == 0


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_block_size_of_observe_does_not_matter(mode: str) -> None:
    """Training happens at fixed row numbers, whatever blocks the rows come in."""
    load = synthetic_load_SLE(450)
    fitted = lstm.Lstm.fit([(info_of(load), block(load))], 0, mode=mode)
    single_block, parts = (lstm.Lstm(info_of(load), 0, fitted, mode=mode) for _ in range(2))
    single_block.observe(block(load))
    for start in range(0, 450, 7):
        parts.observe(block(load, start, start + 7))
        ask(parts, load)
    np.testing.assert_allclose(ask(parts, load).share_BLE, ask(single_block, load).share_BLE, rtol=1e-9)
    assert parts.counts["online_fits"] == single_block.counts["online_fits"] == (2 if mode == "online" else 0)


def test_shorter_horizon_is_a_prefix() -> None:
    """A horizon inside a block gets that block's mean; one beyond the last block repeats it."""
    load = synthetic_load_SLE(400)
    forecaster = lstm.Lstm(info_of(load), 0, lstm.Lstm.fit([(info_of(load), block(load))], 0))
    forecaster.observe(block(load))
    longest = ask(forecaster, load, (1, 9000))
    assert longest.edges_B.tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 9000]
    for horizon in (1, 7, 10, 500, 1234):
        shorter = ask(forecaster, load, (horizon,))
        assert shorter.edges_B[-1] == horizon
        np.testing.assert_array_equal(shorter.share_BLE, longest.share_BLE[: len(shorter.edges_B)])


def test_online_forecasts_no_block_longer_than_it_could_learn_from() -> None:
    """After 200 steps of history blocks up to 50 steps end inside it at 50 origins; the last one is repeated."""
    load = synthetic_load_SLE(390)
    forecaster = lstm.Lstm(info_of(load), 0, mode="online")
    forecaster.observe(block(load))
    assert ask(forecaster, load).edges_B.tolist() == [1, 2, 5, 10, 20, 2000]
    assert net.learnable_blocks(200, net.Shape(1, 1, 100, (1,), (1, 50, 52)), 50) == 2


def test_before_a_window_is_full_the_mean_is_used_and_counted() -> None:
    """Nothing observed: 1/E. Fewer than 100 steps: their mean."""
    load = synthetic_load_SLE(60)
    forecaster = lstm.Lstm(info_of(load), 0)
    np.testing.assert_allclose(ask(forecaster, load).share_BLE, 0.25)
    forecaster.observe(block(load))
    np.testing.assert_allclose(ask(forecaster, load).share_BLE[0], shares(load).mean(axis=0), rtol=1e-12)
    assert forecaster.counts["fallback"] == forecaster.counts["forecasts"] == 2


def test_runs_too_short_to_learn_from_fit_nothing() -> None:
    """A fit on 100 steps is empty, not an error."""
    load = synthetic_load_SLE(100)
    fitted = lstm.Lstm.fit([(info_of(load), block(load))], 0)
    assert lstm.Lstm(info_of(load), 0, fitted).counts["unfitted"] == 1


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module says at once what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "moeload_bench.baselines.lstm")
    with pytest.raises(MissingExtraError, match=r"moeload-bench\[torch\]"):
        load_class(parse_target("lstm"))


def test_unknown_mode_is_refused() -> None:
    """One line that says which modes there are."""
    load = synthetic_load_SLE(1)
    with pytest.raises(TargetError, match="offline, online"):
        lstm.Lstm(info_of(load), 0, mode="sideways")
    with pytest.raises(TargetError, match="offline, online"):
        lstm.Lstm.fit([], 0, mode="sideways")


@pytest.mark.slow
def test_it_learns_what_averages_cannot() -> None:
    """On loads with a period of 8 steps the trained one-step forecast beats the last value and the mean."""
    rng = np.random.default_rng(0)
    phase_S = np.sin(np.arange(1500) * 2 * np.pi / 8)
    p_SLE = 0.25 * (1 + 0.5 * phase_S[:, None, None] * np.array([1, -1, 1, -1]))
    load = np.asarray(rng.multinomial(2000, np.broadcast_to(p_SLE, (1500, 2, 4))))
    share = shares(load)
    network = net.new_net(net.Shape(2, 4, 100, (1, 5, 20, 100), (1, 2)), 0)
    net.set_scale(network, [share[:1000]])
    net.train(network, [share[:1000]], 300, np.random.default_rng(0))
    origins = range(1100, 1490, 3)
    error = np.mean([np.abs(net.forecast(network, share[o - 100 : o])[0] - share[o]).sum() for o in origins])
    mean = np.mean([np.abs(share[o - 100 : o].mean(axis=0) - share[o]).sum() for o in origins])
    last = np.mean([np.abs(share[o - 1] - share[o]).sum() for o in origins])
    assert error < 0.8 * min(mean, last)
