"""The reproduction as one Markdown page (page.md.j2), made from its two tables and the paper's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leaderboard.pages.parts import aligned_table as table
from leaderboard.paper import claims as rules
from leaderboard.paper.claims import Finding, Study, Verdict, findings
from leaderboard.paper.facts import Setup, paper
from leaderboard.paper.measuring import EVERY, FLOORS, METRICS, PREDICTORS, RATES, STATISTICS
from leaderboard.templates import render_text
from moeload_bench.results.formats import three_digits
from moeload_bench.scoring.catalogue import metric_spec
from moeload_bench.scoring.description import Onset

HEADS: dict[Verdict, str] = {
    "holds": "hold in our runs",
    "does not hold": "do not hold in our runs",
    "cannot tell": "hang on how the error is read, or cannot be told",
}


def paper_page(study: Study) -> str:
    """Return the whole page; it links figures in the folder `paper` beside it."""
    of_shapes = study.only([setup.run for setup in paper().setups])
    study = (
        study.only(study.runs.index.difference(of_shapes.runs.index))
        if len(of_shapes.runs) < len(study.runs)
        else study
    )
    outcomes = list(findings(study))
    answers = {claim.key: _answer(outcomes, claim.key) for claim in paper().claims}
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        facts=paper(),
        rules=rules,
        every=EVERY,
        shape_answers=_shape_answers(of_shapes),
        shape_table=_shape_table(of_shapes),
        shape_facts=_shape_facts(of_shapes),
        runs=f"{len(study.runs)} runs of {len({run.split('/')[0] for run in study.runs.index})} recipes",
        told={
            head: [claim.statement for claim in paper().claims if not claim.ours and answers[claim.key] == verdict]
            for verdict, head in HEADS.items()
        },
        load_claims=_claim_table(outcomes, [""], ["verdict"]),
        error_claims=_claim_table(outcomes, RATES, [f"`{metric}`" for metric in RATES]),
        error_table=_error_table(study, outcomes),
        run_table=_run_table(study),
        definitions={name: spec.description for name in METRICS if (spec := metric_spec(name)) is not None},
        pictures={run: folder_of(run) for run in study.runs.index[: paper().pictures]},
        most_tokens=f"{study.runs['tokens'].max():,.0f}",
    )


def folder_of(run: str) -> str:
    """Return the name of the folder of a run's figures."""
    return run.replace("/", "-")


def _answer(outcomes: Sequence[Finding], key: str) -> Verdict:
    """Return the verdict that all readings of a claim's first variant share, else `cannot tell`."""
    of_claim = [row for row in outcomes if row.claim == key]
    verdicts = {row.verdict for row in of_claim if row.variant == of_claim[0].variant or not row.reading}
    return verdicts.pop() if len(verdicts) == 1 else "cannot tell"


def _cell(finding: Finding) -> str:
    """Return `holds: 13 of 13, 1.37 to 2.02`: the verdict, the runs on which the claim holds, the span of figures."""
    if finding.figures.empty:
        return f"{finding.verdict}: no figure"
    scale = 100 if finding.claim == "size" else 1
    return f"{finding.verdict}: {finding.yes} of {len(finding.figures)}, {_span(scale * finding.figures)}"


def _span(values: pd.Series[float]) -> str:
    ends = dict.fromkeys(three_digits(end) for end in (values.min(), values.max()) if not pd.isna(end))
    return " to ".join(ends) or "-"


def _claim_table(outcomes: Sequence[Finding], readings: Sequence[str], heads: Sequence[str]) -> str:
    """Return a row per claim and variant, a column per reading; a claim's first row says what it is."""
    cells = {(row.claim, row.variant, row.reading): _cell(row) for row in outcomes}
    rows = []
    for claim in paper().claims:
        variants = [row.variant for row in outcomes if (row.claim, row.reading) == (claim.key, readings[0])]
        about = f"*{claim.statement}* ({claim.source}): {claim.holds.format(**vars(rules))}"
        for variant in variants[:1] if claim.key == "size" else variants:  # the paper's table has the other sizes
            rows.append([about, variant, *(cells[claim.key, variant, reading] for reading in readings)])
            about = ""
    return table(("*claim* (source): it holds on a run if", "variant", *heads), rows)


