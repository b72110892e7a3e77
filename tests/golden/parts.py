"""What the golden numbers are, in two parts: of what is committed, and of what is computed again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import adapter
from tests.golden.table import Table, flat

Run = Mapping[str, Any]


def committed(folder: Path) -> Table:
    """Return the numbers of committed results, the statistics made from them, and shipped constants."""
    rounds = {}
    for name in adapter.SUITES:
        entries = adapter.published(name)
        rounds[name] = {
            "runs": {entry: dict(map(facts, runs)) for entry, runs in entries.items()},
            "means": {entry: dict(map(means, runs)) for entry, runs in entries.items()},
            "tasks": adapter.tasks(name),
            "statistics": adapter.statistics(name),
        }
    return flat({
        **rounds,
        "claims": adapter.claims(),
        "verifications": adapter.verifications(),
        "suites": adapter.suite_hashes(),
        "constants": adapter.constants(),
    })  # fmt: skip


def computed(folder: Path) -> Table:
    """Return the numbers that the code gives now; ``folder`` is for files in between."""
    scored = {
        name: {entry: dict(map(means, runs)) for entry, runs in entries.items()}
        for name, entries in adapter.scored().items()
    }
    places = {name: folder / name for name in ("advice", "recorded", "placements", "imports")}
    for place in places.values():
        place.mkdir()
    return flat({
        "scored": scored,
        "advice": dict(adapter.advice(places["advice"])),
        "recorded": adapter.recorded(places["recorded"]),
        "placements": adapter.placement_files(places["placements"]),
        "imports": adapter.imports(places["imports"]),
    })  # fmt: skip


PARTS: Mapping[str, Callable[[Path], Table]] = {"committed": committed, "computed": computed}


def facts(run: Run) -> tuple[str, dict[str, Any]]:
    """Return a run's id, with hashes of all its numbers and of its forecasts, and what it counted."""
    costs = (f"{name} {nine(value)}" for name, value in sorted(run["costs"].items()) if exists(value))
    numbers = {"tasks": task_lines(run), "layers": layer_lines(run), "costs": costs}
    given = {"counts": run["counts"], "data": run["data_sha256"], "forecasts": run["forecasts_sha256"]}
    return run["run"], {**{name: digest(lines) for name, lines in numbers.items()}, **given}


def means(run: Run) -> tuple[str, dict[str, Any]]:
    """Return a run's id, with the means over its origins by state, metric and horizon, and how many tasks failed."""
    rows: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for _, state, _, metrics in run["tasks"]:
        for metric, value_K in metrics.items():
            rows[state, metric].append(value_K)
    found: dict[str, Any] = {"failed": sum(failure is not None for _, _, failure, _ in run["tasks"])}
    for (state, metric), value_OK in rows.items():
        by_horizon = zip(run["horizons"], np.array(value_OK, dtype=np.float64).T, strict=True)
        known = {horizon: value_O[~np.isnan(value_O)] for horizon, value_O in by_horizon}
        of_state = found.setdefault(state, {})
        of_state[metric] = {horizon: float(value_O.mean()) for horizon, value_O in known.items() if value_O.size}
    return run["run"], found


def task_lines(run: Run) -> Iterator[str]:
    """Yield every number of a run's tasks as text, in one order; a value that does not exist has no line."""
    for origin, state, failure, metrics in sorted(run["tasks"]):
        yield f"{origin} {state} {failure or ''}"
        for metric in sorted(metrics):
            yield from (f"{metric} {k} {nine(v)}" for k, v in enumerate(metrics[metric]) if exists(v))


def layer_lines(run: Run) -> Iterator[str]:
    """Yield every mean of a run's layers as text, in one order."""
    for state, metrics in sorted(run["layers"].items()):
        for metric, value_KL in sorted(metrics.items()):
            for k, value_L in enumerate(value_KL):
                yield from (f"{state} {metric} {k} {m} {nine(v)}" for m, v in enumerate(value_L) if exists(v))


def exists(value: float | None) -> bool:
    """Return whether there is a value: neither None nor NaN."""
    return value is not None and value == value


def nine(value: float) -> str:
    """Return a number's nine significant digits; zero has one spelling."""
    return f"{value + 0.0:.9g}"


def digest(lines: Iterable[str]) -> str:
    """Return a short hash of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
