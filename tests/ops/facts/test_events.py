"""Events of a run: what happened, once for each episode, whatever portions rows come in; callbacks stop nothing.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import TRACES
from moeload_bench.arrays import FloatArray
from moeload_bench.ops.facts.conditions import Conditions, change
from moeload_bench.ops.facts.events import LAST, Event, EventDetector, event_sentences, moments
from moeload_bench.ops.facts.inspector import Inspection, Inspector, inspect_trace
from moeload_bench.ops.facts.page import marks
from moeload_bench.ops.facts.terminal import details, map_lines
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.ops.live.monitor import LoadMonitor
from moeload_bench.ops.planning.planner import Settings
from moeload_bench.recording.writer import RecordingWarning, rows_of
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces
from tests.support.monitored import fed, loop
from tests.support.synthetic import draw, fixed

BREAK = 850


def broken(rows: int = 1500, *, down: float = 0.1, back: int | None = None) -> Trace:
    """Return a run whose layer 1 has another mixture from step 850 on, where expert 2 of layer 0 loses its load.

    The learning rate is 30 times as large from there on. ``down``: the part of its load that the expert keeps;
    ``back``: the step at which it has all of it again.
    """
    share_SLE = fixed(rows, 2, 8)
    share_SLE[BREAK:, 1] = share_SLE[BREAK:, 1, ::-1]
    share_SLE[BREAK:back, 0, 2] *= down
    share_SLE /= share_SLE.sum(axis=-1, keepdims=True)
    lr_S = np.where(np.arange(rows) < BREAK, 1e-3, 0.03)
    return Trace.from_arrays(draw(share_SLE, 8192)[0], top_k=1, columns={"lr": lr_S})


@pytest.fixture(scope="module")
def found() -> Inspection:
    """What the run says 150 steps after its break."""
    return inspect_trace(broken(1000))


def experts(found: Inspection) -> list[tuple[str, int, int | None]]:
    """Return kind, step and expert of what happened to experts, in order."""
    return [(one.kind, one.step, one.expert) for one in found.events.last if one.expert is not None]


def test_a_break_is_named_with_its_cause(found: Inspection) -> None:
    """The layer settled, moved again when the learning rate rose; the steps are those of the state rule."""
    assert found.states is not None
    settled, moved = (one for one in found.events.last if one.layer == 1 and one.kind != "moved")
    assert (settled.kind, settled.step, settled.words) == ("settled", found.states.onset_L3[1, 0], "layer 1 settled")
    assert (moved.kind, moved.step, moved.report_step) == ("unsettled", found.states.since_L[1], moved.step)
    cause = "learning rate 0.001 -> 0.03"
    assert moved.cause == cause
    assert moved.sentence == f"Step {moved.step}: layer 1 unsettled, stable since step {settled.step}: {cause}."
    assert BREAK < moved.step <= BREAK + 100


@pytest.mark.parametrize(
    ("down", "back", "expected"),
    [
        (0.2, None, ["collapsed"]),
        (0.4, None, []),
        (0.05, None, ["collapsed", "dead"]),
        (0.2, 1150, ["collapsed", "recovered"]),
        (0.05, 1350, ["collapsed", "dead", "recovered"]),
    ],
)
def test_an_expert_has_one_event_of_each_kind_in_an_episode(down: float, back: int | None, expected: list[str]) -> None:
    """It collapses below a quarter of its load, dies below a tenth of an equal share, recovers at 1.5 times that."""
    found = inspect_trace(broken(down=down, back=back))
    assert [kind for kind, _, expert in experts(found) if expert == 2] == expected
    assert [expert for _, _, expert in experts(found) if expert != 2] == []
    steps = {kind: step for kind, step, _ in experts(found)}
    assert abs(steps.get("collapsed", BREAK) - BREAK) <= 100
    assert abs(steps.get("recovered", back or 0) - (back or 0)) <= 100
    assert found.events.counts["dead"] == expected.count("dead")


def test_a_single_high_unit_is_no_load_to_fall_from() -> None:
    """A fall from 100 steps of five times the load is no collapse; one from a load that lasted is."""
    detector = EventDetector(["0"], 4, 10, 100)
    shares: list[list[float]] = [[1.0] * 4] * 3 + [[1.0, 1.0, 5.0, 1.0]] + [[1.0, 0.2, 1.0, 1.0]] * 4
    conditions, nobody_LE = Conditions(np.nan, None), np.zeros((1, 4), dtype=np.bool_)
    events: list[Event] = []
    detector.add_labels(100, np.array([False]), conditions)
    for unit, share_E in enumerate(shares, 1):
        share_LE: FloatArray = np.array([share_E])
        events += detector.add_unit(100 * unit, share_LE, nobody_LE, conditions)
    assert [(one.kind, one.step, one.report_step, one.expert) for one in events] == [("collapsed", 400, 500, 1)]
    silent_LE = np.full((1, 4), np.nan)
    assert detector.add_unit(900, silent_LE, nobody_LE, conditions) == []


def test_an_expert_of_a_layer_that_never_settled_has_no_event() -> None:
    """Loads find their places first: what falls before the layer is stable is not a collapse, and no death."""
    detector, all_LE = EventDetector(["0"], 2, 10, 100), np.ones((1, 2), dtype=np.bool_)
    for unit in range(1, 10):
        load = 1.0 if unit < 6 else 0.1
        assert detector.add_unit(100 * unit, np.array([[load, 2 - load]]), all_LE, Conditions(np.nan, None)) == []


def test_memory_is_bounded_and_everything_is_counted() -> None:
    """Of each kind the last events stay, whatever their number."""
    detector = EventDetector(["0", "1"], 4, 10, 100)
    for check in range(1, 4 * LAST + 1):
        detector.add_labels(10 * check, np.array([check % 2 == 1, True]), Conditions(1e-3, 0))
    events = detector.events
    assert events.counts["settled"] == 2 * LAST
    assert len([one for one in events.last if one.kind == "settled"]) == LAST
    assert [one.step for one in events.last] == sorted(one.step for one in events.last)


def test_causes_are_changes_that_are_known() -> None:
    """A decay is none, an unknown learning rate is none; new data is one."""
    assert change(Conditions(1e-3, None), Conditions(9e-4, None), 1.5) == ""
    assert change(Conditions(np.nan, None), Conditions(9e-4, None), 1.5) == ""
    assert change(Conditions(0.0, 0), Conditions(1e-3, 1), 1.5) == "learning rate 0 -> 0.001, new data"


def test_screen_tables_and_page_say_what_happened(found: Inspection) -> None:
    """To do on the screen, sentences in the tables, marks on the map; the record has all of it."""
    moved = next(one for one in found.events.last if one.kind == "unsettled")
    fell = next(one for one in found.events.last if one.kind == "collapsed")
    to_do = assess(found).to_do
    assert f"(stable since {moved.since}; {moved.cause})" in to_do[0]
    assert to_do[1] == f"Look at what changed about step {fell.step}: {fell.words}."
    sentences = list(event_sentences(found.events, 2))
    assert sentences[0] == "8 events: 2 settled, 2 unsettled, 3 moved, 1 collapsed. The newest first:"
    assert len(sentences) == 3
    assert moved.sentence in "\n".join(map(str, details(found)))
    axis = str(map_lines(found, 8, 80)[-1])
    assert axis.strip().startswith("! event 0 ")
    assert axis.count("!") > 1
    assert (fell.step, fell.words) in {(mark.step, mark.text) for mark in marks(found)}
    assert (moved.step, f"2 layers unsettled: {moved.cause}") in moments(found.events.last, within=100)
    assert found.record["events"]["counts"]["collapsed"] == 1
    assert moments(found.events.last, within=1000)[0][1] == "2 layers settled"


def test_events_are_handed_over_as_they_come() -> None:
    """`on_event` gets each of the run's events once, in the order of their reports, and no snapshot is needed."""
    trace, seen = broken(down=0.05), list[Event]()
    inspector = Inspector(trace.meta, on_event=seen.append)
    for row in rows_of(trace):
        inspector.add_row(row)
    assert seen == list(inspector.inspection().events.last)
    handed: list[Event] = []
    monitor = LoadMonitor(Settings(every=500), on_event=handed.append)
    fed(monitor, trace)
    monitor.close()
    assert handed == seen


