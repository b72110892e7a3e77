"""A trace of others is published only if it is valid, free, says what it counts, names nobody, and is new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.publishing.admission import publishing_problems
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.support.synthetic import break_a_sum

FREE = {"recipe": "mine", "licence": "CC-BY-4.0", "count_semantics": "pre_drop"}


def put(folder: Path, trace: Trace) -> Path:
    return write_trace(trace, folder / f"{trace.id}.parquet")


def validate(*arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status and the lines of `validate`."""
    done = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return done.exit_code, done.output.splitlines()


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"licence": "unknown"}, "licence is 'unknown', expected one of CC0-1.0, CC-BY-4.0"),
        ({"licence": "CC-BY-NC-4.0"}, "licence is 'CC-BY-NC-4.0'"),
        ({"count_semantics": "unknown"}, "say what the counts are"),
        ({"notes": ("trained in /home/jo/runs",)}, "notes.0 holds '/home/jo/runs', which identifies a machine or a"),
        ({"hardware": {"node": "gpu7.cluster"}}, "hardware.node holds 'gpu7.cluster'"),
        ({"optimizer": {"by": "jo@example.org"}}, "optimizer.by holds 'jo@example.org'"),
    ],
)
def test_what_the_metadata_says_decides(tmp_path: Path, meta: dict[str, object], says: str) -> None:
    """No open licence, no meaning of the counts, a name of a machine or a person: each by its field."""
    path = put(tmp_path, synthetic_trace(100, **{**FREE, **meta}))
    (line,) = publishing_problems(path, {})
    assert says in line


def test_the_command_names_each_reason(tmp_path: Path) -> None:
    """`ok` and status 0 for a sound trace; a line for each reason and status 1 for others, only with --public."""
    good = put(tmp_path / "good", synthetic_trace(100, seed=1, **FREE))
    bad = put(tmp_path / "bad", synthetic_trace(100, seed=2, count_semantics="unknown"))
    assert validate(good, "--public") == (0, [f"ok      {good}"])
    assert validate(bad) == (0, [f"ok      {bad}"])
    status, lines = validate(bad, "--public")
    assert (status, len(lines)) == (1, 2)
    assert all(line.startswith(f"refused {bad}: ") for line in lines)
    found = json.loads("".join(validate(bad, "--public", "--json")[1]))
    assert [entry["ok"] for entry in found] == [False, False]


def test_a_damaged_trace_is_refused_before_it_is_asked_more(tmp_path: Path) -> None:
    """Counts that do not add up are one line, with step and layer."""
    path = put(tmp_path, synthetic_trace(100, **FREE))
    break_a_sum(path)
    status, (line,) = validate(path, "--public")
    assert status == 1
    assert "step 5" in line


def test_a_copy_is_refused_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal `data_sha256` as a trace that is found here, also below `community`, or twice in one folder."""
    here = tmp_path / "known"
    theirs = put(here / "community", synthetic_trace(100, seed=1, **{**FREE, "recipe": "theirs"}))
    monkeypatch.setenv("MOELOAD_TRACES", str(here))
    copy = put(tmp_path / "mine", synthetic_trace(100, seed=1, **FREE))
    status, (line,) = validate(copy, "--public")
    assert (status, line) == (1, f"refused {copy}: a copy of {theirs}: its data_sha256 is equal")
    names = ("again", "mine")
    first, second = (put(tmp_path / "two", synthetic_trace(100, seed=2, **{**FREE, "recipe": name})) for name in names)
    status, lines = validate(tmp_path / "two", "--public")
    assert status == 1
    assert lines == [f"ok      {first}", f"refused {second}: a copy of {first}: its data_sha256 is equal"]


def test_a_trace_is_no_copy_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that lies where traces are found is checked in its place."""
    path = put(tmp_path / "community", synthetic_trace(100, **FREE))
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path))
    assert validate(tmp_path / "community", "--public") == (0, [f"ok      {path}"])
