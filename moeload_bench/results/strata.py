"""Results by the size of the runs' batches: a suite with both sizes is never averaged over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moeload_bench.results.grid import with_runs_of
from moeload_bench.results.record import Result
from moeload_bench.suites.suite import STRATA, Stratum, load_suite, suite_names

WORDS: Mapping[Stratum, str] = {
    "small": f"Small batches, up to {STRATA['small'][1]:,} tokens per expert and step",
    "large": f"Large batches, {STRATA['large'][0]:,} tokens per expert and step or more",
}


def by_stratum(results: Sequence[Result]) -> dict[str, Sequence[Result]]:
    """Return the results on each size of batch by its name in words; all under "" where the suite has one size."""
    suite = results[0].suite
    known = load_suite(suite.name) if suite.name in suite_names() else None
    strata = known.strata() if known is not None and known.sha256() == suite.sha256 else {}
    found = {WORDS[name]: with_runs_of(results, runs) for name, runs in sorted(strata.items(), reverse=True)}
    return {words: part for words, part in found.items() if part[0].runs} or {"": results}
