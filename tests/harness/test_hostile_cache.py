"""Cache entries with a right digest and anything in them: each is used as what it is, or ignored with a notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeload_bench import cache
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.pairs import Fitted
from moeload_bench.harness.truth import open_truth
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support.no_files import put_no_file
from tests.support.scores import same_scores


def scored(folder: Path) -> Results:
    """The results of a forecaster on a short run of its own, from the cache where they are there."""
    trace = synthetic_trace(300)
    path = folder / "mine.parquet"
    if not path.exists():
        write_trace(trace, path)
    open_truth.cache_clear()
    suite: Suite = suite_for_trace(trace, horizons=(1, 10), per_state=2)
    return evaluate("last_value", suite, paths={trace.id: path}, level="none")


def entry_path(kind: str) -> Path:
    """The one entry of a kind."""
    for path in cache.cache_dir().rglob("*.json"):
        value = json.loads(path.read_bytes())["value"]
        if kind == ("result" if "rows" in value else "facts" if "crossing" in value else "references"):
            return path
    raise AssertionError(f"no {kind} was kept")


def forge(path: Path, change: Callable[[Any], Any]) -> None:
    """Write another value into an entry, with its right digest."""
    value = json.loads(path.read_bytes())["value"]
    value = change(value) or value
    path.write_text(json.dumps({"sha256": cache._digest(value), "value": value}))


def _in_each(tree: Any, key: str, value: Any) -> None:
    for part in tree.values():
        part[key] = value


def _set(tree: Any, column: str, value: Any) -> None:
    names, rows = tree["rows"][0]
    for row in rows:
        row[names.index(column)] = value


HOSTILE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a list": ("result", lambda v: [v]),
    "a number": ("result", lambda v: 3),
    "another trace": ("result", lambda v: _set(v, "trace", "other/test/seed0")),
    "another hash": ("result", lambda v: _set(v, "data_sha256", "0" * 64)),
    "fewer rows": ("result", lambda v: v["rows"][0][1].pop()),
    "a row again": ("result", lambda v: v["rows"][0][1].append(v["rows"][0][1][0])),
    "another state": ("result", lambda v: _set(v, "state", "mixed")),
    "fewer columns": ("result", lambda v: v["rows"][0][0].pop()),
    "a column of another name": ("result", lambda v: v["rows"][0][0].__setitem__(0, "run")),
    "fewer layers": ("result", lambda v: v["rows"][1][1].pop()),
    "text": ("result", lambda v: _set(v, "window_tv", "a")),
    "an error below 0": ("result", lambda v: _set(v, "window_tv", -0.5)),
    "an infinite error": ("result", lambda v: _set(v, "window_tv", float("inf"))),
    "no number": ("result", lambda v: _set(v, "window_tv", float("nan"))),
    "costs below 0": ("result", lambda v: _set(v, "observe_wall_s", -1.0)),
    "booleans for numbers": ("result", lambda v: _set(v, "horizon", True)),
    "a column that is no name": ("result", lambda v: v["rows"][0][0].__setitem__(-1, "\x1b[2J")),
    "very many layers": ("result", lambda v: _set(v, "layers", 10**12)),
    "counts twice": ("result", lambda v: _set(v, "counts", '{"a": 1, "a": 2}')),
    "counts that are no numbers": ("result", lambda v: _set(v, "counts", '{"a": []}')),
    "facts: a list": ("facts", lambda v: [v]),
    "facts: another hash": ("facts", lambda v: v.update(data_sha256="0" * 64)),
    "facts: fewer origins": ("facts", lambda v: v["crossing"].popitem()),
    "facts: fewer horizons": ("facts", lambda v: next(iter(v["crossing"].values())).pop()),
    "references: a list": ("references", lambda v: [v]),
    "references: of other origins": ("references", lambda v: v.popitem()),
    "references: no plans": ("references", lambda v: _in_each(v, "costs", {})),
    "references: no shapes": ("references", lambda v: _in_each(v, "shapes", [])),
    "references: text": ("references", lambda v: _in_each(v, "rows_K", "abc")),
    "references: another shape": ("references", lambda v: next(iter(v.values()))["costs"]["oracle"].popitem()),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_entry_of_another_form_or_trace_is_ignored(what: str, tmp_path: Path) -> None:
    """The run is scored again, to the same numbers; an entry of another form ended in a traceback."""
    kind, change = HOSTILE[what]
    first = scored(tmp_path)
    forge(entry_path(kind), change)
    if kind != "result":
        entry_path("result").unlink()
    with pytest.warns(UserWarning, match="ignoring the damaged cache entry"):
        again = scored(tmp_path)
    assert same_scores(again, first)


@pytest.mark.parametrize("there", ["pipe", "device", "folder", "loop", "terabyte"])
def test_what_is_no_file_in_the_cache_is_not_waited_for(there: str, tmp_path: Path) -> None:
    """A pipe was, and `/dev/zero` was read until memory ended; it stays, and the run goes on."""
    first = scored(tmp_path)
    path = entry_path("result")
    path.unlink()
    put_no_file(there, path)
    with pytest.warns(UserWarning, match="ignoring the damaged cache entry"):
        again = scored(tmp_path)
    assert same_scores(again, first)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        None,
        {"data": "zz", "wall_s": 1.0},
        {"data": 3, "wall_s": 1.0},
        {"data": None, "wall_s": "x"},
        {"data": "00"},
        {"data": "00", "wall_s": []},
    ],
)
def test_what_a_fit_left_in_another_form_is_ignored(tree: Any) -> None:
    """As other entries are."""
    cache.save("ab" * 32, tree)
    with pytest.warns(UserWarning, match="ignoring the damaged cache entry"):
        assert cache.load("ab" * 32, Fitted.from_tree) is None
