"""`python -m leaderboard facts`: what belongs to the traces of a suite, kept in moeload_bench/data/reference."""

from __future__ import annotations

from typing import Annotated

import typer

from moeload_bench.errors import ResultError
from moeload_bench.evaluation.truth import Truth
from moeload_bench.results.facts import SuiteFacts, facts_path, suite_facts
from moeload_bench.results.json_text import readable_json
from moeload_bench.results.record import same_numbers
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import find_trace, read_trace


def compute_facts(suite: Suite) -> SuiteFacts:
    """Return the facts of every scored run, from its trace."""
    traces = {
        entry.id: Truth(
            read_trace(find_trace(entry.id), expected_sha256=entry.data_sha256),
            suite.rule,
            entry.asked(suite.horizons),
        ).facts(entry.origins(), len(suite.horizons))
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
    """Return the runs whose kept facts are not what their traces give."""
    kept = suite_facts(suite.name, suite.sha256())
    found = compute_facts(suite).model_dump()["traces"]
    return [
        name
        for name, facts in found.items()
        if not same_numbers(facts, kept[name].model_dump() if name in kept else None)
    ]


def facts(
    suite: Annotated[str, typer.Argument(help="A suite of the package.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing, compare with what the traces give.")] = False,
) -> None:
    """Compute what depends only on a suite's traces, once it is frozen.

    Written into moeload_bench/data/reference/SUITE.traces.json.

    Exit status 1 with --check when a number differs.
    """
    frozen = load_suite(suite)
    if not check:
        write_facts(compute_facts(frozen))
        return
    wrong = differing(frozen)
    for name in wrong:
        print(f"{name}: what is kept is not what the trace gives")
    if wrong:
        raise typer.Exit(1)
