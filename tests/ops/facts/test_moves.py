"""What moves at once is an event, before a layer settles and after: loads far beyond what they did, and settings.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moeload_bench.arrays import IntArray
from moeload_bench.ops.facts.conditions import Conditions, SettingWatch
from moeload_bench.ops.facts.events import Event
from moeload_bench.ops.facts.inspector import inspect_trace
from moeload_bench.ops.facts.moves import BEFORE_STEPS, LoadMoves
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.traces.trace import Trace
from tests.support.synthetic import draw, wandering

BREAK = 800


def unsettled_run(rows: int = 1200, *, breaks: bool = True, lr: float = 20.0, **columns: Any) -> Trace:
    """Return a run of three layers that never settle; from step 800 on the rate and the loads are others.

    Four experts of layer 0 lose their load, those of layers 1 and 2 have that of others.
    """
    share_SLE = wandering(rows, 3, 16)
    if breaks:
        share_SLE[BREAK:, 1:] = np.roll(share_SLE[BREAK:, 1:], 5, axis=-1)
        share_SLE[BREAK:, 0, :4] *= 0.05
        share_SLE /= share_SLE.sum(axis=-1, keepdims=True)
    lr_S = np.where(np.arange(rows) < BREAK, 1e-3, lr * 1e-3)
    return Trace.from_arrays(draw(share_SLE, 8192)[0], top_k=1, columns={"lr": lr_S, **columns})


def moved(trace: Trace) -> list[Event]:
    """Return what moved at once."""
    return [event for event in inspect_trace(trace).events.last if event.kind == "moved"]


def test_a_break_before_layers_have_settled_is_an_event_with_its_cause() -> None:
    """A learning rate 20 times as high, and a fifth or more of the tokens: one event each, on the screen too."""
    found = inspect_trace(unsettled_run())
    events = [event for event in found.events.last if event.kind == "moved"]
    assert found.states is not None
    assert (found.states.onset_L3[:, 0] == -1).all()
    assert sorted(event.layer for event in events if event.layer is not None) == [0, 1, 2]
    assert {event.cause for event in events} == {"learning rate 0.001 -> 0.02"}
    assert all(abs(event.step - BREAK) <= 10 and event.report_step <= BREAK + 30 for event in events)
    setting = next(event for event in events if event.layer is None)
    assert setting.sentence == "Step 800: learning rate 0.001 -> 0.02, within 10 steps."
    said = assess(found)
    assert "(learning rate 0.001 -> 0.02): up to" in said.to_do[0]
    assert "moved at once, in layers 0, 1 and 2." in said.to_do[0]
    assert "experts of 3 layers not watched before they settle" in said.headline


def test_a_layer_says_what_share_of_its_tokens_moved() -> None:
    """As much as the means of the 20 steps before and after the break differ by."""
    trace = unsettled_run()
    share_SLE = trace.share_SLE()
    truth_L = 0.5 * np.abs(share_SLE[BREAK : BREAK + 20].mean(0) - share_SLE[BREAK - 20 : BREAK].mean(0)).sum(-1)
    found = {event.layer: event.share for event in moved(trace) if event.layer is not None}
    np.testing.assert_allclose([found[layer] for layer in range(3)], truth_L)


def test_loads_that_wander_or_only_make_noise_do_not_move_at_once() -> None:
    """Neither slow moves of a layer that never settles nor a small batch; and nothing in the first 200 steps."""
    assert moved(unsettled_run(breaks=False, lr=1.0)) == []
    assert moved(Trace.from_arrays(draw(wandering(1200, 1, 16), 64)[0], top_k=1)) == []
    moves, even_LE, other_LE = LoadMoves(1, 10), np.full((1, 4), 0.25), np.array([[0.7, 0.1, 0.1, 0.1]])
    assert not any(moves.add(share_LE) for share_LE in [even_LE] * 10 + [other_LE] * (BEFORE_STEPS // 10 - 11))


def test_a_move_is_reported_once() -> None:
    """It goes on for 100 steps: one event, at its beginning."""
    moves, one_LE, two_LE = LoadMoves(1, 10), np.full((1, 4), 0.25), np.array([[0.7, 0.1, 0.1, 0.1]])
    parts = np.clip((np.arange(60) - 29) / 10, 0, 1)
    found = [moves.add((1 - part) * one_LE + part * two_LE) for part in parts]
    assert [number for number, move in enumerate(found) if move] == [31]


def stepped(values: list[float], **schedule: Any) -> list[tuple[int, str]]:
    """Return at which block what was found, for learning rates by block."""
    watch = SettingWatch(20, schedule)
    found = [watch.add(Conditions(lr, None)) for lr in values]
    return [(block, words) for block, words in enumerate(found) if words]


HIGH = [1e-3] * 30 + [2e-2] * 30
LOW = HIGH[::-1]


@pytest.mark.parametrize(
    ("values", "schedule", "expected"),
    [
        (HIGH, {}, [(30, "learning rate 0.001 -> 0.02")]),
        (LOW, {}, [(30, "learning rate 0.02 -> 0.001")]),
        (HIGH, {"kind": "constant"}, [(30, "learning rate 0.001 -> 0.02")]),
        (HIGH, {"kind": "cosine_with_restarts"}, []),
        (LOW, {"kind": "cosine_with_restarts"}, [(30, "learning rate 0.02 -> 0.001")]),
        (LOW, {"kind": "reduce_lr_on_plateau"}, []),
        ([1e-3] * 30 + [1.9e-3] * 30, {}, []),
        ([1e-4] * 10 + [1e-3] * 50, {}, []),
        (list(np.linspace(1e-5, 1e-3, 100)) + [1e-3] * 30, {}, []),
        (list(np.linspace(1e-3, 0, 100)), {}, []),
        (list(1 + np.cos(np.linspace(0, np.pi, 100))), {}, []),
        ([np.nan] * 60, {}, []),
    ],
)
def test_a_learning_rate_steps_where_no_schedule_planned_it(
    values: list[float], schedule: dict[str, str], expected: list[tuple[int, str]]
) -> None:
    """Warm-ups, decays to zero and recorded restarts are planned; twice as high is not enough."""
    assert stepped(values, **schedule) == expected


def test_tokens_and_data_step_where_their_level_is_new() -> None:
    """Four times the tokens, another mark; neither a short last batch nor marks that alternate."""
    rows = 1200
    tokens_S: IntArray = np.where(np.arange(rows) < BREAK, 512, 2048)
    tokens_S[::50] = 100
    stage_S = np.where(np.arange(rows) < 1000, np.arange(rows) // 100 % 2, 7)
    rng = np.random.default_rng(3)
    load_SLE = np.stack([rng.multinomial(tokens, [0.25] * 4) for tokens in tokens_S])[:, None]
    found = moved(Trace.from_arrays(load_SLE, top_k=1, columns={"stage": stage_S}))
    assert [(event.step, event.cause) for event in found] == [
        (800, "tokens per step 512 -> 2,048"),
        (1000, "new data"),
    ]
