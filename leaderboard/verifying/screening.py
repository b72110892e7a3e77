"""What honest forecasters and memorisers show on the screen of `verify`: what its limits were set on.

Nothing is drawn in the screen: a forecaster is always found or never. Memorisers differ in what they hold, what they
mix it with and in how much; `leaderboard.verifying.drawn` draws that. The weight at which a memory is found follows
from an honest forecaster's numbers in closed form (`screen.Sums.knowing`): that of an exact memory mixed into its
forecasts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from leaderboard.pages.parts import Maker, aligned_table
from leaderboard.verifying import screen
from leaderboard.verifying.memorisers import TARGET, memoriser
from moeload_bench.arrays import FloatArray
from moeload_bench.evaluation.harness import follow
from moeload_bench.evaluation.pairs import Fitted, Setting, fit_forecaster
from moeload_bench.isolation.hosts import Limits
from moeload_bench.isolation.targets import FileTarget, Target, parse_target
from moeload_bench.scoring.catalogue import METRICS, Bound
from moeload_bench.suites.suite import Suite, SuiteTrace, load_suite, locate_traces
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace

MEASURED = Path(__file__).resolve().parent / "screened.json"
WEIGHTS = tuple(range(1, 100))  # in hundredths
EVERY = {"mini": 16}  # steps of a memoriser's memory: what fits into the size of a submission
MEMORISERS: Mapping[str, Mapping[str, Any]] = {
    "memory": {},
    "memory, weight 0.3": {"weight": 0.3},
    "memory, beyond horizon 100": {"beyond": 100},
    "memory on sw_avg 37, weight 0.3": {"weight": 0.3, "window": 37},
}


def measure(suite: Suite, target: Target) -> screen.Strata:
    """Return the strata of a forecaster on a suite. It is trusted: it runs in this process."""
    runs = forecast_means(suite, target)
    return screen.summed_by_recipe(
        [screen.strata_of(trace, entry, mean_OKLE, entry.asked(suite.horizons)) for trace, entry, mean_OKLE in runs]
    )


def forecast_means(suite: Suite, target: Target) -> Iterator[tuple[Trace, SuiteTrace, FloatArray]]:
    """Yield its forecast window means [O, K, L, E] of each run."""
    paths = locate_traces(suite)
    setting = Setting(suite, "none", Limits(), suite.seed, True)
    fitted = fit_forecaster(setting, paths, target) if not isinstance(target, FileTarget) else Fitted()
    for entry in suite.traces:
        trace = read_trace(paths[entry.id], expected_sha256=entry.data_sha256)
        origins = [origin for origin, _ in entry.origins()]
        group, horizons = suite.group_of(entry.id), entry.asked(suite.horizons)
        with follow(target, trace, group=group, seed=suite.seed, fitted=fitted.data, level="none") as feed:
            answers = [answer.forecast for answer in feed.answers(origins, horizons)]
        yield trace, entry, np.stack([one.window_means(horizons) for one in answers if one is not None])


def least_weight(strata: Mapping[screen.Stratum, Any]) -> float | None:
    """Return the least weight of an exact memory of all runs, mixed into these forecasts, that is found."""
    for weight in WEIGHTS:
        moved = {stratum: sums.knowing(weight / 100) for stratum, sums in strata.items()}
        if any(_of(moved).reasons()):
            return weight / 100
    return None


def _of(strata: screen.Strata) -> screen.Screened:
    found = screen.screen_strata(strata)
    if found is None:
        raise SystemExit("no stratum of this suite is large enough")
    return found


def record(suite: Suite, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what the screen says of each, honest or a memoriser."""
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            known = MEMORISERS.get(name)
            target, size = (
                (parse_target(name), None) if known is None else memoriser_file(suite, Path(scratch), **known)
            )
            strata = measure(suite, target)
        found = _of(strata)
        made: dict[str, Any] = {key: round(float(value), 4) for key, value in found.findings().items()}
        made |= {"found": any(found.reasons())}
        made |= {"bytes": size} if size else {"least_weight": least_weight(strata)}
        yield name, made


def memoriser_file(suite: Suite, root: Path, **options: Any) -> tuple[Target, int]:
    """Return a memoriser in a file of its own, and how large it is."""
    file = root / "memoriser.py"
    file.write_text(memoriser(locate_traces(suite), suite, **{"every": EVERY[suite.name], **options}))
    return FileTarget(text=TARGET, file=file, class_name=TARGET.partition(":")[2]), file.stat().st_size


def table(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the largest correlations by suite and forecaster, and from which weight a memory mixed into it is
    found.
    """
    head = "| suite | forecaster | one recipe | mean of recipes (limit) | found | an exact memory in it is found from |"
    lines = [head, "|---|---|---:|---:|---|---:|"]
    for suite, found in measured.items():
        for name, one in sorted(found.items(), key=lambda item: (item[0] in MEMORISERS, item[0])):
            label = f"*{name}* ({one['bytes']} bytes)" if name in MEMORISERS else f"`{name}`"
            least = f"weight {one['least_weight']}" if one.get("least_weight") else ""
            mean = f"{one['memory_mean']:.2f} ({one['memory_mean_limit']:.2f})"
            said = "**yes**" if one["found"] else "no"
            lines.append(f"| {suite} | {label} | {one['memory_recipe']:.2f} | {mean} | {said} | {least} |")
    return "\n".join([*lines, f"| | *accepted up to* | {screen.MAX_RECIPE:.2f} | | | |"])


def tolerances() -> str:
    """Return by how much a re-run may differ, metrics with the same tolerances in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for metric in METRICS.values():
        allowed = metric.tolerance
        cells = (_larger(allowed.value), _larger(allowed.mean), _larger(allowed.overall))
        alike.setdefault(cells, []).append(f"`{metric.label}`")
    rows = [(", ".join(metrics), *cells) for cells, metrics in alike.items()]
    return aligned_table(("metric", "a value", "a mean", "over all horizons"), rows)


def _larger(tolerance: Bound | None) -> str:
    relative, absolute = tolerance or (0.0, 0.0)
    return "" if tolerance is None else f"{100 * relative:g} % or {absolute:g}" if relative else f"{absolute:g}"


PARTS: Mapping[str, Maker] = {
    "screened": lambda: table(json.loads(MEASURED.read_text())),
    "tolerances": tolerances,
}


def add_measured(path: Path, suite: str, found: Mapping[str, Any]) -> None:
    """Add what was found on a suite to a file of JSON, and print it."""
    print(suite, found, flush=True)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept.setdefault(suite, {}).update(found)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def screening(
    suite: Annotated[str, typer.Argument(help="A suite's name.")],
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Honest forecasters; or memorisers: " + "; ".join(MEMORISERS))
    ],
) -> None:
    """Measure what forecasters and memorisers show on the screen of `verify`.

    Kept in leaderboard/verifying/screened.json; `pages docs/guide/leaderboard.md` makes the table.

    [bold]python -m leaderboard screening mini gated memory[/bold]
    """
    tasks = load_suite(suite)
    for name, made in record(tasks, names):
        add_measured(MEASURED, suite, {name: made})
