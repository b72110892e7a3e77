"""The figure of a decision: hours saved over steps, and what each kind of balancing saves by tokens per rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.ops.planning.decision import Decision
from moeload_bench.ops.planning.kinds import KindsOfRun
from moeload_bench.style import GREY, PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_plan(decision: Decision, steps_N: FloatArray, kinds: KindsOfRun) -> Figure:
    """Draw the hours saved along the run, above what each kind of balancing saves by tokens per rank.

    ``steps_N``: steps of each part of the run that `Candidate.saved_N` is of.
    """
    with style():
        figure = new_figure(5.2)
        hours, by_tokens = figure.subplots(2, 1)
        _draw_hours(hours, decision, steps_N)
        _draw_kinds(by_tokens, kinds)
        take = decision.take
        figure.suptitle(f"{take.forecaster}, every {take.every:,} steps: {decision.verdict}")
        return figure


def _draw_hours(ax: Axes, decision: Decision, steps_N: FloatArray) -> None:
    """Draw the hours that the candidate taken saved so far, moves paid for, and those that the steps left save.

    The steps left have a band, the 95 % interval over the newest windows. A triangle is a move.
    """
    take, terms = decision.take, decision.terms
    hours_N = np.array(take.saved_N) / 100 * steps_N * terms.step_ms / 3.6e6
    end_N = decision.step - steps_N.sum() + np.cumsum([0.0, *steps_N])
    saved_N = np.cumsum([0.0, *hours_N])
    left = [decision.step, decision.step + terms.steps_left]
    net, low, high = (np.array([0.0, value]) + saved_N[-1] for value in decision.net_hours)
    ax.plot(end_N, saved_N, color=PALETTE[0], label="so far, replayed")
    ax.plot(left, net, color=PALETTE[0], linestyle="--", label="steps left, 95 % interval")
    ax.fill_between(left, low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
    moved_at = np.array(take.moved_at)
    ax.plot(moved_at, np.interp(moved_at, end_N, saved_N), "v", color=PALETTE[1], label="move")
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set(xlabel="step", ylabel="hours saved")
    ax.legend()


def _draw_kinds(ax: Axes, kinds: KindsOfRun) -> None:
    """Draw a line for each kind and way; dotted is the run's own number of tokens, grey where another kind wins."""
    tokens = kinds.tokens * np.geomspace(1 / 64, 64, 200)
    for color, kind in zip(PALETTE, kinds.kinds, strict=False):
        saved = kind.gain_percent - kind.cost_percent * kinds.tokens / tokens
        ax.plot(tokens, saved, color=color, label=f"{kind.kind} ({kind.how})")
    ax.axvline(kinds.tokens, color=GREY, linewidth=0.8, linestyle=":")
    for turn in kinds.turns:
        if tokens[0] < turn.tokens < tokens[-1]:
            ax.axvline(turn.tokens, color=GREY, linewidth=0.8)
    most = max(kind.gain_percent for kind in kinds.kinds)
    ax.set(xscale="log", xlabel="tokens per rank", ylabel="% of the step time saved", ylim=(-0.3 * most, 1.1 * most))
    ax.legend()
