"""A re-run of committed results: compared exactly where they were made, within stated tolerances elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from leaderboard import reproduce
from leaderboard.committed import RESULTS, committed_results, suites_with_results
from leaderboard.reproduce import prepared, report
from leaderboard.rerun import TOLERANCES, same_machine, tolerances_of
from leaderboard.verifying.agreement import EXACTLY, Tolerances, differences, value_bound
from moeload_bench.environment import kernels
from moeload_bench.errors import IsolationError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.truth import open_truth
from moeload_bench.publishing.folder import read_folder
from moeload_bench.results.entry import Entry
from moeload_bench.results.results import Results, load_results
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.support.altered import entry_of, scaled, with_costs, with_entry, with_value
from tests.support.checkout import leaderboard
from tests.support.submitted import make_world, write_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sw_avg() -> Results:
    return load_results(RESULTS / "mini" / "sw_avg.parquet", layers=True)


def test_a_re_run_that_agrees_says_nothing_and_costs_are_not_compared(sw_avg: Results) -> None:
    """Commit, hardware and times may differ."""
    assert differences(with_costs(sw_avg, forecast_wall_s=1e6), sw_avg, EXACTLY) == []


def test_what_differs_is_named_in_full(sw_avg: Results) -> None:
    """Trace, state, origin, horizon, metric, what was got and what is committed."""
    six_digits = Tolerances(lambda metric: (1e-6, 0.0))
    (line,) = differences(with_value(sw_avg, 0.5), sw_avg, six_digits)
    row = sw_avg.table.iloc[1]
    assert line == (
        f"{row['trace']}: window_tv, state transient, origin 20, horizon 10: committed {row['window_tv']:.9g}, got 0.5"
    )


def test_a_task_that_was_not_run_again_differs(sw_avg: Results) -> None:
    """So does one that is not committed."""
    shorter = dataclasses.replace(sw_avg, table=sw_avg.table[1:])
    for fresh, committed in ((shorter, sw_avg), (sw_avg, shorter)):
        lines = differences(fresh, committed, Tolerances())
        assert any("window_tv, state transient, origin 20, horizon 1:" in line for line in lines)


def made_with(results: Results, **versions: str) -> Results:
    """The results with other entries among the versions of their environment."""
    where = entry_of(results).environment
    return with_entry(results, environment=where.model_copy(update={"versions": {**where.versions, **versions}}))


def last_digit(results: Results) -> Results:
    """The same but for the last digit of one score."""
    return with_value(results, results.table["window_tv"].iloc[1] * (1 + 1e-7))


def test_the_last_digit_counts_on_the_recording_machine_only(sw_avg: Results) -> None:
    """Exact where hardware, kernels, Python and libraries are the same; elsewhere within the forecaster's tolerance."""
    good = made_with(sw_avg, **kernels())
    near = last_digit(good)
    assert same_machine(entry_of(good).environment, entry_of(near).environment) is None
    how, found = report(good, near, None)
    assert (how, len(found)) == ("exactly", 1)
    elsewhere = with_entry(near, environment=entry_of(near).environment.model_copy(update={"python": "3.99"}))
    for other, named in (
        (elsewhere, "python"),
        (made_with(near, **{"blas kernels": "openblas Other"}), "blas kernels"),
    ):
        how, found = report(good, other, None)
        assert named in how
        assert found == []
        assert report(good, other, True)[1] != []


def test_what_a_file_rounds_away_is_no_difference(sw_avg: Results) -> None:
    """A fresh score has nine digits, that of a file 24 bits, where the metric may."""
    fresh = with_value(sw_avg, sw_avg.table["tv"].iloc[1] * (1 + 1e-9), "tv")
    assert differences(fresh, sw_avg, EXACTLY) == []


def test_a_result_that_names_no_kernels_is_compared_exactly_only_if_that_holds(sw_avg: Results) -> None:
    """Its machine may be this one or another with a processor of the same name: nobody can say any more."""
    where = entry_of(sw_avg).environment
    versions = {name: version for name, version in where.versions.items() if name not in kernels()}
    old = with_entry(sw_avg, environment=where.model_copy(update={"versions": versions}))
    again = made_with(old, **kernels())
    assert report(old, again, None) == ("exactly", [])
    how, found = report(old, last_digit(again), None)
    assert how.startswith("within tolerances (blas kernels None -> ")
    assert found == []
    assert report(old, with_value(again, 0.5), None)[1] != []
    assert report(old, last_digit(again), True)[1] != []


