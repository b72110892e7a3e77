"""The first score of `gated` on recipes that came after its weights is taken once, and stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import ROOT
from leaderboard.pages.results import results_of
from leaderboard.pages.unseen import scores_after, unseen
from leaderboard.studies.unseen import OUT, SUBJECT, add_scores, first_score, read_scores, wanted_runs
from moeload_bench.errors import ResultError
from moeload_bench.results.statistics import CLIP
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import stored_hash
from tests.conftest import needs_traces


def test_no_wanted_run_is_of_a_recipe_that_the_weights_know() -> None:
    """Neither its recipe was learned from nor its trace is in the suite whose runs were."""
    known = load_suite("v1")
    recipes = {entry.id.split("/")[0] for entry in (*known.traces, *known.fit)}
    assert len({run.split("/")[0] for run in wanted_runs()}) == 10
    assert not recipes & {run.split("/")[0] for run in wanted_runs()}


@needs_traces
def test_every_recorded_run_has_its_first_score() -> None:
    """Of the trace that is committed; a trace without one is an error: `python -m leaderboard studies unseen`."""
    scores = read_scores()
    recorded = {run: ROOT / "traces" / f"{run}.parquet" for run in wanted_runs()}
    hashes = {run: stored_hash(path) for run, path in recorded.items() if path.is_file()}
    assert {run: found["data_sha256"] for run, found in scores.items()} == hashes


@pytest.mark.slow
@needs_traces
def test_a_first_score_is_that_of_the_trace_when_taken_again() -> None:
    """With the weights that it names; once these are others the committed score is all that is left of them."""
    files = {run: ROOT / "traces" / f"{run}.parquet" for run in read_scores()}
    run = min(files, key=lambda run: files[run].stat().st_size)
    found, again = read_scores()[run], first_score(files[run])
    if again["source_sha256"] != found["source_sha256"]:
        pytest.skip(f"{SUBJECT} was fitted anew since")
    for state, forecasters in found["states"].items():
        for name, values in forecasters.items():
            if name != "origins":
                got = again["states"][state][name]
                assert np.allclose(got["window_tv"], values["window_tv"], rtol=1e-3)
                assert got["log_ratio"] == pytest.approx(values["log_ratio"], abs=2e-3)


@needs_traces
def test_a_run_is_scored_once(tmp_path: Path) -> None:
    """What has a score is not scored again; under its name another trace is refused."""
    run = next(iter(read_scores()))
    path, file = tmp_path / "unseen.json", tmp_path / f"{run}.parquet"
    path.write_text(OUT.read_text())
    file.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "traces" / f"{run}.parquet", file)
    assert add_scores(path, tmp_path) == []
    assert path.read_text() == OUT.read_text()
    scores = json.loads(path.read_text())
    scores[run]["data_sha256"] = "0" * 64
    path.write_text(json.dumps(scores))
    with pytest.raises(ResultError, match="a run is scored once"):
        add_scores(path, tmp_path)


def test_the_mean_is_over_recipes_and_has_an_interval_from_five_on() -> None:
    """Two runs of one recipe have one vote, and so have near twins."""

    def made(log_ratio: float) -> dict[str, object]:
        each = {"log_ratio": log_ratio}
        return {"source_sha256": "ab" * 32, "states": {"stable": {"gated": each, "adaptive": each}}}

    few = {"a/test/seed1": made(-0.2), "a/test/seed2": made(-0.4), "b/test/seed3": made(-0.1)}
    assert f"| mean over recipes | {1 - np.exp(-0.2):+.3f} |" in " ".join(unseen(few, 13, {}).split())
    assert "3 of 13 runs" in unseen(few, 13, {})
    many = {f"r{n}/test/seed{n}": made(-0.1 * n) for n in range(5)}
    assert f"| mean over recipes | {1 - np.exp(-0.2):+.3f} [" in " ".join(unseen(many, 13, {}).split())
    assert "[" not in unseen(many, 13, {"r1": "r0"}).splitlines()[-3]
    assert unseen({}, 13, {}) == "No run of these recipes is recorded yet."


def test_the_score_after_stands_beside_the_first_one() -> None:
    """Of the runs that have a first score, from the results of the fit that knows their recipes."""
    scores = read_scores()
    run = next(iter(scores))
    first = scores[run]["states"]["stable"][SUBJECT]["log_ratio"]
    text = unseen(scores, 13, {}, {"transient": {}, "stable": {run: first - 0.1, "other/test/seed1": -9.0}})
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{run}`"))
    assert f"| {1 - np.exp(first):+.3f} | {1 - np.exp(first - 0.1):+.3f} |" in row
    assert "other" not in text
    assert "After: fitted on the open runs of suite v2" in text
    assert "after" not in unseen(scores, 13, {})


def test_the_score_after_is_the_mean_over_a_run_s_tasks() -> None:
    """As the first one is: of v1's results, the mean log ratio over origins and horizons."""
    results = [result for result in results_of("v1") if result.name in ("gated", "sw_avg")]
    by_name = {result.name: result.runs[0] for result in results}
    values = {
        name: np.array([task.metrics["window_tv"] for task in run.tasks if task.state == "stable"], dtype=float)
        for name, run in by_name.items()
    }
    expected = np.log(np.clip(values["gated"] / values["sw_avg"], 1 / CLIP, CLIP)).mean()
    found = scores_after(results)
    assert found["stable"][results[0].runs[0].trace] == pytest.approx(expected)
    assert scores_after(results[:1]) == {}