def _error_table(study: Study, outcomes: Sequence[Finding]) -> str:
    """Return the paper's table: its errors in the stable state, and ours over the runs, in percent."""
    sizes = {(row.variant, row.reading): f" ({row.verdict})" for row in outcomes if row.claim == "size"}
    rows = []
    for protocol in ("sliding", "blocks"):
        for horizon in study.horizons:
            for name in PREDICTORS:
                reported = [_reported(name, horizon, setup) for setup in paper().setups]
                variant = f"{name}, {protocol}, {horizon:,}"
                ours = [
                    _span(100 * study.error(name, metric, horizon, protocol)) + sizes.get((variant, metric), "")
                    for metric in METRICS
                ]
                rows.append([variant, *reported, *ours])
    for horizon in study.horizons:
        floors = [_span(100 * study.error("sw_avg", f"floor_batch.{metric}", horizon)) for metric in METRICS]
        rows.append([f"*floor_batch*, {horizon:,}", *("" for _ in paper().setups), *floors])
    heads = ("forecaster, protocol, next steps", *(f"paper, {setup.name}" for setup in paper().setups))
    return table((*heads, *(f"`{metric}`" for metric in METRICS)), rows)


def _shape_table(study: Study) -> str:
    """Return the paper's table on its own shapes: a setup's reported error, then ours in each reading, in percent.

    A run that never settles has no error in the stable state: its column shows the transient one and says so.
    """
    states = {setup: "transient" if pd.isna(row["onset"]) else "stable" for setup, row in _of_shapes(study).items()}
    rows = []
    for protocol in ("sliding", "blocks"):
        for horizon in study.horizons:
            for name in (*PREDICTORS, *(FLOORS if protocol == "sliding" else ())):
                row = [f"{name}, {protocol}, {horizon:,}"]
                for setup, state in states.items():
                    forecaster, prefix = ("sw_avg", f"{name}.") if name in FLOORS else (name, "")
                    row.append(_reported(name, horizon, setup))
                    for metric in METRICS:
                        error = study.error(forecaster, prefix + metric, horizon, protocol, state)
                        row.append(_span(100 * error[[setup.run]]))
                rows.append(row)
    heads = [
        f"{setup.name}, {column}"
        for setup, state in states.items()
        for column in ("paper", *(f"{state}, `{metric}`" for metric in METRICS))
    ]
    return table(("forecaster, protocol, next steps", *heads), rows) if states else ""


def _shape_answers(study: Study) -> list[str]:
    """Return a sentence per setup: whether its shape settles, and what SW_Avg errs there beside what the paper says."""
    answers = []
    for setup, row in _of_shapes(study).items():
        settled = not pd.isna(row["onset"])
        when = f"is stable from step {row['onset']:,.0f}" if settled else f"never settles in {row['steps']:,} steps"
        state, horizon = "stable" if settled else "transient", study.horizons[0]
        error = study.error("sw_avg", RATES[1], horizon, state=state)[setup.run]
        answers.append(
            f"The shape of {setup.name} {when}: SW_Avg forecasts the next {horizon:,} steps with an error of "
            f"{three_digits(100 * error)} %, where the paper says {_reported('sw_avg', horizon, setup)} %."
        )
    return answers


def _shape_facts(study: Study) -> str:
    """Return a row per setup: its run, its onset, the first layer against the others, what its LSTM learned from."""
    rows = []
    for setup, row in _of_shapes(study).items():
        first = [three_digits(row[f"first {statistic} w={window}"]) for statistic, window in STATISTICS]
        learned = "itself, as it goes" if row["lstm"] == "online" else f"`{row['lstm']}`"
        rows.append([setup.name, f"`{setup.run}`", _count(row["steps"]), _onset(row), *first, learned])
    heads = ("setup", "our run", "steps", "onset", *(f"{name} w={window}" for name, window in STATISTICS))
    return table((*heads, "the LSTM learns from"), rows) if rows else ""


def _of_shapes(study: Study) -> dict[Setup, Mapping[Any, Any]]:
    """Return the rows of the runs that have the shape of one of the paper's models, by setup."""
    rows = study.runs.to_dict("index")
    return {setup: rows[setup.run] for setup in paper().setups if setup.run in rows}


def _reported(forecaster: str, horizon: int, setup: Setup) -> str:
    """Return the error that the paper reports, in percent; empty for none."""
    for error in paper().errors:
        if (error.forecaster, error.horizon, error.setup) == (forecaster, horizon, setup.name):
            return f"{error.bound} {100 * error.value:g}" + f" ({error.note})" * bool(error.note)
    return ""


def _run_table(study: Study) -> str:
    """Return a row per run: its facts."""
    rows = [
        [f"`{run}`", _count(row["steps"]), f"{row['layers']} x {row['experts']}", _count(row["top_k"]),
         _count(row["tokens"]), _onset(row)]
        for run, row in study.runs.to_dict("index").items()
    ]  # fmt: skip
    return table(("run", "steps", "layers x experts", "top-k", "tokens per step", "onset"), rows)


def _onset(row: Mapping[Any, Any]) -> str:
    step, low, high = (None if pd.isna(row[name]) else int(row[name]) for name in ("onset", "onset_low", "onset_high"))
    return "never" if step is None else Onset(step, low, high).words(",")


def _count(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}"
