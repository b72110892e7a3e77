"""How right events are: alarms that are counted, breaks that are planted, and the page of what was measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from leaderboard.committed import TRACES
from leaderboard.events import breaks, page
from leaderboard.events.alarms import (
    AFTER,
    BEFORE,
    EVENTS,
    KINDS,
    LOSS,
    VIOLATION,
    Healthy,
    Measured,
    Noticed,
    crossings,
    episodes,
    first_after,
    scores,
    unplanned,
)
from leaderboard.events.measuring import false_alarms
from leaderboard.fit import moves
from leaderboard.fit.events import CHOSEN, Chosen
from moeload_bench.ops.facts.events import Event, EventRule
from moeload_bench.ops.facts.inspector import Inspector
from moeload_bench.ops.facts.moves import MoveRule
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace


def test_alarms_are_counted_once_and_apart_from_planned_switches() -> None:
    """Those within 300 steps of the one before are the same; those up to 400 steps after a switch answer it."""
    assert episodes([400, 650, 900, 1300, 50]) == [400, 1300]
    assert unplanned([990, 1000, 1400, 1401], [1000]) == [990, 1401]
    assert first_after([790, 830, 900], 800) == 30
    assert first_after([800, 1101], 800) is None
    step_C = np.array([10, 20, 30, 40])
    assert crossings(np.array([np.nan, 2.0, 3.0, 2.0]), step_C, 1.5) == [20]


def test_rivals_see_a_hot_expert_and_a_loss_that_jumps() -> None:
    """One expert of four takes all tokens from step 200 on, where the loss rises by ten standard deviations."""
    load_SLE = np.full((300, 2, 4), 100)
    load_SLE[200:, 1] = [400, 0, 0, 0]
    loss_S = 2 + 0.1 * (-1.0) ** np.arange(300)
    loss_S[200:] += 1
    score = scores(Trace.from_arrays(load_SLE, top_k=1, columns={"loss": loss_S}))
    assert (score[VIOLATION][19], score[VIOLATION][29]) == (0, 3)
    assert score[LOSS][20] == pytest.approx(10)
    assert np.isnan(score[LOSS][9])


@pytest.mark.parametrize("name", breaks.FAMILIES)
def test_every_break_is_a_fork_of_every_small_run(name: str, tmp_path: Path) -> None:
    """The recipe's schema takes each of its settings, and each break has a trace of its own."""
    forks = [
        breaks.fork_of(tmp_path, name, at, one) for at in breaks.FORKS for one in (breaks.NO_BREAK, *breaks.BREAKS)
    ]
    assert len({fork.target(0) for fork in forks}) == len(breaks.FORKS) * 8
    assert {fork.recipe.data.sequences for fork in forks} == {4}


def test_a_row_of_the_first_router_is_scaled(tmp_path: Path) -> None:
    """Nothing else of the checkpoint changes."""
    weights = {"layers.0.gate_up_proj": torch.ones(2, 3), "layers.0.gate.weight": torch.ones(4, 2)}
    torch.save({"model": {**weights, "layers.1.gate.weight": torch.ones(4, 2)}}, tmp_path / "before")
    breaks.scale_row(tmp_path / "before", tmp_path / "row" / "after", 0.0)
    after = torch.load(tmp_path / "row" / "after", weights_only=True)["model"]
    assert after["layers.0.gate.weight"].sum(dim=1).tolist() == [0, 2, 2, 2]
    assert (float(after["layers.0.gate_up_proj"].sum()), float(after["layers.1.gate.weight"].sum())) == (6, 8)


def test_the_page_reports_a_miss_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two breaks is noticed: 50 %, with an interval for two runs; nothing in the row without a break."""
    none = dict.fromkeys((*KINDS, EVENTS, VIOLATION, LOSS))
    noticed = {**none, EVENTS: 80, "unsettled": 80}
    found = [("a", "nothing", none), ("a", "text", noticed), ("b", "nothing", none), ("b", "text", none)]
    healthy = [
        Healthy(
            run=f"{number}", steps=2000, balanced=number < 3, switches=1, alarms=dict.fromkeys(KINDS, number),
            planned=dict.fromkeys(KINDS, 1), episodes=dict.fromkeys((EVENTS, VIOLATION, LOSS), 1),
            watched={BEFORE: 1000, AFTER: 9000}, moved={BEFORE: int(number == 5), AFTER: 0},
        )
        for number in range(6)
    ]  # fmt: skip
    measured = Measured(
        thresholds={VIOLATION: 2.0, LOSS: 1.0},
        healthy=tuple(healthy),
        switches=(),
        breaks=tuple(
            Noticed(base=base, at=800, name=name, settled=True, layers=1, delay=delay) for base, name, delay in found
        ),
    )
    monkeypatch.setattr(page, "measured", lambda: measured)
    lines = page.breaks().splitlines()
    assert next(line for line in lines if line.startswith("| text")).count("| 50 [9, 91], 80") == 2
    assert next(line for line in lines if line.startswith("| nothing")).count("| 0 [0, 66]") == 8
    rates = page.false_alarms()
    assert "On 6 runs of season 2027-01, 12,000 steps" in rates
    assert "| *dead* | 50.0 [0.0, 174.2] |" in rates
    said = " ".join(rates.split())
    assert "of the learning rate: 6 unsettled, 6 moved, 6 collapsed, 6 dead, 6 setting" in said
    assert "1 time before a layer had settled once, 16.67 [0.00, 49.33] for each 100,000 of 6,000 layer-steps" in said


def test_what_was_measured_is_what_the_page_says() -> None:
    """At least 100,000 healthy steps of at least 40 runs; every break at each checkpoint; rivals no worse."""
    found = page.measured()
    assert len(found.healthy) >= 40
    assert sum(one.steps for one in found.healthy) >= 100_000
    assert len({(one.base, one.at) for one in found.switches}) == sum(one.switches for one in found.healthy)
    forks = {(one.base, one.at) for one in found.breaks}
    assert forks <= {(base, at) for base in breaks.FAMILIES for at in breaks.FORKS}
    assert len({(one.base, one.at, one.name) for one in found.breaks}) == len(forks) * (1 + len(breaks.BREAKS))
    total = {name: sum(one.episodes[name] for one in found.healthy) for name in (EVENTS, VIOLATION, LOSS)}
    assert max(total.values()) == total[EVENTS]


def test_the_constants_are_those_that_were_chosen() -> None:
    """The rule of the package has them."""
    assert asdict(EventRule()) == Chosen.model_validate_json(CHOSEN.read_bytes()).constants
    assert asdict(MoveRule()) == moves.ChosenMoves.model_validate_json(moves.CHOSEN.read_bytes()).constants


@pytest.mark.slow
def test_the_healthy_runs_say_the_same_again() -> None:
    """Alarms and thresholds are made from the season's traces."""
    found = page.measured()
    healthy, thresholds = false_alarms()
    assert tuple(healthy) == found.healthy
    assert thresholds == pytest.approx(found.thresholds)


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