def test_a_resumed_run_hands_over_only_what_is_new() -> None:
    """Events of the steps before a resume were handed over before."""
    trace, handed = broken(1000), list[Event]()
    rows = list(rows_of(trace))
    monitor = LoadMonitor(on_event=handed.append)
    monitor.recall(iter(rows[:800]), lambda: trace.meta)
    for row in rows[800:]:
        monitor.add(row, lambda: trace.meta)
    monitor.close()
    assert {one.kind for one in handed} == {"unsettled", "moved", "collapsed"}


class UnprintableError(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("no network"), "RuntimeError: no network"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (UnprintableError(), "UnprintableError"),
    ],
)
def test_a_callback_that_raises_is_given_up_and_said_once(error: BaseException, says: str) -> None:
    """Three errors in a row, as for a sink; one that calls exit is no exception."""
    calls: list[Event] = []

    def raises(event: Event) -> None:
        calls.append(event)
        raise error

    monitor = LoadMonitor(on_event=raises)
    fed(monitor, broken(1000))
    with pytest.warns(RecordingWarning, match=f"on_event was given up: {says}$") as caught:
        monitor.close()
    assert len(calls) == 3
    assert len(caught) == 1
    assert monitor.stopped is None


def test_a_callback_that_forks_leaves_no_second_training() -> None:
    """A child that returns from the callback ends there; events are handed over once."""
    children: list[int] = []

    def forks(event: Event) -> None:
        if child := os.fork():
            children.append(child)

    monitor = LoadMonitor(on_event=forks)
    fed(monitor, broken(1000))
    monitor.close()
    assert len(children) > 1
    assert {os.waitpid(child, 0)[1] for child in children} == {0}


