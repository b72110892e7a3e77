"""`python -m leaderboard pages`: which pages have generated parts, and who makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard import forks
from leaderboard.balancing import page as balancing
from leaderboard.committed import ROOT
from leaderboard.pages import (
    cards,
    enter,
    format,
    openings,
    parameters,
    results_page,
    sampling_note,
    seasons,
    tables,
)
from leaderboard.pages.parts import Page, page_of_parts, stale_files
from leaderboard.rivals import guide
from leaderboard.rivals import page as rivals
from leaderboard.routing import page as routing
from moeload_bench.errors import not_found


def readme_findings() -> str:
    """Return what README says was found: about forecasts, then about plans from them beside what reacts in the step."""
    return f"{results_page.finding()}\n\n{rivals.readme_claim()}"


PAGES = (
    page_of_parts("README.md", {**results_page.PARTS, "finding": readme_findings}),
    page_of_parts("docs/guide/cluster.md", tables.PARTS),
    enter.ENTER,
    page_of_parts("docs/guide/inspect.md", tables.PARTS),
    page_of_parts("docs/guide/leaderboard.md", tables.PARTS),
    page_of_parts("docs/guide/live.md", {"kinds": guide.kinds}),
    page_of_parts("docs/methods/format.md", format.PARTS),
    page_of_parts("docs/methods/isolation.md", tables.PARTS),
    page_of_parts("docs/methods/metrics.md", tables.PARTS),
    page_of_parts("docs/methods/placement.md", tables.PARTS),
    Page("docs/methods/sampling-floor-note.md", sampling_note.note_files),
    balancing.BALANCING,
    page_of_parts("docs/reports/results.md", results_page.PARTS, openings.draw_results),
    page_of_parts("docs/reports/studies.md", forks.PARTS),
    rivals.RIVALS,
    routing.ROUTING,
    seasons.SEASONS,
    Page("parameters", parameters.parameter_files),
    Page("cards", cards.card_files),
)


def chosen(names: list[str]) -> list[Page]:
    """Return the pages of these names, all for none; a page's name is its path or the last part of it: `results`."""
    names_of_pages = {name for page in PAGES for name in (page.name, Path(page.name).stem)}
    for name in names:
        if name not in names_of_pages:
            raise not_found("page", name, [page.name for page in PAGES])
    return [page for page in PAGES if not names or {page.name, Path(page.name).stem} & {*names}]


def pages(
    page: Annotated[
        list[str] | None,
        typer.Argument(help="A page by its path, or by the last part of it: `results`.", show_default="all pages"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing, compare only.")] = False,
) -> None:
    """Make the generated parts of README.md, docs/ and the dataset's card, or check them.

    Numbers are never typed by hand: a committed result of another suite or of changed code is refused by name. With
    --check figures are not compared, since another version of matplotlib draws other bytes.

    Exit status 1 with --check when a file would change.
    """
    wanted = chosen(page or [])
    stale = list(stale_files(wanted))
    for path, text in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text, encoding="utf-8")
    for target in wanted:
        if target.draw is not None and not check:
            target.draw()
    if check and stale:
        raise typer.Exit(1)
