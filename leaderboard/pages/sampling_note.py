"""Write docs/methods/sampling-floor-note.md: how the founding paper's errors compare with the sampling floor.

    python -m leaderboard pages docs/methods/sampling-floor-note.md

Every figure in the note is computed here. A test fails when the file differs from what this gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.pages.parts import aligned_table
from leaderboard.paper.facts import GPT3_TOKENS, Setup, paper
from leaderboard.templates import render_text
from moeload_bench.forecaster import Forecast
from moeload_bench.scoring.noise import sampling_error
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.traces.trace import shares

NOTE = ROOT / "docs" / "methods" / "sampling-floor-note.md"
HORIZON = 1000
ASSUMPTIONS = tuple((tokens, top_k) for tokens in (1024, 2048, 4096) for top_k in (1, 2))


def simulated_error(experts: int, tokens: int, steps: int = 400) -> float:
    """Return the same for top-1, by drawing counts and scoring the true probabilities with ``error_rate``."""
    p = 1.0 / experts
    load = np.random.default_rng(0).multinomial(tokens, np.full(experts, p), (steps, 1))
    scores = score_forecast(Forecast.constant(np.full((1, experts), p), steps), shares(load), (steps,))
    return float(scores["error_rate"][0, 0])


def tokens_needed(error: float) -> float:
    """Return how many tokens per expert and step make a per-step error of that size by sampling: 2 / (pi error^2)."""
    return 2.0 / (np.pi * error**2)


def reported(setup: Setup) -> float:
    """Return the paper's error of SW_Avg for one of its models, over the next 1,000 iterations."""
    return next(error.value for error in paper().reported("sw_avg", HORIZON) if error.setup == setup.name)


def percent(value: float) -> str:
    """Format a fraction in percent to three significant digits."""
    return f"{100 * value:.3g} %"


def table() -> str:
    """Return per-step and window-mean sampling error for both setups under each assumption."""
    heads = ("model", "experts", "tokens per sequence", "top-k", "tokens per expert and step", "per step",
             f"mean of {HORIZON:,} steps", "reported")  # fmt: skip
    rows = [
        (setup.name.removeprefix("GPT-3 "), str(setup.experts), f"{length:,}", str(top_k),
         f"{top_k * setup.sequences * length // setup.experts:,}",
         percent(sampling_error(setup.experts, setup.sequences * length, top_k)),
         percent(sampling_error(setup.experts, setup.sequences * length, top_k, HORIZON)), percent(reported(setup)))
        for setup in paper().setups
        for length, top_k in ASSUMPTIONS
    ]  # fmt: skip
    return aligned_table(heads, rows, 1)


def note_files() -> dict[Path, str]:
    """Return the file with the whole note."""
    small, medium = paper().setups
    tokens = medium.sequences * GPT3_TOKENS

    def floor(setup: Setup, top_k: int) -> str:
        return percent(sampling_error(setup.experts, tokens, top_k))

    text = render_text(
        Path(__file__).with_suffix(".md.j2"), small=small, medium=medium, tokens=tokens, sequences=medium.sequences,
        table=table(), percent=percent, reported=reported, floor=floor,
        simulated=simulated_error(medium.experts, tokens), needed=tokens_needed(reported(small)),
    )  # fmt: skip
    return {NOTE: text}
