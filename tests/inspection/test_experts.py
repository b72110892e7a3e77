"""Deaths of experts, and episodes of alarms before them."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench.inspection.experts import (
    added,
    alarms,
    block_shares,
    count,
    danger,
    deaths,
    episodes,
)
from moeload_bench.traces.trace import Trace


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
    assert np.flatnonzero(deaths(one(*share_B))).tolist() == died


def test_the_baseline_warns_of_alive_experts_that_are_low_and_falling() -> None:
    """Below 0.2/E and lower than the block before; a dead expert gives no warning any more."""
    assert np.flatnonzero(danger(one(1, 0.19, 0.19, 0.15, 0.17, 0.05))).tolist() == [1, 3]


def test_the_alarm_stands_until_the_even_share_is_back() -> None:
    """It begins at 0.15, stands at 0.5, is silent of the dead, stands at 0.3 and ends at 1; at 0.3 it did not begin."""
    share = one(1, 0.3, 0.15, 0.5, 0.05, 0.3, 1, 0.5)
    assert np.flatnonzero(alarms(share)).tolist() == [2, 3, 5]


def test_an_expert_that_recovers_for_a_block_stays_in_the_same_episode() -> None:
    """At 0.25 the baseline forgets it, and warns once more, too late; the alarm that stands has warned all along."""
    share = one(1, 1, 0.15, 0.25, 0.15, 0.05, 0.05, 0.05)
    baseline, shipped = (list(episodes(alarm(share), share)) for alarm in (danger, alarms))
    assert [(each.first, each.death) for each in baseline] == [(2, None), (4, 5)]
    assert [(each.first, each.death) for each in shipped] == [(2, 5)]
    assert (count(share, baseline).recall, count(share, shipped).recall) == (0.0, 1.0)


def test_alarms_are_one_episode_until_the_expert_recovers() -> None:
    """Two dips with a recovery between them are two episodes; the second ends in a death, seen two blocks before."""
    share = one(1, 1, 0.15, 0.16, 0.14, 1, 1, 0.15, 0.14, 0.05, 0.05, 0.05)
    found = list(episodes(danger(share), share))
    assert [(each.first, each.death) for each in found] == [(2, None), (7, 9)]
    counts = count(share, found)
    assert (counts.recall, counts.precision, counts.false_rate) == (1.0, 0.5, 1e5 / 1200)


def test_a_warning_in_the_last_block_is_too_late() -> None:
    """The block's end is the death's beginning: no 100 steps are left. The episode is right all the same."""
    share = one(1, 1, 1, 0.15, 0.05, 0.05, 0.05)
    counts = count(share, episodes(danger(share), share))
    assert (counts.deaths, counts.foreseen, counts.right) == (1, 0, 1)


def test_counts_of_runs_add_up() -> None:
    """Rates of several runs are those of all their deaths and episodes together."""
    share = one(1, 1, 1, 0.15, 0.05, 0.05, 0.05)
    counts = count(share, episodes(danger(share), share))
    assert added([counts, counts]).deaths == 2
    assert added([]).recall is None


def test_blocks_are_of_a_hundred_steps() -> None:
    """Rows are summed, also where one stands for ten steps; an incomplete block is left out."""
    load = np.tile(np.array([[[3, 1]]]), (25, 1, 1))
    steps = Trace.from_arrays(load, step_S=np.arange(25) * 10)
    assert block_shares(steps).tolist() == [[[1.5, 0.5]]] * 2
