"""A part of docs/reports/gated.md: the first score of `gated` on recipes that came after its weights.

Made from leaderboard/unseen.json, which `python -m leaderboard.unseen` adds to as runs are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from leaderboard.pages.parts import Maker
from leaderboard.suites.plan import near_twins
from leaderboard.unseen import BESIDE, REFERENCE, SUBJECT, Scores, read_scores, wanted_runs
from moeload_bench.results.grid import NOTHING, signed
from moeload_bench.results.render import markdown_table
from moeload_bench.results.statistics import Tasks, interval, skill
from moeload_bench.suites.suite import STATES


def unseen(scores: Scores, wanted: int, twins: Mapping[str, str]) -> str:
    """A row per run, then the mean over recipes with its interval for a new one, of both forecasters by state."""
    if not scores:
        return "No run of these recipes is recorded yet."
    states = [state for state in STATES if any(state in found["states"] for found in scores.values())]
    columns = [(state, name) for state in states for name in (SUBJECT, BESIDE)]
    rows = [
        (f"`{run}`", *(_skill(found["states"].get(state, {}).get(name)) for state, name in columns))
        for run, found in scores.items()
    ]
    last = ("mean over recipes", *(_mean(scores, state, name, twins) for state, name in columns))
    heads = ("run", *(f"`{name}`, {state}" for state, name in columns))
    codes = sorted({found["source_sha256"][:12] for found in scores.values()})
    words = (
        f"{len(scores)} of {wanted} runs are recorded and scored. Skill against `{REFERENCE}`, with the 95 % interval "
        "for a new recipe from five recipes on (near twins are one). "
        f"Code and weights of `{SUBJECT}`: {', '.join(codes)}."
    )
    return f"{markdown_table(heads, [*rows, last])}\n\n{words}"


def _skill(found: Mapping[str, float] | None) -> str:
    return NOTHING if found is None else signed(float(1 - np.exp(found["log_ratio"])), 3)


def _mean(scores: Scores, state: str, name: str, twins: Mapping[str, str]) -> str:
    """Skill over recipes, of the means over a recipe's runs; near twins have one vote together."""
    runs = [run for run, found in scores.items() if state in found["states"]]
    tasks = Tasks([run.split("/")[0] for run in runs], runs, twins)
    ratio_R = np.array([scores[run]["states"][state][name]["log_ratio"] for run in runs])
    found = interval(ratio_R, tasks, "a new recipe")
    span = f" [{signed(found.low, 2)}, {signed(found.high, 2)}]" if found else ""
    return signed(skill(ratio_R, tasks), 3) + span


def _part(_: str) -> str:
    wanted = wanted_runs()
    twins = {recipe: group[0] for group in near_twins(run.split("/")[0] for run in wanted) for recipe in group}
    return unseen(read_scores(), len(wanted), twins)


PARTS: Mapping[str, Maker] = {"unseen": _part}
