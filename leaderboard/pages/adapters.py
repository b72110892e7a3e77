"""Other people's forecasters beside the baselines on the small suite: a part of docs/guide/forecasters.md.

Their results are kept apart from the leaderboard's (`moeload-bench run TARGET --suite mini --out
leaderboard/adapters/mini`), since they need packages that this project does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import results_of
from moeload_bench.plots.results import cpu_ms
from moeload_bench.results.comparison import errors_of, skill
from moeload_bench.results.record import load_result
from moeload_bench.results.render import markdown_table, three_digits

FOLDER = ROOT / "leaderboard" / "adapters"
SUITE = "mini"
BESIDE = ("sw_avg", "arima")
METRIC = "window_tv"


def adapters_table() -> str:
    """Skill by state, error at every horizon, and CPU time."""
    known = {result.name: result for result in results_of(SUITE)}
    results = [known[name] for name in BESIDE] + [load_result(p) for p in sorted((FOLDER / SUITE).glob("*.json"))]
    errors, rows = errors_of(results, METRIC), []
    for state in ("transient", "stable"):
        for result in results:
            here = errors.select(state=state)
            cells = [here.select(horizon=h).by_forecaster[result.name].mean() for h in result.suite.horizons]
            rows.append((state, f"`{result.name}`", f"{skill(here, result.name, BESIDE[0])[0]:+.3f}",
                         *map(three_digits, cells), three_digits(cpu_ms(result))))  # fmt: skip
    heads = ("state", "forecaster", "skill", *(f"h = {h:,}" for h in results[0].suite.horizons), "CPU ms per origin")
    return f"Suite `{SUITE}`, `{METRIC}`, skill against `{BESIDE[0]}`:\n\n{markdown_table(heads, rows)}"


PARTS: Mapping[str, Maker] = {"adapters": lambda _: adapters_table()}