def test_other_forecasts_with_the_same_scores_differ_on_the_recording_machine(sw_avg: Results) -> None:
    """The hash of the forecasts is compared."""
    lines = differences(with_costs(sw_avg, forecasts_sha256="0" * 64), sw_avg, EXACTLY)
    assert len(lines) == len(sw_avg.traces)
    assert all("forecasts_sha256" in line for line in lines)


def test_a_network_that_is_fitted_again_elsewhere_is_compared_by_its_means() -> None:
    """One run may move by what a value may, all runs by what a run's mean may, and what is not fitted by neither."""
    fitted = made_with(load_results(RESULTS / "v3" / "gated.parquet"), **kernels())
    first = fitted.traces[0]

    def compared(again: Results) -> tuple[str, list[str]]:
        return report(fitted, made_with(again, numpy="another"), None)

    how, found = compared(scaled(fitted, "window_tv", 1.04, [first]))
    assert how.startswith("by its means, as fitted again (")
    assert found == []
    _, found = compared(scaled(fitted, "window_tv", 1.2, [first]))
    assert found != []
    assert all(line.startswith(f"{first}: mean window_tv") for line in found)
    _, found = compared(scaled(fitted, "window_tv", 0.98))
    assert found != []
    assert all("mean over runs of window_tv" in line for line in found)
    unfitted = with_entry(fitted, fit_wall_s=None)
    how, found = report(unfitted, made_with(scaled(unfitted, "window_tv", 1.04, [first]), numpy="another"), None)
    assert how.startswith("within tolerances")
    assert found != []


@pytest.mark.slow
def test_every_forecaster_has_a_stated_tolerance_with_a_reason() -> None:
    """For each forecaster with results; the errors of all but the trained one are held closer than a stranger's."""
    stated = tomllib.loads(TOLERANCES.read_text())
    for suite in suites_with_results():
        for entry in committed_results(suite).entries.values():
            name = entry.target.partition("@")[0]
            assert len(stated[name]["reason"]) > 20
            assert len(stated[name]["measured"]) > 10
            bounds = tolerances_of(entry, refit=False).value
            assert bounds("hot_recall") == value_bound("hot_recall")
            assert name == "lstm" or bounds("window_tv") <= value_bound("window_tv")


def test_stated_tolerances_replace_those_of_the_catalogue(sw_avg: Results) -> None:
    """For errors and for plans, each where the file has some."""
    bounds = tolerances_of(entry_of(sw_avg)).value
    assert bounds("window_tv") == (1e-6, 1e-9)
    assert bounds("regret@half") == value_bound("regret@half") == (0.05, 0.1)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Suite, Path]:
    """A suite file, its suite, and a folder with the results of two forecasters on it."""
    made = make_world(tmp_path / "traces")
    monkeypatch.setenv("MOELOAD_TRACES", str(made.root))
    evaluate(["uniform", "last_value"], made.suite, level="none").save(tmp_path / "results" / made.suite.name)
    return made.suite_file, made.suite, tmp_path / "results"


