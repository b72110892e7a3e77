"""Fill the generated parts of README.md and docs/ from committed results (`make tables`).

A generated part stands between two comment lines, `<!-- generated: SUITE METRIC -->` and `<!-- end -->`. With `--check`
nothing is written and the exit status says whether anything would change. Numbers are never typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from moeload_bench import card
from moeload_bench.results import Result, load_result
from moeload_bench.suite import STATES, load_suite
from moeload_bench.tables import (
    COST_HEADINGS,
    CROSSING,
    FLOOR_ROWS,
    Grid,
    cells,
    cost_cells,
    marked,
    number,
    result_grid,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "leaderboard" / "results"
PART = re.compile(r"(<!-- generated: (?P<suite>\S+) (?P<metric>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def committed_results(suite: str) -> list[Result]:
    """The committed results of a suite: its baselines in their order, then the others by name."""
    found = {result.name: result for result in map(load_result, sorted((RESULTS / suite).glob("*.json")))}
    first = [name for name in load_suite(suite).baselines if name in found]
    return [found[name] for name in [*first, *sorted(set(found) - set(first))]]


def to_markdown(grid: Grid) -> str:
    """A result table as Markdown, its caption below."""
    heads = ["state", "forecaster", *(f"h = {h}" for h in grid.horizons), "skill", *COST_HEADINGS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * 2 + "---:|" * (len(heads) - 2)]
    for state in (*STATES, CROSSING):
        for row in (row for row in grid.rows if row.state == state):
            values = [state, f"`{row.forecaster}`", *cells(row), row.skill, *cost_cells(row)]
            lines.append("| " + " | ".join(values) + " |")
        for floor in FLOOR_ROWS:
            if (state, floor) in grid.floors:
                floor_K = map(number, grid.floors[state, floor])
                lines.append("| " + " | ".join([state, f"*{marked(floor, grid)}*", *floor_K, "", "", ""]) + " |")
    return "\n".join([*lines, "", grid.caption, ""])


def filled(text: str) -> str:
    """The text with every generated part made anew."""

    def part(match: re.Match[str]) -> str:
        grid = result_grid(committed_results(match["suite"]), match["metric"])
        if grid is None:
            raise SystemExit(f"no committed result of suite {match['suite']} has the metric {match['metric']}")
        return f"{match[1]}\n{to_markdown(grid)}\n{match[4]}"

    return PART.sub(part, text)


def main() -> int:
    """Write, or with --check compare; prints the files that change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a file would change")
    check = parser.parse_args().check
    stale = [] if check else card.update(ROOT)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = path.read_text()
        new = filled(old)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new)
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
