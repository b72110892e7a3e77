"""The watched run: the same numbers as the batch functions, from the past only, in bounded memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from moeload_bench.errors import PlacementError, TraceError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, step_block
from moeload_bench.harness.replay import make_request
from moeload_bench.inspection.cluster import Cluster
from moeload_bench.inspection.past import BINS
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.snapshots import Snapshot, Watch, replay, replay_with_watch
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.recording.writer import rows_of
from moeload_bench.scoring.noise import MEAN_ABS_NORMAL, batch_noise, window_means
from moeload_bench.states.rule import label_states
from moeload_bench.traces.store import load_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE, synthetic_trace
from tests.support.snapshots import numbers

TINY = "qwen3moe-tiny-8e/test/seed1"
AUX0 = "qwen3moe-tiny-8e-aux0/test/seed1"


def cut(trace: Trace, rows: int) -> Trace:
    columns = {name: column[:rows].copy() for name, column in trace.columns.items()}
    return Trace(
        trace.meta, trace.step_S[:rows].copy(), trace.tokens_SL[:rows].copy(), trace.load_SLE[:rows].copy(), columns
    )


@pytest.fixture(scope="module")
def begun() -> Trace:
    """The first rows of a recorded run, in which both layers become stable."""
    return cut(load_trace(AUX0), 2000)


@pytest.fixture(scope="module")
def aux0(begun: Trace) -> list[Snapshot]:
    return list(replay(begun))


def test_states_are_those_of_the_batch_rule(begun: Trace, aux0: list[Snapshot]) -> None:
    """Label, drift, onset and its band at every snapshot equal `label_states` of the whole trace at that row."""
    trace = begun
    labels = label_states(trace.load_SLE)
    for snapshot in aux0[:-1]:
        np.testing.assert_array_equal(snapshot.transient_L, labels.transient_SL[snapshot.step])
        np.testing.assert_array_equal(snapshot.drift_L, labels.drift_SL[snapshot.step])
    np.testing.assert_array_equal(aux0[-1].onset_L3[:, 0], labels.onset_L)
    np.testing.assert_array_equal(aux0[-1].onset_L3[:, 1:], labels.onset_band_L2)
    for layer in range(trace.num_layers):
        assert aux0[-1].since_L[layer] == labels.spans(layer)[-1].start


def test_shares_imbalance_and_entropy_are_those_of_the_last_window(begun: Trace, aux0: list[Snapshot]) -> None:
    """MaxVio, device load in the static layout, entropy and dead experts, computed anew from the last 100 rows."""
    trace = begun
    snapshot = aux0[30]
    share_SLE = trace.share_SLE()[snapshot.step - 100 : snapshot.step]
    mean_LE = share_SLE.mean(axis=0)
    shape = Cluster().shape_for(8)
    assert shape is not None
    assert snapshot.placing is not None
    static = plan(np.ones(mean_LE.shape), shape)
    np.testing.assert_allclose(snapshot.share_LE, mean_LE)
    np.testing.assert_allclose(snapshot.maxvio_L, (share_SLE.max(axis=2) * 8 - 1).mean(axis=0))
    np.testing.assert_allclose(snapshot.placing.static_L, step_imbalance(static, share_SLE, shape.devices).mean(axis=0))
    entropy_L = [-sum(p * np.log(p) for p in row if p > 0) / np.log(8) for row in mean_LE]
    np.testing.assert_allclose(snapshot.entropy_L, entropy_L)
    np.testing.assert_array_equal(snapshot.dead_LE, mean_LE < 0.1 / 8)


def test_forecast_errors_are_those_of_the_windows_that_came() -> None:
    """`window_tv` so far of forecaster and last value, and the floor, computed anew from the whole trace."""
    trace = cut(load_trace(TINY), 1500)
    settings = Settings(horizon=200, every=50)
    snapshot = list(replay(trace, settings))[-1]
    from moeload_bench.baselines.sw_avg import SlidingWindowAverage

    from moeload_bench.forecaster import trace_info

    forecaster = SlidingWindowAverage(trace_info(trace), 0)
    share_SLE = trace.share_SLE()
    mine, last, floor, fed = [], [], [], 0
    for origin in range(50, trace.steps - 200 + 1, 50):
        forecaster.observe(step_block(trace, fed, origin))
        fed = origin
        hat_LE = forecaster.forecast(make_request(trace, origin, (200,))).window_means((200,))[0]
        truth_LE = share_SLE[origin : origin + 200].mean(axis=0)
        mine.append(0.5 * np.abs(hat_LE - truth_LE).sum(axis=1))
        last.append(0.5 * np.abs(share_SLE[origin - 1] - truth_LE).sum(axis=1))
        noise = batch_noise(trace.load_SLE, trace.columns["load_half"])
        variance = window_means(noise.terms[0], np.array([origin]), 200)[0] / 200
        floor.append(0.5 * MEAN_ABS_NORMAL * np.sqrt(variance).sum(axis=1))
    scores = snapshot.outlook.scores
    assert scores.finished == len(mine)
    np.testing.assert_allclose(scores.forecast_L, np.mean(mine, axis=0))
    np.testing.assert_allclose(scores.last_value_L, np.mean(last, axis=0))
    np.testing.assert_allclose(scores.floor_L, np.mean(floor, axis=0))


def test_a_snapshot_depends_on_the_past_alone() -> None:
    """Whatever comes after step t, the snapshots up to t are the same."""
    trace = cut(load_trace(AUX0), 900)
    mixed = {"load": trace.load_SLE.copy(), "load_half": trace.columns["load_half"].copy()}
    for column in mixed.values():
        column[600:] = column[600:, :, ::-1]
    columns = {**trace.columns, "load_half": mixed["load_half"]}
    other = Trace(trace.meta, trace.step_S, trace.tokens_SL, mixed["load"], columns)
    one = [s for s in replay(trace, Settings(follow=True)) if s.step <= 600]
    two = [s for s in replay(other, Settings(follow=True)) if s.step <= 600]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_equal(numbers(a)[3:], numbers(b)[3:])
    assert len(one) == 12


def test_intervals_cover_what_they_say_on_a_settled_run() -> None:
    """On loads without drift about 80 % of window means lie inside their interval."""
    rng = np.random.default_rng(0)
    share_LE = rng.dirichlet(np.full(16, 5.0), size=3)
    load_SLE = np.stack([rng.multinomial(2048, share_LE) for _ in range(2000)])
    snapshot = list(replay(Trace.from_arrays(load_SLE, 1024, 2), Settings(horizon=100, every=50)))[-1]
    assert 0.7 < snapshot.outlook.covered < 0.9
    assert (snapshot.outlook.low_LE <= snapshot.outlook.share_LE).all()


def test_an_expert_that_starves_is_dying_then_dead() -> None:
    """A share that falls below a fifth of 1/E is warned of, dead below a tenth, and neither before."""
    S, E = 1000, 8
    fade_S = np.clip(1 - (np.arange(S) - 200) / 400, 0.0, 1.0)
    weight_SE = np.ones((S, E))
    weight_SE[:, 3] = fade_S
    share_SE = weight_SE / weight_SE.sum(axis=1, keepdims=True)
    load_SLE = np.round(share_SE * 80_000).astype(np.int64)[:, None]
    said = {s.step: s for s in replay(Trace.from_arrays(load_SLE))}
    assert not said[200].dying_LE.any()
    assert said[600].dying_LE[0].tolist() == [e == 3 for e in range(E)]
    assert not said[600].dead_LE.any()
    assert said[800].dead_LE[0].tolist() == [e == 3 for e in range(E)]
    assert not said[1000].dying_LE.any()


def test_a_layer_without_load_is_unknown_not_wrong() -> None:
    """Its numbers are NaN, nothing warns, and the other layers are as they would be alone."""
    load_SLE = synthetic_load_SLE(600, layers=2)
    alone = list(replay(Trace.from_arrays(load_SLE[:, :1].copy(), 512, 2)))[-1]
    load_SLE[:, 1] = 0
    tokens = np.stack([np.full(600, 512), np.zeros(600, dtype=np.int64)], axis=1)
    both = list(replay(Trace.from_arrays(load_SLE, tokens, 2)))[-1]
    assert np.isnan(both.maxvio_L[1])
    assert np.isnan(both.entropy_L[1])
    assert not both.dead_LE[1].any()
    assert both.maxvio_L[0] == alone.maxvio_L[0]
    np.testing.assert_array_equal(both.outlook.scores.forecast_L[:1], alone.outlook.scores.forecast_L)


def test_memory_does_not_grow_with_the_run() -> None:
    """The whole state of a watch after 6,000 steps is as large as after 3,000."""
    trace = synthetic_trace(400, seed=3)
    watch = Watch(trace.meta, Settings("ema", intervals=(200,)), 512)
    rows = list(rows_of(trace))
    sizes = []
    for step in range(6_000):
        watch.add({**rows[step % 400], "step": step})
        if step in (2_999, 5_999):
            feeds = {name: one._feed for name, one in watch.forecasts.items()}
            for one in watch.forecasts.values():
                one._feed = None  # type: ignore[assignment]
            sizes.append(len(pickle.dumps(watch)))
            for name, one in watch.forecasts.items():
                one._feed = feeds[name]
    assert sizes[1] < 1.02 * sizes[0]


@hypothesis_settings(max_examples=20)
@given(st.integers(1, 2000))
def test_the_past_keeps_means_at_any_length(rows: int) -> None:
    """Bins stay few, cover the run in order, and their row-weighted mean is the mean of the run."""
    from moeload_bench.inspection.past import History

    rng = np.random.default_rng(rows)
    share_S = rng.random(rows)
    history = History(1, 1)
    for at in range(rows):
        history.add(10 * at, np.full((1, 1, 1), share_S[at]), np.array([at % 2 == 0]))
    past = history.past()
    width_N = np.diff([*past.step_N.tolist(), 10 * rows]) / 10
    assert len(past.step_N) <= 2 * BINS
    assert (width_N > 0).all()
    assert np.dot(width_N, past.share_NLE[:, 0, 0]) / rows == pytest.approx(share_S.mean(), abs=1e-5)
    assert np.dot(width_N, past.transient_NL[:, 0]) / rows == pytest.approx(-(-rows // 2) / rows, abs=1e-5)


def test_a_sampled_trace_is_watched_in_training_steps() -> None:
    """At stride 10 intervals stay in steps; a stride that does not fit is refused with what would."""
    load_SLE = synthetic_load_SLE(300)
    trace = Trace.from_arrays(load_SLE, 512, 2, step_S=np.arange(0, 3000, 10))
    assert [s.step for s in replay(trace)][:3] == [50, 100, 150]
    odd = Trace.from_arrays(load_SLE, 512, 2, step_S=np.arange(0, 300 * 30, 30))
    with pytest.raises(TraceError, match="stride that divides 100"):
        list(replay(odd))


class Constant:
    """Forecasts the even share, and counts the rows it saw."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info, self.rows = info, 0

    def observe(self, block: StepBlock) -> None:
        self.rows += len(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        assert request.origin == self.rows
        even = np.full((self.info.num_layers, self.info.num_experts), 1 / self.info.num_experts)
        return Forecast.constant(even, request.horizon)


def test_any_forecaster_can_drive_it() -> None:
    """A class, or a target, behind the contract of the benchmark."""
    trace = synthetic_trace(400)
    by_class = list(replay(trace, Settings(forecaster=Constant)))[-1]
    by_name = list(replay(trace, Settings(forecaster="uniform")))[-1]
    np.testing.assert_array_equal(by_class.outlook.scores.forecast_L, by_name.outlook.scores.forecast_L)


def test_bad_input_is_refused_by_name() -> None:
    """A gap in the steps, counts of another shape, intervals off the block, a cluster that is too small."""
    trace = synthetic_trace(30)
    rows = list(rows_of(trace))
    watch = Watch(trace.meta, Settings(), 512)
    watch.add(rows[0])
    with pytest.raises(TraceError, match="got step 2, expected step 1"):
        watch.add(rows[2])
    with pytest.raises(TraceError, match=r"load has shape \(1, 4\)"):
        watch.add({**rows[1], "load": rows[1]["load"][:1]})
    with pytest.raises(TraceError, match=r"every is 55 steps, expected a multiple of .* 10"):
        Settings(every=55)
    thin = Trace.from_arrays(np.full((30, 1, 4), 8), step_S=np.arange(30) * 20)
    with pytest.raises(TraceError, match=r"horizon is 50 steps, expected a multiple of 20: a stride of 20"):
        Watch(thin.meta, Settings(horizon=50), 512)
    with pytest.raises(PlacementError, match="4 experts"):
        Watch(trace.meta, Settings(cluster=Cluster(ClusterShape("mine", 2, 2))), 512)
    small = Trace.from_arrays(np.full((300, 1, 2), 8), 8, 2)
    assert list(replay(small))[-1].advice is None


def test_history_is_there_for_a_screen() -> None:
    """The watch that made a snapshot holds the past up to it."""
    trace = synthetic_trace(400)
    watch, snapshot = list(replay_with_watch(trace, Settings()))[-1]
    past = watch.history.past()
    assert snapshot.step == 400
    assert past.share_NLE.shape == (40, 2, 4)
    np.testing.assert_allclose(past.share_NLE[-1], trace.share_SLE()[-10:].mean(axis=0), rtol=1e-5)
