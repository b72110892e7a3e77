"""The state rule and the floors on the bundled recordings: real loads, real batch noise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moeload_bench.scoring.description import describe_layers
from moeload_bench.scoring.floors import trace_floors
from moeload_bench.states.rule import StateRule, label_states
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import TRACES
from tests.support.shifts import score_shifts

ROOT = Path(__file__).parents[2]
BUNDLED = {ref.id: ref.path for ref in list_traces(ROOT / "moeload_bench" / "data")}
RECORDED = list_traces(TRACES) if TRACES.is_dir() else []
SHIFTED = {ref.id: ref.path for ref in RECORDED if re.search("-(shift|restart)/", ref.id)}
SHIFT_DELAY = 150  # training steps within which a planned shift is found in every layer


@pytest.fixture(params=sorted(BUNDLED))
def recorded(request) -> Trace:
    return read_trace(BUNDLED[request.param])


def test_recordings_are_transient_first_and_then_stable(recorded):
    """Every layer starts transient, becomes stable within 2,000 steps, and leaves that state at planned shifts only."""
    labels = label_states(recorded.load_SLE, recorded.meta.stride)
    assert ((labels.onset_L > 200) & (labels.onset_L < 2000)).all()
    scores = score_shifts(labels, planned_shifts(recorded))
    assert (scores.false_alarms_L == 0).all()
    assert scores.missed == 0
    assert (scores.delay_NL <= SHIFT_DELAY).all()


def moved_NL(trace: Trace) -> NDArray[np.float64]:
    """The fraction of each layer's tokens that moves from the 100 steps before a planned shift to the 100 after it."""
    share_SLE = trace.share_SLE()
    before_after = [(share_SLE[at - 100 : at].mean(axis=0), share_SLE[at : at + 100].mean(axis=0))
                    for at in planned_shifts(trace)]  # fmt: skip
    return np.array([0.5 * np.abs(after - before).sum(axis=1) for before, after in before_after])


@pytest.mark.parametrize("name", sorted(SHIFTED))
def test_a_planned_shift_is_found_in_every_layer_that_it_moves(name):
    """A switch of data, or a restart at a higher learning rate, returns every layer to transient in time, also with an
    eighth of the tokens; before it no layer returns. A controller of the loads may bring a layer back before a window's
    mean has moved by more than the threshold: such a layer stays stable, and others do not."""
    trace = read_trace(SHIFTED[name])
    planned = planned_shifts(trace)
    assert planned
    moved = moved_NL(trace) > StateRule().high
    assert moved.any() if trace.meta.balancing.method == "loss_free_bias" else moved.all()
    for load in (trace.load_SLE, np.random.default_rng(0).binomial(trace.load_SLE, 0.125)):
        scores = score_shifts(label_states(load, trace.meta.stride), planned)
        np.testing.assert_array_equal((scores.delay_NL > 0) & (scores.delay_NL <= SHIFT_DELAY), moved)
        np.testing.assert_array_equal(scores.delay_NL < 0, ~moved)
        assert (scores.false_alarms_L == 0).all()


def test_fewer_tokens_keep_the_labels(recorded):
    """At least 95 % of each layer's labels, and 98 % of all, stay at a half, a quarter and an eighth of the tokens, and
    with the recorded half batches, which change the composition of the batch and not only its size."""
    load, half, rng = recorded.load_SLE, recorded.columns["load_half"], np.random.default_rng(0)
    full = label_states(load).transient_SL
    for fewer in (*(rng.binomial(load, 1.0 / fraction) for fraction in (2, 4, 8)), half, load - half):
        same = label_states(fewer).transient_SL == full
        assert same.mean(axis=0).min() >= 0.95
        assert same.mean() >= 0.98


def test_floors_of_recordings_are_ordered(recorded):
    """Batch noise exceeds what draws alone explain, and the level adds to it: sampling < batch <= level, about."""
    floors = trace_floors(recorded, label_states(recorded.load_SLE), (1, 10, 100, 1000)).by_state()["stable"]
    assert (floors["floor_sampling"]["tv"] < floors["floor_batch"]["tv"]).all()
    assert (floors["floor_batch"]["tv"] < 1.05 * floors["floor_level"]["tv"]).all()


def test_a_recording_is_described(recorded):
    """Every layer has a description: onset with its band, imbalance of at least 1, over-dispersion above 1."""
    for layer in describe_layers(recorded):
        assert re.fullmatch(r"\d+ \(\d+ to (\d+|never)\)", str(layer.onset))
        assert layer.states.startswith("transient 0-")
        assert layer.imbalance_first >= 1.0
        assert layer.imbalance_last >= 1.0
        assert layer.over_dispersion > 1.0
        assert layer.floor == "floor_batch (exact)"
        assert 0 < layer.floor_window_tv < layer.floor_tv


def test_layers_of_two_stacks_are_told_apart():
    """Encoder and decoder both have a layer 1: their descriptions are named by stack, kind and index."""
    load = np.random.default_rng(0).multinomial(4000, [0.4, 0.3, 0.2, 0.1], (60, 2))
    layers = [{"stack": stack, "index": 1, "experts": 4} for stack in ("encoder", "decoder")]
    described = describe_layers(Trace.from_arrays(load, layers=layers))
    assert [layer.layer for layer in described] == ["encoder-mlp-1", "decoder-mlp-1"]


def test_a_trace_that_cannot_be_labelled_is_described_without_states():
    """A stride of 1,000 steps has no states; imbalance and floors are still given, and the reason is said."""
    load = np.random.default_rng(0).multinomial(4000, [0.4, 0.3, 0.2, 0.1], (60, 2))
    load[:, 1] = 0
    first, second = describe_layers(Trace.from_arrays(load, step_S=np.arange(60) * 1000))
    assert "not defined" in first.states
    assert first.onset is None
    assert first.imbalance_last == pytest.approx(1.6, rel=0.05)
    assert first.floor == "floor_level (approximate)"
    assert first.floor_tv is not None
    assert (second.imbalance_last, second.dead_experts, second.floor_tv) == (None, None, None)


def test_the_constants_are_those_that_the_table_shows():
    """The row in bold of docs/methods/states-table.md is the rule in the package."""
    chosen = re.search(r"^\| \*\*.*$", (ROOT / "docs" / "methods" / "states-table.md").read_text(), re.MULTILINE)
    margin, low, high = (float(value.strip(" *")) for value in chosen.group().split("|")[1:4])
    rule = StateRule()
    assert (margin, low, high) == (rule.margin, rule.low, rule.high)
