"""Which recipes of suite v1 are left out together, and where is kept what that gave.

Apart from `leaderboard.studies.left_out`, which needs torch: the page made from it needs none.
"""

from leaderboard.committed import ROOT
from moeload_bench.suites.suite import load_suite, near_twins_of

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


def near_twin(recipe: str) -> str:
    """Return the recipe that stands for its near twins in suite v2, the recipe itself where it has none."""
    return near_twins_of("v2", load_suite("v2").sha256()).get(recipe, recipe)
