"""Measure how often moves paid that `plan` advises on held-out runs: a part of docs/methods/placement.md.

    python benchmarks/advised_moves.py [--out docs/methods/placement.md]

Every test trace of v3 is decided on at step 1,500 and every 500 steps after that, up to half of the run. Where a move
is advised, it is made: from the even spread to the plan that the candidate has in force. Then the candidate goes on for
as many steps again as were seen, with the moves that it makes there. It paid if all of this saved more than it cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare_common import table, write_part

from moeload_bench.arrays import FloatArray
from moeload_bench.inspection.candidates import percent_saved
from moeload_bench.inspection.cluster import Cluster
from moeload_bench.inspection.decision import HELD_OUT, Candidate, Decision
from moeload_bench.inspection.planning import Planner, Settings, decided, plans_of
from moeload_bench.placement.cost import replicas_moved
from moeload_bench.placement.replan import CostModel
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.trace import Trace

FIRST, EVERY = 1500, 500
BEGIN, BOARD = "<!-- advised moves -->\n", "<!-- policies -->\n"
FIXED = ("sw_avg", "online")
LOOK = 100
"""Forecasters and interval of the candidates on the board of policies, the same on every run."""
LIVE = Cluster(None, {"step_ms": 100, "expert_fraction": 0.5, "expert_mb": 200, "bandwidth_gb_s": 25, "overlap": 0})
RESTART = Cluster(None, {"step_ms": 100, "expert_fraction": 0.5}, restart_minutes=0.1)
MODES = {"live": LIVE, "restart": RESTART}
WORDS = {"live": "live: 200 MB per expert, 25 GB/s", "restart": "restart of 0.1 minutes"}
"""A restart of 0.1 minutes with 5,000 steps left is, in percent of the step time, one of 10 minutes with 500,000."""


class Outcome(NamedTuple):
    """A decision, and the percentage of the step time that it saved over as many steps again."""

    verdict: str
    saved_percent: float


class Advised(NamedTuple):
    """A decision whose outcome is to come: the candidate's place, the sums of the race, and what its moves came to."""

    verdict: str
    end: int
    at: int
    sum_X: FloatArray
    price_ms: float


def outcomes(trace: Trace, cluster: Cluster) -> Iterator[Outcome]:
    """Yield the outcome of each decision of a run."""
    due: list[Advised] = []
    for planner, planned in plans_of(trace, Settings(cluster=cluster)):
        seen, cost = planner.steps_seen, planner.costs().model
        while due and due[0].end <= seen:
            one = due.pop(0)
            yield Outcome(one.verdict, _saved(planner, one, cost))
        if seen >= FIRST and seen % EVERY == 0 and 2 * seen <= trace.steps * trace.meta.stride:
            due.append(_advised(planner, planned.decision.verdict, planned.decision.take, 2 * seen, cost))


def _advised(planner: Planner, verdict: str, take: Candidate, end: int, cost: CostModel) -> Advised:
    race = planner.race
    at = next(
        c for c, one in enumerate(race.layouts)
        if (one.forecaster, one.times * race.looks) == (take.forecaster, take.every)
    )  # fmt: skip
    layout = race.layouts[at]
    moved_LD = replicas_moved(race.static_LR, layout.current_LR, race.shape.devices)
    first_ms = cost.migration_ms(moved_LD) if moved_LD.any() else 0.0
    return Advised(verdict, end, at, race.total.copy(), cost.price_ms(layout.replans, layout.received) - first_ms)


def _saved(planner: Planner, one: Advised, cost: CostModel) -> float:
    sum_X, layout = planner.race.total - one.sum_X, planner.race.layouts[one.at]
    gain = percent_saved(sum_X[None], sum_X[2] / sum_X[1], cost)[0][0, one.at]
    price_ms = cost.price_ms(layout.replans, layout.received) - one.price_ms
    return float(gain - 100 * price_ms / sum_X[0] / cost.step_ms)


