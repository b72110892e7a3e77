"""What belongs to the traces of a suite, computed once when the suite is frozen: moeload_bench/data/reference.

python -m leaderboard.suites.facts v1            write v1.traces.json
python -m leaderboard.suites.facts v1 --check    compare; exit status 1 when a number differs
"""

from __future__ import annotations

import argparse
import sys

from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.evaluation.truth import Truth
from moeload_bench.results.facts import SuiteFacts, facts_path, suite_facts
from moeload_bench.results.record import same_numbers
from moeload_bench.results.text import readable_json
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import find_trace, read_trace


def compute_facts(suite: Suite) -> SuiteFacts:
    """The facts of every scored run, from its trace."""
    traces = {
        entry.id: Truth(
            read_trace(find_trace(entry.id), expected_sha256=entry.data_sha256), suite.rule, suite.horizons
        ).facts(entry.origins())
        for entry in suite.traces
    }
    return SuiteFacts(suite=suite.name, sha256=suite.sha256(), traces=traces)


def write_facts(facts: SuiteFacts) -> None:
    """Into the package; raises `ResultError` for a name that no suite of it can have."""
    path = facts_path(facts.suite)
    if path is None:
        raise ResultError(f"{facts.suite!r} is not a name for a suite of the package")
    path.write_text(readable_json(facts.model_dump(mode="json")) + "\n")
    suite_facts.cache_clear()
    print(f"written: {path.name}")


def differing(suite: Suite) -> list[str]:
    """The runs whose kept facts are not what their traces give."""
    kept = suite_facts(suite.name, suite.sha256())
    found = compute_facts(suite).model_dump()["traces"]
    return [
        name
        for name, facts in found.items()
        if not same_numbers(facts, kept[name].model_dump() if name in kept else None)
    ]


def main() -> int:
    """Exit status 0 when written or equal, 1 when something differs, 2 when it cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    try:
        suite = load_suite(given.suite)
        if not given.check:
            write_facts(compute_facts(suite))
            return 0
        wrong = differing(suite)
    except MoeloadError as error:
        print(error, file=sys.stderr)
        return 2
    for name in wrong:
        print(f"{name}: what is kept is not what the trace gives")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
