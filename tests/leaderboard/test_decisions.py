"""docs/methods/placement.md and docs/reports/regret.md are made from results, traces and the loop of EPLB."""

from __future__ import annotations

import pytest

from leaderboard.committed import ROOT
from tests.support.checkout import leaderboard


def check(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which may have read the committed results already."""
    monkeypatch.chdir(ROOT)
    assert leaderboard("pages", "--check", page) == 0


@pytest.mark.slow
def test_disagreements_agree_with_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by `make tables`; results of which the page does not know are an error."""
    check("docs/reports/regret.md", monkeypatch)


@pytest.mark.slow
def test_the_walk_through_and_the_peers_agree_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by `make tables`: what a policy saves and how near the public planner is are numbers nobody types."""
    check("docs/methods/placement.md", monkeypatch)
