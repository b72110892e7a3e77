"""Everything of a reproduction that is text, as files made from its study alone: the page, the study, two flat tables.

One table has a row per error, the other one per claim and run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from leaderboard.paper.claims import Finding
from leaderboard.paper.page import FOLDER, study_page
from leaderboard.paper.study import METRICS, Study, excess_over
from leaderboard.paper.verdicts import findings
from moeload_bench.scoring.floors import FLOOR_NAMES

PAGE = "paper.md"
STUDY = f"{FOLDER}/study.json"


def files_of(study: Study) -> dict[str, str]:
    """Path below the output folder to text."""
    return {
        PAGE: study_page(study),
        STUDY: study.model_dump_json(indent=1) + "\n",
        f"{FOLDER}/errors.csv": to_csv(error_sheet(study)),
        f"{FOLDER}/verdicts.csv": to_csv(verdict_sheet(study, findings(study))),
    }


def error_sheet(study: Study) -> Iterator[dict[str, Any]]:
    """Yield one record per run, protocol, horizon, state, forecaster and error definition, with the floors and the
    excess.
    """
    for run in study.runs:
        for row in run.errors:
            for metric in METRICS:
                floors = {name: run.floor(name, metric, state=row.state, horizon=row.horizon) for name in FLOOR_NAMES}
                yield {
                    "trace": run.id,
                    "protocol": row.protocol,
                    "horizon": row.horizon,
                    "state": row.state,
                    "forecaster": row.forecaster,
                    "target": run.targets[row.forecaster],
                    "origins": row.origins,
                    "error": metric,
                    "value": row.errors.get(metric),
                    **floors,
                    "excess": excess_over(row.errors.get(metric), floors["floor_batch"]),
                }


def verdict_sheet(study: Study, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Yield one record per claim, variant, column and run; the verdict is that of all runs together."""
    for finding in findings:
        for run, figure, vote in zip(study.runs, finding.figures, finding.votes, strict=True):
            yield {
                "claim": finding.claim,
                "variant": finding.variant,
                "column": finding.column,
                "verdict": finding.verdict,
                "runs": len(study.runs),
                "recipes": study.recipes(),
                "trace": run.id,
                "figure": None if figure is None else float(f"{figure:.6g}"),
                "vote": {True: "yes", False: "no", None: "none"}[vote],
            }


def to_csv(rows: Iterator[dict[str, Any]]) -> str:
    """Return the records as CSV with a heading; nothing for None."""
    listed, text = list(rows), io.StringIO()
    if listed:
        writer = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return text.getvalue()
