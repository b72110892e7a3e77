"""A watched run: the same numbers as the batch functions, from the past only, in bounded memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from moeload_bench.errors import PlacementError, TraceError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, step_block
from moeload_bench.harness.replay import make_request
from moeload_bench.ops.live.monitor import Snapshot, Watch, replay
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.planner import Planner, Settings, decided
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.writer import rows_of
from moeload_bench.states.rule import label_states
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE, synthetic_trace
from tests.support.snapshots import numbers

TINY = "qwen3moe-tiny-8e/test/seed1"
AUX0 = "qwen3moe-tiny-8e-aux0/test/seed1"


@pytest.fixture(scope="module")
def begun() -> Trace:
    """The first rows of a recorded run, in which both layers become stable."""
    return load_trace(AUX0).cut(slice(0, 2000))


@pytest.fixture(scope="module")
def aux0(begun: Trace) -> list[Snapshot]:
    return list(replay(begun))


def test_states_are_those_of_the_batch_rule(begun: Trace, aux0: list[Snapshot]) -> None:
    """Label, drift, onset and its band at every snapshot equal `label_states` of the whole trace at that row."""
    labels = label_states(begun.load_SLE)
    for snapshot in aux0[:-1]:
        states = snapshot.inspection.states
        assert states is not None
        np.testing.assert_array_equal(states.unsettled_L, labels.transient_SL[snapshot.step])
        np.testing.assert_array_equal(states.drift_L, labels.drift_SL[snapshot.step])
    last = aux0[-1].inspection.states
    assert last is not None
    np.testing.assert_array_equal(last.onset_L3[:, 0], labels.onset_L)
    np.testing.assert_array_equal(last.onset_L3[:, 1:], labels.onset_band_L2)
    assert last.since_L.tolist() == [labels.spans(layer)[-1].start for layer in range(begun.num_layers)]


def test_forecast_errors_are_those_of_the_windows_that_came() -> None:
    """The part of tokens that forecasts of 200 steps misplaced, computed again from the whole trace."""
    from moeload_bench.baselines.sw_avg import SlidingWindowAverage

    from moeload_bench.forecaster import trace_info

    trace = load_trace(TINY).cut(slice(0, 1500))
    found = decided(trace, Settings("sw_avg"))[1].take
    forecaster = SlidingWindowAverage(trace_info(trace), 0)
    share_SLE = trace.share_SLE()
    errors, fed = [], 0
    for origin in range(50, trace.steps - 200 + 1, 50):
        forecaster.observe(step_block(trace, fed, origin))
        fed = origin
        hat_LE = forecaster.forecast(make_request(trace, origin, (200,))).window_means((200,))[0]
        truth_LE = share_SLE[origin : origin + 200].mean(axis=0)
        errors.append(0.5 * np.abs(hat_LE - truth_LE).sum(axis=1).mean())
    assert found.misplaced == pytest.approx(np.mean(errors))


def test_a_snapshot_depends_on_the_past_alone() -> None:
    """Whatever comes after step t, the snapshots up to t are the same."""
    trace = load_trace(AUX0).cut(slice(0, 900))
    mixed = {"load": trace.load_SLE.copy(), "load_half": trace.columns["load_half"].copy()}
    for column in mixed.values():
        column[600:] = column[600:, :, ::-1]
    columns = {**trace.columns, "load_half": mixed["load_half"]}
    other = Trace(trace.meta, trace.step_S, trace.tokens_SL, mixed["load"], columns)
    one = [s for s in replay(trace, Settings(follow=True)) if s.step <= 600]
    two = [s for s in replay(other, Settings(follow=True)) if s.step <= 600]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_equal(numbers(a), numbers(b))
    assert len(one) == 12


def test_a_layer_without_load_is_unknown_not_wrong() -> None:
    """Its numbers are NaN, nothing warns, and the other layers are as they would be alone."""
    load_SLE = synthetic_load_SLE(600, layers=2)
    settings = Settings("sw_avg", cluster=Cluster(ClusterShape("mine", 2, 6)))
    alone = list(replay(Trace.from_arrays(load_SLE[:, :1].copy(), 512, 2), settings))[-1]
    load_SLE[:, 1] = 0
    tokens = np.stack([np.full(600, 512), np.zeros(600, dtype=np.int64)], axis=1)
    both = list(replay(Trace.from_arrays(load_SLE, tokens, 2), settings))[-1]
    assert np.isnan(both.inspection.busiest_L[1])
    assert np.isnan(both.inspection.entropy_L[1])
    assert not both.inspection.dead_LE[1].any()
    assert both.inspection.busiest_L[0] == alone.inspection.busiest_L[0]
    assert both.decision is not None
    assert alone.decision is not None
    assert both.decision.take.misplaced == pytest.approx(alone.decision.take.misplaced)


def test_memory_does_not_grow_with_the_run() -> None:
    """The whole state of a watch after 6,000 steps is as large as after 3,000, the timeline's bins apart."""
    trace = synthetic_trace(400, seed=3)
    watch = Watch(trace.meta, Settings("ema", intervals=(200,)), 512, advise=True)
    assert watch.planner is not None
    rows = list(rows_of(trace))
    sizes = []
    for step in range(6_000):
        watch.add({**rows[step % 400], "step": step})
        if step in (2_999, 5_999):
            (one,) = watch.planner.forecasts.values()
            feed, one._feed = one._feed, None  # type: ignore[assignment]
            bins, watch.inspector._bins = watch.inspector._bins, None  # type: ignore[assignment]
            sizes.append(len(pickle.dumps(watch)))
            one._feed, watch.inspector._bins = feed, bins
    assert sizes[1] < 1.02 * sizes[0]


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
    by_class, by_name = (decided(trace, Settings(forecaster))[1].take for forecaster in (Constant, "uniform"))
    assert by_class.misplaced == by_name.misplaced > 0


def test_bad_input_is_refused_by_name() -> None:
    """A gap in the steps, counts of another shape, intervals off the block, a cluster that is too small."""
    trace = synthetic_trace(30)
    rows = list(rows_of(trace))
    watch = Watch(trace.meta, Settings(), 512, advise=False)
    watch.add(rows[0])
    with pytest.raises(TraceError, match="got step 2, expected step 1"):
        watch.add(rows[2])
    with pytest.raises(TraceError, match=r"load has shape \(1, 4\)"):
        watch.add({**rows[1], "load": rows[1]["load"][:1]})
    with pytest.raises(TraceError, match=r"every is 55 steps, expected a multiple of .* 10"):
        Settings(every=55)
    thin = Trace.from_arrays(np.full((30, 1, 4), 8), step_S=np.arange(30) * 20)
    with pytest.raises(TraceError, match=r"horizon is 50 steps, expected a multiple of 20: a stride of 20"):
        Planner(thin.meta, Settings(horizon=50), 512)
    with pytest.raises(PlacementError, match="4 experts"):
        Planner(trace.meta, Settings(cluster=Cluster(ClusterShape("mine", 2, 2))), 512)
    small = Trace.from_arrays(np.full((300, 1, 2), 8), 8, 2)
    assert list(replay(small))[-1].advice is None
    with pytest.raises(PlacementError, match="no cluster fits 2 experts"):
        decided(small, Settings())
