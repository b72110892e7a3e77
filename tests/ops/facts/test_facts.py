"""Facts of a run: the same rows give the same facts, whatever portions they come in.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import TraceError
from moeload_bench.ops.facts.inspector import Inspector, inspect_trace
from moeload_bench.ops.facts.terminal import map_lines
from moeload_bench.ops.facts.timeline import BINS, Bins
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.recording.writer import rows_of
from moeload_bench.states.rule import label_states
from moeload_bench.traces.trace import Trace
from tests.support.synthetic import draw, even, fixed, wandering


def run_of(rows: int, *, stride: int = 1, seed: int = 0) -> Trace:
    """Return a run that moves to another mixture in its middle, and whose expert 3 of layer 0 dies there."""
    rng = np.random.default_rng(seed)
    share_SLE = np.repeat(rng.dirichlet(np.full(6, 4.0), (2, 2)), -(-rows // 2), axis=0)[:rows]
    share_SLE[rows // 2 :, 0, 3] *= 0.02
    load_SLE, half_SLE = draw(share_SLE / share_SLE.sum(axis=-1, keepdims=True), 480, seed=seed)
    step_S = np.arange(rows) * stride
    columns = {
        "load_half": half_SLE,
        "loss": rng.random(rows),
        "lr": np.linspace(1e-3, 1e-4, rows),
        "stage": (step_S >= step_S[rows // 2]).astype(np.int32),
    }
    return Trace.from_arrays(load_SLE, top_k=1, step_S=step_S, columns=columns)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 900),
    stride=st.sampled_from([1, 5, 7, 20]),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    looks=st.booleans(),
)
def test_portions_of_any_size_give_equal_facts(rows: int, stride: int, cuts: list[int], looks: bool) -> None:
    """Rows one by one, in portions, with looks between them or without, say what one pass says."""
    trace = run_of(rows, stride=stride)
    single_portion = inspect_trace(trace)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    inspector = Inspector(trace.meta)
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = trace.cut(slice(start, stop))
        if number % 2:
            inspector.add(part)
        else:
            for row in rows_of(part):
                inspector.add_row(row)
        if looks:
            inspector.inspection()
    assert inspector.inspection().record == single_portion.record


def test_a_gap_between_portions_is_refused() -> None:
    """Rows follow each other: a gap or a repeat would make differences and states wrong."""
    trace = run_of(60)
    inspector = Inspector(trace.meta)
    inspector.add(trace)
    with pytest.raises(TraceError, match="got step 0, expected step 60"):
        inspector.add(trace)
    with pytest.raises(TraceError, match="got step 0, expected step 60"):
        inspector.add_row(next(rows_of(trace)))


def test_facts_are_those_of_the_definitions() -> None:
    """States as the rule labels the whole trace, experts and the timeline from the counts, the learning rate."""
    trace = run_of(850)
    found, labels = inspect_trace(trace), label_states(trace.load_SLE)
    share_SLE = trace.share_SLE()
    assert found.states is not None
    assert found.timeline is not None
    assert found.states.onset_L3[:, 0].tolist() == labels.onset_L.tolist()
    assert found.states.onset_L3[:, 1:].tolist() == labels.onset_band_L2.tolist()
    np.testing.assert_array_equal(found.states.drift_L, labels.grid_drift_GL[-1])
    mean_LE = share_SLE[-200:].mean(axis=0)
    np.testing.assert_allclose(found.share_LE, mean_LE)
    np.testing.assert_allclose(found.busiest_L, 6 * share_SLE[-200:].max(axis=2).mean(axis=0))
    np.testing.assert_allclose(found.entropy_L, [-(row_E * np.log(row_E)).sum() / np.log(6) for row_E in mean_LE])
    assert np.argwhere(found.dead_LE).tolist() == [[0, 3]]
    assert [(death.layer, death.expert, death.step) for death in found.deaths.last] == [(0, 3, 500)]
    assert found.switch_steps == (425,)
    assert found.lr == (pytest.approx(1e-3), pytest.approx(1e-4))
    assert found.timeline.step_N.tolist() == list(range(0, 800, 100))
    busiest_NL = 6 * share_SLE[:800].max(axis=2).reshape(8, 100, 2).mean(axis=1)
    np.testing.assert_allclose(found.timeline.busiest_NL, busiest_NL)
    loss_M = trace.columns["loss"][:800].reshape(80, 10).mean(axis=1)
    np.testing.assert_allclose(found.timeline.run["loss"], loss_M, rtol=1e-6)
    assert found.timeline.run_step_M.tolist() == list(range(0, 800, 10))
    transient_NL = labels.transient_SL[10:810].reshape(8, 100, 2).mean(axis=1)  # a label is of the step after a block
    np.testing.assert_allclose(found.timeline.unsettled_NL, transient_NL)


def test_bins_grow_coarser_and_keep_their_means() -> None:
    """A long run has at most twice BINS bins; each holds the mean over its units of time, of what is known."""
    bins, value_U = Bins(), np.random.default_rng(0).random(3 * 2 * BINS + 5)
    value_U[7] = np.nan
    for unit, value in enumerate(value_U.tolist()):
        bins.add(unit, np.array([value]))
    step_N, mean_N1 = bins.means()
    span = int(step_N[1])
    assert len(step_N) <= 2 * BINS
    expected = [np.nanmean(value_U[first : first + span]) for first in step_N.tolist()]
    np.testing.assert_allclose(mean_N1[:, 0], expected)


def test_a_stride_without_states_says_so() -> None:
    """Rows 7 steps apart cannot be labelled; balance and experts are known all the same."""
    found = inspect_trace(run_of(300, stride=7))
    assert (found.states, found.state) == (None, "unknown")
    assert np.isfinite(found.busiest_L).all()
    assert assess(found).headline.startswith("STATE UNKNOWN")


def test_the_verdict_names_state_and_steps() -> None:
    """Too early, settled, moving again after it: each with the step that it is since."""
    assert assess(inspect_trace(run_of(200))).headline.startswith("TOO EARLY: after 200 steps")
    share_SLE = fixed(1000, 2, 8)
    settled = inspect_trace(Trace.from_arrays(draw(share_SLE, 4096)[0], top_k=1))
    assert settled.states is not None
    assert assess(settled).headline.startswith(
        f"SETTLED since step {settled.states.since_L.max():,}; no expert is dead"
    )
    share_SLE[950:, 1] = share_SLE[950:, 1, ::-1]
    moved = inspect_trace(Trace.from_arrays(draw(share_SLE, 4096)[0], top_k=1))
    assert assess(moved).headline.startswith("MIXED: 1 of 2 layers has settled, the last at step")
    assert "loads had settled, and move in layer 1" in assess(moved).to_do[0]


@pytest.mark.parametrize(("end", "words"), [(1e-3, "; no expert is dead"), (1e-5, r" \(at \d+ % of the largest")])
def test_settled_says_whether_the_learning_rate_had_decayed(end: float, words: str) -> None:
    """Smaller steps alone settle loads; a decay after they settled is none of it."""
    lr_S = np.geomspace(1e-3, end, 600)
    found = inspect_trace(Trace.from_arrays(draw(fixed(600, 1, 8), 4096)[0], top_k=1, columns={"lr": lr_S}))
    assert re.match(rf"SETTLED since step \d+{words}", assess(found).headline)


def test_a_rate_that_rises_after_loads_settled_had_not_decayed_before() -> None:
    """At 7.5 % of what comes later, but the largest so far."""
    lr_S = np.repeat([7.5e-5, 1e-3], [600, 200])
    found = inspect_trace(Trace.from_arrays(draw(fixed(800, 1, 8), 4096)[0], top_k=1, columns={"lr": lr_S}))
    assert re.match(r"SETTLED since step [1-4]\d\d; no expert", assess(found).headline)


def test_inspect_says_how_a_placement_ages_and_not_what_to_do() -> None:
    """In percent of the tokens, by the drift of the state rule; nothing where all layers have settled."""
    share_SLE = np.concatenate([wandering(800, 2, 16), even(800, 1, 16)], axis=1)
    found = inspect_trace(Trace.from_arrays(draw(share_SLE, 8192)[0], top_k=1))
    said = assess(found)
    assert found.states is not None
    assert found.state == "mixed"
    drift_L = 100 * found.states.drift_L
    worst = int(drift_L.argmax())
    assert said.age == (
        f"A placement ages by {drift_L.mean():.1f} % of tokens in 100 steps ({drift_L[worst]:.1f} % in layer {worst})."
    )
    assert not any("placement" in text for text in said.to_do)
    assert assess(inspect_trace(Trace.from_arrays(draw(fixed(800, 1, 8), 4096)[0], top_k=1))).age == ""


def test_the_row_of_states_agrees_with_a_mixed_headline() -> None:
    """`-` where some layers move, `~` only where all do."""
    share_SLE = np.concatenate([wandering(800, 2, 16), even(800, 1, 16)], axis=1)
    found = inspect_trace(Trace.from_arrays(draw(share_SLE, 8192)[0], top_k=1))
    assert assess(found).headline.startswith("MIXED: 1 of 3 layers has settled, the last at step ")
    row = next(str(line) for line in map_lines(found, 8, 80) if str(line).strip().startswith("state"))
    assert row.split()[1][-1] == "-"
    assert set(row.split()[1]) == {"~", "-"}
