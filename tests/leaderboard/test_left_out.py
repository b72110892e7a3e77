"""The page of recipes that `gated` has not seen is the one that its measurements make."""

from __future__ import annotations

import json

import pytest

from leaderboard.committed import ROOT
from leaderboard.pages import distance, gated, unseen
from leaderboard.pages.parts import PART, fill_parts
from leaderboard.studies.clusters import CLUSTERS, OUT, SUITE
from moeload_bench.suites.suite import load_suite


@pytest.mark.slow
def test_the_page_is_the_measurements() -> None:
    """Its tables are those that leaderboard/left_out.json and the committed results make."""
    text = (ROOT / "docs" / "reports" / "gated.md").read_text()
    makers = {**gated.PARTS, **distance.PARTS, **unseen.PARTS}
    assert fill_parts(text, makers) == text
    assert set(makers) == {match["name"] for match in PART.finditer(text)}


def test_clusters_hold_every_recipe_of_the_suite_once() -> None:
    """No recipe is learned from while a relative of it is left out, and none is forgotten."""
    recipes = [recipe for cluster in CLUSTERS for recipe in cluster]
    assert sorted(recipes) == sorted(entry.id.split("/")[0] for entry in load_suite(SUITE).fit)


@pytest.mark.parametrize("state", ["transient", "stable"])
def test_controls_lose(state: str) -> None:
    """On clusters left out, `gated` is better than each control and than the best window in hindsight."""
    known = json.loads(OUT.read_text())
    mine = gated.skill(list(gated.by_recipe(known["gated"], state).values()))
    others = [name for name in known if name.split(".")[0] in ("control", "yardstick")]
    assert len(others) >= 4
    assert all(gated.skill(list(gated.by_recipe(known[name], state).values())) < mine for name in others)
