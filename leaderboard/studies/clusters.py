"""Which recipes are left out together, and where is kept what that gave for suite v1.

Apart from `leaderboard.studies.left_out`, which needs torch: the page made from it needs none.
"""

from collections.abc import Iterable

from leaderboard.committed import ROOT, recipe_of_run
from moeload_bench.recipes.draws import twin_clusters

OUT = ROOT / "leaderboard" / "left_out.json"
SUITE = "v1"
CLUSTERS = (
    ("qwen3moe-16e-aux0", "qwen3moe-16e-aux", "qwen3moe-16e-shift", "qwen3moe-16e-restart"),
    ("deepseekv3-16e-shift", "deepseekv3-32e-lossfree"),
    ("gptoss-32e-top4",),
    ("granitemoe-32e-top8",),
    ("mixtral-8e-pooled",),
    ("olmoe-64e-top8",),
    ("qwen3moe-64e-top1",),
    ("switch-8e-drop",),
)
"""Recipes of one cluster share text, seed and most of their settings (two even their first 2,000 steps)."""


def groups_of(names: Iterable[str]) -> dict[str, str]:
    """Return the name of the cluster that each recipe is left out with: recipes alike in more than their beginning."""
    recipes = [recipe_of_run(name) for name in sorted(set(names))]
    return {name: cluster[0] for cluster in twin_clusters(recipes) for name in cluster}
