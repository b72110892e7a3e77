"""Split results into groups of runs that are averaged: as a suite's tables say, else a group per size of batch."""

from __future__ import annotations

from collections.abc import Mapping

from moeload_bench.results.results import Results
from moeload_bench.scoring.description import run_facts
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.meta import STRATA, Stratum, stratum_of
from moeload_bench.traces.trace import Trace

WORDS: Mapping[Stratum, str] = {
    "small": f"Small batches, up to {STRATA['small'][1]:,} tokens per expert and step",
    "large": f"Large batches, {STRATA['large'][0]:,} tokens per expert and step or more",
}


def run_groups(results: Results) -> dict[str, Results]:
    """Return the results on runs that are averaged, by a title: each table of the suite, each run of a suite whose
    runs stand apart, or each size of batch; all under "" where there is one group.
    """
    suite = results.suite.package_suite
    if suite is not None and suite.tables:
        tables = {title: {trace for trace in results.traces if trace.split("/")[0] in recipes}
                  for title, recipes in suite.tables.items()}  # fmt: skip
        return {title: results.select(traces=traces) for title, traces in tables.items() if traces}
    if suite is not None and suite.apart:
        return {trace: results.select(traces={trace}) for trace in results.traces}
    return size_groups(results)


def size_groups(results: Results) -> dict[str, Results]:
    """Return the results on each size of batch, by a title; all under "" where no run has a size."""
    groups = results.table[["trace", "stratum"]].drop_duplicates()
    traces_by_words = {words: groups.loc[groups["stratum"] == name, "trace"] for name, words in WORDS.items()}
    parts = {words: results.select(traces=set(traces)) for words, traces in traces_by_words.items() if len(traces)}
    return parts or {"": results}


def with_size(title: str, size: str) -> str:
    """Return a title with a size of batch in words after it, as `size_groups` names it; as it is for no size."""
    return f"{title}, {size.lower()}" if size else title


def nearest_words(trace: Trace, suite: Suite) -> str:
    """Return which runs of a suite have about the noise of one's own run; empty where either is not known.

    The noise is put as independent tokens per expert and row: sequences that keep to their experts make a row as noisy
    as a smaller batch.
    """
    tokens = run_facts(trace).independent_tokens if suite.strata() else None
    return "" if tokens is None else size_words(tokens, suite)


def size_words(tokens: float, suite: Suite) -> str:
    """Return which runs of a suite with both sizes have about so many tokens per expert."""
    most = max(trace.expert_tokens or 0 for trace in suite.traces)
    small, large = (f"the {name} batches of suite {suite.name}" for name in ("small", "large"))
    head = f"A row is as noisy as {tokens:,.0f} independent tokens per expert: "
    if tokens > most:
        return head + f"beyond what was measured; nearest are {large}, up to {most:,.0f} tokens."
    between = f"between {small} and {large}; compare with both."
    return (
        head + {"small": f"compare with {small}.", "large": f"compare with {large}.", None: between}[stratum_of(tokens)]
    )
