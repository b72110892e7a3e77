"""One pass over the window gives what the plain metrics give on each prefix."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import ForecastError, SuiteError
from moeload_bench.forecaster import Forecast, ForecastRequest, check_forecast, trace_info
from moeload_bench.placement.plans import headline_shapes
from moeload_bench.scoring import metrics
from moeload_bench.scoring import scores as scoring
from moeload_bench.scoring.catalogue import forecast_metrics
from moeload_bench.scoring.plan_scores import reference_plans, score_plans
from moeload_bench.scoring.scores import SCORING_VERSION, failure_scores, score_forecast
from moeload_bench.traces.trace import Trace
from tests.scoring import oracle


def random_forecast(rng, H, L, E, blocks):
    edges = np.sort(rng.choice(np.arange(1, H), blocks - 1, replace=False)) if blocks > 1 else np.array([], dtype=int)
    return Forecast(rng.dirichlet(np.ones(E), (blocks, L)), np.append(edges, H).astype(np.int64))


def expanded(forecast, rows, stride):
    at = np.searchsorted(forecast.edges_B, np.arange(rows) * stride, side="right")
    return forecast.share_BLE[at]


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**31), stride=st.sampled_from([1, 1, 5]))
def test_every_prefix_matches_the_plain_metrics(data, seed, stride):
    """Whatever the blocks, the horizons, the stride, the holes and the chunks: the plain metrics on each prefix."""
    rng = np.random.default_rng(seed)
    rows, L, E = int(rng.integers(2, 40)), 3, int(rng.integers(2, 6))
    share = rng.dirichlet(np.ones(E), (rows, L))
    share[:, 2][rng.random((rows, E)) < 0.2] = 0.0
    share[rng.random((rows, L)) < 0.2] = np.nan
    H = rows * stride
    forecast = random_forecast(rng, H, L, E, int(rng.integers(1, min(H, 6) + 1)))
    horizons = sorted({int(h) * stride for h in rng.integers(1, rows + 1, 3)} | {H})
    last = rng.dirichlet(np.full(E, 0.1), L)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "CELLS_PER_CHUNK", data.draw(st.sampled_from([1, 30, 1 << 17])))
        scores = score_forecast(forecast, share, horizons, stride=stride, last_share_LE=last)
    full = expanded(forecast, rows, stride)
    for k, h in enumerate(horizons):
        p_hat, p = full[: h // stride], share[: h // stride]
        mean_hat, mean = oracle.window_means(p_hat, p)
        rate, covered = oracle.error_rate(p_hat, p)
        expected = {
            "window_tv": oracle.window_tv(p_hat, p),
            "tv": oracle.tv(p_hat, p),
            "error_rate": rate,
            "error_rate_covered": covered,
            "error_rate_uniform": oracle.error_rate_uniform(p_hat, p),
            "window_error_rate": oracle.window_error_rate(p_hat, p),
            "revival_recall": metrics.revival_recall(mean_hat, mean, last),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(scores[name][k], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_forecast_is_scored_on_the_rows_from_the_origin_on():
    """A path that is exact at each step scores 0 at every horizon; shifted by one step it does not."""
    share = np.random.default_rng(0).dirichlet(np.ones(4), (50, 2))
    exact = score_forecast(Forecast.path(share), share, (1, 10, 50))
    assert exact["tv"].max() == 0
    late = score_forecast(Forecast.path(np.roll(share, 1, axis=0)), share, (1, 10, 50))
    assert late["tv"].min() > 0.1


def test_golden_scores():
    """The scores of one fixed task: a change here is a change of SCORING_VERSION."""
    H, L, E = 6, 2, 4
    weight = (np.arange(H * L * E).reshape(H, L, E) * 7 % 11 + 1).astype(float)
    share = weight / weight.sum(axis=-1, keepdims=True)
    forecast = Forecast(np.array([[[0.1, 0.2, 0.3, 0.4]] * L, [[0.4, 0.3, 0.2, 0.1]] * L]), np.array([2, 6]))
    quantile = np.stack([share[:1] * 0.5, share[:1] * 1.2])[:, [0, 0]]
    scores = score_forecast(
        Forecast(forecast.share_BLE, forecast.edges_B, quantile),
        share,
        (2, 6),
        quantiles=(0.1, 0.9),
        last_share_LE=np.array([[0.01, 0.33, 0.33, 0.33], [0.25] * 4]),
    )
    assert SCORING_VERSION == 2
    assert golden(scores) == GOLDEN


def test_golden_scores_of_plans():
    """Plans of one fixed task, in every shape that 64 experts have: shapes, planner and capacity are code, so a change
    here is a change of SCORING_VERSION."""
    H, L, E = 6, 1, 64
    weight = ((np.arange(H * L * E).reshape(H, L, E) * 7 % 11 + 1) ** 2).astype(float)
    share = weight / weight.sum(axis=-1, keepdims=True)
    shapes = headline_shapes(E)
    references = reference_plans(share, (2, 6), shapes)
    scores = score_plans(np.stack([share[0], share[3]]), share, references)
    assert [shape.name for shape in shapes] == ["quarter", "half", "plain", "nodes"]
    assert golden(scores) == GOLDEN_PLANS


def golden(scores):
    return {name: np.where(np.isnan(value), None, np.round(value, 8)).tolist() for name, value in scores.items()}


GOLDEN: dict[str, list[list[float | None]]] = {
    "window_tv": [[0.23137255, 0.24358974], [0.13423903, 0.12102933]],
    "tv": [[0.26936275, 0.24358974], [0.29061009, 0.26376437]],
    "error_rate": [[1.16493687, 0.54204275], [0.99532648, 0.99064138]],
    "error_rate_covered": [[1.0, 1.0], [1.0, 1.0]],
    "error_rate_uniform": [[0.53872549, 0.48717949], [0.58122019, 0.52752874]],
    "window_error_rate": [[0.41019884, 0.54004094], [0.30428212, 0.23964307]],
    "hot_recall": [[0.0, 0.0], [0.0, 0.0]],
    "rank_correlation": [[0.4, 0.0], [-0.2, -0.2]],
    "revival_recall": [[1.0, None], [1.0, None]],
    "wql": [[0.16142157, 0.07], [0.33430333, 0.18715174]],
    "coverage": [[0.25, 1.0], [0.25, 0.25]],
}

GOLDEN_PLANS: dict[str, list[list[float]]] = {
    "imbalance@quarter": [[1.38802043], [1.39940164]],
    "drop_rate@quarter": [[0.02651452], [0.03433124]],
    "imbalance@half": [[1.45198376], [1.76563288]],
    "drop_rate@half": [[0.06292244], [0.10553142]],
    "imbalance@plain": [[1.31431852], [1.31856875]],
    "drop_rate@plain": [[0.02234229], [0.01755187]],
    "imbalance@nodes": [[1.36265328], [1.39796162]],
    "drop_rate@nodes": [[0.0214244], [0.02871641]],
    "drop_rate@experts": [[0.28448512], [0.47096299]],
    "regret@quarter": [[0.02254213], [-0.08834927]],
    "regret@half": [[-0.08146746], [0.02498763]],
    "regret@plain": [[-0.17826541], [-0.18593414]],
    "regret@nodes": [[-0.07776651], [-0.15861745]],
}


def test_constant_forecasts_are_not_expanded():
    """Scoring a constant forecast over 2,000 steps needs memory for a chunk, not for the window."""
    L, E, H = 4, 64, 4000
    share = np.full((H, L, E), 1.0 / E)
    forecast = Forecast.constant(share[0], H)
    tracemalloc.start()
    score_forecast(forecast, share, (10, 100, H))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < share.nbytes / 1.5


def test_horizons_that_cannot_be_scored_are_refused():
    """A stride that does not divide a horizon, too few rows, horizons out of order, a forecast that ends too early."""
    share = np.full((10, 1, 2), 0.5)
    forecast = Forecast.constant(share[0], 100)
    with pytest.raises(SuiteError, match="stride of 10 steps does not divide the horizon of 15"):
        score_forecast(forecast, share, (15,), stride=10)
    with pytest.raises(SuiteError, match="needs 11 rows, got 10"):
        score_forecast(forecast, share, (11,))
    with pytest.raises(SuiteError, match="must rise"):
        score_forecast(forecast, share, (5, 5))
    with pytest.raises(ForecastError, match="ends at 4 steps, expected 10"):
        score_forecast(Forecast.constant(share[0], 4), share, (10,))


def test_quantiles_that_cross_are_refused():
    """A higher level with a lower share is refused before scoring, by name; quantiles in order pass."""
    request = ForecastRequest(origin=0, horizon=10, horizons=(10,), quantiles=(0.1, 0.9))
    info = trace_info(Trace.from_arrays(np.full((5, 1, 2), 3), top_k=1))
    share = np.array([[0.5, 0.5]])
    ordered = np.array([0.4, 0.6])[:, None, None, None] * np.ones((2, 1, 1, 2))
    check_forecast(Forecast(share[None], np.array([10]), ordered), request, info)
    with pytest.raises(ForecastError, match="crosses itself"):
        check_forecast(Forecast(share[None], np.array([10]), ordered[::-1].copy()), request, info)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (None, "returned NoneType"),
        ([[0.5, 0.5]], "returned list"),
        (np.full((1, 3), 1 / 3), r"returned float64 of shape \(1, 3\)"),
        (np.full((9, 1, 2), 0.5), r"returned float64 of shape \(9, 1, 2\)"),
        (np.array([["a", "b"]]), "returned <U1"),
        (np.array([[0.5, 0.6]]), "sum to 1"),
    ],
)
def test_another_answer_than_shares_is_refused_by_what_it_is(answer: object, got: str) -> None:
    """A plain array passes with one of two shapes and is checked as a `Forecast` is; whole numbers are shares too."""
    request, info = ForecastRequest(0, 10, (10,)), trace_info(Trace.from_arrays(np.full((5, 1, 2), 3), top_k=1))
    with pytest.raises(ForecastError, match=got):
        check_forecast(answer, request, info)
    assert check_forecast(np.array([[1, 0]]), request, info).edges_B.tolist() == [10]


def test_failures_score_worse_than_uniform_in_every_metric():
    """A failed task: window_tv 1, twice uniform's where less is better, the worst value where more is better."""
    rng = np.random.default_rng(1)
    share = rng.dirichlet(np.full(8, 0.5), (40, 3))
    last = np.full((3, 8), 1 / 8)
    last[:, 0] = 0.0
    uniform = score_forecast(Forecast.constant(np.full((3, 8), 1 / 8), 40), share, (10, 40), last_share_LE=last)
    failed = failure_scores(uniform, with_quantiles=True)
    assert (failed["window_tv"] == 1).all()
    for spec in forecast_metrics():
        value = failed[spec.name]
        if spec.name == "window_tv":
            continue
        if spec.lower_is_better and not spec.needs_quantiles:
            np.testing.assert_allclose(value, 2 * uniform[spec.name])
        if spec.lower_is_better is False:
            assert (value <= np.nan_to_num(uniform[spec.name], nan=np.inf)).all()
    np.testing.assert_allclose(failed["wql"], 4 * uniform["window_tv"])
    assert (failed["coverage"] == 0).all()
    assert set(failed) == {spec.name for spec in forecast_metrics()}
    assert "wql" not in failure_scores(uniform)
