"""What a trace looks like: a run's parameters, tokens, measured noise and drift; layers without states or loads."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.pages.parameters import count_parameters
from moeload_bench.arrays import FloatArray
from moeload_bench.generator.recipe import list_recipes, load_recipe
from moeload_bench.scoring.description import (
    describe_layers,
    hardware_words,
    noise_and_drift,
    recipe_parameters,
    rounded,
    run_facts,
)
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE

EXPERTS, TOKENS = 8, 4096


def drawn(share_SE: FloatArray, sequence: int = 1, seed: int = 0) -> Trace:
    """One layer, top-1: half of the sequences each in `load_half`, all tokens of a sequence to one expert."""
    rng = np.random.default_rng(seed)
    a_SLE, b_SLE = (
        np.asarray(rng.multinomial(TOKENS // 2 // sequence, share_SE)[:, None] * sequence, dtype=np.int64)
        for _ in range(2)
    )
    return Trace.from_arrays(a_SLE + b_SLE, TOKENS, 1, columns={"load_half": a_SLE})


def still(steps: int = 900) -> FloatArray:
    return np.full((steps, EXPERTS), 1 / EXPERTS)


@pytest.mark.parametrize("sequence", [1, 16])
def test_noise_says_how_many_independent_tokens_there_are(sequence: int) -> None:
    """Tokens that go together in sequences count once each sequence."""
    facts = run_facts(drawn(still(), sequence))
    assert facts.expert_tokens == pytest.approx(TOKENS / EXPERTS)
    assert facts.independent_tokens == pytest.approx(TOKENS / EXPERTS / sequence, rel=0.1)


def test_noise_is_no_drift() -> None:
    """Of a run that stands still, at every horizon that fits: what is left is far below the noise."""
    _, drift = noise_and_drift(drawn(still(3000)))
    assert max(drift) < 0.4


def test_drift_is_the_move_of_the_shares_over_the_noise_of_a_row() -> None:
    """Two experts swap linearly: over h steps each moves h times its slope."""
    steps, slope = 3000, 0.1 / 3000
    share_SE = still(steps)
    share_SE[:, 0] += slope * np.arange(steps)
    share_SE[:, 1] -= slope * np.arange(steps)
    noise, drift = noise_and_drift(drawn(share_SE))
    variance = (share_SE * (1 - share_SE) / TOKENS)[steps // 3 :].sum(axis=1).mean()
    assert drift[2] == pytest.approx(np.sqrt(2) * 1000 * slope / np.sqrt(variance), rel=0.1)
    assert drift[1] == pytest.approx(np.sqrt(2) * 100 * slope / np.sqrt(variance), rel=0.3)
    assert 0.01 < noise < 0.1


def test_what_is_not_known_is_not_said() -> None:
    """No halves: no noise. A horizon that is no whole number of rows, or longer than the rows: no drift."""
    trace = drawn(still(300))
    bare = Trace.from_arrays(trace.load_SLE, TOKENS, 1)
    assert run_facts(bare).noise is None
    assert run_facts(trace).drift[2] is None
    assert run_facts(trace).parameters is None
    assert hardware_words({}) == "unknown"


def test_a_layer_without_load_is_left_out() -> None:
    """Beside it, the other layer's noise and drift stand as if it were alone; without any load nothing is known."""
    alone = drawn(still(300))
    half_SLE = alone.columns["load_half"]
    both, half = (np.concatenate([one, np.zeros_like(one)], axis=1) for one in (alone.load_SLE, half_SLE))
    tokens = np.stack([np.full(300, TOKENS), np.zeros(300, dtype=np.int64)], axis=1)
    found = noise_and_drift(Trace.from_arrays(both, tokens, 1, columns={"load_half": half}))
    expected = noise_and_drift(alone)
    assert found.noise == pytest.approx(expected.noise)
    assert found.drift == pytest.approx(expected.drift, nan_ok=True)
    nothing = Trace.from_arrays(0 * alone.load_SLE, 0 * tokens[:, :1], 1, columns={"load_half": 0 * half_SLE})
    assert run_facts(nothing).noise is None


def test_words_of_a_run() -> None:
    """Numbers of a committed kind of run, read as a person would."""
    assert [rounded(n) for n in (194_368, 1_708_736, 13_206_081_536)] == [
        "194 thousand",
        "1.71 million",
        "13.2 billion",
    ]
    assert hardware_words({"cpu": "X", "threads": 1}) == "1 thread of X"
    assert hardware_words({"cpu": "X", "threads": 1, "gpu": "Y"}) == "Y"


def test_the_size_of_every_recipe_is_known() -> None:
    """By name and version; one counted anew: all are by the test of generated pages."""
    known = recipe_parameters()
    assert set(known) == {f"{one} version {load_recipe(one).version}" for one in list_recipes()}
    recipe = load_recipe("qwen3moe-8e-shift")
    assert count_parameters(recipe) == known[f"{recipe.name} version {recipe.version}"]


@pytest.mark.parametrize("stride", [3, 50])
def test_a_layer_without_states_is_neither_stable_nor_transient(stride: int) -> None:
    """For a stride that the rule refuses, the description says why."""
    trace = Trace.from_arrays(synthetic_load_SLE(400), 512, 2, step_S=np.arange(400) * stride)
    layers = describe_layers(trace)
    assert [layer.end_state for layer in layers] == [None, None]
    refused = "not defined: states need a stride that divides 100 steps"
    assert all(layer.states.startswith(refused) and f"got a stride of {stride}" in layer.states for layer in layers)


def test_a_layer_without_load_has_no_dead_experts() -> None:
    """NaN is below no threshold."""
    load_SLE = synthetic_load_SLE(400)
    load_SLE[:, 0] = 0
    assert [layer.dead_experts for layer in describe_layers(Trace.from_arrays(load_SLE))] == [None, 0]


def test_the_end_state_is_that_of_the_last_span() -> None:
    """Whatever came before it."""
    trace = Trace.from_arrays(synthetic_load_SLE(700), 512, 2)
    for layer in describe_layers(trace):
        assert layer.end_state == "stable"
        assert layer.states.rpartition("; ")[2].startswith("stable ")
