"""The first score of `gated` on test runs of recipes that it was not fitted on, kept for good.

Suite v2 brings ten recipes that v1 lacks. `gated` as it ships was fitted on v1's `train` runs, before any run of the
ten was recorded. Each run is scored once, as soon as its trace is in traces/, with the weights as they are then; the
score and the hashes of code with weights and of the trace go into leaderboard/unseen.json and are never replaced. Half
a minute per run.

Axis letters: K suite horizons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.committed import ROOT, TRACES
from leaderboard.suites.plan import load_plan
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.files import write_whole
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import log_ratio
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.suites.suite import STATES, load_suite, suite_for_trace
from moeload_bench.traces.store import read_trace, stored_hash

OUT = ROOT / "leaderboard" / "unseen.json"
KNOWN, PLAN = "v1", "v2"
SUBJECT, REFERENCE = "gated", "sw_avg"
BESIDE = "adaptive"
"""What stands beside it: the best that learns nothing beforehand."""

Scores = Mapping[str, Mapping[str, Any]]
"""By run: `data_sha256`, `source_sha256` of the subject, `at`, `horizons`, and `states`, see `scores_of`."""


def wanted_runs() -> list[str]:
    """Return the plan's test runs of recipes that the known suite has no run of, in the order of the plan."""
    seen = known_recipes()
    return [run for run in load_plan(PLAN).runs if "/test/" in run and run.split("/")[0] not in seen]


def known_recipes() -> set[str]:
    """Return the recipes of the known suite, on whose open runs the subject was fitted."""
    suite = load_suite(KNOWN)
    return {entry.id.split("/")[0] for entry in (*suite.traces, *suite.fit)}


def read_scores(path: Path = OUT) -> Scores:
    """Return what was scored so far; empty before the first."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def add_scores(path: Path = OUT, folder: Path = TRACES) -> list[str]:
    """Score the wanted runs that are in the folder and have no score yet; their names.

    Raises `ResultError` where a trace is another than the one that was scored.
    """
    scores, added = dict(read_scores(path)), []
    for run in wanted_runs():
        file = folder / f"{run}.parquet"
        if not file.is_file():
            continue
        if run in scores:
            was, now = scores[run]["data_sha256"], stored_hash(file)
            if was != now:
                raise ResultError(
                    f"{file}: holds {str(now)[:12]}, its first score is of {was[:12]}: a run is scored once"
                )
            continue
        scores[run] = first_score(file)
        added.append(run)
        write_whole(path, f"{json.dumps(scores, indent=1, sort_keys=True)}\n".encode())
    return added


def first_score(file: Path) -> dict[str, Any]:
    """Return the record of one run: its origins are chosen by the rule, as those of a suite are."""
    trace = read_trace(file)
    suite = suite_for_trace(trace)
    results = evaluate([REFERENCE, SUBJECT, BESIDE], suite, traces=[trace], fresh=True)
    subject = next(result for result in results if result.name == SUBJECT)
    return {
        "at": datetime.now(UTC).date().isoformat(),
        "data_sha256": suite.traces[0].data_sha256,
        "horizons": list(suite.horizons),
        "source_sha256": subject.forecaster.source_sha256,
        "states": scores_of(list(results)),
    }


def scores_of(results: list[Result]) -> dict[str, dict[str, Any]]:
    """Return by state `origins`, and by forecaster `log_ratio` to the reference over all tasks and `window_tv` [K]."""
    errors = errors_of(results, PRIMARY)
    found: dict[str, dict[str, Any]] = {}
    for state in STATES:
        if state not in errors.state_T:
            continue
        here = errors.select(state=state)
        base_T = here.by_forecaster[REFERENCE]
        found[state] = {
            name: {
                "log_ratio": round(float(np.nanmean(log_ratio(error_T, base_T))), 6),
                PRIMARY: [float(f"{error_T[here.horizon_T == h].mean():.6g}") for h in results[0].suite.horizons],
            }
            for name, error_T in here.by_forecaster.items()
        }
        found[state]["origins"] = int(np.sum(here.horizon_T == results[0].suite.horizons[0]))
    return found


def unseen() -> None:
    """Score `gated` once and for good on test runs of recipes that it was not fitted on.

    Each run is scored as soon as its trace is in traces/, with the weights as they are then. The score and the hashes
    of code with weights and of the trace go into leaderboard/unseen.json and are never replaced. Half a minute per run.
    """
    for run in add_scores():
        print(f"scored for the first time: {run}")
    missing = [run for run in wanted_runs() if run not in read_scores()]
    print(f"{OUT.relative_to(ROOT)}: {len(missing)} of {len(wanted_runs())} runs are not recorded yet")
