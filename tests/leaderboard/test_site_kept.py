"""The site draws again what changed, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import RESULTS, ROOT
from leaderboard.site import kept as keeping
from leaderboard.site.command import mark_of, write_site
from leaderboard.site.inputs import Inputs, read_board, read_traces
from leaderboard.site.kept import boards_sha256, checkout_sha256, kept_files
from leaderboard.site.pages import run_files
from moeload_bench.cache import cache_dir
from moeload_bench.traces.store import find_trace
from tests.conftest import need

need("altair", "pip install -e '.[site]'")


def drawn(log: list[str]) -> Iterator[tuple[str, bytes]]:
    """One file; the log says that it was made."""
    log.append("made")
    yield "one.txt", b"one"


def test_a_part_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its inputs or the code change."""
    log: list[str] = []
    for made_from in ("a", "a", "b"):
        assert kept_files("part", made_from, lambda: drawn(log)) == [("one.txt", b"one")]
    assert len(log) == 2
    monkeypatch.setattr(keeping, "code_sha256", lambda: "other")
    kept_files("part", "a", lambda: drawn(log))
    assert len(log) == 3


def test_a_part_that_was_cut_off_is_made_again() -> None:
    """Half an archive is no part."""
    log: list[str] = []
    kept_files("part", "a", lambda: drawn(log))
    (path,) = (cache_dir() / "site").glob("*.zip")
    path.write_bytes(path.read_bytes()[:40])
    assert kept_files("part", "a", lambda: drawn(log)) == [("one.txt", b"one")]
    assert len(log) == 2


@pytest.fixture(scope="module")
def mini() -> Inputs:
    return Inputs(ROOT, (read_board(ROOT, RESULTS / "mini"),), tuple(read_traces(ROOT)), "0" * 64)


def test_whatever_a_page_of_results_shows_is_in_its_key(mini: Inputs) -> None:
    """A number, a standing, a floor, another trace."""
    (board,) = mini.boards
    entry = board.entries[0]
    run = entry.result.runs[0]
    seen = {boards_sha256(mini)}
    for changed in (
        entry.result.model_copy(update={"seed": 7}),
        entry.result.model_copy(update={"runs": (run.model_copy(update={"floors": {}}), *entry.result.runs[1:])}),
    ):
        entries = (type(entry)(changed, entry.folder, entry.standing, entry.wrong), *board.entries[1:])
        seen.add(boards_sha256(Inputs(mini.root, (type(board)(board.suite, entries, None),), mini.traces, mini.sha256)))
    other = (type(entry)(entry.result, entry.folder, "verified", entry.wrong), *board.entries[1:])
    seen.add(boards_sha256(Inputs(mini.root, (type(board)(board.suite, other, None),), mini.traces, mini.sha256)))
    seen.add(boards_sha256(Inputs(mini.root, mini.boards, mini.traces[1:], mini.sha256)))
    assert len(seen) == 5


def test_a_trace_is_described_and_drawn_alike_when_it_was_kept() -> None:
    """The description reads back as it was, and what the charts are drawn from to the byte."""
    path: Path = find_trace("qwen3moe-tiny-8e/test/seed1")
    first = kept_files("trace", "x", lambda: run_files(path))
    assert kept_files("trace", "x", lambda: pytest.fail("made again")) == first
    assert [name for name, _ in first] == ["run.json", "charts.json"]
    charts = json.loads(first[1][1])
    assert [layer["name"] for layer in charts["layers"]] == [str(layer) for layer in range(6)]
    share_NE = np.array(charts["layers"][0]["share"]) / charts["parts"]
    assert share_NE.sum(axis=1) == pytest.approx(1.0, abs=1e-4)
    assert len(charts["edges"]) == len(share_NE) + 1


def test_a_site_says_what_it_was_made_from(tmp_path: Path) -> None:
    """So that one of the same files is not made again; one that lost or gained a file is."""
    out = tmp_path / "site"
    assert mark_of(out) == ""
    write_site([("index.html", b"1"), ("a/b.html", b"2")], out, "abc")
    assert mark_of(out) == "abc"
    (out / "a" / "b.html").unlink()
    assert mark_of(out) == ""


def test_any_file_that_is_read_changes_the_hash_of_a_checkout(tmp_path: Path) -> None:
    """Content, name and place; what is beside these folders does not."""
    found = [checkout_sha256(tmp_path)]
    for name in ("CITATION.cff", "traces/a.parquet", "leaderboard/results/v3/mine.json", "docs/a.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        found.append(checkout_sha256(tmp_path))
    (tmp_path / "docs" / "a.md").write_bytes(b"2")
    found.append(checkout_sha256(tmp_path))
    assert len(set(found)) == 6
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a.md").write_bytes(b"1")
    assert checkout_sha256(tmp_path) == found[-1]
