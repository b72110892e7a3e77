"""What honest forecasters and memorisers grow by on altered traces: what the limits of `verify` were fitted to.

    python -m leaderboard.verifying.growth sw_avg --draws 4     draws of the altered traces, kept in growths.json
    python -m leaderboard.verifying.growth by-step by-content   those of leaderboard/verifying/memorisers.py
    python -m leaderboard.pages docs/guide/leaderboard.md       the tables made from them

The other source of growths are the committed verification.json files: one more draw each. Draws are seeded 0, 1, ...
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from leaderboard.committed import SUBMISSIONS
from leaderboard.pages.parts import Maker
from leaderboard.verifying.memorisers import TARGET, memoriser
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.isolation.targets import Target, parse_target
from moeload_bench.results.agreement import MEAN_TOLERANCE, OVERALL_TOLERANCE, TOLERANCE
from moeload_bench.submissions.folder import read_folder
from moeload_bench.submissions.submit import Author, make_draft, named
from moeload_bench.submissions.verify import MAX_GROWTH, Request, locate, verify
from moeload_bench.suites.suite import Suite, load_suite

SUITE = "mini"
MEASURED = Path(__file__).resolve().parent / "growths.json"
MEMORISERS = {"by-step": False, "by-content": True}
MEMORY_EVERY = 16  # steps: what of two runs fits into the size of a submission
TESTS = ("permuted_and_shifted", "future_altered")
Growths = Mapping[str, Mapping[str, list[float]]]


def measure(name: str, draws: int) -> dict[str, list[float]]:
    """Growths of one baseline or memoriser by test, one for each draw of the altered traces."""
    suite = load_suite(SUITE)
    found: dict[str, list[float]] = {test: [] for test in TESTS}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        target = _memoriser(name, suite, root) if name in MEMORISERS else parse_target(name)
        folder = read_folder(make_draft(target, name, Author(["-"], "-", None, False, "-"), suite).write(root))
        (result,) = evaluate(replace(folder.target(), text=folder.record.target), suite, level="process")
        for seed in range(draws):
            request = Request(folder, named(result, folder), suite, locate(suite), level="process", seed=seed)
            made = verify(request)
            if set(made.findings) != set(TESTS):
                raise SystemExit(f"{name}: {made.reasons}")
            for test, growth in made.findings.items():
                found[test].append(growth)
    return found


def _memoriser(name: str, suite: Suite, root: Path) -> Target:
    paths = locate(suite)
    file = root / "memoriser.py"
    tests = [paths[entry.id] for entry in suite.traces]
    file.write_text(memoriser(tests, by_content=MEMORISERS[name], every=MEMORY_EVERY))
    return Target(TARGET, None, file, TARGET.partition(":")[2])


def verified(submissions: Path = SUBMISSIONS) -> dict[str, dict[str, list[float]]]:
    """Growths in the committed verifications by test; by submission, and suite where it is another."""
    found = {}
    for folder in map(read_folder, sorted(submissions.iterdir())):
        if folder.verification is not None:
            name, suite = folder.record.name, folder.record.suite.name
            growths = {test: [value] for test, value in folder.verification.findings.items() if test in TESTS}
            found[name if suite == SUITE else f"{name} on {suite}"] = growths
    return found


def table(measured: Growths, checked: Growths) -> str:
    """Smallest to largest growth of each forecaster by test, and over how many draws; memorisers last."""
    lines = ["| forecaster | draws | " + " | ".join(f"`{test}`" for test in TESTS) + " |", "|---|---:|---:|---:|"]
    honest = sorted({*measured, *checked} - {*MEMORISERS})
    for name in [*honest, *(name for name in MEMORISERS if name in measured)]:
        both = (measured.get(name, {}), checked.get(name, {}))
        growths = {test: [value for source in both for value in source.get(test, [])] for test in TESTS}
        cells = [_span(growths[test]) for test in TESTS]
        label = f"*memoriser, {name}*" if name in MEMORISERS else f"`{name}`"
        lines.append(f"| {label} | {len(growths[TESTS[0]])} | " + " | ".join(cells) + " |")
    limits = " | ".join(f"{100 * MAX_GROWTH[test]:+.0f} %" for test in TESTS)
    return "\n".join([*lines, f"| *accepted up to* | | {limits} |"])


def _span(values: list[float]) -> str:
    low, high = (f"{100 * value:+.1f}" for value in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} ... {high} %"


def tolerances() -> str:
    """By how much a re-run may differ, metrics with the same tolerances in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for metric in TOLERANCE:
        cells = (_larger(TOLERANCE[metric]), _larger(MEAN_TOLERANCE[metric]), _larger(OVERALL_TOLERANCE.get(metric)))
        alike.setdefault(cells, []).append(f"`{metric}`" if metric else "all others")
    rows = [f"| {', '.join(metrics)} | {' | '.join(cells)} |" for cells, metrics in alike.items()]
    return "\n".join(["| metric | a value | a mean | over all horizons |", "|---|---|---|---|", *rows])


def _larger(tolerance: tuple[float, float] | None) -> str:
    relative, absolute = tolerance or (0.0, 0.0)
    return "" if tolerance is None else f"{100 * relative:g} % or {absolute:g}" if relative else f"{absolute:g}"


PARTS: Mapping[str, Maker] = {
    "growths": lambda _: table(json.loads(MEASURED.read_text()), verified()),
    "tolerances": lambda _: tolerances(),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--draws", type=int, default=4)
    given = parser.parse_args(arguments)
    for name, draws in _each(given.names, given.draws):
        kept = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
        MEASURED.write_text(json.dumps({**kept, name: draws}, indent=1, sort_keys=True) + "\n")
    return 0


def _each(names: list[str], draws: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    for name in names:
        found = measure(name, draws)
        print(name, found, flush=True)
        yield name, found


if __name__ == "__main__":
    sys.exit(main())
