"""`python -m leaderboard submit-baselines`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leaderboard.committed import ROOT, entry_problems, result_path
from moeload_bench.cli.progress import say
from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import FITTED, VERIFICATION, Folder, read_folder
from moeload_bench.publishing.submit import Author, make_draft
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import Suite, default_suite, load_suite

MAINTAINERS = "The moeload-bench maintainers"


def write_submission(name: str, suite: Suite, root: Path = ROOT / "leaderboard") -> Folder:
    """Return the folder of one baseline; a verification of another result goes.

    Raise `SubmissionError` or `ResultError` where the two do not belong together.
    """
    place = root / result_path(suite.name, name)
    results = load_results(place, layers=True)
    entry = results.entries[name]
    who = Author([MAINTAINERS], "Apache-2.0", None, False, entry.environment.hardware)
    path = make_draft(parse_target(name), name, who, suite).write(root)
    folder = read_folder(path)
    wrong = list(entry_problems(entry, folder, suite))
    if wrong and folder.verification is not None:
        for file in (VERIFICATION, FITTED):
            (path / file).unlink(missing_ok=True)
        results = replace(results, entries={name: entry.model_copy(update={"status": "claimed"})})
        results.save(place.parent)
        folder = read_folder(path)
        wrong = list(entry_problems(results.entries[name], folder, suite))
    if wrong:
        raise SubmissionError(f"{name}: {wrong[0]}")
    return folder


def submit_baselines() -> None:
    """Write the baselines' submissions from their results on the newest suite.

    A submission is on one suite: those on a newer one replace those on the older. `make verify` does this first.
    """
    suite = load_suite(default_suite())
    for name in suite.baselines:
        if (ROOT / "leaderboard" / result_path(suite.name, name)).is_file():
            say(str(write_submission(name, suite).path))
        else:
            say(f"{name}: left out, it has no result on {suite.name}", err=True)
