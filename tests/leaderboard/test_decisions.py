"""docs/methods/placement.md and docs/reports/regret.md are made from results, traces and the loop of EPLB."""

from __future__ import annotations

import subprocess
import sys

import pytest

from leaderboard.committed import ROOT


def check(page: str) -> None:
    command = [sys.executable, "-m", "leaderboard", "pages", "--check", page]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_disagreements_agree_with_the_committed_results() -> None:
    """Made by `make tables`; results of which the page does not know are an error."""
    check("docs/reports/regret.md")


@pytest.mark.slow
def test_the_walk_through_and_the_peers_agree_with_the_code() -> None:
    """Made by `make tables`: what a policy saves and how near the public planner is are numbers nobody types."""
    check("docs/methods/placement.md")
