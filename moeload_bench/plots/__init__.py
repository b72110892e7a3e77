"""Figures (extra `plot`): each function returns a matplotlib figure, `save_figure` writes it (docs/guide/plots.md).

view = view_trace(load_trace("qwen3moe-tiny-8e/test/seed1"), layers=["3"])
save_figure(draw_shares(view), "shares.svg")
"""

from __future__ import annotations

from moeload_bench.harness.training_errors import TrainingErrors, training_errors
from moeload_bench.plots.error_curves import draw_training
from moeload_bench.plots.panels import View, view_trace
from moeload_bench.plots.traces import draw_heatmap, draw_shares, draw_sliding, draw_states
from moeload_bench.results.figures import draw_cost, draw_horizon
from moeload_bench.style import SUFFIXES, check_suffix, save_figure

__all__ = [
    "SUFFIXES",
    "TrainingErrors",
    "View",
    "check_suffix",
    "draw_cost",
    "draw_heatmap",
    "draw_horizon",
    "draw_shares",
    "draw_sliding",
    "draw_states",
    "draw_training",
    "save_figure",
    "training_errors",
    "view_trace",
]
