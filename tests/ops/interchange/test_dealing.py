"""Experts dealt to tokens: exact counts, no expert twice for a token, bursts as halves of the batch show them."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeload_bench.arrays import Array, IntArray
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.dealing import MAX_SCALE, Bursts, bursts_shown, check_counts, deal, scaled_counts


def counts(tokens: int, experts: int, top_k: int, skew: float, seed: int) -> IntArray:
    """Loads [E] that this many tokens of top-k different experts have."""
    rng = np.random.default_rng(seed)
    score_TE = skew * rng.standard_normal(experts) + rng.gumbel(size=(tokens, experts))
    return np.bincount(np.argsort(-score_TE, axis=1)[:, :top_k].ravel(), minlength=experts)


def assert_exact(ids_TK: Array, load_E: IntArray) -> None:
    np.testing.assert_array_equal(np.bincount(ids_TK.ravel(), minlength=len(load_E)), load_E)
    assert (np.diff(np.sort(ids_TK, axis=1), axis=1) > 0).all(), "an expert twice for one token"


STEPS = st.integers(1, 24).flatmap(
    lambda experts: st.tuples(
        st.integers(1, 500), st.just(experts), st.integers(1, experts), st.floats(0, 8), st.integers(0, 2**32)
    )
)
BURSTS = st.builds(Bursts, st.sampled_from([1, 16, 100]), st.floats(1, 100))


@given(STEPS, BURSTS, st.integers(0, 2**32))
def test_counts_are_exact_and_experts_of_a_token_differ(
    step: tuple[int, int, int, float, int], bursts: Bursts, seed: int
) -> None:
    """For any tokens, experts, top-k, skew and bursts; equal seeds give equal experts."""
    tokens, load_E = step[0], counts(*step)
    ids_TK = deal(load_E, tokens, bursts, np.random.default_rng(seed))
    assert ids_TK.shape == (tokens, step[2])
    assert ids_TK.dtype == np.int32
    assert_exact(ids_TK, load_E)
    np.testing.assert_array_equal(ids_TK, deal(load_E, tokens, bursts, np.random.default_rng(seed)))


@given(STEPS, st.floats(0, 1))
def test_other_numbers_of_tokens_keep_the_proportions(step: tuple[int, int, int, float, int], part: float) -> None:
    """Largest remainder: each count is within one of its part, and the counts are those of top-k different experts."""
    tokens, top_k, load_E = step[0], step[2], counts(*step)
    wanted = max(1, int(part * MAX_SCALE * tokens))
    scaled_E = scaled_counts(load_E, tokens, wanted)
    assert (np.abs(scaled_E - load_E * wanted / tokens) < 1).all()
    check_counts(scaled_E, wanted, top_k, "scaled")
    assert_exact(deal(scaled_E, wanted, Bursts(1, 1.0), np.random.default_rng(0)), scaled_E)


def test_more_than_four_times_the_tokens_are_refused() -> None:
    """And none at all; the message says how many were recorded and why."""
    for wanted in (0, 401):
        with pytest.raises(
            TraceError, match=rf"--tokens is {wanted}, expected 1 to 400: 100 were recorded, .*imbalance"
        ):
            scaled_counts(np.array([100, 100]), 100, wanted)


def test_impossible_counts_are_refused_in_words() -> None:
    """An expert above the tokens, and loads that are not tokens x top-k."""
    with pytest.raises(TraceError, match="x: expert 1 has load 11, expected at most the 10 tokens"):
        check_counts(np.array([9, 11]), 10, 2, "x")
    with pytest.raises(TraceError, match="x: loads sum to 19, expected 10 tokens x top-2 = 20: counts after drops"):
        check_counts(np.array([9, 10]), 10, 2, "x")


@pytest.mark.parametrize("spread", [1.0, 5.0, 20.0])
def test_halves_differ_as_the_recorded_halves_do(spread: float) -> None:
    """The spread that halves of dealt tokens show is the one they were dealt by, and groups of a sequence have it."""
    tokens, sequence, load_E = 4096, 128, np.full(64, 512)
    shown, of_sequences = [], []
    for seed in range(40):
        ids_TK = deal(load_E, tokens, Bursts(sequence, spread), np.random.default_rng(seed))
        half_E = np.bincount(ids_TK[: tokens // 2].ravel(), minlength=64)
        shown.append(bursts_shown(load_E, half_E, tokens, 10_000).spread)
        load_GE = np.stack([np.bincount(part.ravel(), minlength=64) for part in np.split(ids_TK, 32)])
        of_sequences.append(load_GE.var(axis=0, ddof=1).mean() / (sequence * (1 / 8) * (7 / 8)))
    assert np.mean(shown) == pytest.approx(max(1.05, spread), rel=0.1)  # below 1 it counts as 1
    assert np.mean(of_sequences) == pytest.approx(spread, rel=0.25)


def test_halves_that_say_nothing_give_independent_tokens() -> None:
    """An empty half, a half that is all, and loads without spread."""
    load_E = np.array([10, 10])
    for half_E in (np.zeros(2, dtype=np.int64), load_E):
        assert bursts_shown(load_E, half_E, 10, 128) == Bursts(1, 1.0)
    assert bursts_shown(load_E, load_E // 2, 10, 128).spread == 1.0


def test_which_tokens_share_experts_is_as_random_as_can_be() -> None:
    """Of equal loads each pair of experts meets nearly as often as chance has it."""
    tokens, experts, top_k = 8192, 16, 4
    ids_TK = deal(np.full(experts, tokens * top_k // experts), tokens, Bursts(1, 1.0), np.random.default_rng(3))
    chosen_TE = np.zeros((tokens, experts))
    np.put_along_axis(chosen_TE, ids_TK, 1.0, axis=1)
    together_EE = (chosen_TE.T @ chosen_TE)[~np.eye(experts, dtype=bool)]
    expected = tokens * top_k * (top_k - 1) / (experts * (experts - 1))
    assert together_EE == pytest.approx(expected, rel=0.2)


LARGE = """
import numpy as np, time
from moeload_bench.ops.interchange.dealing import Bursts, deal
load_E = np.random.default_rng(0).multinomial(65536 * 8, np.random.default_rng(1).dirichlet(np.full(128, 3.0)))
for layer in range(48):
    deal(load_E, 65536, Bursts(128, 8.0), np.random.default_rng([0, layer]))
"""


@pytest.mark.slow
def test_a_large_step_takes_the_memory_that_is_stated() -> None:
    """48 layers of 128 experts, 65,536 tokens, top-8, one layer after the other: less than 2 GB of memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, "-c", LARGE], check=True, timeout=300)
    assert max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) < 2_000_000 or before > 2_000_000
