"""What was found, as texts and tables: parts of docs/reports/results.md, README.md and the dataset's card.

Each part is a template of `templates/` over the numbers of `leaderboard.pages.findings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leaderboard.boards import UNLISTED
from leaderboard.committed import ROOT
from leaderboard.leading import ask_words, summary
from leaderboard.pages import findings, inputs
from leaderboard.pages.findings import Saving, standing
from leaderboard.pages.inputs import candidate, run_sets, season_sets, tuned_average
from leaderboard.pages.parts import Maker
from leaderboard.site.inputs import read_traces
from leaderboard.templates import render_text
from moeload_bench.errors import ResultError
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results.captions import spans_of
from moeload_bench.results.formats import signed, skill_span, span, three_digits
from moeload_bench.results.leaders import ranked
from moeload_bench.results.report import ReportRow, report_of
from moeload_bench.results.results import Results
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import undescribed_run
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import read_trace

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Return a part of a page: its template over the functions that give numbers and write them."""
    numbers = {
        name: getattr(module, name)
        for module, names in (
            (findings, ("standing", "saving", "skills", "kinds_of_runs", "equal_forecasts")),
            (inputs, ("run_sets", "suite_set", "largest_suite")),
        )
        for name in names
    }
    words = {
        "states": LABELS, "tracks": list(inputs.TRACKS), "cells": cells, "saved": saved, "percent": percent,
        "report_of": report_of, "ranks_of": ranks_of, "least": least, "three_digits": three_digits,
        "skill_span": skill_span, "spans_of": spans_of, "load_suite": load_suite,
        "headline": headline, "unlisted": UNLISTED, "candidate": candidate(), "average": tuned_average(),
    }  # fmt: skip
    return render_text(TEMPLATES / f"{template}.md.j2", **numbers, **words, **values)


def cells() -> Iterator[tuple[str, Results, str]]:
    """Yield each size of batch of each set in each state that has runs, with a short title."""
    for runs in run_sets():
        for title, part in runs.sizes.items():
            short = title.partition(" batches")
            yield from (("".join(short[:2]), part, state) for state in LABELS if standing(part, state=state))


def saved(saving: Saving | None) -> str:
    """Return a saving in percent with its interval for a new recipe, where there is one."""
    if saving is None:
        return "-"
    interval = "" if math.isnan(saving.low) else f" {span(100 * saving.low, 100 * saving.high, 1)}"
    return percent(saving.saving) + interval


def percent(part: float) -> str:
    """Format a fraction as a percentage with its sign; `-` for none."""
    return "-" if math.isnan(part) else signed(100 * part, 1)


def ranks_of(results: Results) -> dict[tuple[str, str], str]:
    """Return `1 to 3` by state and forecaster that has a rank, where there are enough recipes."""
    return {
        (str(row.state), str(row.forecaster)): f"{row.rank_low} to {row.rank_high}"
        for row in ranked(results).ranks().itertuples()
    }


def least(rows: Sequence[ReportRow], k: int) -> float:
    """Return the least value at a horizon, by its place; NaN where nobody has one."""
    return min((row.value_K[k] for row in rows if not math.isnan(row.value_K[k])), default=math.nan)


def finding() -> str:
    """Return who leads on the newest season, by how much, how sure that is and what it is worth; on what runs, and how
    every number is asked for.
    """
    sets, season = season_sets()[::-1], inputs.newest_season()
    if not sets or season is None:
        return "No season has been scored yet."
    return render_text(
        TEMPLATES / "finding.md.j2", season=season.name, sets=sets, summary=summary, who=inputs.season_sentence(),
        ask=ask_words(sets[0].results, season.folder.shown_results),
    ).strip()  # fmt: skip


def runs() -> str:
    """Return how many runs there are in traces/ and in the package, as on the site, and how large they are."""
    bare = (undescribed_run(read_trace(ref.path), ref.path.stat().st_size) for ref in read_traces(ROOT))
    return size_summary(list(bare))


def headline(results: Results) -> str:
    """Return a table per state, best forecasters first, its origins and whom it leaves out.

    Raise `ResultError` when the suite's reference is not among the results.
    """
    reference = report_of(results).reference
    if reference not in results.entries:
        raise ResultError(f"{results.suite.name}: a headline needs the reference among its results")
    errors = results.errors(PRIMARY)
    same = [name for name in results.names if name != reference and errors[name].equals(errors[reference])]
    return render("headline", results=results, same=same).strip()


def skill_table(results: Results) -> str:
    """Return the skill of every forecaster by state, the best in the transient state first."""
    return render("skills", results=results).strip()


PARTS: Mapping[str, Maker] = {
    "finding": finding,
    **{name: partial(render, name) for name in ("leaders", "gains", "horizons", "kinds", "equal", "public")},
    "headline": lambda suite: render("suite", of=suite),
    "runs": runs,
}
