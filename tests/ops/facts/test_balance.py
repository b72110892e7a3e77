"""Balance against noise alone, and the expert-parallel table: a second implementation, and what must come out.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from leaderboard.committed import TRACES as TRACES_FOLDER
from leaderboard.season.folder import SEASONS
from moeload_bench.ops.facts.inspector import Inspection, Inspector, inspect_trace
from moeload_bench.ops.facts.verdict import AT_FLOOR, FAR_ABOVE, assess, balance_of
from moeload_bench.traces.lookup import list_traces, load_trace
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces
from tests.support.synthetic import autocorrelated, draw, even, fixed, oscillating

ANSWERS = ("noise alone", "above noise")
TRACES = ("olmoe-64e-top8/test/seed1", "switch-8e-drop/test/seed1", "qwen3moe-16e-restart/test/seed1")


def second_table(trace: Trace, size: int) -> dict[str, list[float]]:
    """Return the table's columns of one size, row by row and layer by layer, by the words of the definition alone."""
    found: dict[str, list[float]] = {"busiest": [], "noise": [], "tokens": []}
    E, experts = trace.num_experts, trace.num_experts // size
    for layer in range(trace.num_layers):
        rows = [trace.load_SLE[row, layer].astype(float) for row in range(trace.steps - 200, trace.steps)]
        halves = [trace.columns["load_half"][row, layer].astype(float) for row in range(trace.steps - 200, trace.steps)]
        mean = sum(row / row.sum() for row in rows) / len(rows)
        busiest, noise, tokens = [], [], 0.0
        for row, half in zip(rows, halves, strict=True):
            ranks = [row[rank * experts : (rank + 1) * experts].sum() for rank in range(size)]
            busiest.append(size * max(ranks) / row.sum())
            tokens = max(tokens, *ranks)
            a, b = half.sum(), (row - half).sum()
            d = (half / a - (row - half) / b) * np.sqrt(a * b) / (a + b)
            pairs = zip(d, mean, strict=True)
            d = np.array([value * np.sqrt(1 / E / share) if share > 0 else 0.0 for value, share in pairs])
            moved = [d[rank * experts : (rank + 1) * experts].sum() for rank in range(size)]
            noise.append(sum(max(1 / size + sign * value for value in moved) for sign in (-1, 1)) / 2)
        found["busiest"].append(float(np.mean(busiest)))
        found["noise"].append(size * float(np.mean(noise)))
        found["tokens"].append(tokens)
    return found


@needs_traces
@pytest.mark.parametrize("name", TRACES)
def test_table_and_noise_equal_a_second_implementation(name: str) -> None:
    """For every expert-parallel size and layer: busiest rank, noise alone over both signs, most tokens."""
    trace = load_trace(name)
    table = inspect_trace(trace).ranks
    assert table.size_K == tuple(size for size in range(2, trace.num_experts + 1) if trace.num_experts % size == 0)
    for k, size in enumerate(table.size_K):
        expected = second_table(trace, size)
        np.testing.assert_allclose(table.busiest_KL[k], expected["busiest"], rtol=1e-9)
        np.testing.assert_allclose(table.low_KL[k], expected["noise"], rtol=1e-9)
        np.testing.assert_allclose(table.high_KL[k], expected["noise"], rtol=1e-9)
        assert table.tokens_KL[k].tolist() == expected["tokens"]


def found_of(share_SLE: Any, *, half: bool, tokens: int = 4096, **drawn: Any) -> Inspection:
    """Return the inspection of loads drawn from shares, top-1; ``half``: whether half batches are recorded."""
    load_SLE, half_SLE = draw(share_SLE, tokens, **drawn)
    return inspect_trace(Trace.from_arrays(load_SLE, top_k=1, columns={"load_half": half_SLE} if half else None))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("experts", [4, 16, 64])
def test_equal_experts_are_at_the_floor(experts: int, half: bool) -> None:
    """With equal experts and multinomial noise, ranks of every size are as noise alone has them."""
    found = found_of(even(400, 2, experts), half=half)
    assert balance_of(found) == ["noise alone"] * 2
    np.testing.assert_allclose(found.ranks.busiest_KL, found.ranks.low_KL, rtol=0.05)
    assert not assess(found).to_do or half is False


@pytest.mark.parametrize("half", [True, False])
def test_noise_is_that_of_equal_experts_not_of_the_present_ones(half: bool) -> None:
    """A router with favourites is above noise: around its own means, noise would be nearly what is seen."""
    found = found_of(fixed(400, 2, 16), half=half)
    assert balance_of(found) == ["above noise"] * 2
    assert (found.busiest_L > 1.3).all()
    assert (found.high_L < 1.2).all()


