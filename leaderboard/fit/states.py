"""Choose the constants of the state rule on `train` runs, and say by what.

    python -m leaderboard fit states

For every candidate, over the runs of leaderboard/fit/states.toml:

- *lost*: shifts that a layer does not answer with a return to transient. Shifts are those that the recipe planned (a
  data stage, a learning-rate restart) and splices: the end of a run followed by the same rows with the experts
  rotated, both wherever at least LARGE of the tokens move; or by the same rows with every second expert's load
  swinging by OSCILLATION against the others' with a period of 2 to 10 steps. Of a planned shift that moves less, as a
  restart may, nothing is asked;
- *false*: returns to transient that nothing explains, and splices that move at most SMALL of the tokens and are
  answered;
- *agreement*: the least share of a layer's labels that stays when loads are thinned to a half, a quarter and an eighth,
  and when the recorded half batch stands for the batch;
- *noise*: the 99 % quantile of X where nothing moves and tokens are starved: 64 experts, one token each per step;
- *headroom*: `high` over the largest X of any stable row that no planned shift explains: how far the rule was from a
  false return on these runs;
- *delay* and *onset*: medians, in steps; *band*: median width of the onset band.

Chosen: least lost, then least false, then an agreement of at least AGREEMENT, noise of at most `low` and a headroom
of at least HEADROOM, then the lowest `low` and `high` (the least drift that is still called stable, the smallest shift
that is seen), then the shortest delay. Deterministic. A row is a candidate, the chosen one in bold: less *lost*,
*false*, *noise* and *delay* are better, more *agreement* and *headroom*, a narrower *band*.

Axis letters: S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaderboard.committed import ROOT
from leaderboard.fit.lists import FitList
from leaderboard.pages.parts import aligned_table
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.states.drift import Grid, drift, run_hysteresis, summarise
from moeload_bench.states.rule import StateLabels, StateRule, grid_of
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.trace import Trace, shares

RULE = ROOT / "moeload_bench" / "states" / "rule.py"
PAGE = ROOT / "leaderboard" / "fit" / "states-table.md"
WITHIN = 300
"""Training steps after a shift in which a return to transient counts as its detection: three windows."""

LOW = (0.02, 0.03, 0.04, 0.05, 0.06)
RATIO = (1.5, 2.0, 3.0)
MARGIN = (1.0, 1.5, 2.0)
SPLICE_ROWS = 1000
OSCILLATION = 0.5
LARGE, SMALL = 0.15, 0.02
AGREEMENT, HEADROOM = 0.97, 2.0


@dataclass(frozen=True)
class Score:
    """One candidate on all runs."""

    margin: float
    low: float
    high: float
    lost: int
    false: int
    agreement: float
    noise: float
    headroom: float
    delay: float
    onset: float
    band: float

    def key(self) -> tuple[float, ...]:
        """Smaller is better."""
        unfit = (self.agreement < AGREEMENT, self.noise > self.low, self.headroom < HEADROOM)
        return (self.lost, self.false, *unfit, self.low, self.high, self.delay, self.margin)


@dataclass(frozen=True, eq=False)
class Case:
    """Loads with a shift at a row; ``must_L`` layers that must answer it, ``may_not_L`` layers that may not."""

    load_SLE: IntArray
    shift: int
    must_L: NDArray[np.bool_]
    may_not_L: NDArray[np.bool_]


def splices(trace: Trace) -> Iterator[Case]:
    """Yield the last rows of a run, then the same with the experts rotated by one, by two, ..., by half of them."""
    tail = trace.load_SLE[-SPLICE_ROWS:]
    mean_LE = np.nanmean(shares(tail), axis=0)
    for by in sorted({1, 2, trace.num_experts // 2}):
        moved_L = 0.5 * np.abs(mean_LE - np.roll(mean_LE, by, axis=1)).sum(axis=1)
        load = np.concatenate([tail, np.roll(tail, by, axis=2)])
        yield Case(load, SPLICE_ROWS, moved_L >= LARGE, moved_L <= SMALL)


def oscillations(trace: Trace) -> Iterator[Case]:
    """Yield the last rows of a run, then the same oscillating within ten steps."""
    tail = trace.load_SLE[-SPLICE_ROWS:]
    sign_E = np.where(np.arange(trace.num_experts) % 2, 1.0, -1.0)
    all_L = np.ones(trace.num_layers, dtype=np.bool_)
    for period in range(2, 11):
        wave_S = OSCILLATION * np.cos(2.0 * np.pi * np.arange(SPLICE_ROWS) / period + 0.3)
        swinging = np.rint(tail * (1.0 + wave_S[:, None, None] * sign_E)).astype(np.int64)
        yield Case(np.concatenate([tail, swinging]), SPLICE_ROWS, all_L, ~all_L)


def thinned(trace: Trace) -> Iterator[IntArray]:
    """Yield the run with fewer tokens per step."""
    rng = np.random.default_rng(0)
    for fraction in (2, 4, 8):
        yield rng.binomial(trace.load_SLE, 1.0 / fraction)
    if "load_half" in trace.columns:
        yield trace.columns["load_half"]


def grid_drift(load_SLE: IntArray, grid: Grid) -> FloatArray:
    """X at every grid point; [G, L]."""
    return drift(summarise(load_SLE, grid), grid)


def labels(load_SLE: IntArray, drift_GL: FloatArray, rule: StateRule) -> StateLabels:
    """Labels from a drift computed before."""
    grid = grid_of(rule, 1)
    state = np.repeat(run_hysteresis(drift_GL, rule.low, rule.high, grid.hold), grid.rows, axis=0)[: len(load_SLE)]
    return StateLabels(rule, 1, state, np.repeat(drift_GL, grid.rows, axis=0)[: len(load_SLE)], drift_GL)


def candidates(traces: list[Trace]) -> Iterator[Score]:
    """Score every candidate."""
    for margin in MARGIN:
        base = replace(StateRule(), margin=margin)
        drifts = functools.partial(grid_drift, grid=grid_of(base, 1))
        runs = [(trace, drifts(trace.load_SLE), [drifts(load) for load in thinned(trace)]) for trace in traces]
        cases = [(case, drifts(case.load_SLE)) for trace in traces for case in (*splices(trace), *oscillations(trace))]
        starved = np.random.default_rng(0).multinomial(64, np.full(64, 1.0 / 64), (2000, 4))
        noise = float(np.nanquantile(drifts(starved), 0.99))
        for low, ratio in itertools.product(LOW, RATIO):
            yield score(replace(base, low=low, high=round(low * ratio, 4)), runs, cases, noise)


def score(
    rule: StateRule,
    runs: list[tuple[Trace, FloatArray, list[FloatArray]]],
    cases: list[tuple[Case, FloatArray]],
    noise: float,
) -> Score:
    """Score one candidate on all runs and splices."""
    parts = [score_run(rule, *run) for run in runs] + [score_case(rule, *case) for case in cases]
    return Score(
        margin=rule.margin,
        low=rule.low,
        high=rule.high,
        lost=sum(part.lost for part in parts),
        false=sum(part.false for part in parts),
        agreement=min(part.agreement for part in parts),
        noise=noise,
        headroom=rule.high / max(part.peak for part in parts),
        delay=median(d for part in parts for d in part.delays),
        onset=median(o for part in parts for o in part.onsets),
        band=median(b for part in parts for b in part.bands),
    )


@dataclass
class Part:
    """What one run or splice adds to a score."""

    lost: int
    false: int
    delays: list[int]
    agreement: float = 1.0
    peak: float = 1e-9
    onsets: tuple[int, ...] = ()
    bands: tuple[int, ...] = ()


def score_run(rule: StateRule, trace: Trace, drift_GL: FloatArray, thin: list[FloatArray]) -> Part:
    """Score one run: its planned shifts, its onsets, and its labels with fewer tokens."""
    hold = grid_of(rule, 1).hold
    full = labels(trace.load_SLE, drift_GL, rule)
    state_GL = run_hysteresis(drift_GL, rule.low, rule.high, hold)
    same = [run_hysteresis(other_GL, rule.low, rule.high, hold) == state_GL for other_GL in thin]
    planned = planned_shifts(trace)
    result = score_shifts(full, planned)
    quiet_SL = ~full.transient_SL
    for shift in planned:
        quiet_SL[shift : shift + WITHIN] = False
    ends = np.where(full.onset_band_L2 < 0, trace.steps, full.onset_band_L2)
    return Part(
        lost=int(((result.delay_NL == -1) & (moved(trace, planned) >= LARGE)).sum()),
        false=int(result.false_alarms_L.sum()),
        delays=result.delay_NL[result.delay_NL >= 0].tolist(),
        agreement=min(float(one.mean(axis=0).min()) for one in same),
        peak=float(full.drift_SL[quiet_SL].max(initial=1e-9)),
        onsets=tuple(row if row >= 0 else trace.steps for row in full.onset_L.tolist()),
        bands=tuple((ends[:, 1] - ends[:, 0]).tolist()),
    )


def moved(trace: Trace, shift_N: list[int]) -> FloatArray:
    """Return the part of a layer's tokens that each shift moves, between the means of WITHIN rows to either side; [N,
    L].
    """
    share_SLE = shares(trace.load_SLE)
    pairs = [(share_SLE[max(0, at - WITHIN) : at], share_SLE[at : at + WITHIN]) for at in shift_N]
    by_shift = [0.5 * np.abs(np.nanmean(a, axis=0) - np.nanmean(b, axis=0)).sum(axis=1) for a, b in pairs]
    return np.array(by_shift).reshape(len(shift_N), trace.num_layers)


def score_case(rule: StateRule, case: Case, drift_GL: FloatArray) -> Part:
    """Score one splice: layers that moved much must answer, layers that hardly moved must not."""
    delay_L = score_shifts(labels(case.load_SLE, drift_GL, rule), (case.shift,)).delay_NL[0]
    return Part(
        lost=int(((delay_L == -1) & case.must_L).sum()),
        false=int(((delay_L >= 0) & case.may_not_L).sum()),
        delays=delay_L[(delay_L >= 0) & case.must_L].tolist(),
    )


def median(values: Iterable[int]) -> float:
    """Median, 0 for nothing."""
    listed = list(values)
    return float(np.median(listed)) if listed else 0.0


def table(scores: list[Score], chosen: Score) -> str:
    """Return a table of the candidates, the chosen one in bold."""
    rows = []
    for one in scores:
        mark = "**" if one == chosen else ""
        rows.append([f"{mark}{value:.4g}{mark}" for value in asdict(one).values()])
    return aligned_table(list(asdict(chosen)), rows, 0)


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """``delay_NL`` training steps from a shift to the first transient label, -1 where it was missed, -2 where the layer
    was not stable when the shift came; ``false_alarms_L`` returns to transient that no shift explains.
    """

    shift_N: tuple[int, ...]
    delay_NL: NDArray[np.int64]
    false_alarms_L: NDArray[np.int64]

    @property
    def missed(self) -> int:
        """(shift, layer) pairs without detection."""
        return int((self.delay_NL == -1).sum())


def score_shifts(labels: StateLabels, shift_N: Sequence[int], within: int = WITHIN) -> ShiftScores:
    """Compare labels with the rows at which something is known to have changed; ``within`` in training steps."""
    transient_SL = labels.transient_SL
    S, L = transient_SL.shape
    rows = within // labels.stride
    explained_SL = np.zeros((S, L), dtype=np.bool_)
    delay_NL = np.full((len(shift_N), L), -1, dtype=np.int64)
    for n, shift in enumerate(shift_N):
        explained_SL[shift : shift + rows] = True
        after = transient_SL[shift : shift + rows]
        found = after.any(axis=0)
        delay_NL[n, found] = after.argmax(axis=0)[found] * labels.stride
        delay_NL[n, transient_SL[min(shift, S - 1)]] = -2
    returns_SL = transient_SL[1:] & ~transient_SL[:-1]
    false_alarms = (returns_SL & ~explained_SL[1:]).sum(axis=0)
    return ShiftScores(tuple(shift_N), delay_NL, false_alarms.astype(np.int64))


def with_constants(source: str, constants: Mapping[str, float]) -> str:
    """Return the source of a rule with other constants."""
    for name, value in constants.items():
        source = re.sub(rf"^    {name}: float = .*$", f"    {name}: float = {value}", source, flags=re.M)
    return source


def states(listed: FitList) -> dict[Path, bytes]:
    """Return the module of the rule with the constants that are chosen, and the page that shows every candidate."""
    traces = list(listed.traces())
    scores = list(candidates(traces))
    chosen = min(scores, key=Score.key)
    ids = ", ".join(f"`{trace.id}`" for trace in traces)
    report = f"Chosen on {len(traces)} train runs: {ids}.\n\n{table(scores, chosen)}\n"
    page = f"# Constants of the state rule\n\n{(__doc__ or '').strip()}\n\n{report}"
    constants = {name: getattr(chosen, name) for name in ("margin", "low", "high")}
    return {RULE: with_constants(RULE.read_text(), constants).encode(), PAGE: page.encode()}
