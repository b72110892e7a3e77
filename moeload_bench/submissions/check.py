"""Check a submission from its files alone: nothing is executed. And the levels of isolation at which one may run."""

from __future__ import annotations

from collections.abc import Iterator

from moeload_bench.errors import IsolationError, SubmissionError
from moeload_bench.isolation.hosts import Level, level_available, parse_level
from moeload_bench.submissions.folder import Folder
from moeload_bench.suites.suite import Suite

APART: tuple[Level, ...] = ("process", "sandbox")


def apart_level(text: str) -> Level:
    """Return a level at which untrusted code may run, and that this machine offers.

    Raise `IsolationError` for one that does not exist or cannot be used here, `SubmissionError` for one too low.
    """
    level = parse_level(text)
    if level not in APART:
        raise SubmissionError(
            f"isolation: got {text!r}, expected {' or '.join(APART)}: a submission runs at one of these"
        )
    require_level(level)
    return level


def require_level(level: Level, instead: str = "or say --level process") -> None:
    """Raise `IsolationError` if a level cannot be used, with what to do instead: it is not the forecaster's fault."""
    reason = level_available(level)
    if reason is not None:
        raise IsolationError(f"isolation level {level!r} is not available here: {reason}; {instead}")


def folder_problems(folder: Folder, suite: Suite) -> Iterator[str]:
    """Yield what is wrong with a submission that `read_folder` could read: its name, and the suite that it is for."""
    record = folder.record
    if record.wrong_name is not None:
        yield record.wrong_name
    expected = {
        "suite name": (record.suite.name, suite.name),
        "suite hash": (record.suite.sha256, suite.sha256()),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{what}: submission.toml says {got!r}, expected {wanted!r}: run `moeload-bench submit` again"
