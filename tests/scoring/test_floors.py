"""Floors against the error of an oracle, measured on synthetic traces whose true probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.errors import SuiteError
from moeload_bench.scoring.floors import FLOOR_METRICS, excess, floors_from, trace_floors, window_starts
from moeload_bench.scoring.forks import floor_fork, horizon_means, share_distance
from moeload_bench.states.rule import label_states
from moeload_bench.traces.trace import Trace
from tests.scoring import oracle
from tests.support.synthetic import autocorrelated, draw, even, fixed

HORIZONS = (1, 10, 100, 500)
S, L, E, TOKENS = 2600, 8, 32, 8192


def trace_of(p_SLE, tokens=TOKENS, seed=0, concentration=None, half=True):
    load, load_half = draw(p_SLE, tokens, seed, concentration=concentration)
    return Trace.from_arrays(load, top_k=1, columns={"load_half": load_half} if half else None)


def oracle_errors(trace, p_SLE, horizon):
    """Metric to the mean error of the forecast ``p_SLE`` over windows half a horizon apart, and over layers."""
    share = trace.share_SLE()
    found = {name: [] for name in FLOOR_METRICS}
    for origin in range(300, len(share) - horizon + 1, max(horizon // 2, 5)):
        truth, forecast = share[origin : origin + horizon], p_SLE[origin : origin + horizon]
        found["window_tv"].append(oracle.window_tv(forecast, truth))
        found["tv"].append(oracle.tv(forecast, truth))
        found["error_rate"].append(oracle.error_rate(forecast, truth)[0])
        found["error_rate_uniform"].append(oracle.error_rate_uniform(forecast, truth))
        found["window_error_rate"].append(oracle.window_error_rate(forecast, truth))
    return {name: np.mean(values) for name, values in found.items()}


def stable_floor(trace, name, horizons=HORIZONS):
    floors = trace_floors(trace, label_states(trace.load_SLE), horizons)
    return floors.by_state()["stable"][name]


def floor_of(trace, name):
    """Over all windows after row 300, whatever the state."""
    everywhere = np.arange(trace.steps) >= 300
    starts = dict.fromkeys(range(trace.num_layers), window_starts(everywhere, HORIZONS[-1]))
    values = floors_from(trace, starts, HORIZONS)[name].values
    return {metric: value_KL.mean(axis=1) for metric, value_KL in values.items()}


def assert_close(floor, trace, forecast_SLE, tolerance):
    for k, horizon in enumerate(HORIZONS):
        truth = oracle_errors(trace, forecast_SLE, horizon)
        for name in FLOOR_METRICS:
            assert floor[name][k] == pytest.approx(truth[name], rel=tolerance), (name, horizon)


@pytest.mark.parametrize("concentration", [pytest.param(None, marks=pytest.mark.slow), 300.0])
def test_floor_batch_for_independent_routing(concentration):
    """Within 5 % of the oracle's error in every metric up to 500 steps, with and without over-dispersion."""
    p = fixed(S, L, E)
    trace = trace_of(p, concentration=concentration)
    assert_close(floor_of(trace, "floor_batch"), trace, p, 0.05)


def test_floor_batch_with_few_tokens():
    """With 4 tokens per expert and step, experts without any in many steps, every metric is still within 5 %."""
    p = even(2400, 4, 32)
    trace = trace_of(p, tokens=32 * 4)
    assert_close(floor_of(trace, "floor_batch"), trace, p, 0.05)


@pytest.mark.parametrize("rho", [pytest.param(0.3, marks=pytest.mark.slow), 0.95])
def test_floor_batch_for_autocorrelated_routing(rho):
    """Within 5 % of the error of an oracle that knows probabilities that wander from step to step."""
    p = autocorrelated(fixed(S, L, E), rho, size=0.15)
    trace = trace_of(p, concentration=300.0)
    assert_close(floor_of(trace, "floor_batch"), trace, p, 0.05)


@pytest.mark.parametrize(
    "rho", [pytest.param(0.0, marks=pytest.mark.slow), pytest.param(0.15, marks=pytest.mark.slow), 0.3]
)
def test_floor_level_for_weak_autocorrelation(rho):
    """Within 10 % of the error of a forecaster that knows only the level, for lag-1 correlations of shares to 0.3."""
    level = fixed(S, L, E)
    trace = trace_of(autocorrelated(level, rho, size=0.15), tokens=65536, half=False)
    mean = np.broadcast_to(trace.share_SLE().mean(axis=0), level.shape)
    assert_close(floor_of(trace, "floor_level"), trace, mean, 0.10)


def test_floor_level_does_not_count_a_slow_drift():
    """A level that moves by 2 % of the tokens per 100 steps leaves the floor where it is without the drift."""
    still = fixed(1500, 4, 8)
    tilt = np.linspace(-0.15, 0.15, 1500)[:, None, None] * np.where(np.arange(8) % 2, 1.0, -1.0)
    moving = still * (1 + tilt)
    moving /= moving.sum(axis=-1, keepdims=True)
    floors = [stable_floor(trace_of(p, 2048, half=False), "floor_level", (1, 10, 100)) for p in (still, moving)]
    for name in FLOOR_METRICS:
        np.testing.assert_allclose(floors[0][name], floors[1][name], rtol=0.08)


