"""Write the memoriser of a public suite as a submission: what a season shows beside its entries, without a rank.

    python -m leaderboard.verifying.demonstration OUT [SUITE]    the folder OUT/memoriser

It holds every test run of the suite, finds its place in them, and is honest where it knows nothing: on runs that nobody
had it is the mean of the last 100 steps.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from leaderboard.verifying.memorisers import TARGET, memoriser
from moeload_bench.submissions.folder import CODE, RECORD
from moeload_bench.submissions.record import Submission, SuiteClaim
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import find_trace

NAME = "memoriser"


def write_memoriser(out: Path, suite_name: str = "v1") -> Path:
    """The folder; raises `NotFoundError` without the suite's traces."""
    suite = load_suite(suite_name)
    record = Submission(
        name=NAME,
        authors=["The moeload-bench maintainers"],
        licence="Apache-2.0",
        target=TARGET,
        fitted_beyond_train=True,
        model_type="pretrained",
        fitted_on=[f"the test runs of {suite.name}, by heart"],
        hardware=f"{platform.machine()} {platform.system()}",
        suite=SuiteClaim(name=suite.name, sha256=suite.sha256()),
    )
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CODE).write_text(memoriser({entry.id: find_trace(entry.id) for entry in suite.traces}, suite))
    (folder / RECORD).write_text(record.to_toml())
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("suite", nargs="?", default="v1")
    given = parser.parse_args()
    print(write_memoriser(given.out, given.suite))
