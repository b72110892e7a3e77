"""The entries of a scored season run again from their copies: which, on which runs, and what the table says otherwise.

Runs are chosen by a random number that is drawn when the check begins, never by what the season itself says of them:
whoever forges a table does not know which of its runs are scored again.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from leaderboard.rerun import copied_code_level, rerun_differences, scratch_cache
from leaderboard.season.contrast import contrast_problems
from leaderboard.season.entries import read_entry
from leaderboard.season.scored import ScoredSeason
from leaderboard.season.scoring import run_entry, season_setting, trace_file
from moeload_bench.errors import MoeloadError, first_ten
from moeload_bench.harness.pairs import Fitted, Pair
from moeload_bench.harness.run_rows import failed_rows, scored_rows
from moeload_bench.harness.workers import workers
from moeload_bench.results.columns import Row
from moeload_bench.results.results import Results
from moeload_bench.suites.suite import SuiteTrace
from moeload_bench.words import Progress, silent

LEAST_PART = 1 / 3
"""Of the runs that tests are made on, the part on which each entry that a test names is scored again."""


class Work(NamedTuple):
    """An entry to be scored again on a run."""

    entry: str
    scored_run: SuiteTrace


@dataclass(frozen=True)
class Plan:
    """What is scored again. ``tested``: entries that a test or the headline names, on ``runs`` of the ``of`` runs that
    tests are made on; ``rest``: what else was chosen.
    """

    tested: tuple[Work, ...]
    rest: tuple[Work, ...]
    runs: int
    of: int

    def chance(self, forged: int) -> float:
        """Return the chance that one of so many forged runs of an entry that a test names is scored again."""
        return 1 - math.comb(max(0, self.of - forged), self.runs) / math.comb(self.of, self.runs)

    def words(self, minutes: float | None) -> str:
        """Return what is scored again within so many minutes, and the chance to catch a forger; None: everything."""
        if minutes is None:
            return "every entry is scored again on every run"
        names = first_ten([*dict.fromkeys(work.entry for work in self.tested)])
        single, three = (f"{100 * self.chance(forged):.0f} %" for forged in (1, 3))
        return (
            f"{names} on {self.runs} of the {self.of} tested runs: one forged run among them is found with a chance of "
            f"{single}, one of three with {three}; {len(self.rest)} runs of other entries, for at most {minutes:g} min"
        )


@dataclass
class Findings:
    """What is ``wrong``, and what could not be checked, in words."""

    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def chosen(scored: ScoredSeason, seed: int, everything: bool = False) -> Plan:
    """Return what a seed chooses: it depends on the terms and the list of runs, and on nothing that was measured."""
    season, scored_runs, draw = scored.season, scored.suite.traces, random.Random(seed)
    (group,) = season.tested
    tested = [run for run in scored_runs if run.id.split("/")[0] in scored.recipes[group.name]]
    runs = tested if everything else draw.sample(tested, math.ceil(LEAST_PART * len(tested)))
    claimed = [name for name in season.entries if name in season.claimed]
    rest = [Work(name, draw.choice(scored_runs)) for name in season.entries if name not in claimed]
    if everything:
        rest = [Work(name, run) for run in scored_runs for name in season.entries if name not in claimed]
        rest += [Work(name, run) for run in scored_runs if run not in runs for name in claimed]
    draw.shuffle(rest)
    return Plan(tuple(Work(name, run) for run in runs for name in claimed), tuple(rest), len(runs), len(tested))


def score_again(
    scored: ScoredSeason,
    plan: Plan,
    *,
    jobs: int = 1,
    minutes: float | None = None,
    progress: Progress = silent,
) -> Findings:
    """Score again what was planned, and compare; a run that cannot be made here, or not in time, is not checked.

    ``minutes`` bind the runs of ``plan.rest`` alone: none of them is waited for after that time; None: all are.
    """
    findings, works = Findings(), [*plan.tested, *plan.rest]
    pairs = _pairs(scored, works, findings)
    works, bound = [work for work in works if work in pairs], {*plan.rest}
    ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
    results = {name: scored.table.select([name]) for name in scored.table.names}
    missed: Counter[str] = Counter()
    with scratch_cache(), workers(jobs=jobs) as spread:
        outputs = spread([functools.partial(run_entry, scored.folder, pairs[work]) for work in works])
        for number, work in enumerate(works):
            if work in bound and time.monotonic() > ends:
                missed.update(work.entry for work in works[number:])
                break
            _compare(results[work.entry].select(traces=[work.scored_run.id]), work, next(outputs), findings)
            progress(number + 1, len(works), f"{work.entry} on {work.scored_run.id}")
    findings.unchecked += [f"entry {name}: {runs} runs, no time was left" for name, runs in sorted(missed.items())]
    return findings


def contrast_again(scored: ScoredSeason, plan: Plan) -> Findings:
    """Make the rows of the paired test again, of the runs that were chosen for the entries that tests name."""
    findings, folder, paired = Findings(), scored.folder, scored.season.paired
    if paired is not None:
        (group,) = scored.season.tested
        chosen_recipes = dict.fromkeys(work.scored_run.id.split("/")[0] for work in plan.tested)
        recipes = [scored.recipes[group.name][name] for name in chosen_recipes]
        try:
            level = copied_code_level(read_entry(folder.entries / paired.forecaster).record.has_code)
            setting = replace(season_setting(scored.suite, folder.base, level), fresh=True)
            with scratch_cache():
                findings.wrong += contrast_problems(folder, recipes, setting)
        except MoeloadError as error:
            findings.unchecked.append(f"the paired test: {error}")
    return findings


def _pairs(scored: ScoredSeason, works: Sequence[Work], findings: Findings) -> Mapping[Work, Pair]:
    """Return the runs of entries that can be run here; the others are not checked."""
    folder, pairs = scored.folder, dict[Work, Pair]()
    for name in dict.fromkeys(work.entry for work in works):
        try:
            entry = read_entry(folder.entries / name)
            target, level = entry.target(), copied_code_level(entry.record.has_code)
        except MoeloadError as error:
            findings.unchecked.append(f"entry {name}: it cannot be run here: {error}")
            continue
        setting = replace(season_setting(scored.suite, folder.base, level), fresh=True)
        fitted = Fitted(entry.fitted)
        for work in works:
            if work.entry == name:
                pairs[work] = Pair(setting, work.scored_run, trace_file(folder, work.scored_run), target, fitted)
    return pairs


def _compare(committed: Results, work: Work, rows: Sequence[Row], findings: Findings) -> None:
    """Add each number of a run that its re-run contradicts; one of which every forecast fails here is not checked."""
    failed, tasks = failed_rows(rows), {row["origin"] for row in scored_rows(rows)}
    if failed and len(failed) == len(tasks) and len(committed.failures) < len(tasks):
        why = failed[0]["failure"]
        findings.unchecked.append(f"entry {work.entry}: it cannot be run here on {work.scored_run.id}: {why}")
    else:
        findings.wrong += (f"entry {work.entry}: {line}" for line in rerun_differences(committed, rows))