@pytest.mark.slow
def test_floor_sampling_is_the_closed_form():
    """Top-1 draws: within 5 % of the oracle's error in every metric."""
    p = fixed(S, L, E)
    trace = trace_of(p)
    assert_close(floor_of(trace, "floor_sampling"), trace, p, 0.05)


def test_over_dispersed_batches_lie_above_the_sampling_floor():
    """When sequences differ in their routing, floor_batch sees it and floor_sampling cannot."""
    crowded = trace_of(fixed(1200, 2, 16), concentration=100.0)
    batch, sampling = (stable_floor(crowded, name)["window_tv"] for name in ("floor_batch", "floor_sampling"))
    assert (batch > 1.2 * sampling).all()


def test_floor_sampling_for_top_k_draws_without_replacement():
    """v = p (1 - k p) / (k T), checked on tokens that pick k different experts each."""
    rng = np.random.default_rng(0)
    k, tokens, steps = 4, 200, 600
    score = rng.gumbel(size=(steps, tokens, 8)) + np.linspace(0.0, 1.0, 8)
    picked = np.argpartition(-score, k, axis=2)[..., :k]
    load = np.stack([np.bincount(step.ravel(), minlength=8) for step in picked])[:, None]
    trace = Trace.from_arrays(load, tokens, top_k=k)
    floor = floors_from(trace, {0: np.array([0])}, (1,))["floor_sampling"]
    share = trace.share_SLE()[:, 0]
    assert floor.mark == "exact"
    truth = 0.5 * np.abs(share - share.mean(axis=0)).sum(axis=1).mean()
    assert floor.values["tv"][0, 0] == pytest.approx(truth, rel=0.05)


