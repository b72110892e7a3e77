"""Fill the generated parts of README.md and docs/ from committed results (`make tables`).

A generated part stands between two comment lines, `<!-- generated: NAME OF -->` and `<!-- end -->`:

    headline METRIC           a short table of the largest suite that has results, which it names
    results page              everything about every suite that has results
    format columns|metadata   what the package reads and writes

With `--check` nothing is written and the exit status says whether anything would change. Numbers are never typed by
hand: a result of another suite or of changed code is refused by name.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from leaderboard.committed import RESULTS, ROOT, committed_results, suites_with_results
from leaderboard.pages import format
from leaderboard.pages.headline import headline
from leaderboard.pages.results import suite_page
from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.publishing import card
from moeload_bench.results.record import Result
from moeload_bench.results.render import to_markdown
from moeload_bench.suites.suite import Suite, load_suite

PART = re.compile(r"(<!-- generated: (?P<part>\S+) (?P<of>\S+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


@functools.cache
def results_of(suite: str) -> tuple[Result, ...]:
    """The committed results of a suite, read once."""
    return tuple(committed_results(suite))


def headline_suite(names: Sequence[str]) -> Suite:
    """The suite with the most test runs: what README.md shows."""
    return max(map(load_suite, names), key=lambda suite: len(suite.traces))


def results_page() -> str:
    """Every suite with results, the latest first."""
    return "\n\n".join(page_of(name, results_of(name)) for name in reversed(suites_with_results())) + "\n"


def page_of(suite: str, results: Sequence[Result]) -> str:
    """The part of the results page about one suite."""
    return suite_page(load_suite(suite), results, to_markdown)


def filled(text: str) -> str:
    """The text with every generated part made anew; raises `ResultError` for a part of an unknown name."""
    return PART.sub(lambda match: f"{match[1]}\n{_part(match['part'], match['of'])}\n{match['end']}", text)


def _part(name: str, of: str) -> str:
    if (name, of) == ("results", "page"):
        return results_page()
    if name == "format":
        return format.part(of)
    if name != "headline":
        raise ResultError(f"no generated part is named {name!r}; there is: headline METRIC, results page, format PART")
    suite = headline_suite(suites_with_results())
    return f"Suite `{suite.name}`. {suite.description}\n\n{headline(results_of(suite.name), of)}"


def main() -> int:
    """Write, or with --check compare; prints the files that change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a file would change")
    parser.add_argument(
        "--page", metavar="SUITE", help="write nothing; print what docs/reports/results.md would say of a suite"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="with --page: the folder with SUITE/NAME.json")
    args = parser.parse_args()
    if args.page:
        print(page_of(args.page, committed_results(args.page, args.results)))
        return 0
    check = args.check
    stale = [] if check else card.update(ROOT)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
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
    try:
        sys.exit(main())
    except MoeloadError as error:
        sys.exit(str(error))
