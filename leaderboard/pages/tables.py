"""Parts that are one table of one page: metrics in docs/methods/metrics.md, the sandbox's cost in
docs/methods/isolation.md, our planner beside EPLB's in docs/methods/placement.md, the cost of the suites in
docs/guide/cluster.md, tolerances in docs/guide/leaderboard.md, advice on balancing in docs/guide/inspect.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from leaderboard.committed import ROOT, suites_with_results
from leaderboard.pages.inputs import suite_results
from leaderboard.pages.parts import Maker, aligned_table
from moeload_bench.ops.facts.remedies import REMEDIES
from moeload_bench.results.columns import run_costs
from moeload_bench.results.formats import three_digits
from moeload_bench.results.render import markdown_table
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import METRICS, UNBOUNDED, Bound, Metric

BETTER = {True: "less", False: "more", None: "-"}
BALANCES = ROOT / "benchmarks" / "peers.json"
MEASURED = ROOT / "benchmarks" / "isolation.json"


def catalogue_table() -> str:
    """Return a row per metric: what it is, which direction is better, and which values it can take."""
    rows = [
        (f"`{spec.label}`", spec.plain, spec.description, spec.unit, BETTER[spec.lower_is_better], _range(spec))
        for spec in METRICS.values()
    ]
    return markdown_table(("metric", "in plain words", "what it is", "unit", "better", "values"), rows)


def _range(metric: Metric) -> str:
    least, most = metric.span
    if metric.per_device:
        return f"{least:g} to D" + (f" - {-most:g}" if most else "")
    return f"from {least:g}" if most == UNBOUNDED else f"{least:g} to {most:g}"


def isolation_table() -> str:
    """Return a row per shape and isolation level: milliseconds of a start-up and of a call."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    heads = ("`sw_avg`, layers x experts", "level", "start-up, ms", "observe 10 steps, ms", "forecast 1,000 steps, ms")
    rows = [
        (row["shape"], f"`{row['level']}`", *(three_digits(row[what]) for what in ("start_up", "observe", "forecast")))
        for row in measured["rows"]
    ]
    return f"{markdown_table(heads, rows)}\n\nWall time; medians of {measured['repetitions']} runs, levels in turns."


def balance_table() -> str:
    """Return how well our planner and EPLB's algorithm balance, a row per shape and kind of loads."""
    heads = ("shape", "loads", "plans", "max load, ours / public: mean", "largest",
             "replicas share a device: public, ours", "ours / public where the public plan has none")  # fmt: skip
    rows = [
        (row["shape"], row["loads"], f"{row['plans']:,}", f"{row['mean']:.4f}", f"{row['largest']:.2f}",
         f"{100 * row['loop_doubles']:.0f} %, {100 * row['ours_doubles']:.0f} %",
         "-" if row["mean_undoubled"] is None else f"{row['mean_undoubled']:.4f}")
        for row in json.loads(BALANCES.read_text(encoding="utf-8"))
    ]  # fmt: skip
    return aligned_table(heads, rows)


def core_minutes(results: Results) -> dict[str, float]:
    """Return the minutes of one core that each forecaster took, the most first: CPU time of its process, wall time
    where that is unknown, and its fit.
    """
    costs = run_costs(results.table)
    spent_s = costs["startup_wall_s"] + sum(
        costs[f"{part}_cpu_s"].fillna(costs[f"{part}_wall_s"]) for part in ("observe", "forecast")
    )
    by_name = spent_s.groupby(costs["forecaster"]).sum()
    minutes = {name: (by_name[name] + (entry.fit_wall_s or 0.0)) / 60 for name, entry in results.entries.items()}
    return dict(sorted(minutes.items(), key=lambda item: -item[1]))


def suites_table() -> str:
    """One row per suite: what all its forecasters take together, and which take most."""
    rows = []
    for suite in suites_with_results():
        results = suite_results(suite)
        minutes = core_minutes(results)
        most = ", ".join(f"{name} {three_digits(minutes[name])}" for name in list(minutes)[:3])
        rows.append((suite, str(len(results.traces)), str(len(results)), three_digits(sum(minutes.values())), most))
    return aligned_table(("suite", "runs", "forecasters", "core-minutes", "of which"), rows, 1, 4)


def tolerances() -> str:
    """Return by how much a re-run may differ, metrics with the same tolerances in one row."""
    metrics_by_cells: dict[tuple[str, ...], list[str]] = {}
    for metric in METRICS.values():
        allowed = metric.tolerance
        cells = (_larger(allowed.value), _larger(allowed.mean), _larger(allowed.overall))
        metrics_by_cells.setdefault(cells, []).append(f"`{metric.label}`")
    rows = [(", ".join(metrics), *cells) for cells, metrics in metrics_by_cells.items()]
    return aligned_table(("metric", "a value", "a mean", "over all horizons"), rows)


def _larger(tolerance: Bound | None) -> str:
    relative, absolute = tolerance or (0.0, 0.0)
    return "" if tolerance is None else f"{100 * relative:g} % or {absolute:g}" if relative else f"{absolute:g}"


def remedy_table() -> str:
    """Return a row per case of balancing: what the trace says, and what `inspect` advises where it is not enough."""
    rows = [(remedy.when, remedy.words.format(now=0.001, low=0.94, high=1.05)) for remedy in REMEDIES.values()]
    return markdown_table(("balancing of the trace", "advice"), rows)


PARTS: Mapping[str, Maker] = {
    "balancing-remedies": remedy_table,
    "metrics": catalogue_table,
    "peers": balance_table,
    "costs": isolation_table,
    "cost": suites_table,
    "tolerances": tolerances,
}
