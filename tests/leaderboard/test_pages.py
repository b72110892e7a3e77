"""The one engine for generated parts of pages (`python -m leaderboard pages`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leaderboard.committed import ROOT
from leaderboard.pages import command as pages
from leaderboard.pages import format
from leaderboard.pages.parts import PART, Page, fill_parts, stale_files
from tests.support.checkout import leaderboard


def test_a_part_is_made_anew_and_nothing_around_it_changes() -> None:
    """Whatever stood between the marks is gone; making it twice changes nothing."""
    makers = {"sum": lambda of: f"| {of} |\n"}
    text = "before\n<!-- generated: sum 1+1 -->\nold\n<!-- end -->\nafter\n"
    made = fill_parts(text, makers)
    assert made == "before\n<!-- generated: sum 1+1 -->\n\n| 1+1 |\n\n<!-- end -->\nafter\n"
    assert fill_parts(made, makers) == made


def test_every_page_with_a_mark_is_made() -> None:
    """A generated part of a page that nobody makes would grow stale unseen."""
    marked = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        if PART.search(path.read_text(encoding="utf-8"))
    }
    assert marked
    assert marked <= {page.name for page in pages.PAGES}


def test_only_what_differs_is_stale(tmp_path: Path) -> None:
    """A missing file is; one that holds what is made is not."""
    (tmp_path / "same").write_text("a")
    page = Page("x", lambda: {tmp_path / "same": "a", tmp_path / "new": "b"})
    assert list(stale_files([page])) == [(tmp_path / "new", "b")]


def test_an_unknown_page_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """With those that exist."""
    assert leaderboard("pages", "--check", "pie.md") == 2
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "unknown page 'pie.md'; there is: README.md, cards, docs/guide/cluster.md" in said


def test_a_reference_with_a_default_reads_the_same_from_every_pydantic() -> None:
    """Before 2.9 it stood in an `allOf` of one."""
    reference = {"$ref": "#/$defs/BalancingMeta"}
    assert format._type({**reference, "default": {}}) == "*balancing*"
    assert format._type({"allOf": [reference], "default": {}}) == "*balancing*"
