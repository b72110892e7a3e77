"""Advice of `LoadMonitor`: to a function and a file; what is refused, and which layout is in force after a resume."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.errors import NotFoundError, PlacementError
from moeload_bench.ops.live.monitor import LoadMonitor
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.placements import FORMATS, placement_of, write_placement
from moeload_bench.ops.planning.planner import Planner, Settings
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.trace import Trace
from tests.support.monitored import assert_same, fed, unbalanced

torch.set_num_threads(1)

SHAPE = ClusterShape("two", 2, 10)
SETTINGS = Settings("sw_avg", horizon=50, cluster=Cluster(SHAPE))  # five windows of 50 steps are over at step 450
STEPS = 650


def planner_of(monitor: LoadMonitor) -> Planner:
    """The planner of a monitor that was asked for advice."""
    assert monitor.watch is not None
    assert monitor.watch.planner is not None
    return monitor.watch.planner


def test_advice_goes_to_a_function_and_a_file(tmp_path: Path) -> None:
    """Each advice to re-plan is handed over once, its plan counts as carried out, and the file holds the plan. Before
    `plan` would advise a move the advice is to leave it, with the reason of the decision."""
    advice: list[Any] = []
    monitor = LoadMonitor(SETTINGS, on_advice=advice.append, advice_file=tmp_path / "out/plan.json")
    fed(monitor, unbalanced(STEPS))
    assert [(one.step, one.layers) for one in advice] == [(450, (0, 1))]
    written = json.loads((tmp_path / "out/plan.json").read_text())
    slots = np.array([layer["devices"] for layer in written["layers"]])
    np.testing.assert_array_equal(slots.reshape(2, -1), advice[0].slot_expert_LR)
    assert (written["about"]["first_step"], written["about"]["reason"]) == (450, advice[0].reason)
    assert planner_of(monitor).race.own.replans == 1
    assert monitor.latest is not None
    assert monitor.latest.advice is not None
    assert monitor.latest.advice.imbalance < advice[0].imbalance - 0.1
    assert "re-plan both layers now: expected max/mean" in advice[0].reason
    for snapshot in monitor.snapshots:
        assert snapshot.decision is not None
        assert snapshot.advice is not None
        assert snapshot.decision.moves == (snapshot.step >= 450)
        assert snapshot.decision.moves or snapshot.advice.verdict != "replan"
    before = monitor.snapshots[7]
    assert before.advice is not None
    assert before.advice.reason == "leave it: five windows of 50 steps are needed: 50 steps more"


@pytest.mark.parametrize(
    ("kind", "why"),
    [("vllm-ascend", "vllm-ascend keeps one slot"), ("megatron", "Megatron-LM holds each expert once")],
)
def test_a_plan_that_a_format_cannot_hold_is_a_warning(kind: str, why: str, tmp_path: Path) -> None:
    """Training and advice go on, and no file is left behind. Unknown names are refused."""
    monitor = LoadMonitor(SETTINGS, advice_file=tmp_path / "plan.json", advice_format=kind)
    with pytest.warns(RecordingWarning, match=rf"plan\.json: the plan cannot be written: {why}"):
        fed(monitor, unbalanced(STEPS))
    assert monitor.stopped is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFoundError, match="unknown placement format 'x'; there is: eplb, json"):
        LoadMonitor(advice_file=tmp_path / "plan.json", advice_format="x")


@pytest.mark.parametrize("kind", [name for name in FORMATS if name not in ("megatron", "vllm-ascend")])
def test_the_file_of_an_advice_is_that_of_plan(kind: str, tmp_path: Path) -> None:
    """Every format of `plan --write`: the bytes that it writes for the same slots."""
    advice: list[Any] = []
    monitor = LoadMonitor(SETTINGS, on_advice=advice.append, advice_file=tmp_path / "plan.json", advice_format=kind)
    fed(monitor, unbalanced(STEPS))
    full_plan = placement_of(advice[0].slot_expert_LR, 8, planner_of(monitor).shape, (0, 1), {})
    write_placement(full_plan, tmp_path / "other.json", kind)
    made, expected = (json_or_text(tmp_path / name) for name in ("plan.json", "other.json"))
    assert made == expected
    if kind != "json":
        assert json.loads((tmp_path / "plan.json.about.json").read_text())["replanned"] == ["0", "1"]


def json_or_text(path: Path) -> Any:
    """The file, without what it says it was made from."""
    try:
        record = json.loads(path.read_text())
    except ValueError:
        return path.read_text()
    return {name: value for name, value in record.items() if name != "about"} if isinstance(record, dict) else record


@pytest.mark.parametrize("answer", [False, ZeroDivisionError()])
def test_an_advice_that_is_refused_stands(answer: Any) -> None:
    """Until it is carried out the layout in force stays, and the advice is repeated."""

    def refuse(advice: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monitor = LoadMonitor(SETTINGS, on_advice=refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        fed(monitor, unbalanced(STEPS))
    told = [s.advice.verdict for s in monitor.snapshots if s.advice is not None]
    assert told == ["wait"] * 3 + ["leave"] * 5 + ["replan"] * 5
    layout = planner_of(monitor).race.own
    assert layout.replans == 0
    assert monitor.latest is not None
    assert monitor.latest.advice is not None
    monitor.carried_out(monitor.latest.advice)
    assert layout.replans == 1


def resumed(monitor: LoadMonitor, trace: Trace, at: int) -> list[Any]:
    """A monitor of a new process, that has taken in the steps on disk; the rows that are still to come."""
    from moeload_bench.recording.writer import rows_of

    rows = list(rows_of(trace))
    monitor.recall(iter(rows[:at]), lambda: trace.meta)
    return rows[at:]


def test_after_a_resume_nothing_counts_as_carried_out_that_nobody_confirmed() -> None:
    """Neither an advice that was refused before nor one that was carried out: the linear layout is in force, advice
    that stands is given again, and only for steps that are new."""
    trace, asked = unbalanced(STEPS), []
    monitor = LoadMonitor(SETTINGS, on_advice=lambda advice: asked.append(advice.step) or False)
    coming = resumed(monitor, trace, 500)
    layout = planner_of(monitor).race.own
    assert layout.replans == 0
    np.testing.assert_array_equal(layout.current_LR, planner_of(monitor).race.start_LR)
    assert asked == []
    for row in coming:
        monitor.add(row, lambda: trace.meta)
    assert asked == [550, 600, 650]
    follows = LoadMonitor(replace(SETTINGS, follow=True))
    resumed(follows, trace, 500)
    assert_same(follows, Trace.from_arrays(trace.load_SLE[:500], 20480, 2), follows.settings)


def test_after_a_resume_one_can_say_which_layout_is_in_force() -> None:
    """The slots of the plan that was carried out before: from there on what is said is what the first process said."""
    trace, advice = unbalanced(STEPS), []
    full_plan = LoadMonitor(SETTINGS, on_advice=advice.append)
    fed(full_plan, trace)
    monitor = LoadMonitor(SETTINGS, on_advice=advice.append)
    coming = resumed(monitor, trace, 500)
    monitor.carried_out(advice[0].slot_expert_LR)
    for row in coming:
        monitor.add(row, lambda: trace.meta)
    assert len(advice) == 1, "nothing is advised that is in force"
    for one, two in zip(list(monitor.snapshots)[-2:], list(full_plan.snapshots)[-2:], strict=True):
        assert one.advice is not None
        assert two.advice is not None
        assert one.advice.imbalance == two.advice.imbalance


def test_a_layout_that_is_none_is_refused() -> None:
    """Before the first step; of another shape; with an expert left out or one that the model has not."""
    monitor = LoadMonitor(SETTINGS, on_advice=lambda advice: False)
    slots = np.tile(np.arange(10) % 8, (2, 1))
    with pytest.raises(PlacementError, match="before the first step"):
        monitor.carried_out(slots)
    fed(monitor, unbalanced(50))
    for wrong, says in (
        (slots[0], r"shape \(10,\) of int64, expected whole numbers \[layers, slots\]"),
        (slots / 2, "of float64"),
        (np.tile(np.arange(8), (2, 1)), r"shape \(2, 8\), expected \[layers, slots\] = \(2, 10\)"),
        (np.where(slots == 3, 2, slots), "row 0 of the plan: expert 3 is missing, expected each of 0 to 7"),
        (np.vstack([slots[0], np.arange(10)]), "row 1 of the plan: expert 8 is unknown"),
    ):
        with pytest.raises(PlacementError, match=says):
            monitor.carried_out(wrong)
    monitor.carried_out(slots)
