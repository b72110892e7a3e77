"""Make the generated parts of README.md and docs/ (`make tables`), or check that they are what the code gives.

    python -m leaderboard.pages [--check] [PAGE ...]

All pages by default; one is named by its path, or by the last part of it: `ladder`. With --check nothing is written,
and the exit status is 1 when a file would change; figures are not compared, since another version of matplotlib draws
other bytes. Numbers are never typed by hand: a committed result of another suite or of changed code is refused by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from leaderboard.committed import ROOT
from leaderboard.pages import (
    adapters,
    cards,
    decisions,
    distance,
    forks,
    format,
    gated,
    headline,
    isolation,
    ladder,
    large_runs,
    metrics,
    narrowing,
    properties,
    results,
    sampling_note,
    season,
    unseen,
)
from leaderboard.pages.parts import Page, page_of_parts, stale_files
from leaderboard.verifying import drawn, screening
from moeload_bench.errors import MoeloadError

PAGES = (
    page_of_parts("README.md", headline.PARTS),
    page_of_parts("docs/guide/leaderboard.md", {**screening.PARTS, **drawn.PARTS}),
    page_of_parts("docs/guide/forecasters.md", adapters.PARTS),
    page_of_parts("docs/methods/format.md", format.PARTS),
    page_of_parts("docs/methods/isolation.md", isolation.PARTS),
    page_of_parts("docs/methods/metrics.md", metrics.PARTS),
    page_of_parts("docs/methods/placement.md", decisions.PLACEMENT_PARTS, decisions.draw_walk),
    Page("docs/methods/sampling-floor-note.md", sampling_note.note_files),
    page_of_parts("docs/reports/forks.md", forks.PARTS),
    page_of_parts("docs/reports/gated.md", {**gated.PARTS, **distance.PARTS, **unseen.PARTS}),
    ladder.LADDER,
    page_of_parts("docs/reports/large-runs.md", large_runs.PARTS),
    properties.PROPERTIES,
    page_of_parts("docs/reports/regret.md", decisions.REGRET_PARTS, decisions.draw_regret_page),
    page_of_parts("docs/reports/results.md", {**headline.PARTS, **narrowing.PARTS, **results.PARTS}),
    season.SEASONS,
    Page("cards", cards.card_files),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with --check compare; prints the files that change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [page.name for page in PAGES]
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"{', '.join(names)} (of the dataset, with Croissant)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a file would change")
    given = parser.parse_args(arguments)
    stems = [Path(name).stem for name in names]
    wanted = {page.name for page in PAGES for name in given.pages if name in (page.name, Path(page.name).stem)}
    unknown = [name for name in given.pages if name not in names and name not in stems]
    if unknown:
        parser.error(f"unknown page {unknown[0]!r}; there is: {', '.join(names)}")
    pages = [page for page in PAGES if not given.pages or page.name in wanted]
    stale = list(stale_files(pages))
    for path, text in stale:
        print(f"{'stale' if given.check else 'written'}: {path.relative_to(ROOT)}")
        if not given.check:
            path.write_text(text, encoding="utf-8")
    for page in pages:
        if page.draw is not None and not given.check:
            page.draw()
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MoeloadError as error:
        sys.exit(str(error))
