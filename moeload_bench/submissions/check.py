"""Check that a result belongs to its submission and its suite, from the files alone: nothing is executed.

Axis letters: K suite horizons.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from moeload_bench.errors import IsolationError, SubmissionError
from moeload_bench.isolation.hosts import MAX_COUNTS, Level, level_available, parse_level
from moeload_bench.results.comparison import bundled_reference
from moeload_bench.results.record import Result, RunResult
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.submissions.folder import Folder
from moeload_bench.submissions.numbers import check_cost, check_numbers
from moeload_bench.suites.suite import Suite, SuiteTrace

APART: tuple[Level, ...] = ("process", "sandbox")
MAX_TEXT = 2000
MAX_TEXTS = {"notes": 50, "environment": 500, "counts": MAX_COUNTS}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def apart_level(text: str) -> Level:
    """Return a level at which untrusted code may run, and that this machine offers.

    Raise `IsolationError` for one that does not exist or cannot be used here, `SubmissionError` for one too low.
    """
    level = parse_level(text)
    if level not in APART:
        raise SubmissionError(
            f"isolation: got {text!r}, expected {' or '.join(APART)}: a claim is made and verified at one of these"
        )
    require_level(level)
    return level


def require_level(level: Level, instead: str = "or say --level process") -> None:
    """Raise `IsolationError` if a level cannot be used, with what to do instead: it is not the forecaster's fault."""
    reason = level_available(level)
    if reason is not None:
        raise IsolationError(f"isolation level {level!r} is not available here: {reason}; {instead}")


def check_submission(folder: Folder, result: Result, suite: Suite) -> list[str]:
    """Return everything wrong with a submission and its result, in words that say what to do; [] if nothing is."""
    wrong = [*_identity(folder, result, suite), *_status(folder, result), *_texts(result)]
    if result.suite.sha256 != suite.sha256():
        return wrong  # the rest would only repeat it
    known = bundled_reference(suite.name, suite.sha256(), SCORING_VERSION)
    return [*wrong, *check_cost("fit_wall_s", result.fit_wall_s), *_runs(result, suite, known)]


def _identity(folder: Folder, result: Result, suite: Suite) -> Iterator[str]:
    record, made = folder.record, result.forecaster
    if record.wrong_name is not None:
        yield record.wrong_name
    expected = {
        "suite name": (result.suite.name, suite.name),
        "suite hash": (result.suite.sha256, suite.sha256()),
        "suite name in submission.toml": (record.suite.name, suite.name),
        "suite hash in submission.toml": (record.suite.sha256, suite.sha256()),
        "suite horizons": (list(result.suite.horizons), list(suite.horizons)),
        "suite reference": (result.suite.reference, suite.reference),
        "forecaster name": (made.name, record.name),
        "forecaster target": (made.target, record.result_target),
        "forecaster kwargs": (made.kwargs, record.kwargs),
        "requirements": (made.requirements, folder.requirements),
        "scoring version": (result.scoring_version, SCORING_VERSION),
        "seed": (result.seed, suite.seed),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{what}: the result says {got!r}, expected {wanted!r}: run `moeload-bench submit` again"
    if record.model_type == "statistical" and result.fit_wall_s is not None:
        yield "model_type: got 'statistical', but it was fitted on the suite's train runs: expected 'learned'"
    if record.has_code and made.source_sha256 != folder.source_sha256:
        yield (
            f"the code has changed since the result was made: the source's hash is {folder.source_sha256[:12]!r}, the "
            f"result was made from {made.source_sha256[:12]!r}: run `moeload-bench submit` again"
        )
    if result.isolation not in APART:
        yield f"isolation: got {result.isolation!r}, expected {' or '.join(APART)}"


def _status(folder: Folder, result: Result) -> Iterator[str]:
    verification = folder.verification
    if verification is None:
        if result.status == "verified":
            yield "the result says verified, but no verification.json says so: leave status at claimed"
    elif verification.result_sha256 != result.content_sha256:
        yield "verification.json is about another result: remove it; the maintainers verify again"
    elif (result.status == "verified") != (verification.status == "verified"):
        yield f"the result says {result.status}, verification.json says {verification.status}"


def _texts(result: Result) -> Iterator[str]:
    """Yield a problem for each text that a page cannot show as it is: one line each, not too long, not too many."""
    many = {"notes": len(result.notes), "environment": sum(1 for _ in _strings(result.environment.model_dump()))}
    many["counts"] = max((len(run.counts) for run in result.runs), default=0)
    for what, number in many.items():
        if number > MAX_TEXTS[what]:
            yield f"{what}: got {number} entries, expected at most {MAX_TEXTS[what]}"
            return
    counts = [name for run in result.runs for name in run.counts]
    failed = [task.failure or "" for _, task in result.failures]
    for text in (*_strings(result.environment.model_dump()), *result.notes, *counts, *failed):
        if len(text) > MAX_TEXT or not text.isprintable():
            yield f"{text[:40]!r}: expected one line of at most {MAX_TEXT} printable characters"
            return


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from (name, *_strings(value))
    elif isinstance(tree, str):
        yield tree


def _runs(result: Result, suite: Suite, known: Result | None) -> Iterator[str]:
    """Yield problems of the runs; ``known``: the reference's result, which must agree in what depends on the trace."""
    theirs = {} if known is None else {run.trace: run for run in known.runs}
    expected = {entry.id: entry for entry in suite.traces}
    found = [run.trace for run in result.runs]
    for trace in sorted(expected.keys() - set(found)):
        yield f"{trace}: missing; a result holds every run of the suite"
    for trace in sorted(set(found) - expected.keys()):
        yield f"{trace[:80]!r}: not in suite {suite.name}"
    if len(set(found)) != len(found):
        yield "a run is listed twice"
    if result.failures:
        trace, task = result.failures[0]
        yield (
            f"{len(result.failures)} tasks failed, the first is origin {task.origin} of {trace[:80]!r}: a submission "
            "must answer every task, or it cannot be checked for memorised runs"
        )
    for run in result.runs:
        if run.trace in expected:
            for line in _run(run, expected[run.trace], suite.horizons, theirs.get(run.trace)):
                yield f"{run.trace}: {line}"


def _run(run: RunResult, entry: SuiteTrace, horizons: Sequence[int], known: RunResult | None) -> Iterator[str]:
    if run.data_sha256 != entry.data_sha256:
        yield f"trace hash {run.data_sha256[:12]!r}, expected {entry.data_sha256[:12]!r}: the run was on other data"
    if not _SHA256.fullmatch(run.forecasts_sha256):
        yield "forecasts_sha256 is not a SHA-256"
    wanted = entry.origins()
    got = [(task.origin, task.state) for task in run.tasks]
    missing = sorted(set(wanted) - set(got))
    if missing:
        origin, state = missing[0]
        yield f"{len(missing)} of {len(wanted)} tasks are missing, the first is origin {origin} ({state})"
    elif got != wanted:
        yield f"{len(got)} tasks that are not the suite's {len(wanted)} in their order"
    if missing or got != wanted:
        return
    yield from check_numbers(run, len(horizons), known, len(entry.asked(horizons)))
