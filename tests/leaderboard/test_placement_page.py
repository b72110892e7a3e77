"""docs/methods/placement.md is made from traces and the loop of EPLB."""

from __future__ import annotations

import pytest

from leaderboard.committed import ROOT
from tests.support.checkout import leaderboard


@pytest.mark.slow
def test_the_walk_through_and_the_peers_agree_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by `make tables`: what a policy saves and how near the public planner is are numbers nobody types."""
    monkeypatch.chdir(ROOT)
    assert leaderboard("pages", "--check", "docs/methods/placement.md") == 0
