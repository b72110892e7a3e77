"""Balancers within the step: what they may do, what they reach, what they cost; and which kind of balancing wins."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, PlacementError
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.kinds import MOVE, STAY, WITHIN, Kind, kinds_of, turns
from moeload_bench.ops.planning.planner import Settings, decided
from moeload_bench.ops.planning.quotas import TOLERANCE, Pool, quotas
from moeload_bench.ops.planning.reaction import Reaction, even_tokens
from moeload_bench.ops.planning.within_step import GRADIENT, WithinStep, stated_within
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace, shares
from tests.conftest import synthetic_load_SLE

FACTOR = 1.06
"""Over the optimum of cases that can be listed, at most; tokens of the mean that the peak may exceed come on top."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[IntArray, int, Pool]:
    """Loads of some rows, devices, and a pool; some rows and experts are silent."""
    devices, masters = draw(st.sampled_from([2, 3, 4, 6])), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    load_NE = rng.poisson(rng.choice([0, 1, 20, 500], (3, devices * masters)))
    domain = draw(st.sampled_from([d for d in range(1, devices + 1) if devices % d == 0]))
    return load_NE, devices, Pool(draw(st.integers(0, 3)), domain, draw(st.sampled_from([0.0, 1.0, 7.0, 1024.0])))


