"""Which recipes of suite v1 are left out together, and where is kept what that gave.

Apart from `leaderboard.studies.left_out`, which needs torch: the page made from it needs none.
"""

from leaderboard.committed import ROOT

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