@pytest.mark.parametrize("blocks", [False, True])
def test_a_callback_changes_no_loss_and_no_row(blocks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training whose callback raises or blocks has the losses, the counts and the weights of one without it."""
    monkeypatch.setattr("moeload_bench.ops.live.sinks.CLOSE_S", 0.1)
    released, called = threading.Event(), threading.Event()

    def hinders(event: Event) -> None:
        called.set()
        if blocks:
            released.wait()
        raise RuntimeError("no network")

    steps, rule = 60, StateRule(window=20, block=5, scales=(1, 5), hold=5, low=0.9, high=0.95)
    with pytest.warns(RecordingWarning, match="on_event (lost|was given up|did not take all)"):
        one = loop(LoadMonitor(Settings(every=10, rule=rule), on_event=hinders), tmp_path / "with", steps)
    two = loop(LoadMonitor(Settings(every=10, rule=rule)), tmp_path / "without", steps)
    released.set()
    assert called.is_set()
    watched, alone = (read_trace(tmp_path / name / "own/test/seed0.parquet") for name in ("with", "without"))
    np.testing.assert_array_equal(watched.load_SLE, alone.load_SLE)
    np.testing.assert_array_equal(watched.columns["loss"], alone.columns["loss"])
    for weight, other in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_array_equal(weight.detach().numpy(), other.detach().numpy())


@needs_traces
def test_a_restart_that_moves_everything_has_one_event_for_each_episode() -> None:
    """A learning rate 100 times as large throws most experts down: none collapses or dies twice before it recovers."""
    trace = read_trace(TRACES / "qwen3moe-16e-restart" / "test" / "seed1.parquet")
    found: list[Event] = []
    inspector = Inspector(trace.meta, on_event=found.append)
    inspector.add(trace)
    found = [event for event in found if event.kind != "moved"]
    assert len(found) > 40
    for layer, expert in {(one.layer, one.expert) for one in found}:
        kinds = [one.kind for one in found if (one.layer, one.expert) == (layer, expert)]
        ends = "unsettled" if expert is None else "recovered"
        episodes_of = "".join(kind[0] for kind in kinds).split(ends[0])
        assert all(len(set(episode)) == len(episode) for episode in episodes_of), (layer, expert, kinds)
