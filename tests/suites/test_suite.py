"""Suites: frozen by content, refused when anything they depend on is not what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.suites.freeze import to_toml
from leaderboard.suites.plan import enough_origins, load_plan
from moeload_bench.errors import MoeloadError, SuiteError
from moeload_bench.suites.suite import (
    Suite,
    SuiteTrace,
    check_origins,
    default_suite,
    fitting_horizons,
    load_suite,
    sliding_suite,
    suite_for_trace,
    suite_names,
)
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE, synthetic_trace

FROZEN = {
    "2027-02": "782db14ecbc45aaf9653a8ae0186fa7bcebab26fb4bb2b33acd22d0a19d9cba9",
    "mini": "f712e93798e13f54d7ac0df9cf55ba9e7346b17a8d61b7ae3c5af74b53be6f0a",
    "shapes": "a6ef026035eab07a6e6110b287627700761187e609459d48048ab8477025d80d",
    "shapes-2": "ce60db2af4e3418f27a3407cf1e26b0db205f2ad32990bf12b333e40eb5d6f63",
    "v3": "01c6567c661d87611a40ea839a03fb81b0aa941a8dc04e91cd3fecc9e83ff43f",
}


@pytest.mark.parametrize("name", suite_names())
def test_a_frozen_suite_does_not_change(name: str) -> None:
    """The hash over everything that decides scores; a change makes a new suite, never another version of this one."""
    assert load_suite(name).sha256() == FROZEN[name]


PLANNED = [name for name in FROZEN if not name.startswith("2027-")]
"""All but seasons, whose runs `season check` reads."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "mini" else pytest.mark.slow) for name in PLANNED]
)
def test_a_suite_has_its_traces_and_enough_origins_that_serve_every_horizon(name: str) -> None:
    """Content hashes match; at least 20 origins per state and run, over 100 steps or more; each leaves room for the
    largest horizon. A run may lack a state only where the suite's plan says so."""
    suite, plan = load_suite(name), load_plan(name)
    for entry in suite.traces:
        trace = read_trace(find_trace(entry.id), expected_sha256=entry.data_sha256)
        check_origins(trace, entry, max(entry.asked(suite.horizons)))
        for state, origins in (("transient", entry.transient), ("stable", entry.stable)):
            lacking = entry.id in plan.lacking and plan.lacking[entry.id].state == state
            assert len(origins) == 0 if lacking else enough_origins(origins)
        assert entry.mixed == ()
    for entry in suite.fit:
        read_trace(find_trace(entry.id), expected_sha256=entry.data_sha256)


def test_toml_round_trip_keeps_the_hash(tmp_path: Path) -> None:
    """What the freezing script writes is what is read."""
    suite = suite_for_trace(synthetic_trace(1200))
    path = tmp_path / "own.toml"
    path.write_text(to_toml(suite))
    assert load_suite(path).sha256() == suite.sha256()


def test_the_hash_ignores_words_and_follows_tasks() -> None:
    """A description may be mended; an origin may not be moved."""
    suite = suite_for_trace(synthetic_trace(1200))
    assert suite.model_copy(update={"description": "better words"}).sha256() == suite.sha256()
    moved = suite.traces[0].model_copy(update={"stable": suite.traces[0].stable[1:]})
    assert suite.model_copy(update={"traces": (moved,)}).sha256() != suite.sha256()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "x"\nhorizons = [1]\ntraces = []\ncolour = "red"', "colour"),
        ('name = "x"\nhorizons = [10, 1]\ntraces = []', "horizons must rise"),
        ('name = "x"\nhorizons = [1]\ntraces = []\n[tables]\n"set a" = ["b"]', "every recipe that is scored, once"),
        ('name = "x"\nhorizons = [1]\n[[traces]]\nid = "a"\ndata_sha256 = "00"', "data_sha256"),
    ],
)
def test_a_broken_suite_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """Unknown keys are forbidden; the message names file and field."""
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=message):
        load_suite(path)


