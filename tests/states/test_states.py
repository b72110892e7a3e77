"""What the labels mean, pinned on synthetic loads whose drift is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moeload_bench.errors import SuiteError, TraceError
from moeload_bench.scoring.description import describe_layers
from moeload_bench.scoring.floors import trace_floors
from moeload_bench.states.drift import sliding_range, sliding_variance
from moeload_bench.states.origins import choose_origins, origins_every
from moeload_bench.states.rule import (
    StateDetector,
    StateLabels,
    StateRule,
    crossing,
    grid_of,
    label_states,
    state_names,
)
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares
from tests.conftest import TRACES
from tests.support.synthetic import autocorrelated, draw, drifting, even, fixed, oscillating

FIRST_KNOWN = 200  # two windows
EARLIEST_STABLE = 300  # two windows and the hold


WITHIN = 300
"""Training steps after a shift in which a return to transient counts as its detection: three windows."""


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """``delay_NL`` training steps from a shift to the first transient label, -1 where it was missed, -2 where the layer
    was not stable when the shift came; ``false_alarms_L`` returns to transient that no shift explains.
    """

    delay_NL: NDArray[np.int64]
    false_alarms_L: NDArray[np.int64]

    @property
    def missed(self) -> int:
        """(shift, layer) pairs without detection."""
        return int((self.delay_NL == -1).sum())


def score_shifts(labels: StateLabels, shift_N: Sequence[int]) -> ShiftScores:
    """Compare labels with the rows at which something is known to have changed."""
    transient_SL = labels.transient_SL
    S, L = transient_SL.shape
    rows = WITHIN // labels.stride
    explained_SL = np.zeros((S, L), dtype=np.bool_)
    delay_NL = np.full((len(shift_N), L), -1, dtype=np.int64)
    for n, shift in enumerate(shift_N):
        explained_SL[shift : shift + rows] = True
        after = transient_SL[shift : shift + rows]
        answered_L = after.any(axis=0)
        delay_NL[n, answered_L] = after.argmax(axis=0)[answered_L] * labels.stride
        delay_NL[n, transient_SL[min(shift, S - 1)]] = -2
    returns_SL = transient_SL[1:] & ~transient_SL[:-1]
    return ShiftScores(delay_NL, (returns_SL & ~explained_SL[1:]).sum(axis=0).astype(np.int64))


def labels_of(p_SLE, tokens=2048, seed=0, concentration=40.0):
    load, _ = draw(p_SLE, tokens, seed, concentration=concentration)
    return label_states(load)


def test_no_drift_is_stable_as_soon_as_the_rule_can_know():
    """Constant probabilities are stable from two windows and the hold on, whatever the imbalance, for good."""
    labels = labels_of(fixed(3000, 6, 8))
    assert (labels.onset_L == EARLIEST_STABLE).all()
    assert not labels.transient_SL[EARLIEST_STABLE:].any()
    assert labels.transient_SL[:EARLIEST_STABLE].all()
    assert np.isnan(labels.drift_SL[:FIRST_KNOWN]).all()
    assert np.isfinite(labels.drift_SL[FIRST_KNOWN:]).all()


@pytest.mark.parametrize(("per_window", "stable"), [(0.02, True), (0.12, False)])
def test_slow_drift_is_judged_by_its_size_per_window(per_window, stable):
    """2 % of the tokens per 100 steps is stable, 12 % is transient: both are as significant."""
    labels = labels_of(drifting(min(2000, int(0.5 / per_window * 100)), 4, 8, per_window / 100), concentration=None)
    assert (labels.onset_L >= 0).all() == stable
    assert (~labels.transient_SL).any() == stable
    seen = labels.drift_SL[FIRST_KNOWN + 10 :]
    assert np.median(seen) == pytest.approx(per_window, rel=0.15)


def test_abrupt_change_returns_to_transient_and_back():
    """A jump of the probabilities is seen in every layer within 60 steps, once, and is over within 300 steps."""
    before, after = fixed(1500, 6, 16, seed=1), fixed(1500, 6, 16, seed=2)
    labels = labels_of(np.concatenate([before, after]))
    scores = score_shifts(labels, [1500])
    assert scores.missed == 0
    assert ((scores.delay_NL > 0) & (scores.delay_NL <= 60)).all()
    assert (scores.false_alarms_L == 0).all()
    for layer in range(6):
        spans = labels.spans(layer)
        assert [span.state for span in spans] == ["transient", "stable", "transient", "stable"]
        assert spans[3].start <= 1800


@pytest.mark.parametrize("period", range(2, 11))
@pytest.mark.parametrize("experts", [8, 32])
def test_oscillation_within_ten_steps_is_not_stable(period, experts):
    """Loads that swing with a period of 2 to 10 steps are transient although their 100-step means stand still."""
    labels = labels_of(oscillating(900, 3, experts, period, size=0.5))
    assert labels.transient_SL.all()


@pytest.mark.parametrize("period", range(2, 11))
def test_small_oscillation_is_stable(period):
    """An oscillation that moves 2 % of the tokens is no reason to call a layer transient."""
    labels = labels_of(oscillating(900, 3, 8, period, size=0.04))
    assert not labels.transient_SL[EARLIEST_STABLE:].any()


@pytest.mark.parametrize(("experts", "tokens"), [(2, 256), (8, 256), (16, 512), (64, 1024)])
def test_noise_alone_is_not_drift(experts, tokens):
    """With 16 tokens per expert and step and over-dispersed batches nothing leaves the stable state in 6,000 steps."""
    labels = labels_of(fixed(6000, 2, experts), tokens=tokens, concentration=30.0)
    assert not labels.transient_SL[EARLIEST_STABLE + 100 :].any()


def test_autocorrelated_batches_are_not_drift():
    """Probabilities that wander by 10 % with a lag-1 correlation of 0.5 around a fixed level are stable."""
    p = autocorrelated(fixed(4000, 4, 8), rho=0.5, size=0.1)
    assert not labels_of(p).transient_SL[EARLIEST_STABLE + 100 :].any()


@pytest.mark.parametrize("fraction", [2, 4, 8])
def test_fewer_tokens_do_not_change_labels(fraction):
    """Binomial thinning to a half, a quarter and an eighth of the tokens keeps at least 97 % of the labels."""
    calm, other = fixed(2500, 6, 8, seed=3), fixed(2500, 6, 8, seed=4)
    settle = np.exp(-np.arange(2500) / 150.0)[:, None, None]
    p = np.concatenate([calm * (1 - settle) + even(2500, 6, 8) * settle, other])
    load, _ = draw(p, 4096, concentration=40.0)
    full = label_states(load).transient_SL
    thin = label_states(np.random.default_rng(5).binomial(load, 1.0 / fraction)).transient_SL
    assert (full == thin).mean(axis=0).min() >= 0.97


def test_more_tokens_sharpen_the_drift_and_do_not_raise_it():
    """X estimates the size of the movement: ten times the tokens leave it where it was, and closer to the truth."""
    p = drifting(1000, 8, 16, 0.05 / 100)
    few, many = (labels_of(p, tokens, concentration=None).drift_SL[FIRST_KNOWN + 10 :] for tokens in (512, 8192))
    assert np.median(few) == pytest.approx(np.median(many), rel=0.1)
    assert np.abs(many - 0.05).mean() < np.abs(few - 0.05).mean()


@settings(max_examples=20)
@given(cut=st.integers(1, 899), seed=st.integers(0, 5))
def test_labels_use_the_past_only(cut, seed):
    """The labels and drifts up to a row are the same whatever comes at that row and later."""
    p = np.concatenate([fixed(450, 2, 4, seed), fixed(450, 2, 4, seed + 1)])
    load, _ = draw(p, 256, seed)
    full, part = label_states(load), label_states(load[:cut])
    np.testing.assert_array_equal(full.transient_SL[:cut], part.transient_SL)
    np.testing.assert_array_equal(full.drift_SL[:cut], part.drift_SL)


@pytest.mark.parametrize("stride", [1, 2, 5, 10])
def test_detector_gives_the_batch_labels(stride):
    """The online detector, fed block by block, says at each block what the batch function says, drift included."""
    p = np.concatenate([fixed(700, 3, 8, 1), fixed(805, 3, 8, 2)])
    load, _ = draw(p, 512)
    load[330:345, 1] = 0
    load = load[::stride]
    labels = label_states(load, stride)
    detector, rows = StateDetector(3, 8, stride, StateRule()), grid_of(StateRule(), stride).rows
    for row in range(0, len(load) - rows, rows):
        np.testing.assert_array_equal(detector.transient_L, labels.transient_SL[row])
        np.testing.assert_array_equal(detector.drift_L, labels.drift_SL[row])
        detector.add(shares(load[row : row + rows]), [row * stride], rows * stride)


@pytest.mark.parametrize("stride", [2, 5, 10, 20, 25])
def test_sampled_traces_find_the_shift(stride):
    """Every 2nd to 25th step is enough for the shift to be found in every layer, in the same place."""
    p = np.concatenate([fixed(1500, 4, 8, 1), fixed(1500, 4, 8, 2)])[::stride]
    labels = label_states(draw(p, 4096)[0], stride)
    scores = score_shifts(labels, [1500 // stride])
    assert scores.missed == 0
    assert (scores.delay_NL <= 100).all()
    assert (scores.false_alarms_L == 0).all()


@pytest.mark.parametrize("stride", [3, 30, 50, 100, 1000])
def test_strides_that_cannot_be_labelled_are_refused(stride):
    """A stride that does not divide the window into at least 4 rows is refused, and the message names those that do."""
    with pytest.raises(TraceError, match=r"got a stride of \d+; these do: 1, 2, 4, 5, 10, 20, 25"):
        label_states(np.ones((100, 1, 2), dtype=np.int64), stride)


def test_edge_traces_have_a_defined_label():
    """Too short: transient; one expert or constant loads: stable; a layer without load: transient, without a vote."""
    assert label_states(np.ones((50, 2, 4), dtype=np.int64)).transient_SL.all()
    assert (label_states(np.full((400, 2, 1), 7)).onset_L == EARLIEST_STABLE).all()
    assert (label_states(np.full((400, 2, 4), 7)).onset_L == EARLIEST_STABLE).all()
    load = np.full((400, 2, 4), 7)
    load[:, 1] = 0
    labels = label_states(load)
    assert labels.transient_SL[:, 1].all()
    assert np.isnan(labels.drift_SL[:, 1]).all()
    assert state_names(labels)[399] == "stable"
    assert state_names(labels)[0] == "transient"


def test_a_single_row_without_load_changes_nothing():
    """One empty layer-step in a stable layer is left out of the means; the label stays."""
    load, _ = draw(fixed(1000, 2, 8), 1024)
    load[600, 1] = 0
    assert not label_states(load).transient_SL[EARLIEST_STABLE:].any()


def test_state_of_a_run_needs_agreement():
    """A run is transient or stable when its layers agree, else mixed."""
    p = fixed(1200, 2, 8, 1)
    p[600:, 1] = fixed(1, 2, 8, 2)[0, 1]
    labels = labels_of(p)
    names = state_names(labels)
    assert names[100] == "transient"
    assert names[500] == "stable"
    assert names[660] == "mixed"
    assert crossing(labels, 500, 200).tolist() == [False, True]
    assert crossing(labels, 500, 50).tolist() == [False, False]


def test_onset_band_encloses_the_onset():
    """Looser thresholds give an onset no later, tighter ones no earlier; a band is given for every onset."""
    settle = np.exp(-np.arange(3000) / 200.0)[:, None, None]
    p = fixed(3000, 4, 8, 1) * (1 - settle) + fixed(3000, 4, 8, 2) * settle
    labels = labels_of(p)
    low_L, high_L = labels.onset_band_L2.T
    assert (labels.onset_L >= EARLIEST_STABLE).all()
    assert (low_L <= labels.onset_L).all()
    assert (labels.onset_L <= high_L).all()
    assert (low_L < high_L).any()


def test_spans_cover_every_row_once():
    """Spans follow one another, alternate, and rebuild the labels."""
    labels = labels_of(np.concatenate([fixed(700, 2, 8, 1), fixed(800, 2, 8, 2)]))
    for layer in range(2):
        rebuilt = np.concatenate([np.full(s.stop - s.start, s.state == "transient") for s in labels.spans(layer)])
        np.testing.assert_array_equal(rebuilt, labels.transient_SL[:, layer])


def test_origins_are_even_agreed_and_fit():
    """Origins lie on rows of their state, are spread over all of them, and leave room for the horizon."""
    labels = labels_of(fixed(3000, 3, 8))
    step_S = np.arange(3000) + 7
    origins = choose_origins(labels, step_S, horizon=1000, per_state=20)
    names = state_names(labels)
    assert {state: len(found) for state, found in origins.items()} == {"transient": 20, "stable": 20}
    for state, found in origins.items():
        assert all(names[o - 7] == state for o in found)
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1
    assert origins["transient"][0] == 27
    assert origins["stable"][-1] == 7 + 2000
    assert origins == choose_origins(labels, step_S, horizon=1000, per_state=20)


def test_a_state_with_too_few_rows_gives_all_it_has():
    """A state that never occurs has no origins; a rare one has each of its rows."""
    labels = labels_of(fixed(320, 2, 8))
    origins = choose_origins(labels, np.arange(320), horizon=10, per_state=20)
    assert origins["stable"] == list(range(300, 311))
    assert choose_origins(labels, np.arange(320), horizon=100, per_state=20)["stable"] == []


def test_sliding_and_block_origins():
    """Origins come every STEP training steps; blocks are origins a horizon apart: windows touch and do not overlap."""
    step_S = np.arange(0, 10000)
    assert origins_every(step_S, every=500, horizon=1000)[:3] == [500, 1000, 1500]
    assert origins_every(step_S, every=500, horizon=1000)[-1] == 9000
    assert origins_every(step_S, every=1000, horizon=1000) == list(range(1000, 10000, 1000))
    assert origins_every(np.arange(0, 1000, 10), every=100, horizon=100, first=20) == list(range(200, 1000, 100))
    with pytest.raises(SuiteError, match="stride of 10 steps does not divide the horizon of 105"):
        origins_every(np.arange(0, 1000, 10), every=100, horizon=105)
    with pytest.raises(SuiteError, match="multiple of the stride of 10"):
        origins_every(np.arange(0, 1000, 10), every=15, horizon=100)
    with pytest.raises(SuiteError, match="hold no window of 2000 steps"):
        origins_every(np.arange(1000), every=100, horizon=2000)


def test_paper_statistics_match_a_plain_loop():
    """Sliding variance and range at row t cover the rows t - window .. t - 1, and nothing before is made up."""
    share = np.random.default_rng(0).dirichlet(np.ones(4), (60, 2))
    variance, spread = sliding_variance(share, 10), sliding_range(share, 10)
    assert variance.shape == (61, 2, 4)
    assert np.isnan(variance[:10]).all()
    assert np.isnan(spread[:10]).all()
    for t in range(10, 61):
        np.testing.assert_allclose(variance[t], share[t - 10 : t].var(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(spread[t], share[t - 10 : t].max(axis=0) - share[t - 10 : t].min(axis=0))
    assert np.isnan(sliding_variance(share, 100)).all()
    with pytest.raises(TraceError, match="at least 1 row, got 0"):
        sliding_range(share, 0)


def test_shift_scores_count_missed_and_false():
    """A shift without a change is missed, a change without a shift is a false alarm."""
    labels = labels_of(np.concatenate([fixed(900, 2, 8, 1), fixed(900, 2, 8, 2)]))
    scores = score_shifts(labels, [500])
    assert scores.missed == 2
    assert (scores.false_alarms_L == 1).all()
    assert (score_shifts(labels, [100]).delay_NL == -2).all()


def test_planned_shifts_are_stages_and_restarts():
    """A new data stage and a learning rate that jumps up are planned shifts; a warm-up and a decay are none."""
    load = np.full((400, 1, 2), 3)
    lr = np.concatenate([np.linspace(1e-5, 1e-3, 100), np.linspace(1e-3, 1e-4, 150), np.linspace(1e-3, 1e-4, 150)])
    stage = np.repeat([0, 1], [300, 100])
    trace = Trace.from_arrays(load, top_k=1, columns={"lr": lr, "stage": stage})
    assert planned_shifts(trace) == [250, 300]


def test_a_restart_that_warms_up_is_a_planned_shift() -> None:
    """A cosine that falls and starts again through a warm-up: its ratio of neighbouring steps never exceeds two."""
    warmup, period = 20, 150
    step = np.arange(400) % period
    wave = 0.1 + 0.9 * (1 + np.cos(np.pi * (step - warmup) / (period - warmup))) / 2
    lr_S = np.where(step < warmup, (step + 1) / warmup, wave)
    planned = planned_shifts(Trace.from_arrays(np.full((400, 1, 2), 3), top_k=1, columns={"lr": lr_S}))
    assert [row // period for row in planned] == [1, 2]
    assert all(row % period <= 1 for row in planned)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": (3,)}, "scales that divide its block"),
        ({"low": 0.1, "high": 0.05}, "0 < low <= high"),
        ({"window": 0}, "all at least 1, got"),
        ({"scales": (0,)}, "all at least 1, got"),
        ({"scales": ()}, "all at least 1, got"),
        ({"block": -10}, "all at least 1, got"),
        ({"high": float("inf")}, "both finite, got 0.04 and inf"),
        ({"low": float("nan")}, "both finite, got nan"),
        ({"hold": 0}, "a hold of at least 1 step, got 0"),
        ({"margin": -1.0}, "margin of at least 0, got -1.0"),
        ({"margin": float("nan")}, "a finite margin"),
        ({"band": (2.0, 3.0)}, "two factors around 1, got"),
        ({"band": (-0.5, 1.5)}, "two factors around 1, got"),
        ({"band": (1.0,)}, "two factors around 1, got"),
    ],
)
def test_constants_without_a_meaning_are_refused(changes, words):
    """Scales must divide the block and the block the window; whatever would divide by zero or never hold is refused."""
    with pytest.raises(SuiteError, match=words):
        StateRule(**changes)


# ---------------------------------------------------------------- the state rule and the floors on the bundled


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
