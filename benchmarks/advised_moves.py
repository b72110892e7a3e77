"""Measure what the advice of `plan` is worth on held-out runs: a part of docs/methods/placement.md.

    python benchmarks/advised_moves.py [--out docs/methods/placement.md]

Every test trace of v3 is decided on at step 1,500 and every 500 steps after that, up to half of the run. Where a move
is advised, it is made: from the layout in force when the run began to the plan that the candidate has in force. Then
the candidate goes on for as many steps again as were seen, with the moves that it makes there. What that saved, less
what all of these moves cost, is the worth of the advice; without advice it is 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare_common import table, write_part

from moeload_bench.ops.planning.accounts import Sums, saving
from moeload_bench.ops.planning.candidates import CandidateLayout
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.decision import ADVICE_WORTH, Candidate, Decision
from moeload_bench.ops.planning.planner import Planner, Settings, plans_of
from moeload_bench.placement.cost import replicas_moved
from moeload_bench.placement.replan import CostModel
from moeload_bench.results.skill import interval_of
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
    """A decision whose outcome is to come: the layout, its sums and those of the layout that stayed, and its moves."""

    verdict: str
    end: int
    layout: CandidateLayout
    spent: Sums
    stayed: Sums
    price_ms: float


def replay(trace: Trace, cluster: Cluster) -> tuple[list[Outcome], Decision]:
    """Return the outcome of each decision of a run, and the decision at its end."""
    due: list[Advised] = []
    outcomes: list[Outcome] = []
    for planner, planned in plans_of(trace, Settings(cluster=cluster)):
        seen, cost = planner.steps_seen, planner.costs().model
        while due and due[0].end <= seen:
            advised = due.pop(0)
            outcomes.append(Outcome(advised.verdict, _saved(planner, advised, cost)))
        if seen >= FIRST and seen % EVERY == 0 and 2 * seen <= trace.steps * trace.meta.stride:
            due.append(_advised(planner, planned.decision.verdict, planned.decision.take, 2 * seen, cost))
    return outcomes, planned.decision


def _advised(planner: Planner, verdict: str, take: Candidate, end: int, cost: CostModel) -> Advised:
    race = planner.race
    layout = race.layout_of(take.forecaster, take.every)
    moved_LD = replicas_moved(race.start_LR, layout.current_LR, race.shape.devices)
    first_ms = cost.migration_ms(moved_LD) if moved_LD.any() else 0.0
    price_ms = cost.price_ms(layout.replans, layout.received) - first_ms
    return Advised(verdict, end, layout, layout.account.total, race.stayed.account.total, price_ms)


def _saved(planner: Planner, advised: Advised, cost: CostModel) -> float:
    layout = advised.layout
    spent = layout.account.total - advised.spent
    stayed = planner.race.stayed.account.total - advised.stayed
    gain_percent = saving(spent, stayed, stayed.mean_imbalance, cost).gain_percent
    price_ms = cost.price_ms(layout.replans, layout.received) - advised.price_ms
    return float(gain_percent - 100 * price_ms / stayed.steps / cost.step_ms)


def worth(runs: Mapping[str, list[Outcome]], groups: Mapping[str, str]) -> tuple[float, float, float]:
    """Return the mean net saving of the runs in percent, decisions without advice as 0, with a 95 % t interval.

    Runs of one group, a recipe or a family, are one vote in the interval.
    """
    net = {name: float(np.mean([one.saved_percent * (one.verdict == "move") for one in found] or [0.0]))
           for name, found in runs.items()}  # fmt: skip
    of_group: dict[str, list[float]] = {}
    for name, value in net.items():
        of_group.setdefault(groups[name], []).append(value)
    low, high = interval_of([float(np.mean(values)) for values in of_group.values()])
    return float(np.mean(list(net.values()))), low, high


def measured(runs: Mapping[str, list[Outcome]], families: Mapping[str, str]) -> dict[str, float]:
    """Return the record of a mode: what advice was worth, and how much of it paid."""
    net, low, high = worth(runs, {name: name.partition("/")[0] for name in runs})
    _, family_low, family_high = worth(runs, families)
    moves = [[one.saved_percent for one in found if one.verdict == "move"] for found in runs.values()]
    moves = [run for run in moves if run]
    return {
        "runs": len(runs), "net_percent": net, "low": low, "high": high,
        "families": len(set(families.values())), "family_low": family_low, "family_high": family_high,
        "decisions": sum(map(len, runs.values())), "advised": sum(map(len, moves)),
        "paid": sum(saved > 0 for run in moves for saved in run),
        "runs_advised": len(moves), "runs_paid": sum(sum(run) > 0 for run in moves),
    }  # fmt: skip


def row(mode: str, one: Mapping[str, float]) -> list[str]:
    """Return a row of the page's table."""
    return [
        WORDS[mode], f"{one['runs']}", f"{one['net_percent']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}",
        f"{one['family_low']:.2f} to {one['family_high']:.2f}", f"{one['advised']} of {one['decisions']}",
        f"{one['paid']} of {one['advised']}", f"{one['runs_paid']} of {one['runs_advised']}",
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
    traces = {entry.id: load_trace(entry.id) for entry in load_suite("v3").traces}
    families = {name: trace.meta.family for name, trace in traces.items()}
    record: dict[str, dict[str, float]] = {}
    decisions: dict[str, list[Decision]] = {}
    for mode, cluster in MODES.items():
        runs = {}
        for name, trace in traces.items():
            print(f"{mode}: {name}", file=sys.stderr)
            runs[name], decision = replay(trace, cluster)
            decisions.setdefault(mode, []).append(decision)
        record[mode] = measured(runs, families)
    head = ["moves", "runs", "net saving, %", "a new recipe", f"a new family (of {len(set(families.values()))})",
            "moves advised, of decisions", "moves that paid", "runs that it paid for"]  # fmt: skip
    made = "\n".join(["", *table(head, [row(mode, one) for mode, one in record.items()]), "", ""])
    head = ["policy", "runs", "saved, %", "worst run, %", "runs that saved", "re-plans a run", "GB moved a run"]
    policies = "\n".join(["", *table(head, board(decisions["live"])), "", ""])
    if out is None:
        print(made, policies)
    else:
        write_part(out, BEGIN, made)
        write_part(out, BOARD, policies)
        ADVICE_WORTH.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
