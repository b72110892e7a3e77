"""The baselines' submissions are written from their results, never by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leaderboard.baseline_submissions import write
from leaderboard.committed import ROOT, SUBMISSIONS
from moeload_bench.errors import SubmissionError
from moeload_bench.results import load_result
from moeload_bench.submission import RECORD, VERIFICATION, read_folder
from moeload_bench.suite import load_suite

BASELINES = sorted(path.name for path in SUBMISSIONS.iterdir() if not read_folder(path).record.has_code)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the leaderboard's submissions and results."""
    for name in ("submissions", "results"):
        shutil.copytree(ROOT / "leaderboard" / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", BASELINES)
def test_committed_baselines_are_what_their_results_say(name: str, root: Path) -> None:
    """Byte for byte; a verification that fits stays. When this fails: `make verify`, and commit."""
    before = {path.name: path.read_bytes() for path in (SUBMISSIONS / name).iterdir()}
    folder = write(name, load_suite(read_folder(SUBMISSIONS / name).record.suite.name), root)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_verification_of_another_result_goes(root: Path) -> None:
    """And the status that it gave."""
    suite = load_suite(read_folder(SUBMISSIONS / "sw_avg").record.suite.name)
    place = root / "results" / suite.name / "sw_avg.json"
    load_result(place).model_copy(update={"notes": ("made anew",), "status": "verified"}).save(place)
    (root / "submissions" / "sw_avg" / RECORD).unlink()
    folder = write("sw_avg", suite, root)
    assert not (folder.path / VERIFICATION).exists()
    assert load_result(place).status == "claimed"


def test_a_result_of_other_code_makes_no_submission(root: Path) -> None:
    """It is refused by name."""
    suite = load_suite(read_folder(SUBMISSIONS / "sw_avg").record.suite.name)
    place = root / "results" / suite.name / "sw_avg.json"
    result = load_result(place)
    made_by = result.forecaster.model_copy(update={"source_sha256": "0" * 64})
    result.model_copy(update={"forecaster": made_by}).save(place)
    with pytest.raises(SubmissionError, match="sw_avg: the code has changed since the result was made"):
        write("sw_avg", suite, root)
