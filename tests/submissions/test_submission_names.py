"""Names of submissions: nobody takes another's, and none is mistaken for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import SubmissionError
from moeload_bench.publishing.folder import RECORD, check_name, check_name_among, parse_submission
from moeload_bench.publishing.submission import Submission


def record(name: str, *authors: str) -> Submission:
    suite = {"name": "v1", "sha256": "0" * 64}
    fields = {"name": name, "authors": list(authors), "licence": "MIT", "target": "forecaster.py:Mine", "suite": suite}
    return parse_submission({**fields, "fitted_beyond_train": False, "hardware": "x"}, "test")


def put(root: Path, one: Submission, place: str = "submissions") -> None:
    folder = root / place / one.name
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(one.to_toml())


@pytest.mark.parametrize("name", ["sw-avg", "sw.avg", "5w_avg", "ar1ma", "1stm"])
def test_a_name_that_looks_like_a_baseline_s_is_refused(name: str) -> None:
    """Other separators, digits for letters."""
    with pytest.raises(SubmissionError, match="too like"):
        check_name_among(record(name, "A"), [], lambda path: b"", "there")


def test_a_name_is_its_authors(tmp_path: Path) -> None:
    """Free, or their own: accepted. Another's, or like another's: refused with what to do."""
    put(tmp_path, record("their-net", "A"))
    check_name(record("other-net", "B"), tmp_path)
    check_name(record("their-net", "A"), tmp_path)
    with pytest.raises(SubmissionError, match="taken by other authors: choose another --name"):
        check_name(record("their-net", "B"), tmp_path)
    with pytest.raises(SubmissionError, match="'their_net' is too like 'their-net'"):
        check_name(record("their_net", "A"), tmp_path)
    check_name(record("mine", "A"), tmp_path / "no leaderboard yet")


@pytest.mark.parametrize("existing", ["authors = ", "a = " + "[" * 5000, "a = " + "9" * 5000, "", "authors = 'A'"])
def test_a_record_that_cannot_be_read_keeps_its_name(existing: str) -> None:
    """Whatever is wrong with it, somebody has the name."""
    with pytest.raises(SubmissionError, match="taken by other authors"):
        check_name_among(record("mine", "A"), [f"submissions/mine/{RECORD}"], lambda path: existing.encode(), "there")


def test_names_come_from_paths() -> None:
    """Folders below submissions/ only."""
    paths = ["submissions/b-net/x.toml", "submissions/README-md", "x/submissions/c-net/d"]
    for name in ("readme.md", "c.net"):
        check_name_among(record(name, "A"), paths, lambda path: b"", "there")
    with pytest.raises(SubmissionError, match="too like 'b-net'"):
        check_name_among(record("b.net", "A"), paths, lambda path: b"", "there")
