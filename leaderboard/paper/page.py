"""The reproduction as one Markdown page (page.md.j2), made from its two tables and the paper's facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leaderboard.pages.parts import aligned_table as table
from leaderboard.paper import claims as rules
from leaderboard.paper.claims import Finding, Study, Verdict, findings
from leaderboard.paper.facts import PaperError, paper
from leaderboard.paper.measuring import EVERY, METRICS, PREDICTORS, RATES
from leaderboard.templates import render_text
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import metric_spec
from moeload_bench.scoring.description import Onset

HEADS: dict[Verdict, str] = {
    "holds": "hold in our runs",
    "does not hold": "do not hold in our runs",
    "cannot tell": "hang on how the error is read, or cannot be told",
}


def paper_page(study: Study) -> str:
    """Return the whole page; it links figures in the folder `paper` beside it."""
    found = list(findings(study))
    answers = {claim.key: _answer(found, claim.key) for claim in paper().claims}
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        facts=paper(),
        rules=rules,
        every=EVERY,
        runs=f"{len(study.runs)} runs of {len({run.split('/')[0] for run in study.runs.index})} recipes",
        told={
            head: [one.statement for one in paper().claims if not one.ours and answers[one.key] == verdict]
            for verdict, head in HEADS.items()
        },
        load_claims=_claim_table(found, [""], ["verdict"]),
        error_claims=_claim_table(found, RATES, [f"`{metric}`" for metric in RATES]),
        error_table=_error_table(study, found),
        run_table=_run_table(study),
        definitions={name: spec.description for name in METRICS if (spec := metric_spec(name)) is not None},
        drawn={run: folder_of(run) for run in study.runs.index[: paper().drawn]},
        most_tokens=f"{study.runs['tokens'].max():,.0f}",
    )


def folder_of(run: str) -> str:
    """Return the name of the folder of a run's figures."""
    return run.replace("/", "-")


def _answer(found: Sequence[Finding], key: str) -> Verdict:
    """Return the verdict that all readings of a claim's first variant share, else `cannot tell`."""
    mine = [one for one in found if one.claim == key]
    verdicts = {one.verdict for one in mine if one.variant == mine[0].variant or not one.reading}
    return verdicts.pop() if len(verdicts) == 1 else "cannot tell"


def _cell(one: Finding) -> str:
    """Return `holds: 13 of 13, 1.37 to 2.02`: the verdict, the runs on which the claim holds, the span of figures."""
    if one.figures.empty:
        return f"{one.verdict}: no figure"
    scale = 100 if one.claim == "size" else 1
    return f"{one.verdict}: {one.yes} of {len(one.figures)}, {_span(scale * one.figures)}"


def _span(values: pd.Series[float]) -> str:
    known = values.dropna()
    return f"{three_digits(known.min())} to {three_digits(known.max())}" if len(known) else "-"


def _claim_table(found: Sequence[Finding], readings: Sequence[str], heads: Sequence[str]) -> str:
    """Return a row per claim and variant, a column per reading; a claim's first row says what it is."""
    cells = {(one.claim, one.variant, one.reading): _cell(one) for one in found}
    rows = []
    for claim in paper().claims:
        variants = [one.variant for one in found if (one.claim, one.reading) == (claim.key, readings[0])]
        about = f"*{claim.statement}* ({claim.source}): {claim.holds.format(**vars(rules))}"
        for variant in variants[:1] if claim.key == "size" else variants:  # the paper's table has the other sizes
            rows.append([about, variant, *(cells[claim.key, variant, reading] for reading in readings)])
            about = ""
    return table(("*claim* (source): it holds on a run if", "variant", *heads), rows)


def _error_table(study: Study, found: Sequence[Finding]) -> str:
    """Return the paper's table: its errors in the stable state, and ours over the runs, in percent."""
    sizes = {(one.variant, one.reading): f" ({one.verdict})" for one in found if one.claim == "size"}
    rows = []
    for protocol in ("sliding", "blocks"):
        for horizon in study.horizons:
            for name in PREDICTORS:
                reported = {one.setup: _reported(one) for one in paper().reported(name, horizon)}
                variant = f"{name}, {protocol}, {horizon:,}"
                ours = [
                    _span(100 * study.error(name, metric, horizon, protocol)) + sizes.get((variant, metric), "")
                    for metric in METRICS
                ]
                rows.append([variant, *(reported.get(one.name, "") for one in paper().setups), *ours])
    for horizon in study.horizons:
        floors = [_span(100 * study.error("sw_avg", f"floor_batch.{metric}", horizon)) for metric in METRICS]
        rows.append([f"*floor_batch*, {horizon:,}", *("" for _ in paper().setups), *floors])
    heads = ("forecaster, protocol, next steps", *(f"paper, {one.name}" for one in paper().setups))
    return table((*heads, *(f"`{metric}`" for metric in METRICS)), rows)


def _reported(one: PaperError) -> str:
    return f"{one.bound} {100 * one.value:g}" + f" ({one.note})" * bool(one.note)


def _run_table(study: Study) -> str:
    """Return a row per run: its facts, and its stable-state errors in percent at the first horizon, sliding."""
    names = ("floor_batch", *PREDICTORS)
    columns = [
        100 * study.error(name, column, study.horizons[0])
        for metric in RATES
        for name, column in (("sw_avg", f"floor_batch.{metric}"), *((name, metric) for name in PREDICTORS))
    ]
    heads = (
        "run",
        "steps",
        "layers x experts",
        "top-k",
        "tokens per step",
        "onset",
        *names,
        *(f"{name}, window" for name in names),
    )
    rows = [
        [f"`{run}`", _count(row["steps"]), f"{row['layers']} x {row['experts']}", _count(row["top_k"]),
         _count(row["tokens"]), _onset(row), *(three_digits(column.iloc[i]) for column in columns)]
        for i, (run, row) in enumerate(study.runs.iterrows())
    ]  # fmt: skip
    return table(heads, rows)


def _onset(row: pd.Series[Any]) -> str:
    step, low, high = (None if pd.isna(row[name]) else int(row[name]) for name in ("onset", "onset_low", "onset_high"))
    return "never" if step is None else Onset(step, low, high).words(",")


def _count(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}"