@pytest.mark.parametrize("period", [2, 3, 4])
def test_rows_a_period_apart_tell_a_swing_from_noise(period: int) -> None:
    """Rows that are 1 to 4 apart bound noise: one of them holds nothing of a swing that short, without half batches."""
    share_SLE = oscillating(400, 2, 16, period, 0.8)
    found, known = (found_of(share_SLE, half=half) for half in (False, True))
    np.testing.assert_allclose(found.high_L, known.high_L, rtol=0.03)
    assert balance_of(found) == ["above noise"] * 2


@pytest.mark.parametrize("period", [6, 9])
def test_where_loads_oscillate_noise_is_not_known(period: int) -> None:
    """Differences of rows hold the swing: without half batches it cannot be told from noise, with them it can."""
    share_SLE = oscillating(400, 2, 16, period, 0.4)
    found = found_of(share_SLE, half=False)
    assert found.oscillates_L.all()
    assert balance_of(found) == ["cannot tell"] * 2
    assert "cannot tell" in assess(found).balance
    assert any("Record half batches" in text for text in assess(found).to_do)
    assert balance_of(found_of(share_SLE, half=True)) == ["above noise"] * 2


def test_far_above_the_upper_end_is_above_noise_though_loads_oscillate() -> None:
    """A swing can only raise that end: three times as much is imbalance, in layers of a log without half batches."""
    share_SLE = oscillating(400, 3, 16, 2, 0.1)
    share_SLE[..., 0] *= 3.5
    found = found_of(share_SLE / share_SLE.sum(axis=-1, keepdims=True), half=False)
    assert found.oscillates_L.all()
    assert (found.busiest_L > 1.25 * found.high_L).all()
    assert balance_of(found) == ["above noise"] * 3
    assert "More than noise in all 3 layers." in assess(found).balance
    assert not any("Record half batches" in text for text in assess(found).to_do)


@pytest.mark.slow
@needs_traces
def test_answers_without_half_batches_are_those_with_them() -> None:
    """On all recorded traces, at four steps of each: at most 2 % of layers contradict. Of layers far above noise that
    neither end alone could tell, at least 80 % are called so.
    """
    layers = contradict = far = gone = 0
    season = SEASONS / "2027-02" / "traces"
    for trace in (read_trace(ref.path) for folder in (TRACES_FOLDER, season) for ref in list_traces(folder)):
        if "load_half" not in trace.columns:
            continue
        without = replace(trace, columns={name: one for name, one in trace.columns.items() if name != "load_half"})
        for stop in {max(200, trace.steps * quarter // 4) for quarter in (1, 2, 3, 4)}:
            known, found = (_answers(one, stop) for one in (trace, without))
            known_L, found_L = (np.array(balance_of(one)) for one in (known, found))
            both_L = np.isin(known_L, ANSWERS) & np.isin(found_L, ANSWERS)
            layers += int((known_L != "no load").sum())
            contradict += int((both_L & (known_L != found_L)).sum())
            unknown_L = found.oscillates_L | (found.busiest_L <= AT_FLOOR * found.high_L)
            far_L = (found.busiest_L > FAR_ABOVE * known.high_L) & unknown_L
            far += int(far_L.sum())
            gone += int((far_L & (found_L == "above noise")).sum())
    print(f"{layers} layers, {contradict} contradict; {far} far above and not known, {gone} of them called above")
    assert layers > 1000
    assert contradict <= 0.02 * layers
    assert gone >= 0.8 * far


def _answers(trace: Trace, stop: int) -> Inspection:
    """Return what the 200 rows before a row say."""
    inspector = Inspector(trace.meta)
    inspector.add(trace, stop - 200, stop)
    return inspector.inspection()


def test_sequences_that_choose_alike_lie_between_the_two_ends() -> None:
    """Their noise exceeds that of draws: half batches measure it; without them the ends hold it between them."""
    drawn = {"sequences": 16, "concentration": 60.0}
    measured = found_of(even(400, 1, 16), half=True, **drawn)
    between = found_of(even(400, 1, 16), half=False, **drawn)
    assert balance_of(measured) == ["noise alone"]
    assert between.low_L[0] < measured.low_L[0] < 1.02 * between.high_L[0]
    assert balance_of(between) == ["cannot tell"]


def test_slow_wander_is_no_noise() -> None:
    """Routing that wanders over tens of rows is seen as movement, white noise of the same size is not."""
    assert found_of(autocorrelated(fixed(400, 2, 16), 0.9, 0.2), half=False).oscillates_L.all()
    assert not found_of(fixed(400, 2, 16), half=False).oscillates_L.any()


def test_counts_made_from_shares_have_no_least_noise() -> None:
    """How many draws they stand for is unknown, so the lower end is no noise at all."""
    load_SLE, _ = draw(even(300, 1, 8), 4096)
    found = inspect_trace(Trace.from_arrays(load_SLE, top_k=1, count_semantics="derived"))
    assert found.low_L[0] == 1.0
    assert balance_of(found) == ["cannot tell"]
