"""What an author claims: the numbers of a run of one's own, shown beside the board and run again in part.

They are a stranger's word, in a file that is only read. No table that is committed is made from them.
"""

from __future__ import annotations

import math
import random
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from leaderboard.committed import committed_results, suites_with_results, task_problems
from leaderboard.rerun import scratch_cache, tolerances_of
from leaderboard.verifying.agreement import differences
from leaderboard.verifying.verify import Request
from moeload_bench.errors import MoeloadError, ResultError, counted
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.publishing.folder import CLAIM, Folder
from moeload_bench.publishing.requirements import install_packages
from moeload_bench.results.render import markdown_table
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.results.strata import size_groups
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import Suite

PART = 1 / 3
"""Of a claim's runs, the part that is run again before the whole suite is."""
DAYS = 7
"""Within so many days of a request the maintainers run that part again."""
WORD = "claimed, not run again"


def claim_problems(folder: Folder, suite: Suite) -> Iterator[str]:
    """Yield why a claim is not one of this folder's code on this suite; nothing for a folder without one."""
    if folder.claim is None:
        return
    try:
        results = load_results(folder.claim)
    except ResultError as error:
        yield str(error)
        return
    if results.names != [folder.record.name]:
        yield f"{CLAIM}: {counted(len(results), 'forecaster')}, expected {folder.record.name} alone"
        return
    (entry,) = results.entries.values()
    expected = {
        "status": (entry.status, "claimed"),
        "target": (entry.target, folder.record.result_target),
        "kwargs": (entry.kwargs, folder.record.kwargs),
        "hash of the code": (entry.source_sha256, folder.source_sha256),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{CLAIM}: {what}: it says {got!r}, expected {wanted!r}: run and submit again"
    lacking = results.table.reindex(columns=[PRIMARY, "failure"]).isna().all(axis=1)
    if lacking.any():
        yield f"{CLAIM}: {int(lacking.sum())} rows without {PRIMARY}, expected a value, or why the task failed"
    yield from (f"{CLAIM}: {line}" for line in task_problems(results, suite))


def board_beside(folder: Folder, suite: Suite, leaderboard: Path) -> str:
    """Return the board of a suite with a checked claim beside it, as Markdown; without a claim it is empty."""
    if folder.claim is None:
        return ""
    name, parts = folder.record.name, [load_results(folder.claim)]
    if suite.name in suites_with_results(leaderboard / "results"):
        board = committed_results(suite.name, leaderboard / "results")
        parts.insert(0, board.select([other for other in board.names if other != name]))
    about = (
        f"The row of `{name}` is what its author sent ({WORD}), and enters no table. The maintainers run a random "
        f"third of its runs again within {DAYS} days, and the whole suite before it is merged."
    )
    lines = [f"### `{name}` beside the board of suite {suite.name}", "", *textwrap.wrap(about, 80)]
    for size, part in size_groups(joined(parts)).items():
        lines += ["", *([f"{size}:", ""] if size else []), _skills(part, name)]
    return "\n".join(lines)


def _skills(results: Results, claimed: str) -> str:
    """Return a row for each forecaster: its skill by state, the best in the first state first."""
    table = results.summarize().pivot(index="forecaster", columns="state", values="skill")
    states = [state for state in LABELS if state in table]
    rows = [
        (f"**{name}** ({WORD})" if name == claimed else name, *("-" if math.isnan(x) else f"{x:+.3f}" for x in row))
        for name, *row in table[states].sort_values(states, ascending=False).itertuples()
    ]
    return markdown_table(("Forecaster", *(f"Skill, {state}" for state in states)), rows)


def rerun_claim(request: Request, seed: int) -> tuple[list[str], list[str]]:
    """Run a random part of a claim's runs again; return these runs, and each number that they contradict.

    Raise `MoeloadError` for a folder without a claim, and for one that is not of this code and suite.
    """
    folder, suite = request.folder, request.suite
    if (claim := folder.claim) is None:
        raise MoeloadError(f"{folder.path}: no {CLAIM}; `moeload-bench submit --results FILE` adds it")
    if (problem := next(claim_problems(folder, suite), None)) is not None:
        raise MoeloadError(problem)
    packages = install_packages(folder.requirements, find_links=request.find_links, no_index=request.no_index)
    target = replace(folder.target(), packages=packages, name=folder.record.name)
    runs = random.Random(seed).sample(suite.traces, math.ceil(PART * len(suite.traces)))
    part = suite.model_copy(update={"traces": tuple(runs)})
    with scratch_cache():
        fresh = evaluate(
            [target], part, paths=request.paths, level=request.level, jobs=request.jobs, fresh=True,
            progress=request.progress,
        )  # fmt: skip
    claimed = load_results(claim).select(traces=fresh.traces)
    (entry,) = claimed.entries.values()
    return fresh.traces, differences(fresh, claimed, tolerances_of(entry))