def test_the_command_agrees_and_writes_nothing(
    world: tuple[str, Suite, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run again from nothing; no file appears or changes, not even in the cache."""
    path, _, results = world
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert leaderboard("reproduce", path, "--results", results) == 0
    out = capsys.readouterr().out
    assert "last_value: compared exactly: agrees" in out
    assert "2 of 2 results agree" in out
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_command_says_what_differs_and_exits_with_1(
    world: tuple[str, Suite, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed number and local changes are said; the other result still agrees, though other code made it."""
    path, suite, results = world
    folder = results / suite.name
    with_entry(load_results(folder / "last_value.parquet", layers=True), source_sha256="0" * 64).save(folder)
    with_value(load_results(folder / "uniform.parquet", layers=True), 0.75).save(folder)
    monkeypatch.setattr(reproduce, "local_changes", lambda: ["baselines/uniform.py"])
    assert leaderboard("reproduce", path, "--results", results) == 1
    out = capsys.readouterr().out
    assert "local changes, so the code is not that of any commit: baselines/uniform.py" in out
    assert "horizon 10: committed 0.75, got" in out
    assert "1 of 2 results agree" in out


def test_a_trace_that_is_not_the_suite_s_is_refused(
    world: tuple[str, Suite, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same id with other content: exit status 2, the file and both hashes are named. So is a missing trace."""
    path, suite, results = world
    other = synthetic_trace(seed=5, recipe="one", split="test", run=1)
    file = tmp_path / "traces" / f"{suite.traces[0].id}.parquet"
    write_trace(other, file, overwrite=True)
    open_truth.cache_clear()  # what this process has read already
    assert leaderboard("reproduce", path, "--results", results) == 2
    assert f"expected {suite.traces[0].data_sha256}" in capsys.readouterr().err
    file.unlink()
    assert leaderboard("reproduce", path, "--results", results) == 2
    assert suite.traces[0].id in capsys.readouterr().err


def test_no_results_and_unknown_names_are_refused(
    world: tuple[str, Suite, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, with what exists instead."""
    path, _, results = world
    assert leaderboard("reproduce", path, "--results", results / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert leaderboard("reproduce", path, "--results", results, "--only", "last_valeu") == 2
    assert "last_value" in capsys.readouterr().err


def submitted(baseline: Entry, root: Path, requirements: str | None = None) -> Entry:
    """Write a submission of a stranger below ``root``; return what its result says, which names level `process`."""
    world = make_world(root / "world")
    folder = read_folder(write_folder(root, world, requirements=requirements))
    made = {"name": folder.record.name, "target": "forecaster.py:Mine", "requirements": folder.requirements}
    return baseline.model_copy(update={"isolation": "process", **made})


def test_a_strangers_code_runs_in_the_sandbox_only(
    sw_avg: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever level the result names; where there is no sandbox it is refused by name. A baseline keeps its level."""
    result = submitted(entry_of(sw_avg), tmp_path)
    monkeypatch.setattr("moeload_bench.publishing.submit.level_available", lambda level: None)
    target, level = prepared(result, tmp_path / "submissions")
    assert (target.class_name, target.packages, level) == ("Mine", None, "sandbox")
    elsewhere = f"{tmp_path / 'submissions' / 'mine' / 'forecaster.py'}:Mine"
    unnamed = result.model_copy(update={"name": "other", "target": elsewhere})
    assert prepared(unnamed, tmp_path / "submissions")[1] == "sandbox"
    monkeypatch.setattr("moeload_bench.publishing.submit.level_available", lambda level: f"no {level} on this machine")
    with pytest.raises(IsolationError, match=r"no sandbox on this machine; mine is not a baseline .* --only"):
        prepared(result, tmp_path / "submissions")
    assert prepared(entry_of(sw_avg))[1] == entry_of(sw_avg).isolation


def test_a_strangers_requirements_are_installed(
    sw_avg: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the submission's folder, which are pins; what the result says of them is not used."""
    result = submitted(entry_of(sw_avg), tmp_path, requirements="a==1.0\n")
    result = result.model_copy(update={"requirements": ("https://example.org/evil",)})
    asked: list[object] = []
    monkeypatch.setattr("moeload_bench.publishing.submit.level_available", lambda level: None)
    monkeypatch.setattr(reproduce, "install_packages", lambda names: asked.append(names) or tmp_path)
    assert prepared(result, tmp_path / "submissions")[0].packages == tmp_path
    assert asked == [("a==1.0",)]


@pytest.mark.skipif(not (shutil.which("git") and shutil.which("make")), reason="needs git and make")
def test_results_are_made_from_a_commit_only(tmp_path: Path) -> None:
    """`make results` names the tracked files that differ and stops before any work: results name their commit."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "code.py").write_text("x = 1\n")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    make = ["make", "-C", str(tmp_path), "committed"]
    (tmp_path / "untracked").write_text("")
    assert subprocess.run(make, capture_output=True, check=False).returncode == 0
    (tmp_path / "code.py").write_text("x = 2\n")
    done = subprocess.run([*make[:-1], "results"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "got uncommitted changes in: code.py ; commit first" in done.stderr
    assert "venv" not in done.stdout
