"""Deaths of experts in a run that goes on: the alarm of the board, what was seen, and a hint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeload_bench.arrays import IntArray
from moeload_bench.inspection.experts import alarms, block_shares, deaths, measured
from moeload_bench.inspection.facts import Inspector, inspect_trace
from moeload_bench.inspection.starving import Deaths, alarm_errors, death_sentences
from moeload_bench.inspection.terminal import expert_sentences
from moeload_bench.recording.writer import rows_of
from moeload_bench.traces.store import load_trace
from moeload_bench.traces.trace import Trace

DYING = Path(__file__).parents[2] / "traces" / "unbalanced-qwen3-16e-rate" / "train" / "seed301.parquet"


@pytest.fixture(scope="module")
def dying() -> Trace:
    """The first 1,300 steps of a training with too large a learning rate."""
    trace, steps = load_trace(DYING), 1300
    columns = {name: column[:steps] for name, column in trace.columns.items()}
    return Trace(trace.meta, trace.step_S[:steps], trace.tokens_SL[:steps], trace.load_SLE[:steps], columns)


def tens(load_SLE: IntArray) -> IntArray:
    """Sum every ten steps."""
    return load_SLE.reshape(-1, 10, *load_SLE.shape[1:]).sum(axis=1)


@pytest.mark.parametrize("stride", [1, 10])
def test_row_by_row_it_says_what_the_board_scores(dying: Trace, stride: int) -> None:
    """The alarm after each block and the deaths are those of `inspection.experts` on the whole trace."""
    trace = dying if stride == 1 else Trace.from_arrays(tens(dying.load_SLE), step_S=np.arange(130) * 10)
    share_BLE = block_shares(trace)
    expected_BLE = alarms(share_BLE)
    inspector = Inspector(trace.meta)
    for at, row in enumerate(rows_of(trace)):
        inspector.add_row(row)
        if (at + 1) * stride % 100 == 0:
            found = inspector.inspection()
            assert (found.dying_LE <= expected_BLE[(at + 1) * stride // 100 - 1]).all()
            assert (found.dying_LE | found.dead_LE >= expected_BLE[(at + 1) * stride // 100 - 1]).all()
    died = {(int(block) * 100, int(layer), int(expert)) for block, layer, expert in np.argwhere(deaths(share_BLE))}
    assert found.deaths.number == len(died) > 5
    assert {(one.step, one.layer, one.expert) for one in found.deaths.last} <= died
    for one in found.deaths.last:
        block = one.step // 100
        assert (one.warned is not None) == expected_BLE[block - 2, one.layer, one.expert]


def test_beside_a_death_stands_what_was_seen_and_a_hint(dying: Trace) -> None:
    """The loss and the learning rate of the run, before it and later."""
    found = inspect_trace(dying)
    last = found.deaths.last[-1]
    loss = [float(dying.columns["loss"][a : a + 100].mean(dtype=float)) for a in (last.step - 100, last.step + 200)]
    assert last.seen["loss"] == pytest.approx(tuple(loss))
    entropy = dying.columns["router_entropy"][last.step - 100 : last.step, last.layer].mean(dtype=float)
    assert last.seen["router_entropy"][0] == pytest.approx(float(entropy))
    said = "\n".join(expert_sentences(found))
    assert f"died at step {last.step:,}, " in said
    assert f"loss {loss[0]:.3g} -> {loss[1]:.3g}" in said
    assert "learning rate " in said
    assert "HINT, not measured here: " in said
    known = measured()
    assert f"before {100 * (known.recall or 0):.0f} % of {known.deaths} deaths" in alarm_errors()
    assert found.dying_LE.any()
    assert alarm_errors() in said


def test_without_deaths_nothing_is_said_of_them() -> None:
    """No hint is given for what did not happen."""
    assert death_sentences(Deaths(0, 0, (), 300), ("0",)) == []


def test_deaths_are_counted_from_the_first_step_that_was_seen(dying: Trace) -> None:
    """A run that is watched from the middle has deaths since 300 steps after that."""
    late = Trace(dying.meta, dying.step_S + 10_000, dying.tokens_SL, dying.load_SLE, dying.columns)
    found = inspect_trace(late)
    assert "since step 10,300, " in death_sentences(found.deaths, found.names_L)[0]
