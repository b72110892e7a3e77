"""The baselines' submissions are written from their results, never by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leaderboard.committed import RESULTS, SUBMISSIONS, result_path, target_of
from leaderboard.suites.plan import load_plan
from leaderboard.verifying.agreement import EXACTLY, differences
from leaderboard.verifying.baselines import MAINTAINERS, write_submission
from moeload_bench.cli.run_tasks import installed_baselines
from moeload_bench.errors import SubmissionError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import RECORD, VERIFICATION, look_of, read_folder
from moeload_bench.publishing.submit import Author, make_draft
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import Suite, load_suite
from tests.support.altered import entry_of, with_entry
from tests.support.submitted import make_world

RECORDS = [read_folder(path).record for path in SUBMISSIONS.iterdir()]
BASELINES = sorted(record.name for record in RECORDS if not record.has_code and not record.has_adapter)


def copied(name: str, root: Path) -> Suite:
    """Copy a baseline's submission and result to their places in another leaderboard; return their suite."""
    suite = load_suite(read_folder(SUBMISSIONS / name).record.suite.name)
    shutil.copytree(SUBMISSIONS / name, root / "submissions" / name)
    load_results(RESULTS / suite.name / f"{name}.parquet", layers=True).save(root / "results" / suite.name)
    return suite


@pytest.mark.parametrize(
    "name",
    [name if name in ("sw_avg", "guarded") else pytest.param(name, marks=pytest.mark.slow) for name in BASELINES],
)
def test_committed_baselines_are_what_their_results_say(name: str, tmp_path: Path) -> None:
    """Byte for byte; a verification that fits stays. When this fails: `make verify`, and commit."""
    before = {path.name: path.read_bytes() for path in (SUBMISSIONS / name).iterdir()}
    folder = write_submission(name, copied(name, tmp_path), tmp_path)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_verification_of_another_result_goes(tmp_path: Path) -> None:
    """And the status that it gave."""
    suite = copied("sw_avg", tmp_path)
    place = tmp_path / result_path(suite.name, "sw_avg")
    results = load_results(place, layers=True)
    elsewhere = entry_of(results).environment.model_copy(update={"commit": "0" * 40})
    with_entry(results, environment=elsewhere, status="verified").save(place.parent)
    (tmp_path / "submissions" / "sw_avg" / RECORD).unlink()
    folder = write_submission("sw_avg", suite, tmp_path)
    assert not (folder.path / VERIFICATION).exists()
    again = load_results(place, layers=True)
    assert entry_of(again).status == "claimed"
    assert differences(again, results, EXACTLY) == []


def test_a_result_of_other_code_of_the_package_makes_a_submission(tmp_path: Path) -> None:
    """The hash is provenance: what a changed docstring leaves is the same forecaster. Other arguments are refused."""
    suite = copied("sw_avg", tmp_path)
    place = tmp_path / result_path(suite.name, "sw_avg")
    results = load_results(place)
    for change in ({"source_sha256": "0" * 64}, {"source_sha256": "0" * 64, "kwargs": {"window": 7}}):
        with_entry(results, **change).save(place.parent)
        if "kwargs" not in change:
            assert write_submission("sw_avg", suite, tmp_path).record.name == "sw_avg"
    with pytest.raises(SubmissionError, match="sw_avg: forecaster kwargs: the result says"):
        write_submission("sw_avg", suite, tmp_path)


def test_every_baseline_of_v3_can_be_submitted(tmp_path: Path) -> None:
    """Each has a name that a submission may have and that looks like no other, in results, tables and folders alike;
    its target has the arguments, and no variant passes for the reference.
    """
    plan = load_plan("v3")
    world = make_world(tmp_path / "traces")
    suite = world.suite.model_copy(update={"baselines": plan.baselines})
    assert len({look_of(name) for name in plan.baselines}) == len(plan.baselines)
    assert installed_baselines(plan.baselines) == list(plan.baselines)  # what `run --suite` takes without a target
    windows = []
    for name in plan.baselines:
        target = parse_target(name)
        assert target.label == name
        draft = make_draft(target, name, Author([MAINTAINERS], "Apache-2.0", None, False, "-"), suite)
        assert draft.record.result_target == target.text
        if name.startswith("sw_avg"):
            windows.append(name)
    results = evaluate(windows, suite, paths=world.paths, level="none")
    results.save(tmp_path / "results" / suite.name)
    for name, entry in results.entries.items():
        assert write_submission(name, suite, tmp_path).record.name == name
        assert target_of(entry, tmp_path / "submissions").kwargs == parse_target(name).kwargs
        assert target_of(entry, tmp_path / "nowhere").label == name
    assert results.reference is not None
    assert results.reference.names == ["sw_avg"]