def test_an_origin_that_leaves_no_room_is_refused(trace: Trace) -> None:
    """Every origin serves every horizon."""
    entry = SuiteTrace(id=trace.id, data_sha256=data_sha256(trace), stable=(350,))
    with pytest.raises(SuiteError, match="origin 350 with horizon 100 does not fit"):
        check_origins(trace, entry, 100)


def test_a_trace_that_is_too_short_is_told_why() -> None:
    """An origin needs 20 rows before it, so five rows serve no horizon: rows needed and rows there are named."""
    with pytest.raises(SuiteError, match=r"20 rows before it and room for the horizon 1 .* at least 21 rows, got 5"):
        suite_for_trace(synthetic_trace(5))


def test_an_own_trace_gets_the_horizons_it_can_serve() -> None:
    """At most half its length, multiples of its stride; none at all is refused."""
    assert fitting_horizons(synthetic_trace(400)) == (1, 10, 100)
    sampled = Trace.from_arrays(synthetic_load_SLE(400), step_S=range(0, 4000, 10))
    assert fitting_horizons(sampled) == (10, 100, 1000, 2000)
    with pytest.raises(SuiteError, match="serve none of the horizons"):
        fitting_horizons(synthetic_trace(1))


@pytest.mark.parametrize("recipe", ["a..b", "a...b", "a....", "A.b."])
def test_any_name_of_a_trace_makes_a_suite(recipe: str) -> None:
    """A suite's name holds no "..", a recipe's may: the suite is named otherwise, the trace keeps its id."""
    suite = suite_for_trace(synthetic_trace(300, recipe=recipe))
    assert suite.traces[0].id == f"{recipe}/test/seed0"
    assert Suite.model_validate(suite.model_dump()) == suite


def test_blocks_are_disjoint_and_sliding_origins_equally_spaced(trace: Trace) -> None:
    """The paper's two evaluations; every origin keeps the state of its step."""
    suite: Suite = suite_for_trace(trace)
    blocks = sliding_suite(suite, {trace.id: trace}, 100, (100,))
    origins = [origin for origin, _ in blocks.traces[0].origins()]
    assert origins == [100, 200, 300]
    sliding = sliding_suite(suite, {trace.id: trace}, 50, (10, 100))
    assert [origin for origin, _ in sliding.traces[0].origins()] == [50, 100, 150, 200, 250, 300]


@pytest.mark.parametrize(
    ("names", "expected"), [(["mini"], "mini"), (["mini", "v3"], "v3"), (["mini", "v10", "v4", "v5-trial"], "v10")]
)
def test_submissions_are_for_the_newest_full_suite(
    names: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mini until one is frozen."""
    monkeypatch.setattr("moeload_bench.suites.suite.suite_names", lambda: names)
    assert default_suite() == expected


def test_windows_reserve_no_more_than_a_run_is_asked_for() -> None:
    """A run with a largest horizon of its own has origins up to that; one that is asked for less is left out."""
    long, short = synthetic_trace(400), synthetic_trace(300, run=1)
    both = [suite_for_trace(one) for one in (long, short)]
    asked = both[1].traces[0].model_copy(update={"horizon": 100})
    suite = both[0].model_copy(update={"horizons": (10, 100, 200), "traces": (both[0].traces[0], asked)})
    traces = {one.id: one for one in (long, short)}
    sliding = sliding_suite(suite, traces, 100, (10, 100, 200))
    assert [[origin for origin, _ in one.origins()] for one in sliding.traces] == [[100, 200], [100, 200]]
    assert [one.id for one in sliding_suite(suite, traces, 200, (200,)).traces] == [long.id]
    with pytest.raises(SuiteError, match=r"windows of 200 steps: the runs of .* are asked for 100 at most"):
        sliding_suite(suite.model_copy(update={"traces": (asked,)}), traces, 200, (200,))


@pytest.mark.parametrize("ending", ["", ".toml"])
def test_a_name_that_no_file_can_have_is_refused(ending: str) -> None:
    """The system refuses to look for a name of 300 letters; that is no traceback."""
    with pytest.raises(MoeloadError, match=r"no such file|unknown suite"):
        load_suite("x" * 300 + ending)
