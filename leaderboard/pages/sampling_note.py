"""Write docs/methods/sampling-floor-note.md: how the founding paper's errors compare with the sampling floor.

    python -m leaderboard pages docs/methods/sampling-floor-note.md

Every figure in the note is computed here. A test fails when the file differs from what this gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from leaderboard.committed import ROOT
from moeload_bench.forecaster import Forecast
from moeload_bench.scoring.noise import sampling_error
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.traces.trace import shares

NOTE = ROOT / "docs" / "methods" / "sampling-floor-note.md"
SEQUENCES = 256
HORIZON = 1000


class Setup(NamedTuple):
    """One of the paper's two models: experts per layer, and its error of SW_Avg over the next 1,000 iterations."""

    name: str
    experts: int
    reported: float


SETUPS = (Setup("125M", 16, 0.0025), Setup("350M", 128, 0.013))
ASSUMPTIONS = tuple((tokens, top_k) for tokens in (1024, 2048, 4096) for top_k in (1, 2))


def simulated_error(experts: int, tokens: int, steps: int = 400) -> float:
    """The same for top-1 by drawing multinomial counts and scoring the true probabilities with ``error_rate``."""
    p = 1.0 / experts
    load = np.random.default_rng(0).multinomial(tokens, np.full(experts, p), (steps, 1))
    scores = score_forecast(Forecast.constant(np.full((1, experts), p), steps), shares(load), (steps,))
    return float(scores["error_rate"][0, 0])


def tokens_needed(error: float) -> float:
    """Tokens per expert and step at which sampling alone makes a per-step error of that size: 2 / (pi error^2)."""
    return 2.0 / (np.pi * error**2)


def percent(value: float) -> str:
    """Three significant digits."""
    return f"{100 * value:.3g} %"


def table() -> str:
    """Per-step and window-mean sampling error for both setups under each assumption."""
    lines = [
        "| model | experts | tokens per sequence | top-k | tokens per expert and step | per step | "
        f"mean of {HORIZON:,} steps | reported |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for setup in SETUPS:
        for length, top_k in ASSUMPTIONS:
            tokens = SEQUENCES * length
            lines.append(
                f"| {setup.name} | {setup.experts} | {length:,} | {top_k} | {top_k * tokens // setup.experts:,} | "
                f"{percent(sampling_error(setup.experts, tokens, top_k))} | "
                f"{percent(sampling_error(setup.experts, tokens, top_k, HORIZON))} | {percent(setup.reported)} |"
            )
    return "\n".join(lines)


def note() -> str:
    """The whole note."""
    small, medium = SETUPS
    tokens = SEQUENCES * 2048
    per_step = sampling_error(medium.experts, tokens, 1)
    small_step = sampling_error(small.experts, tokens, 1)
    needed = tokens_needed(small.reported)
    return f"""# Where the founding paper's errors lie against the sampling floor

Computed by `leaderboard/pages/sampling_note.py`; a test fails when a figure here is not what the code gives.

P. Cong et al. (arXiv 2404.16914) report, for the mean of a sliding window in the stable state over the next 1,000
iterations, an error of about {percent(small.reported)} (GPT-3 125M, {small.experts} experts) and
{percent(medium.reported)} (350M, {medium.experts} experts). The error is called a ratio; no formula is given, nor are
top-k and the tokens per sequence. The loads of a step are a sample, so before such a figure can be judged one has to
know what a forecaster that knows the true routing probabilities would score.

## Assumptions

1. The error is read **per step**: `error_rate`, the mean over steps and experts of |p_hat - p| / p. The other reading,
   `window_error_rate` (the same on the mean share of the window), is in the table beside it.
2. {SEQUENCES} sequences per step (stated in the paper), of 1,024, 2,048 or 4,096 tokens (not stated; GPT-3 uses 2,048).
3. Top-1 or top-2 routing (not stated). A token's k experts differ, tokens are independent.
4. Equal shares, p = 1 / E: what a balanced router comes to. Unequal shares raise the mean relative error.
5. The forecast is exact: it is p itself. All that is left is sampling.

The expected error is then sqrt(2 / pi) sqrt(v) / p with v = p (1 - k p) / (k T) for T tokens in a step, about
sqrt(2 / (pi n)) for n tokens per expert; over a mean of H steps v is divided by H (`floor_sampling` in
[floors](floors.md)).

{table()}

Drawing multinomial counts for {medium.experts} experts and {tokens:,} tokens and scoring the true probabilities with
`error_rate` gives {percent(simulated_error(medium.experts, tokens))}; the formula gives {percent(per_step)}.

## What follows

- **350M.** With 2,048 tokens per sequence and top-1, an oracle scores {percent(per_step)} per step, and the paper
  reports {percent(medium.reported)}. Read per step, the result is at the floor: no forecaster could do visibly better,
  and LSTM, ARIMA and sliding mean can differ only by what they lose. With top-2 the floor is
  {percent(sampling_error(medium.experts, tokens, 2))}, and {percent(medium.reported)} leaves room.
- **125M.** The same reading fails here: the floor is {percent(small_step)} with top-1 and
  {percent(sampling_error(small.experts, tokens, 2))} with top-2, and the paper reports {percent(small.reported)}, below
  both. A per-step error of {percent(small.reported)} needs at least {needed:,.0f} tokens per expert and step,
  {needed * small.experts / SEQUENCES:,.0f} routed tokens per sequence: longer sequences, a larger top-k, or another
  definition of the error (a mean over steps before the ratio is taken). One set of assumptions does not explain
  both figures with a per-step error at the floor.
- **Read on window means**, both figures are far above the sampling floor, and differences between forecasters mean
  something.
- Sampling is a lower bound for batch noise: sequences differ in how they are routed, so real batches are noisier than
  independent draws. `moeload-bench traces show --wide` prints the factor per layer (over-dispersion) for the traces
  recorded here; it raises the per-step floor by as much.

So the figures cannot be compared with anything until the error is named and its floor is printed. This benchmark
prints which error it is, its floor and the excess, and ranks by `window_tv`.
"""


def note_files() -> dict[Path, str]:
    """The file with the whole note."""
    return {NOTE: note()}