def served(load_NE: IntArray, devices: int, found: Reaction) -> FloatArray:
    """The tokens of each device, replica by replica."""
    load_ND = load_NE.reshape(len(load_NE), devices, -1).sum(axis=2).astype(np.float64)
    masters = load_NE.shape[1] // devices
    for row, expert, device, tokens in zip(*found[1:], strict=True):
        load_ND[row, expert // masters] -= tokens
        load_ND[row, device] += tokens
    return load_ND


@given(cases())
@settings(max_examples=150, deadline=None)
def test_quotas_keep_within_their_pool(case: tuple[IntArray, int, Pool]) -> None:
    """No device fetches more replicas than its slots, none twice, none from itself or beyond its domain; each takes at
    least its tokens, an expert gives at most its own; loads add up and no peak rises.
    """
    load_NE, devices, pool = case
    found, masters = quotas(load_NE, devices, pool), load_NE.shape[1] // devices
    assert found.fetched_ND.max() <= pool.slots
    cells = list(zip(found.row_X.tolist(), found.expert_X.tolist(), found.device_X.tolist(), strict=True))
    assert len(set(cells)) == len(cells)
    assert all(e // masters != d and e // masters // pool.domain == d // pool.domain for _, e, d in cells)
    assert (found.tokens_X >= pool.least).all()
    given_NE = np.zeros(load_NE.shape)
    np.add.at(given_NE, (found.row_X, found.expert_X), found.tokens_X)
    assert (given_NE <= load_NE + 1e-9).all()
    np.testing.assert_allclose(found.load_ND, served(load_NE, devices, found), atol=1e-9)
    assert (found.load_ND.max(axis=1) <= load_NE.reshape(3, devices, -1).sum(axis=2).max(axis=1) + 1e-9).all()


@given(cases())
@settings(max_examples=150, deadline=None)
def test_even_tokens_are_a_bound_and_need_as_many_slots_as_masters(case: tuple[IntArray, int, Pool]) -> None:
    """Imbalance 1 wherever there is load, which no other way goes below: quotas, plans for the loads themselves, or the
    loads as they are. A device fetches at most all masters of one other.
    """
    load_NE, devices, pool = case
    found, masters = even_tokens(load_NE, devices), load_NE.shape[1] // devices
    np.testing.assert_allclose(found.load_ND, served(load_NE, devices, found), rtol=1e-6, atol=1e-6)
    known_N = load_NE.any(axis=1)
    np.testing.assert_allclose(found.imbalance_N[known_N], 1.0, rtol=1e-7)
    assert np.isnan(found.imbalance_N[~known_N]).all()
    assert found.fetched_ND.max(initial=0) <= masters
    sources = {(row, device): set() for row, device in zip(found.row_X.tolist(), found.device_X.tolist(), strict=True)}
    for row, expert, device in zip(found.row_X.tolist(), found.expert_X.tolist(), found.device_X.tolist(), strict=True):
        sources[row, device].add(expert // masters)
    assert all(len(one) == 1 for one in sources.values())
    others = [quotas(load_NE, devices, pool).imbalance_N, quotas(load_NE, devices, Pool(0, 1)).imbalance_N]
    if masters > 1:
        load_1NE = load_NE[known_N][None]
        shape = ClusterShape("any", devices, load_NE.shape[1] + devices)
        others.append(step_imbalance(plan(load_NE[known_N], shape), shares(load_1NE), devices)[0])
    for imbalance_N in others:
        assert (imbalance_N[np.isfinite(imbalance_N)] >= 1 - 1e-9).all()


def optimum(load_E: IntArray, devices: int, slots: int) -> float:
    """The least peak load over all placements of replicas, by listing them.

    For one placement it is the most that any set of experts has per device that holds one of them (Hall's theorem).
    """
    E, masters = len(load_E), len(load_E) // devices
    sets = [list(one) for size in range(1, E + 1) for one in itertools.combinations(range(E), size)]
    options = [
        list(itertools.combinations([e for e in range(E) if e // masters != d], min(slots, E - masters)))
        for d in range(devices)
    ]
    best = np.inf
    for placed in itertools.product(*options):
        holders = [{e // masters} | {d for d in range(devices) if e in placed[d]} for e in range(E)]
        peak = max(load_E[one].sum() / len(set().union(*(holders[e] for e in one))) for one in sets)
        best = min(best, peak)
    return float(best)


@pytest.mark.parametrize(("devices", "masters", "slots"), [(2, 2, 1), (3, 1, 1), (3, 2, 1), (4, 1, 1), (3, 1, 2)])
def test_quotas_are_near_the_optimum_where_it_can_be_listed(devices: int, masters: int, slots: int) -> None:
    """On small cases the peak is within `FACTOR` of the least one, and the 1 % that it may exceed what is found."""
    rng = np.random.default_rng(7)
    load_NE = rng.multinomial(1000, rng.dirichlet(np.full(devices * masters, 0.7), 30)[0], 30)
    load_NE[10:] = [rng.multinomial(1000, share_E) for share_E in rng.dirichlet(np.full(devices * masters, 0.7), 20)]
    peak_N = quotas(load_NE, devices, Pool(slots, devices, 0.0)).load_ND.max(axis=1)
    best_N = np.array([optimum(load_E, devices, slots) for load_E in load_NE])
    assert (peak_N >= best_N - 1e-6).all()
    assert (peak_N <= FACTOR * best_N + TOLERANCE * 1000 / devices).all()


def test_domains_and_minimum_are_kept_by_hand() -> None:
    """Loads 8, 0, 0, 0 on four devices: evened out over all, over a pair, and not at all with replicas of 1,024."""
    load_NE = np.array([[8, 0, 0, 0]])
    assert quotas(load_NE, 4, Pool(1, 4)).imbalance_N == pytest.approx(1.0, abs=0.02)
    assert quotas(load_NE, 4, Pool(1, 2)).load_ND.tolist()[0] == pytest.approx([4, 4, 0, 0], abs=0.05)
    assert quotas(load_NE, 4, Pool(1, 4, 1024)).load_ND.tolist() == [[8, 0, 0, 0]]
    with pytest.raises(PlacementError, match="4 devices do not divide into domains of 3"):
        quotas(load_NE, 4, Pool(1, 3))
    with pytest.raises(PlacementError, match="4 experts do not divide over 3 devices"):
        even_tokens(load_NE, 3)
    with pytest.raises(PlacementError, match="got -1 slots, domains of 4 devices and at least 1 tokens"):
        Pool(-1, 4, 1)


def test_what_a_layer_pays_by_hand() -> None:
    """40 MB at 400 GB/s take 0.1 ms: forward waits; of the second fetch and gradients twice as large, 0.2 ms hide."""
    within = WithinStep(weight_mb=40, gb_s=400, launch_ms=0.5, hidden_ms=0.2)
    assert within.layer_ms(np.array([0, 1, 2])) == pytest.approx([0.5, 0.7, 1.1])
    assert within.pool_mb(2) == 2 * 40 * (1 + GRADIENT)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slots=0", "slots is 0, expected a whole number above 0"),
        ("domain=1.5", "domain is 1.5, expected a whole number above 0"),
        ("gb_s=nan", "gb_s is nan, expected a finite number above 0"),
        ("launch_ms=-1", "launch_ms is -1, expected a finite number of at least 0"),
        ("launch_ms=x", "launch_ms is 'x', expected a number"),
        ("slot=2", "unknown constant of --within-step 'slot'; there is: domain, gb_s, hidden_ms"),
    ],
)
def test_a_wrong_constant_is_named(text: str, says: str) -> None:
    """Each with what is expected."""
    with pytest.raises(MoeloadError, match=says):
        stated_within(text)
    assert stated_within("slots=3, gb_s=50") == {"slots": 3, "gb_s": 50}
    assert stated_within("") == {}


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_turns_name_the_best_at_any_number_of_tokens(lines: list[tuple[float, float]]) -> None:
    """Between two turns the named way saves no less than any other; turns rise."""
    kinds = [Kind(str(i), "", 1.0, gain, cost) for i, (gain, cost) in enumerate(lines)]
    found = turns(kinds, 100.0)
    edges = [turn.tokens for turn in found]
    assert edges == sorted(edges)
    for turn, end in zip(found, [*edges[1:], 1e9], strict=True):
        tokens = (turn.tokens + end) / 2
        if tokens > 0:
            saved = [one.gain_percent - one.cost_percent * 100 / tokens for one in kinds]
            mine = turn.wins.gain_percent - turn.wins.cost_percent * 100 / tokens
            assert mine >= max(saved) - 1e-6 * (1 + max(map(abs, saved)))


def skewed(steps: int = 1300) -> Trace:
    """A run whose first device is busiest in every step, with noise."""
    load_SLE = synthetic_load_SLE(steps, layers=2, experts=8) + np.arange(8)[::-1] * 20
    return Trace.from_arrays(load_SLE, int(load_SLE.sum(axis=2).max()), None)


STATED = {"step_ms": 100.0, "expert_mb": 14.0, "bandwidth_gb_s": 25.0, "expert_fraction": 0.5, "overlap": 0.0}


def found_of(trace: Trace, within: dict[str, float], **cluster: float):  # type: ignore[no-untyped-def]
    settings_now = Settings("sw_avg", cluster=Cluster(ClusterShape("two", 4, 8), STATED | {"replan_ms": 0.0} | cluster))
    planner, decision = decided(trace, replace(settings_now, steps_left=5000))
    return kinds_of(trace, planner, decision, within), decision


def test_the_kind_that_wins_follows_from_what_it_costs() -> None:
    """Within the step wins where fetching is cheap, moving now and then where it is dear, and neither for steps that
    hardly wait; the turn is where their lines meet.
    """
    trace = skewed()
    cheap, decision = found_of(trace, {"gb_s": 400})
    assert decision.moves
    assert cheap.wins == WITHIN
    assert [turn.wins.kind for turn in cheap.turns] == [STAY, MOVE, WITHIN]
    turn = cheap.turns[-1]
    scale = turn.tokens / cheap.tokens
    move = cheap.best[MOVE]
    assert turn.wins.gain_percent - turn.wins.cost_percent / scale == pytest.approx(
        move.gain_percent - move.cost_percent / scale
    )
    dear, _ = found_of(trace, {"launch_ms": 40.0})
    assert dear.wins == MOVE
    idle, _ = found_of(trace, {"launch_ms": 40.0}, expert_fraction=0.01)
    assert idle.wins == STAY
    assert cheap.tokens == pytest.approx(trace.tokens_SL.mean() / 4, rel=0.01)


def test_an_assumed_constant_on_which_the_answer_hangs_is_named() -> None:
    """A launch that costs about what is gained: at half of it the answer is another; stated, it is not in doubt."""
    trace = skewed()
    cheap, _ = found_of(trace, {})
    gap = max(one.gain_percent for one in cheap.kinds) - cheap.best[MOVE].net
    per_ms = 100 * 2 / 100.0
    launch = 0.9 * gap / per_ms
    known = {"weight_mb": 0.0, "gb_s": 400.0, "hidden_ms": 0.0}
    assert found_of(trace, {**known, "launch_ms": launch})[0].hangs_on == ()
    planner, decision = decided(trace, Settings("sw_avg", cluster=Cluster(ClusterShape("two", 4, 8), STATED)))
    doubts = kinds_of(trace, planner, decision, known).hangs_on
    assert all(name in ("--within-step launch_ms", "--replan-ms", "--steps-left") for name, _, _ in doubts)


def test_a_cluster_that_holds_no_equal_masters_says_so() -> None:
    """Six devices of eight experts: nothing within the step is tried, and the line says why; stated, it is refused."""
    trace = skewed()
    settings_now = Settings("sw_avg", cluster=Cluster(ClusterShape("six", 6, 12), STATED))
    planner, decision = decided(trace, settings_now)
    found = kinds_of(trace, planner, decision, {})
    assert WITHIN not in found.best
    assert "8 experts do not divide over 6 devices" in list(found.lines())[1]
    with pytest.raises(PlacementError, match="8 experts do not divide over 6 devices"):
        kinds_of(trace, planner, decision, {"slots": 2.0})


def test_the_command_says_which_kind_wins(tmp_path: Path) -> None:
    """One line with the break-even in tokens per rank; JSON has the same, and the constants of the balancer."""
    path = write_trace(skewed(), tmp_path / "own.parquet")
    words = ["plan", str(path), "--devices", "4", "--forecaster", "sw_avg", "--level", "none", "--step-ms", "100"]
    words += ["--within-step", "slots=1,launch_ms=0.2"]
    said = " ".join(CliRunner().invoke(app, words).output.split())
    record = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["kinds"]
    turn = record["turns"][-1]
    assert f"Best at {record['tokens']:,.0f} tokens per rank: {record['wins']}." in said
    last = f"{turn['tokens']:,.0f}" if turn["tokens"] >= 100 else f"{turn['tokens']:.3g}"
    assert f"from {last} on {turn['wins']['kind']}." in said
    assert (record["within"]["slots"], record["within"]["launch_ms"]) == (1, 0.2)
    assert {one["kind"] for one in record["kinds"]} >= {STAY, WITHIN}
