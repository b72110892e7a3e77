"""A copy is known whatever was done to it, and another training is not taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from moeload_bench.traces.duplicates import duplicate_of, equal_rows, share_distance, step_correlation
from moeload_bench.traces.trace import Trace

L, E, TOKENS = 3, 8, 2000
Array = np.ndarray


def loads(seed: int, *, steps: int = 1200, data: int | None = None, spread: float = 1.0) -> Array:
    """A training: levels that wander, and steps that move with the data, which two trainings may share; [S, L, E]."""
    rng, batches = np.random.default_rng(seed), np.random.default_rng(seed if data is None else data)
    logit_SLE = spread * rng.standard_normal((1, L, E)) + np.cumsum(0.01 * rng.standard_normal((steps, L, E)), axis=0)
    logit_SLE += 0.1 * batches.standard_normal((steps, L, E))
    share_SLE = np.exp(logit_SLE) / np.exp(logit_SLE).sum(axis=2, keepdims=True)
    return rng.multinomial(TOKENS, share_SLE.reshape(-1, E)).reshape(steps, L, E)


def trace_of(load_SLE: Array, recipe: str) -> Trace:
    return Trace.from_arrays(np.ascontiguousarray(load_SLE), recipe=recipe)


def permuted(load_SLE: Array, rng: np.random.Generator) -> Array:
    """Each layer's experts in an order of their own, and the layers too."""
    order = [rng.permutation(load_SLE.shape[2]) for _ in range(L)]
    return np.stack([load_SLE[:, layer][:, order[layer]] for layer in rng.permutation(L)], axis=1)


COPIES: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "renamed": lambda load, rng: load,
    "permuted": permuted,
    "cut": lambda load, rng: load[311:700],
    "sampled and permuted": lambda load, rng: permuted(load[::5], rng),
    "a layer left out": lambda load, rng: load[:, 1:],
    "half of the tokens": lambda load, rng: rng.binomial(load, 0.5),
    "an eighth of the tokens, permuted": lambda load, rng: permuted(rng.binomial(load, 0.125), rng),
    "cut, a quarter of the tokens": lambda load, rng: rng.binomial(load[204:1104], 0.25),
    "times two": lambda load, rng: 2 * load,
    "an expert added that is never used": lambda load, rng: permuted(np.insert(load, 3, 0, axis=2), rng),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_recognised(how: str) -> None:
    """Under another name, with another order of experts and layers, cut, sampled, thinned or scaled."""
    known = loads(1)
    copy = COPIES[how](known, np.random.default_rng(9))
    reason = duplicate_of(trace_of(copy, "mine"), trace_of(known, "theirs"))
    assert reason is not None
    assert "theirs/test/seed0" in reason


@pytest.mark.parametrize("data", [None, 77])
@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_another_training_is_no_copy(data: int | None, spread: float) -> None:
    """Also when both see the data in one order, and also when both are balanced, so that one of the signs is there."""
    one, other = (loads(seed, data=data, spread=spread) for seed in (1, 2))
    assert duplicate_of(trace_of(one, "mine"), trace_of(other, "theirs")) is None
    assert equal_rows(one, other) < 0.01


def test_an_expert_left_out_that_was_never_used_hides_no_copy() -> None:
    """Of the known trace, in each layer another one; one that was used makes it another trace."""
    known = np.stack([np.insert(loads(1)[:, layer], layer, 0, axis=1) for layer in range(L)], axis=1)
    assert duplicate_of(trace_of(loads(1), "mine"), trace_of(known, "theirs")) is not None
    known[7, 0, 0] = 1
    assert duplicate_of(trace_of(loads(1), "mine"), trace_of(known, "theirs")) is None


def test_each_sign_says_what_it_is_for() -> None:
    """Thinning leaves mean shares near the noise it makes and steps alike; another seed leaves neither."""
    known, other = loads(1), loads(2)
    thinned = np.random.default_rng(3).binomial(known, 0.25)
    assert share_distance(thinned, known) < 2 < 5 < share_distance(other, known)
    assert step_correlation(thinned, known) > 0.4 > 0.2 > step_correlation(other, known)
    assert equal_rows(known[100:], known) == 1.0


def test_counts_that_say_too_little_make_no_copy() -> None:
    """With one expert, or with a handful of tokens, every trace has the counts of every other one."""
    one = np.full((300, 2, 1), 50)
    assert duplicate_of(trace_of(one, "mine"), trace_of(one[:200], "theirs")) is None
    rng = np.random.default_rng(0)
    few, more = (rng.multinomial(3, [0.5, 0.5], size=(300, 2)) for _ in range(2))
    assert equal_rows(few, more) == 0.0


def test_traces_too_short_or_of_other_sizes_are_told_apart() -> None:
    """Three rows say nothing of mean shares; another number of experts is another training."""
    assert share_distance(loads(1)[:3], loads(1)) == float("inf")
    assert duplicate_of(trace_of(loads(1)[:, :, :4], "mine"), trace_of(loads(1), "theirs")) is None
