"""Pages that are generated (`python -m leaderboard pages`): the one engine, and pages with numbers of their own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from leaderboard.committed import ROOT
from leaderboard.pages import command as pages
from leaderboard.pages import format
from leaderboard.pages import sampling_note as maker
from leaderboard.pages.parts import PART, Page, fill_parts, stale_files
from moeload_bench.scoring.noise import sampling_error
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


# ---------------------------------------------------------------- pages with numbers of their own


@pytest.mark.slow
def test_the_walk_through_and_the_peers_agree_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by `make tables`: what a policy saves and how near the public planner is are numbers nobody types."""
    monkeypatch.chdir(ROOT)
    assert leaderboard("pages", "--check", "docs/methods/placement.md") == 0


# ---------------------------------------------------------------- the note on sampling


def test_the_committed_note_is_what_the_code_gives():
    """docs/methods/sampling-floor-note.md is generated: no figure in it was typed."""
    assert {path: path.read_text() for path in maker.note_files()} == maker.note_files()


def test_the_formula_is_what_drawing_gives():
    """Multinomial counts scored against their true probabilities: within 2 % of the closed form."""
    for experts, tokens in ((16, 256 * 1024), (128, 256 * 2048)):
        formula = sampling_error(experts, tokens, 1)
        assert maker.simulated_error(experts, tokens, 100) == pytest.approx(formula, rel=0.02)


def test_tokens_needed_inverts_the_error():
    """At the number of tokens that an error needs, sampling makes about that error."""
    needed = maker.tokens_needed(0.0125)
    assert needed == pytest.approx(4074, rel=0.001)
    assert math.sqrt(2 / (math.pi * needed)) == pytest.approx(0.0125)
