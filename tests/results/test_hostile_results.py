"""A result that a stranger wrote is read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaderboard.committed import RESULTS
from moeload_bench.errors import ResultError, printable
from moeload_bench.results.record import load_result, parse_result

SPOILED = {
    "not JSON": "{",
    "a list": "[]",
    "another version": '{"schema_version": 2}',
    "endless brackets": "[" * 100_000,
    "a number of many digits": '{"seed": ' + "9" * 5000 + "}",
    "a name with an escape": '{"\\u001b[2J": 1}',
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_result_of_another_form_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Each with the file's name; what a stranger wrote moves no cursor when it is printed."""
    path = tmp_path / "mine.json"
    path.write_text(SPOILED[name])
    with pytest.raises(ResultError, match=r"mine\.json: ") as caught:
        load_result(path)
    assert printable(str(caught.value)).isprintable()


@pytest.mark.parametrize("place", ["metrics", "counts"])
def test_a_result_of_many_thousand_names_is_refused_at_once(place: str) -> None:
    """What reads a result works by name: 400,000 metrics took 32 s."""
    tree = json.loads(load_result(RESULTS / "mini" / "uniform.json").to_json())
    names = [f"x{i}" for i in range(20_000)]
    tree["runs"][0][place] = names if place == "metrics" else dict.fromkeys(names, 1)
    with pytest.raises(ResultError, match="20000 names in one place of a run, expected at most 10000"):
        parse_result(json.dumps(tree).encode(), "the result")