def test_halves_of_unequal_size_give_the_same_floor():
    """The halves of an odd number of sequences differ in size: the noise of the whole is still measured."""
    p = fixed(1500, 8, 16)
    full_batch, half = draw(p, 8192, sequences=8)
    uneven, smaller = draw(p, 8192 // 8 * 7, sequences=7)
    floors = [
        stable_floor(Trace.from_arrays(load, top_k=1, columns={"load_half": part}), "floor_batch", (100,))
        for load, part in ((full_batch, half), (uneven, smaller))
    ]
    assert floors[1]["window_tv"][0] == pytest.approx(floors[0]["window_tv"][0] * np.sqrt(8 / 7), rel=0.02)


def test_without_half_batches_the_floor_is_not_given():
    """No half batches: floor_batch is marked as not given and has no values; floor_level is marked approximate."""
    trace = trace_of(fixed(700, 2, 4), 512, half=False)
    floors = trace_floors(trace, label_states(trace.load_SLE), (1, 100))
    assert floors.marks() == {
        "floor_batch": "not given",
        "floor_level": "approximate",
        "floor_sampling": "exact",
    }
    assert "floor_batch" not in floors.by_state()["stable"]
    assert "no half batches" in floors.states["stable"]["floor_batch"].note
    unknown = Trace.from_arrays(trace.load_SLE)
    assert trace_floors(unknown, label_states(unknown.load_SLE), (1,)).marks()["floor_sampling"] == "approximate"


def test_floors_follow_the_state_of_the_origin():
    """Noise that is larger early gives the transient a larger floor; a state without rows has none."""
    p = fixed(2000, 3, 8)
    noisy, _ = draw(p[:300], 256, 1)
    calm, _ = draw(p[300:], 4096, 2)
    trace = Trace.from_arrays(np.concatenate([noisy, calm]), top_k=1)
    floors = trace_floors(trace, label_states(trace.load_SLE), (1, 10)).by_state()
    assert (floors["transient"]["floor_sampling"]["tv"] > 2 * floors["stable"]["floor_sampling"]["tv"]).all()
    short = Trace.from_arrays(noisy[:50], top_k=1)
    assert list(trace_floors(short, label_states(short.load_SLE), (10,)).by_state()) == ["transient"]


def test_edges_have_floors_without_warnings():
    """Layers without load, dead experts, one expert, empty steps and sampled traces give numbers or NaN, no warning."""
    load, half = draw(fixed(640, 3, 4), 256)
    load[:, 0, 3], half[:, 0, 3] = 0, 0
    load[:, 1], half[:, 1] = 0, 0
    load[400, 2], half[400, 2] = 0, 0
    trace = Trace.from_arrays(load, columns={"load_half": half})
    floors = trace_floors(trace, label_states(load), (1, 10, 100))
    values = floors.states["stable"]["floor_batch"].values
    assert np.isfinite(values["window_tv"][:, [0, 2]]).all()
    assert np.isnan(values["window_tv"][:, 1]).all()
    for by_floor in floors.by_state().values():
        for by_metric in by_floor.values():
            assert all(np.isfinite(value).all() for value in by_metric.values())
    one = Trace.from_arrays(np.full((400, 1, 1), 9), top_k=1)
    assert trace_floors(one, label_states(one.load_SLE), (10,)).by_state()["stable"]["floor_level"]["tv"][0] == 0
    sampled = Trace.from_arrays(load[::10], step_S=np.arange(0, 640, 10))
    assert "stable" in trace_floors(sampled, label_states(sampled.load_SLE, 10), (10, 100)).by_state()
    with pytest.raises(SuiteError, match="stride of 10 steps does not divide"):
        trace_floors(sampled, label_states(sampled.load_SLE, 10), (5,))


def test_windows_are_spread_and_fit():
    """Windows start in the state, leave room for the horizon, and are at most 400."""
    in_state = np.zeros(5000, dtype=bool)
    in_state[1000:] = True
    starts = window_starts(in_state, 500)
    assert (starts[0], starts[-1], len(starts)) == (1000, 4500, 400)
    assert window_starts(in_state[:1200], 500).size == 0


def test_excess_takes_the_floor_off_in_squares():
    """sqrt(error^2 - floor^2), 0 below the floor, NaN where either is missing."""
    np.testing.assert_allclose(excess(np.array([5.0, 1.0, 3.0]), np.array([3.0, 2.0, 0.0])), [4.0, 0.0, 3.0])
    assert np.isnan(excess(np.array([np.nan]), np.array([1.0])))[0]


@pytest.mark.parametrize("tokens", [256, 4096])
def test_excess_recovers_a_forecasts_own_error(tokens):
    """The excess of a forecast that is off by a known amount is 80-100 % of it, however much the floor hides."""
    p = fixed(1500, 6, 16)
    trace = trace_of(p, tokens)
    off = p * np.where(np.arange(16) % 2, 1.1, 0.9)
    off /= off.sum(axis=-1, keepdims=True)
    own = oracle.tv(off[:1], p[:1]).mean()
    error = oracle_errors(trace, off, 1)["window_tv"]
    floor = stable_floor(trace, "floor_batch", (1,))["window_tv"][0]
    assert 0.78 * own < float(excess(error, floor)) < 1.02 * own


@pytest.mark.parametrize("name", ["floor_batch", "floor_level", "floor_sampling"])
def test_rows_without_load_leave_every_floor_where_it_is(name):
    """Empty rows (one in 50, anywhere) are left out of the noise: each floor stays within 2 %."""
    p = fixed(3000, 2, 16)
    load, half = draw(p, 4096)
    empty = load.copy(), half.copy()
    at = np.random.default_rng(0).choice(3000, 60, replace=False)
    for column in empty:
        column[at] = 0
    full, holed = (
        floor_of(Trace.from_arrays(one, top_k=1, columns={"load_half": other}), name)
        for one, other in ((load, half), empty)
    )
    for metric in FLOOR_METRICS:
        np.testing.assert_allclose(holed[metric], full[metric], rtol=0.02, err_msg=metric)


def test_floor_level_survives_an_empty_row_in_every_block():
    """A block is the mean of its rows with load; fewer rows per block are accounted for, not lost."""
    load, _ = draw(fixed(3000, 2, 16), 4096)
    holed = load.copy()
    holed[3::10] = 0
    full, without = (floor_of(Trace.from_arrays(one, top_k=1), "floor_level") for one in (load, holed))
    np.testing.assert_allclose(without["window_tv"], full["window_tv"], rtol=0.04)


def test_windows_of_their_own_have_floors_of_their_own():
    """Floors of given windows, another set at each horizon, are those of `floors_from`; none is NaN, not a warning."""
    trace = trace_of(fixed(1200, 2, 16))
    first_KW = [np.array([], dtype=np.int64), np.array([400, 700])]
    floors = trace_floors(trace, None, (1, 100), given={"crossing": first_KW}).by_state()
    assert list(floors) == ["crossing"]
    expected = floors_from(trace, dict.fromkeys(range(2), first_KW[1]), (1, 100))["floor_batch"].values
    for metric, value_K in floors["crossing"]["floor_batch"].items():
        assert np.isnan(value_K[0])
        assert value_K[1] == pytest.approx(expected[metric][1].mean())


# ---------------------------------------------------------------- forks


def test_the_floor_is_the_error_of_a_forecaster_that_knows_the_centre_of_the_futures() -> None:
    """Within three of its own standard errors and 5 % of an oracle's error on futures that it has not seen."""
    random = np.random.default_rng(3)
    centre = random.dirichlet(np.full(8, 20.0), 2)
    floors = [floor_fork(centre + 0.02 * random.standard_normal((5, 1, 2, 8))) for _ in range(40)]
    oracle = share_distance(centre + 0.02 * random.standard_normal((4000, 1, 2, 8)), centre).mean()
    floor_R, error_R = (np.array(values_RK)[:, 0] for values_RK in zip(*floors, strict=True))
    assert floor_R.mean() == pytest.approx(oracle, rel=0.05)
    assert abs(floor_R.mean() - oracle) < 3 * floor_R.std() / np.sqrt(40) + 0.02 * oracle
    assert error_R.mean() == pytest.approx(floor_R.std(), rel=0.5)


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
