"""The note on the founding paper's errors holds what the code computes."""

from __future__ import annotations

import math

import pytest

from leaderboard.pages import sampling_note as maker
from moeload_bench.scoring.noise import sampling_error


def test_the_committed_note_is_what_the_code_gives():
    """docs/methods/sampling-floor-note.md is generated: no figure in it was typed."""
    assert {path: path.read_text() for path in maker.note_files()} == maker.note_files()


def test_the_formula_is_what_drawing_gives():
    """Multinomial counts scored against their true probabilities: within 2 % of the closed form."""
    for experts, tokens in ((16, 256 * 1024), (128, 256 * 2048)):
        formula = sampling_error(experts, tokens, 1)
        assert maker.simulated_error(experts, tokens, 100) == pytest.approx(formula, rel=0.02)


def test_tokens_needed_inverts_the_error():
    """At the number of tokens that an error needs, sampling makes about that error."""
    needed = maker.tokens_needed(0.0125)
    assert needed == pytest.approx(4074, rel=0.001)
    assert math.sqrt(2 / (math.pi * needed)) == pytest.approx(0.0125)
