"""The committed results, number by number, against what they were when they were published (tests/golden)."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import SCORED_AGAIN, bound_code, committed_result
from moeload_bench.results.record import Result
from tests.support.committed import by_result

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "results.json").read_text())


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def facts_of(result: Result) -> dict[str, Any]:
    """Everything of a result that must never change, as digests by part and run."""
    runs = [run.model_dump(mode="json") for run in result.runs]
    scores = {
        run["trace"]: [
            [[task["origin"], task["state"], task["failure"], task["metrics"]] for task in run["tasks"]],
            run["per_layer"],
            run["counts"],
            run["forecasts_sha256"],
            run["data_sha256"],
        ]
        for run in runs
    }
    return {
        "forecaster": result.forecaster.model_dump(mode="json"),
        "suite": result.suite.model_dump(mode="json"),
        "scores": {trace: _digest(part) for trace, part in scores.items()},
        "costs": _digest([run["cost"] for run in runs]),
        "floors": {run["trace"]: _digest([run["floors"], run["floor_marks"]]) for run in runs},
        "crossing": {run["trace"]: _digest([task["crossing"] for task in run["tasks"]]) for run in runs},
    }


def verification_of(path: Path) -> dict[str, Any]:
    """What a verification found, without the hash that binds it to its result's text."""
    fields = json.loads(path.read_text())
    del fields["result_sha256"]
    return fields


@pytest.mark.parametrize("path", by_result(sorted(GOLDEN["results"])))
def test_no_number_of_a_committed_result_changes(path: str) -> None:
    """Scores, costs, floors and crossings of every published result are what they were, to the last digit.

    Results of `mini` are scored again when code changes: then their scores stay, code and costs are of today.
    """
    found, golden = facts_of(committed_result(ROOT / path)), copy.deepcopy(GOLDEN["results"][path])
    if found["suite"]["name"] in SCORED_AGAIN:
        for facts in (found, golden):
            del facts["costs"], facts["forecaster"]["source_sha256"]
    assert found == golden


@pytest.mark.parametrize("path", by_result(sorted(GOLDEN["results"])))
def test_the_source_of_a_committed_result_is_here_unchanged(path: str) -> None:
    """The code that a published result names by hash is that of this checkout or frozen; of `mini` that of today."""
    result = committed_result(ROOT / path)
    made = result.forecaster
    assert bound_code(result)(made.target) == made.source_sha256
    if result.suite.name not in SCORED_AGAIN:
        assert made.source_sha256 == GOLDEN["results"][path]["forecaster"]["source_sha256"]


@pytest.mark.parametrize("path", sorted(GOLDEN["verifications"]))
def test_no_finding_of_a_verification_changes(path: str) -> None:
    """What a verification found stays as it was found."""
    assert verification_of(ROOT / path) == GOLDEN["verifications"][path]
