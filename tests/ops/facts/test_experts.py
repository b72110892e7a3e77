"""Deaths of experts, the alarm before them and its episodes; what is seen at a death, and a hint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.ops.facts.experts import (
    BLOCK_STEPS,
    DEAD_BLOCKS,
    Deaths,
    ExpertAlarm,
    alarm_errors,
    death_sentences,
    measured,
    over_even,
    rows_per_block,
)
from moeload_bench.ops.facts.inspector import Inspector, inspect_trace
from moeload_bench.ops.facts.terminal import expert_sentences
from moeload_bench.recording.writer import rows_of
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.trace import Trace

DYING = Path(__file__).parents[3] / "traces" / "unbalanced-qwen3-16e-rate" / "train" / "seed301.parquet"


@pytest.fixture(scope="module")
def dying() -> Trace:
    """The first 1,300 steps of a training with too large a learning rate."""
    return load_trace(DYING).cut(slice(0, 1300))


def tens(load_SLE: IntArray) -> IntArray:
    """Sum every ten steps."""
    return load_SLE.reshape(-1, 10, *load_SLE.shape[1:]).sum(axis=1)


def block_shares(trace: Trace) -> FloatArray:
    """Return the load of each expert over the even share in each whole block, [B, L, E]."""
    rows = rows_per_block(trace.meta.stride)
    blocks = [trace.load_SLE[first : first + rows] for first in range(0, trace.steps - rows + 1, rows)]
    return np.stack([over_even(block.sum(axis=0)) for block in blocks])


def alarms(share_BLE: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Return after each block which experts the alarm warns of, and in which block they died; [B, L, E] each."""
    alarm = ExpertAlarm(*share_BLE.shape[1:])
    alarm_BLE, died_BLE = np.zeros((2, *share_BLE.shape), dtype=np.bool_)
    for block, share_LE in enumerate(share_BLE):
        died_BLE[block + 1 - DEAD_BLOCKS] |= alarm.add_block((block + 1) * BLOCK_STEPS, share_LE, {})
        alarm_BLE[block] = alarm.alarm_LE
    return alarm_BLE, died_BLE


def one(*share_B: float) -> np.ndarray:
    """The shares of one expert of one layer, block by block."""
    return np.array(share_B)[:, None, None]


@pytest.mark.parametrize(
    ("share_B", "died"),
    [
        ((1, 1, 1, 0.05, 0.05, 0.05), [3]),
        ((1, 1, 0.05, 0.05, 0.05, 1), []),  # before step 300
        ((1, 1, 1, 0.05, 0.05, 0.2, 1), []),  # recovered
        ((1, 1, 0.05, 1, 0.05, 0.05, 0.05), []),  # alive for one block only
        ((1, 1, 1, 1, 0.05, 0.05), []),  # not yet three blocks
        ((1, 1, 1, 0.05, 0.05, 0.05, 1, 1, 0.05, 0.05, 0.05), [3, 8]),
    ],
)
def test_a_death_is_three_dead_blocks_after_two_alive_ones(share_B: tuple[float, ...], died: list[int]) -> None:
    """From step 300 on; the block of the death is the first dead one."""
    assert np.flatnonzero(alarms(one(*share_B))[1]).tolist() == died


def test_the_alarm_stands_until_the_even_share_is_back() -> None:
    """It begins at 0.15, stands at 0.5, is silent of the dead, stands at 0.3 and ends at 1; at 0.3 it did not begin."""
    assert np.flatnonzero(alarms(one(1, 0.3, 0.15, 0.5, 0.05, 0.3, 1, 0.5))[0]).tolist() == [2, 3, 5]


def test_blocks_are_of_a_hundred_steps() -> None:
    """Rows are summed, also where one stands for ten steps; an incomplete block is left out."""
    load = np.tile(np.array([[[3, 1]]]), (25, 1, 1))
    steps = Trace.from_arrays(load, step_S=np.arange(25) * 10)
    assert block_shares(steps).tolist() == [[[1.5, 0.5]]] * 2


def deaths(share_BLE: FloatArray) -> BoolArray:
    """Return in which block an expert dies, [B, L, E], by the words of the definition."""
    dead_BLE, died_BLE = share_BLE < 0.1, np.zeros(share_BLE.shape, dtype=np.bool_)
    for block in range(3, len(dead_BLE) - 2):
        died_BLE[block] = dead_BLE[block : block + 3].all(axis=0) & ~dead_BLE[block - 2 : block].any(axis=0)
    return died_BLE


@pytest.mark.parametrize("stride", [1, 10])
def test_row_by_row_it_says_what_the_board_scores(dying: Trace, stride: int) -> None:
    """The alarm after each block and the deaths are those of the blocks of the whole trace."""
    trace = dying if stride == 1 else Trace.from_arrays(tens(dying.load_SLE), step_S=np.arange(130) * 10)
    share_BLE = block_shares(trace)
    expected_BLE, died_BLE = alarms(share_BLE)
    np.testing.assert_array_equal(died_BLE, deaths(share_BLE))
    inspector = Inspector(trace.meta)
    for at, row in enumerate(rows_of(trace)):
        inspector.add_row(row)
        if (at + 1) * stride % 100 == 0:
            run = inspector.inspection()
            assert (run.dying_LE <= expected_BLE[(at + 1) * stride // 100 - 1]).all()
            assert (run.dying_LE | run.dead_LE >= expected_BLE[(at + 1) * stride // 100 - 1]).all()
    died = {(int(block) * 100, int(layer), int(expert)) for block, layer, expert in np.argwhere(died_BLE)}
    assert run.deaths.number == len(died) > 5
    assert {(each.step, each.layer, each.expert) for each in run.deaths.last} <= died
    for each in run.deaths.last:
        block = each.step // 100
        assert (each.warned is not None) == expected_BLE[block - 2, each.layer, each.expert]


def test_beside_a_death_stands_what_was_seen_and_a_hint(dying: Trace) -> None:
    """The loss and the learning rate of the run, before it and later."""
    run = inspect_trace(dying)
    last = run.deaths.last[-1]
    loss = [float(dying.columns["loss"][a : a + 100].mean(dtype=float)) for a in (last.step - 100, last.step + 200)]
    assert last.seen["loss"] == pytest.approx(tuple(loss))
    entropy = dying.columns["router_entropy"][last.step - 100 : last.step, last.layer].mean(dtype=float)
    assert last.seen["router_entropy"][0] == pytest.approx(float(entropy))
    said = "\n".join(expert_sentences(run))
    assert f"died at step {last.step:,}, " in said
    assert f"loss {loss[0]:.3g} -> {loss[1]:.3g}" in said
    assert "learning rate " in said
    assert "HINT, not measured here: " in said
    known = measured()
    assert f"before {100 * (known.recall or 0):.0f} % of {known.deaths} deaths" in alarm_errors()
    assert run.dying_LE.any()
    assert alarm_errors() in said


def test_without_deaths_nothing_is_said_of_them() -> None:
    """No hint is given for what did not happen."""
    assert death_sentences(Deaths(0, 0, (), 300), ("0",)) == []


def test_deaths_are_counted_from_the_first_step_that_was_seen(dying: Trace) -> None:
    """A run that is watched from the middle has deaths since 300 steps after that."""
    late = Trace(dying.meta, dying.step_S + 10_000, dying.tokens_SL, dying.load_SLE, dying.columns)
    run = inspect_trace(late)
    assert "since step 10,300, " in death_sentences(run.deaths, run.names_L)[0]
