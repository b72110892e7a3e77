"""The figure of a decision: hours saved over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.ops.planning.decision import Decision
from moeload_bench.style import GREY, PALETTE, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_hours(decision: Decision, steps_N: FloatArray) -> Figure:
    """Draw the hours that the candidate taken saved so far, moves paid for, and those that the steps left save.

    ``steps_N``: steps of each part of the run that `Candidate.saved_N` is of. The steps left have a band, the 95 %
    interval over the newest windows. A triangle is a move.
    """
    take, terms = decision.take, decision.terms
    hours_N = np.array(take.saved_N) / 100 * steps_N * terms.step_ms / 3.6e6
    end_N = decision.step - steps_N.sum() + np.cumsum([0.0, *steps_N])
    saved_N = np.cumsum([0.0, *hours_N])
    left = [decision.step, decision.step + terms.steps_left]
    net, low, high = (np.array([0.0, value]) + saved_N[-1] for value in decision.net_hours)
    with style():
        figure, (ax,) = panels(1, height=2.6)
        ax.plot(end_N, saved_N, color=PALETTE[0], label="so far, replayed")
        ax.plot(left, net, color=PALETTE[0], linestyle="--", label="steps left, 95 % interval")
        ax.fill_between(left, low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
        moved_at = np.array(take.moved_at)
        ax.plot(moved_at, np.interp(moved_at, end_N, saved_N), "v", color=PALETTE[1], label="move")
        ax.axhline(0, color=GREY, linewidth=0.6)
        ax.set(xlabel="step", ylabel="hours saved")
        ax.legend()
        figure.suptitle(f"{take.forecaster}, every {take.every:,} steps: {decision.verdict}")
        return figure
