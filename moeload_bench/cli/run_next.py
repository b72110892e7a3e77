"""Which command comes next after `moeload-bench run`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from moeload_bench.harness.conformance import LONG_STEPS
from moeload_bench.results.choice import Verdict
from moeload_bench.results.results import Results


def next_on_own_run(source: str) -> dict[str, str]:
    """Return the next command after a comparison on one's own run, under its heading."""
    return {"Next, whether and how often to re-plan:": f"moeload-bench plan {shlex.quote(source)}"}


def next_on_suite(results: Results, choices: Sequence[Verdict]) -> dict[str, str]:
    """Return the next commands after a suite: for authors of a forecaster, and how often to re-plan with the best."""
    plan = _plan_on_suite(results, choices)
    targets = {name: entry.target for name, entry in results.entries.items()}
    written = next((name for name, target in targets.items() if ":" in target.partition("@")[0]), None)
    if written is None:
        return {**plan, "Next, for a forecaster that you write:": "moeload-bench check my.py:Mine"}
    target = shlex.quote(targets[written])
    failures = results.failures
    failed = failures.loc[failures["forecaster"] == written, "origin"]
    if len(failed):
        if failed.min() <= LONG_STEPS:
            return {"Next, the rules that it breaks:": f"moeload-bench check {target}"}
        return {f"Next, once it is mended (`check` looks at {LONG_STEPS:,} steps only):": f"moeload-bench run {target}"}
    name = shlex.quote(targets[written].partition("@")[0].rpartition(":")[2].lower())
    level = "" if results.entries[written].isolation == "sandbox" else " --level process"
    hand_in = f"moeload-bench submit {target} --name {name} --author 'A. Uthor' --licence MIT{level} --dry-run"
    return {"Next, to hand it in:": hand_in, **plan}


def _plan_on_suite(results: Results, choices: Sequence[Verdict]) -> dict[str, str]:
    """Return the command that re-plans the suite's last run with what errs least; nothing where nothing can be said."""
    if not choices:
        return {}
    run, forecaster = shlex.quote(results.traces[-1]), shlex.quote(choices[-1].best)
    return {"Next, how often to re-plan with it:": f"moeload-bench plan {run} --forecaster {forecaster}"}
