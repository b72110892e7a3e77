"""The result's file: one line a task, canonical, without what belongs to the traces."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import committed_result
from moeload_bench.errors import ResultError
from moeload_bench.results.collection import Results
from moeload_bench.results.record import load_result
from moeload_bench.suites.suite import load_suite
from tests.support.committed import by_result

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "leaderboard" / "results").glob("*/*.json"))
MINE = ROOT / "leaderboard" / "results" / "mini" / "sw_avg.json"


@pytest.mark.parametrize("path", by_result(COMMITTED))
def test_a_committed_result_is_canonical_and_short(path: Path) -> None:
    """Its file has its name; reading and writing it again gives the same bytes; 101 lines a run at most, and a head
    of six.
    """
    result, text = committed_result(path), path.read_text()
    assert path.stem == result.name
    assert result.to_json() == text
    assert text.count("\n") <= 6 + 101 * len(result.runs)


def test_a_result_reads_as_it_was_written(tmp_path: Path) -> None:
    """Nothing is lost between a record and its file."""
    result = load_result(MINE)
    assert load_result(result.save(tmp_path / "one.json")) == result


def test_the_hash_is_of_the_content_and_not_of_white_space(tmp_path: Path) -> None:
    """A file on a single line has the same; another number gives another; the status does not."""
    result = load_result(MINE)
    (tmp_path / "line.json").write_text(json.dumps(json.loads(result.to_json())))
    assert load_result(tmp_path / "line.json").content_sha256 == result.content_sha256
    assert result.model_copy(update={"status": "verified"}).content_sha256 == result.content_sha256
    assert result.model_copy(update={"seed": 1}).content_sha256 != result.content_sha256


def test_a_result_of_ones_own_trace_carries_what_belongs_to_it(tmp_path: Path) -> None:
    """No suite of the package has its floors; without them the file is refused by name."""
    result = load_result(MINE)
    suite = result.suite.model_copy(update={"name": "trace:mine", "sha256": "0" * 64})
    own = result.model_copy(update={"suite": suite})
    path = own.save(tmp_path / "own.json")
    assert load_result(path) == own
    tree = json.loads(path.read_text())
    del tree["runs"][0]["own"]
    path.write_text(json.dumps(tree))
    with pytest.raises(ResultError, match=r"own\.json: .*test/seed1: not in suite trace:mine .*neither its floors"):
        load_result(path)


def forged_floor(tree: dict[str, Any]) -> None:
    """A tenth of the least error."""
    floors = tree["runs"][0]["own"]["floors"]["stable"]["floor_batch"]
    floors["window_tv"] = [value and value / 10 for value in floors["window_tv"]]


def forged_crossing(tree: dict[str, Any]) -> None:
    """A window said to cross."""
    crossing = tree["runs"][0]["own"]["crossing"]
    first = min(crossing, key=int)
    crossing[first] = [not one for one in crossing[first]]


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (forged_floor, r"the floors are not those of suite mini"),
        (forged_crossing, r"origin \d+: crossing is \[.*\], in suite mini it is \["),
    ],
)
def test_what_a_file_says_of_the_suites_traces_must_be_the_suites(
    tmp_path: Path, forge: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Floors and crossings that are not those of the suite are refused by name."""
    tree = json.loads(Results([load_result(MINE)]).to_json())[0]
    forge(tree)
    (tmp_path / "forged.json").write_text(json.dumps(tree))
    with pytest.raises(ResultError, match=rf"forged\.json: qwen3moe-tiny-8e.*: {message}"):
        load_result(tmp_path / "forged.json")


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"runs": [1], "suite": {}}',
        b'{"runs": [], "suite": "mini"}',
        b'{"schema_version": 2, "runs": [{}], "suite": {"name":"mini","sha256":"","horizons":[],"reference":""}}',
        b'{"schema_version": 2, "runs": [{"metrics": 1, "tasks": [[]]}], "suite": '
        b'{"name":"mini","sha256":"","horizons":[],"reference":""}}',
        b'{"schema_version": 9, "runs": []}',
    ],
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    """Whatever the bytes are, the message names the file."""
    path = tmp_path / "odd.json"
    path.write_bytes(text)
    with pytest.raises(ResultError, match=r"odd\.json: ") as raised:
        load_result(path)
    assert "\n" not in str(raised.value)


def test_every_frozen_suite_with_results_comes_with_its_traces_facts() -> None:
    """All scored runs, with the suite's origins and horizons."""
    from moeload_bench.results.facts import suite_facts

    for name in sorted({path.parent.name for path in COMMITTED}):
        suite = load_suite(name)
        facts = suite_facts(suite.name, suite.sha256())
        assert facts.keys() == {entry.id for entry in suite.traces}
        for entry in suite.traces:
            assert facts[entry.id].data_sha256 == entry.data_sha256
            assert list(facts[entry.id].crossing) == [origin for origin, _ in entry.origins()]
            assert {len(crossing) for crossing in facts[entry.id].crossing.values()} == {len(suite.horizons)}


def test_the_rule_of_a_suite_is_a_plain_record() -> None:
    """Its fields enter the key under which a trace's facts are kept."""
    assert dataclasses.asdict(load_suite("mini").rule)
