"""`python -m leaderboard facts`: what the package has of a suite's traces, in moeload_bench/data/reference."""

from __future__ import annotations

from typing import Annotated

import typer

from leaderboard.committed import ROOT, result_path
from leaderboard.verifying.agreement import floor_differences
from moeload_bench.errors import ResultError
from moeload_bench.files import write_whole
from moeload_bench.harness.truth import Truth
from moeload_bench.results.columns import fact_frame
from moeload_bench.results.results import load_results
from moeload_bench.results.storage import BUNDLED
from moeload_bench.results.trace_facts import SuiteFacts, facts_path, suite_facts
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import read_trace


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
    """Write facts into the package; raise `ResultError` for a name that no suite of it can have."""
    path = facts_path(facts.suite)
    if path is None:
        raise ResultError(f"{facts.suite!r} is not a name for a suite of the package")
    write_whole(path, f"{facts.model_dump_json()}\n".encode())
    suite_facts.cache_clear()
    print(f"written: {path.name}")


def write_reference(suite: Suite) -> None:
    """Write the committed result of the suite's reference into the package."""
    committed = load_results(ROOT / "leaderboard" / result_path(suite.name, suite.reference))
    print(f"written: {committed.save(BUNDLED / f'{suite.name}.parquet').name}")


def differing(suite: Suite) -> list[str]:
    """Return in words which facts in the package are not what the traces give."""
    known, found = suite_facts(suite.name, suite.sha256()), compute_facts(suite).traces
    lines = [f"{name}: the package has no facts of it" for name in found if name not in known]
    for name in found.keys() & known.keys():
        if found[name] != known[name].model_copy(update={"floors": found[name].floors}):
            lines.append(f"{name}: its data, its crossings or the marks of its floors are others")
    return lines + floor_differences(*(fact_frame(facts, suite.horizons) for facts in (found, known)))


def facts(
    suite: Annotated[str, typer.Argument(help="A suite of the package.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing, compare with what the traces give.")] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Write the committed result of the suite's reference instead.")
    ] = False,
) -> None:
    """Compute what depends only on a suite's traces, once it is frozen.

    Written into moeload_bench/data/reference: SUITE.traces.json, or with --reference SUITE.parquet.

    Exit status 1 with --check when a number differs.
    """
    frozen = load_suite(suite)
    if reference:
        write_reference(frozen)
    elif not check:
        write_facts(compute_facts(frozen))
    elif wrong := differing(frozen):
        print("\n".join(wrong))
        raise typer.Exit(1)
