"""Results of schema version 1 to version 2, with their verifications: no number changes.

    python -m leaderboard.convert              every committed result of this checkout that is of version 1
    python -m leaderboard.convert FILE.json    somebody's result file, in place

What belongs to a suite's traces (floors, crossing windows) goes to moeload_bench/data/reference once; every file is
read again and compared with what it was. A verification is bound to its result by a hash, of the text then and of the
content now: it is carried over only where the old hash is that of the old file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leaderboard.committed import RESULTS, SUBMISSIONS, submission_path
from leaderboard.suites.facts import write_facts
from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.results.facts import FOLDER, SuiteFacts, TraceFacts
from moeload_bench.results.record import Result, load_result
from moeload_bench.submissions.folder import VERIFICATION
from moeload_bench.submissions.record import Verification


def is_old(path: Path) -> bool:
    """Whether a result file is of schema version 1."""
    return b'"schema_version": 1' in path.read_bytes()


def convert(path: Path) -> tuple[str, Result]:
    """Rewrite one file; returns the hash of its old text, as verifications named it, and its record.

    Raises `ResultError` when the new file would not hold what the old one did.
    """
    tree = json.loads(path.read_bytes())
    text = json.dumps({**tree, "status": "claimed"}, sort_keys=True, indent=1, allow_nan=False) + "\n"
    before = load_result(path)
    before.save(path)
    if load_result(path) != before:
        raise ResultError(f"{path}: the new file does not hold what the old one did")
    return hashlib.sha256(text.encode()).hexdigest(), before


def facts_of(results: Sequence[Result]) -> SuiteFacts:
    """What belongs to the traces of the suite that these results are of; raises `ResultError` where they disagree."""
    facts: dict[str, TraceFacts] = {}
    for result in results:
        for run in result.runs:
            if facts.setdefault(run.trace, run.facts) != run.facts:
                raise ResultError(f"{result.name} and others do not agree on the floors or crossings of {run.trace}")
    suite = results[0].suite
    return SuiteFacts(suite=suite.name, sha256=suite.sha256, traces=facts)


def carry_over(submissions: Path, old: str, result: Result) -> bool:
    """Bind the verification of a result to its content; False where there is none of exactly the old text."""
    path = submission_path(result.name, result.suite.name, submissions) / VERIFICATION
    if not path.is_file():
        return False
    found = Verification.model_validate_json(path.read_bytes())
    if found.result_sha256 != old:
        return False
    fields: dict[str, Any] = {"result_sha256": result.content_sha256}
    path.write_text(found.model_copy(update=fields).to_json())
    return True


def convert_committed() -> None:
    """All committed results of version 1, suite by suite."""
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        old = [path for path in sorted(folder.glob("*.json")) if is_old(path)]
        if not old:
            continue
        write_facts(facts_of([load_result(path) for path in old]))
        for path in old:
            sha256, result = convert(path)
            carried = carry_over(SUBMISSIONS, sha256, result)
            print(f"converted: {path}{', verification carried over' if carried else ''}")
    for path in sorted(FOLDER.glob("*.json")):
        if is_old(path) and not path.name.endswith(".traces.json"):
            convert(path)
            print(f"converted: {path}")


def main() -> int:
    """Exit status 0 when all is converted, 2 when something cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    try:
        for path in given.files:
            convert(path)
            print(f"converted: {path}")
        if not given.files:
            convert_committed()
    except MoeloadError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
