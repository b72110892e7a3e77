"""The ladders of docs/reports/regimes.md say what their runs have."""

from __future__ import annotations

import pytest

from leaderboard.pages.batch_ladder import SUM, batch_ladder, batches, length_ladder, lengths
from tests.conftest import needs_traces


@needs_traces
def test_rungs_differ_in_the_batch_alone() -> None:
    """Each has four times the tokens of the one below, and the sums of one have as many as the run above it."""
    first, first_sum, second, second_sum, last = batches()
    assert [second.tokens / first.tokens, last.tokens / second.tokens] == [SUM, SUM]
    assert [first_sum.tokens, second_sum.tokens] == [second.tokens, last.tokens]
    assert first.sequence_length == second.sequence_length == last.sequence_length


@needs_traces
def test_a_larger_batch_has_less_noise_and_moves_more_for_it() -> None:
    """Noise falls and drift over noise rises with the batch; half batches find the drift that the probes find."""
    first, _, second, _, last = batches()
    assert first.noise > second.noise > last.noise
    assert first.per_noise < second.per_noise < last.per_noise
    for one in (first, second, last):
        assert one.drift == pytest.approx(one.probed, rel=0.1)
    said = batch_ladder(batches())
    assert f"{first.noise / last.noise:.1f} times less" in said
    assert said.count("| `") == len(batches())


@needs_traces
def test_longer_sequences_have_as_many_tokens_a_step() -> None:
    """Only their length differs; the sentence gives both ends' noise."""
    first, *_, last = lengths()
    assert {one.tokens for one in lengths()} == {first.tokens}
    assert [one.sequence_length for one in lengths()] == [32, 128, 512]
    assert f"{last.noise / first.noise:.2f} times as large" in length_ladder(lengths())
