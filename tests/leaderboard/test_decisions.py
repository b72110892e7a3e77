"""docs/methods/placement.md and docs/reports/regret.md are made from results, traces and the loop of EPLB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leaderboard.pages.decisions import PAGES, PART, PARTS, filled

ROOT = Path(__file__).resolve().parents[2]


def check(*parts: str) -> None:
    command = [sys.executable, "-m", "leaderboard.pages.decisions", "--check", *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_hold_every_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is found on one page, and making it anew changes nothing around it."""
    found = [match["name"] for page in PAGES for match in PART.finditer(page.read_text())]
    assert sorted(found) == sorted(PARTS)
    monkeypatch.setitem(PARTS, "walk", lambda: "| new |")
    text = next(page.read_text() for page in PAGES if ": walk -->" in page.read_text())
    before, after = text.split("<!-- made by leaderboard/pages/decisions.py: walk -->\n")
    made = filled(text, ["walk"])
    assert made.startswith(before)
    assert made.endswith("| new |\n<!-- end -->" + after.partition("<!-- end -->")[2])


def test_disagreements_agree_with_the_committed_results() -> None:
    """Made by `make tables`; results of which the page does not know are an error."""
    check("regret")


@pytest.mark.slow
def test_the_walk_through_and_the_peers_agree_with_the_code() -> None:
    """Made by `make tables`: what a policy saves and how near the public planner is are numbers nobody types."""
    check("walk", "peers")


def test_an_unknown_part_is_refused_by_name() -> None:
    """With those that exist."""
    command = [sys.executable, "-m", "leaderboard.pages.decisions", "--check", "pie"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown part 'pie'; there is: peers, walk, separation, regret" in done.stderr
