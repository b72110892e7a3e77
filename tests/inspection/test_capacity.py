"""What `moeload-bench inspect --capacity` says about a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import PlacementError, TraceError
from moeload_bench.inspection.capacity import capacity_of
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

ROOT = Path(__file__).resolve().parents[2]


def test_less_risk_keeps_more_and_drops_less() -> None:
    """Over the risks of the table factors never fall and dropped tokens never rise."""
    found = capacity_of(synthetic_trace(900), 100, devices=2)
    assert (np.diff([one.factor for one in found.choices]) >= 0).all()
    assert (np.diff([one.dropped for one in found.choices]) <= 0).all()
    assert [one.extrapolated for one in found.choices] == [False, False, False, True]


def test_tokens_are_the_factor_times_the_even_share() -> None:
    """The even share of 8 tokens on two devices is 4; bytes are tokens times those of one."""
    trace = Trace.from_arrays(np.tile(np.array([[[6, 2]]]), (40, 1, 1)), top_k=1)
    found = capacity_of(trace, 10, 0.5, devices=2, token_bytes=10)
    assert found.busiest.over_even == pytest.approx(found.choice.factor)
    assert found.busiest.tokens == int(np.ceil(found.choice.factor * 4))
    assert found.busiest.bytes == 10 * found.busiest.tokens


def test_a_sampled_run_has_fewer_rows_in_a_window() -> None:
    """With a row for ten steps, 1,000 steps are 100 rows."""
    load = np.random.default_rng(0).integers(1, 9, (400, 1, 4))
    found = capacity_of(Trace.from_arrays(load, step_S=np.arange(400) * 10))
    assert (found.steps, found.prior_rows, found.own_windows) == (1000, 100, 3)


def test_wrong_requests_say_what_was_expected() -> None:
    """A risk in percent, devices that do not divide the experts, and a single row."""
    trace = synthetic_trace(50)
    with pytest.raises(TraceError, match=r"--risk is 5, expected 0\.001 to 0\.5: the part of windows, not percent"):
        capacity_of(trace, risk=5)
    with pytest.raises(PlacementError, match="expected a divisor of the"):
        capacity_of(trace, devices=7)
    with pytest.raises(TraceError, match="1 row, expected 2 or more"):
        capacity_of(Trace.from_arrays(np.ones((1, 1, 4), dtype=int)))


def test_a_small_or_empty_last_batch_is_not_the_size_of_a_step() -> None:
    """The tokens of a buffer are those of a full step, of the last 100 rows."""
    load = np.full((300, 1, 4), 128)
    load[-1] = 2
    full, cut = (capacity_of(Trace.from_arrays(part, top_k=1), 10, devices=2) for part in (load[:-1], load))
    assert cut.busiest.tokens == full.busiest.tokens > 0


def test_micro_batches_that_held_nothing_for_a_while_are_no_error() -> None:
    """Windows after an empty one say nothing of growth; where the last ones are empty there is no answer."""
    load, micro = np.full((60, 1, 4), 8), np.full((60, 1, 4), 3)
    micro[:30] = 0
    late, early = (
        capacity_of(Trace.from_arrays(load, top_k=1, columns={"micro_max": part}), 10, devices=2)
        for part in (micro, micro[::-1].copy())
    )
    assert late.micro is not None
    assert late.micro.tokens >= 3
    assert early.micro is None


def test_dropped_tokens_at_fixed_factors() -> None:
    """Of 8 tokens on two experts of 4, 6 and 2 drop half an even share at 1.0: an eighth; of another layer nothing."""
    load = np.tile(np.array([[[6, 2], [4, 4]]]), (40, 1, 1))
    load[-1, 0] = [8, 0]
    at_one, *_, at_two = capacity_of(Trace.from_arrays(load, top_k=1), 20).drops
    assert (at_one.factor, at_two.factor) == (1.0, 2.0)
    layer = (9 * 0.25 + 0.5) / 10
    assert (at_one.worst_layer, at_one.mean) == (pytest.approx(layer), pytest.approx(layer / 2))
    assert (at_one.worst_step, at_one.tokens) == (pytest.approx(0.25), round(layer / 2 * 16 * 20))
    assert (at_two.mean, at_two.worst_layer, at_two.worst_step, at_two.tokens) == (0.0, 0.0, 0.0, 0)


def check_the_rules(trace: Trace) -> None:
    """No layer needs more than the whole model; nothing drops at the ceiling; no larger factor drops more."""
    for steps in (100, 1000):
        for risk in (0.05, 0.001):
            found = capacity_of(trace, steps, risk)
            assert max(found.factor_L) <= found.choice.factor <= found.ceiling
            dropped = dict(
                sorted(
                    [(one.factor, one.dropped) for one in found.choices]
                    + [(one.factor, one.mean) for one in found.drops]
                )
            )
            assert all(part == 0 for factor, part in dropped.items() if factor >= found.ceiling)
            assert (np.diff(list(dropped.values())) <= 0).all()
            assert all(one.mean <= min(one.worst_layer, one.worst_step) for one in found.drops)


def test_the_rules_hold() -> None:
    """On a run whose factor reaches the ceiling, and on one that is far below it."""
    check_the_rules(synthetic_trace(900))
    spikes = np.random.default_rng(0).multinomial(64, [0.7, 0.1, 0.1, 0.1], size=(400, 3))
    check_the_rules(Trace.from_arrays(spikes, top_k=1))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "traces").rglob("*.parquet")), ids=lambda path: path.parent.parent.name)
def test_the_rules_hold_on_recorded_runs(path: Path) -> None:
    """On every trace of `traces/`."""
    check_the_rules(read_trace(path))


def test_no_need_is_larger_than_routing_allows() -> None:
    """A token goes to an expert once: an expert has at most 1 / top-k of the load, one device of one all of it."""
    load = np.random.default_rng(0).multinomial(2048, [0.4, 0.3, 0.2, 0.1], size=(1300, 2))
    for devices, most in ((1, 1.0), (2, 2.0), (4, 2.0)):
        found = capacity_of(Trace.from_arrays(load, tokens=1024, top_k=2), 100, 0.001, devices=devices)
        assert found.choices[-1].factor <= 2.0
        assert found.busiest.over_even <= most
    one = capacity_of(Trace.from_arrays(load, tokens=1024, top_k=2), 100, devices=1).busiest
    assert (one.over_even, one.tokens) == (1.0, 2048)
