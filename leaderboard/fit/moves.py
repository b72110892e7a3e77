"""Choose from `train` runs when loads moved at once; count how often that is false in any run.

    python -m leaderboard fit events

*False* are moves outside the 400 steps after a planned switch, for each 100,000 layer-steps that are watched: those of
layers with load, from step 200 on, outside the same steps. *Found* are layers called moved in a copy of the run in
which, from its middle on, a tenth of each expert's tokens go to the expert half the list away. Of the candidates
without a false move on these runs the one that finds most is taken; of equals the larger factor, then the larger least
move.

Axis letters: N blocks of rows, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.events.alarms import SWITCH_STEPS, planned_steps
from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.ops.facts.moves import BEFORE_STEPS, LoadMoves, MoveRule
from moeload_bench.schema import Record
from moeload_bench.states.drift import row_means
from moeload_bench.states.rule import StateRule, grid_of, trace_labels
from moeload_bench.traces.trace import Trace, shares

RULE = ROOT / "moeload_bench" / "ops" / "facts" / "moves.py"
CHOSEN = ROOT / "leaderboard" / "events" / "moves.json"
FACTORS = (1.5, 2.0, 2.5, 3.0, 4.0)
LEAST = (0.02, 0.03, 0.05)
"""Candidates. A move of fewer tokens is worth no word."""
PLANTED = 0.1


class MoveCandidate(Record):
    """A factor and a least move: how many are false, and the fraction of planted ones that is found."""

    factor: float
    least: float
    false: int
    found: float


class ChosenMoves(Record):
    """Every candidate on ``layer_steps`` of `train` runs, and what was taken."""

    runs: int
    layer_steps: int
    candidates: tuple[MoveCandidate, ...]
    constants: dict[str, float]


class Blocks(NamedTuple):
    """Mean shares of the blocks of a run; which are watched in which layer, and in which it has settled once."""

    share_NLE: FloatArray
    rows: int
    steps: int
    watched_NL: BoolArray
    settled_NL: BoolArray


def choose(train: Iterable[Trace]) -> ChosenMoves:
    """Return the rule that is best on `train` runs."""
    runs = [blocks_of(trace) for trace in train]
    candidates = [_candidate(runs, MoveRule(factor, least)) for factor, least in itertools.product(FACTORS, LEAST)]
    best = min(candidates, key=lambda one: (one.false, -one.found, -one.factor, -one.least))
    return ChosenMoves(
        runs=len(runs),
        layer_steps=sum(int(run.watched_NL.sum()) * run.steps for run in runs),
        candidates=tuple(candidates),
        constants={"factor": best.factor, "least": best.least},
    )


def blocks_of(trace: Trace) -> Blocks:
    """Return the blocks of a run."""
    rows = grid_of(StateRule(), trace.meta.stride).rows
    whole = trace.steps // rows * rows
    share_NLE = row_means(shares(trace.load_SLE[:whole]), rows)
    steps = rows * trace.meta.stride
    step_N: IntArray = np.asarray(trace.step_S[:whole:rows] + steps)
    planned_N = np.zeros(len(step_N), dtype=np.bool_)
    for switch in planned_steps(trace):
        planned_N |= (step_N >= switch) & (step_N <= switch + SWITCH_STEPS)
    watched_N = (step_N > step_N[0] - steps + BEFORE_STEPS) & ~planned_N
    onset_L = trace_labels(trace).onset_L
    return Blocks(
        share_NLE,
        rows,
        steps,
        watched_N[:, None] & np.isfinite(share_NLE[..., 0]),
        (onset_L >= 0) & (onset_L < step_N[:, None]),
    )


def moved_NL(run: Blocks, rule: MoveRule | None = None) -> BoolArray:
    """Return after which blocks which layers are called moved."""
    moves = LoadMoves(run.share_NLE.shape[1], run.steps, rule)
    moved = np.zeros(run.share_NLE.shape[:2], dtype=np.bool_)
    for number, share_LE in enumerate(run.share_NLE):
        moved[number, [move.layer for move in moves.add(share_LE)]] = True
    return moved


def _candidate(runs: Sequence[Blocks], rule: MoveRule) -> MoveCandidate:
    false = sum(int((moved_NL(run, rule) & run.watched_NL).sum()) for run in runs)
    found = float(np.mean([_found(run, rule) for run in runs]))
    return MoveCandidate(factor=rule.factor, least=rule.least, false=false, found=found)


def _found(run: Blocks, rule: MoveRule) -> float:
    """Return the fraction of layers in which a planted move is found."""
    moves, middle = LoadMoves(1, run.steps), len(run.share_NLE) // 2
    start = max(0, middle - moves.blocks)
    share_NLE = np.array(run.share_NLE[start : middle + 3 * moves.lag])
    other_NLE = np.roll(share_NLE[middle - start :], share_NLE.shape[-1] // 2, axis=-1)
    share_NLE[middle - start :] += PLANTED * (other_NLE - share_NLE[middle - start :])
    return float(moved_NL(run._replace(share_NLE=share_NLE), rule).any(axis=0).mean())