def interval(paid: int, of: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval of a fraction, in percent."""
    from scipy.special import betaincinv

    low = 0.0 if paid == 0 else float(betaincinv(paid, of - paid + 1, 0.025))
    high = 1.0 if paid == of else float(betaincinv(paid + 1, of - paid, 0.975))
    return 100 * low, 100 * high


def measured(found: list[list[Outcome]]) -> dict[str, float]:
    """Return decisions to move and how many paid, runs with one and those in which all paid with the 95 % interval of
    that part in percent, what was saved in percent, and decisions that were "cannot tell", with 1 % to be saved."""
    moves = [[one for one in run if one.verdict == "move"] for run in found]
    moves = [run for run in moves if run]
    paid = [one.saved_percent > 0 for run in moves for one in run]
    runs_paid = sum(all(one.saved_percent > 0 for one in run) for run in moves)
    low, high = interval(runs_paid, len(moves)) if moves else (0.0, 100.0)
    others = [one for run in found for one in run if one.verdict == "cannot tell"]
    missed = sum(one.saved_percent > 1 for one in others)
    saved = np.mean([one.saved_percent for run in moves for one in run]) if moves else float("nan")
    return {
        "advised": len(paid), "paid": sum(paid), "saved_percent": float(saved), "runs": len(moves),
        "runs_paid": runs_paid, "low": low, "high": high, "cannot_tell": len(others), "missed": missed,
    }  # fmt: skip


def row(mode: str, one: dict[str, float]) -> list[str]:
    """Return a row of the page's table."""
    return [
        WORDS[mode], f"{one['advised']}", f"{one['paid']}", f"{one['saved_percent']:.2f}",
        f"{one['runs_paid']} of {one['runs']}", f"{one['low']:.0f} to {one['high']:.0f} %",
        f"{one['missed']} of {one['cannot_tell']}",
    ]  # fmt: skip


def board(decisions: list[Decision]) -> list[list[str]]:
    """Return rows of policies on the runs in which vLLM's default re-plans at least twice; others are too short."""
    long = [one for one in decisions if one.vllm is not None and one.vllm.replans > 1]
    by_policy = {
        f"{name}, every {LOOK} steps where a move pays": [
            next(c for c in one.candidates if (c.forecaster, c.every) == (name, LOOK)) for one in long
        ]
        for name in FIXED
    }
    by_policy["`vllm_eplb`"] = [one.vllm for one in long if one.vllm is not None]
    rows = []
    for name, found in by_policy.items():
        saved = np.array([one.saved_percent for one in found])
        replans = np.mean([one.replans for one in found])
        moved = np.mean([one.moved_gb for one in found])
        rows.append([name, f"{len(found)}", f"{saved.mean():.2f}", f"{saved.min():.2f}", f"{(saved > 0).sum()}",
                     f"{replans:.1f}", f"{moved:,.0f}"])  # fmt: skip
    return [*rows, ["too short for a second re-plan", f"{len(decisions) - len(long)}", *["-"] * 5]]


def main() -> None:
    """Replay every trace with every mode; print the table, or write it into the page and the numbers that plan says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    traces = [entry.id for entry in load_suite("v3").traces]
    found = {
        mode: measured([list(outcomes(load_trace(name), cluster)) for name in traces])
        for mode, cluster in MODES.items()
    }
    rows = [row(mode, one) for mode, one in found.items()]
    head = [
        "moves",
        "advised",
        "paid",
        "saved, %",
        "runs: all paid",
        "95 % interval",
        "cannot tell: would have saved 1 %",
    ]
    made = "\n".join(["", *table(head, rows), "", ""])
    head = ["policy", "runs", "saved, %", "worst run, %", "runs that saved", "re-plans a run", "GB moved a run"]
    rows = board([decided(load_trace(name), Settings(cluster=LIVE))[1] for name in traces])
    policies = "\n".join(["", *table(head, rows), "", ""])
    if out is None:
        print(made, policies)
    else:
        write_part(out, BEGIN, made)
        write_part(out, BOARD, policies)
        HELD_OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
