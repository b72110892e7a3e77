"""Everything of a reproduction that is text, as files made from its study alone."""

from __future__ import annotations

from moeload_bench.paper.page import FOLDER, page
from moeload_bench.paper.sheets import error_sheet, to_csv, verdict_sheet
from moeload_bench.paper.study import Study
from moeload_bench.paper.verdicts import findings

PAGE = "paper.md"
STUDY = f"{FOLDER}/study.json"


def files_of(study: Study) -> dict[str, str]:
    """Path below the output folder to text."""
    return {
        PAGE: page(study),
        STUDY: study.model_dump_json(indent=1) + "\n",
        f"{FOLDER}/errors.csv": to_csv(error_sheet(study)),
        f"{FOLDER}/verdicts.csv": to_csv(verdict_sheet(study, findings(study))),
    }
