"""Finished work on disk: whole or not there, found again by everything it depends on, never trusted when damaged."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench import cache
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.pairs import Fitted
from moeload_bench.harness.truth import open_truth
from moeload_bench.isolation.sources import module_sha256
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import Suite, suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support.no_files import put_no_file
from tests.support.scores import same_scores

PARTS = {
    "suite_sha256": "a",
    "trace_sha256": "b",
    "kwargs": {"window": 100},
    "level": "process",
    "versions": {"numpy": "2"},
}


def only_file() -> Path:
    """The one entry there is."""
    (path,) = cache.cache_dir().rglob("*.json")
    return path


def test_what_is_saved_is_loaded_and_nothing_else_is_there() -> None:
    """The folder comes from the environment; no temporary file stays behind."""
    key = cache.task_key(**PARTS)
    assert cache.load(key, dict) is None
    cache.save(key, {"value": [1, 2.5, None, "text"]})
    assert cache.load(key, dict) == {"value": [1, 2.5, None, "text"]}
    assert [path for path in cache.cache_dir().rglob("*") if path.is_file()] == [only_file()]


@pytest.mark.parametrize("part", PARTS)
def test_a_key_depends_on_every_part(part: str) -> None:
    """And not on the order in which they are named."""
    key = cache.task_key(**PARTS)
    assert cache.task_key(**dict(reversed(PARTS.items()))) == key
    assert cache.task_key(**{**PARTS, part: "other"}) != key


@settings(max_examples=40)
@given(st.integers(min_value=0), st.integers(0, 255))
def test_a_damaged_entry_is_ignored_with_a_notice(position: int, byte: int) -> None:
    """Whichever byte is changed, the old value or nothing comes back: never another value."""
    value = {"metrics": {"window_tv": [0.125, 0.25]}, "failures": []}
    cache.save("ab" * 32, value)
    path = only_file()
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cache.load("ab" * 32, dict) in (None, value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"value": {}}', b"[" * 100_000, b"\xff"])
def test_an_entry_that_is_no_entry_is_ignored_with_a_notice_and_written_anew(content: bytes) -> None:
    """Truncated by a full disk, say."""
    cache.save("cd" * 32, {"x": 1})
    only_file().write_bytes(content)
    with pytest.warns(UserWarning, match="ignoring the damaged cache entry"):
        assert cache.load("cd" * 32, dict) is None
    cache.save("cd" * 32, {"x": 2})
    assert cache.load("cd" * 32, dict) == {"x": 2}


def test_many_writers_of_one_entry_leave_one_of_their_values() -> None:
    """Two workers may finish the same task."""
    threads = [threading.Thread(target=cache.save, args=("ef" * 32, {"n": [n] * 2000})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cache.load("ef" * 32, dict)
    assert found is not None
    assert len(set(found["n"])) == 1
    assert only_file().exists()


def test_a_failed_write_leaves_the_old_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no temporary file."""
    cache.save("12" * 32, {"x": 1})
    monkeypatch.setattr(cache.os, "replace", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.save("12" * 32, {"x": 2})
    assert cache.load("12" * 32, dict) == {"x": 1}
    assert [path for path in cache.cache_dir().rglob("*") if path.is_file()] == [only_file()]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MOELOAD_CACHE, else the platform's own place for caches."""
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("MOELOAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache.cache_dir() == tmp_path / "xdg" / "moeload-bench"
    else:
        assert cache.cache_dir() == platformdirs.user_cache_path("moeload-bench", appauthor=False)


def test_the_hash_of_a_module_covers_what_it_imports_from_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling, and the sibling's sibling imported inside a function; not a module that it does not import."""
    package = tmp_path / "hashed_pkg"
    package.mkdir()
    files = {"__init__": "", "main": "from .helper import x\n", "helper": "def x():\n    import hashed_pkg.deep\n"}
    for name, text in {**files, "deep": "y = 1\n", "other": "z = 1\n"}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    first = module_sha256("hashed_pkg.main")
    assert first is not None
    for name, changes in {"other": False, "helper": True, "deep": True}.items():
        before = module_sha256("hashed_pkg.main")
        (package / f"{name}.py").write_text(
            "changed = 1\nfrom . import deep\n" if name == "helper" else "changed = 1\n"
        )
        assert (module_sha256("hashed_pkg.main") != before) == changes
    assert module_sha256("hashed_pkg.nothing") is None


def test_the_hash_of_a_file_is_the_hash_of_its_bytes_and_is_found_without_running_it(tmp_path: Path) -> None:
    """So that a submission's hash can be checked with any tool."""
    import hashlib

    file = tmp_path / "f.py"
    file.write_text("raise SystemExit('was run')\n")
    assert source_sha256(parse_target(f"{file}:Mine")) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source_sha256(parse_target("uniform")) != source_sha256(parse_target("ema"))


# ---------------------------------------------------------------- cache entries with a right digest and anything in


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
