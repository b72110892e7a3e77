"""Committed results: refused by name when they are not the suite's or the code's, and compared with a re-run."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from leaderboard import reproduce
from leaderboard.committed import RESULTS, load_all, result_problems, suites_with_results
from leaderboard.reproduce import TOLERANCES, bounds_of, compare, prepared, report, same_machine
from leaderboard.suites.freeze import to_toml
from leaderboard.verifying.agreement import value_bound
from moeload_bench.environment import kernels
from moeload_bench.errors import IsolationError, ResultError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.evaluation.truth import open_truth
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.run_result import TaskResult
from moeload_bench.submissions.folder import read_folder
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.evaluation.test_harness import small_suite
from tests.support.checkout import leaderboard
from tests.support.submitted import make_world, write_folder

ROOT = Path(__file__).resolve().parents[2]


def close(metric: str) -> tuple[float, float]:
    """Six digits of every metric."""
    return 1e-6, 0.0


def sw_avg() -> Result:
    return load_result(RESULTS / "mini" / "sw_avg.json")


def with_run(result: Result, **changes: object) -> Result:
    return result.model_copy(update={"runs": (result.runs[0].model_copy(update=changes), *result.runs[1:])})


def with_forecaster(result: Result, **changes: object) -> Result:
    return result.model_copy(update={"forecaster": result.forecaster.model_copy(update=changes)})


def with_value(result: Result, value: float) -> Result:
    """Another window_tv at the second horizon of the first task of the first run."""
    task = result.runs[0].tasks[0]
    value_K = (task.metrics["window_tv"][0], value, *task.metrics["window_tv"][2:])
    changed = task.model_copy(update={"metrics": {**task.metrics, "window_tv": value_K}})
    return with_run(result, tasks=(changed, *result.runs[0].tasks[1:]))


def test_results_on_other_data_are_not_compared() -> None:
    """Side by side they need the same traces, tasks and version of scoring, not only the same suite."""
    good = sw_avg()
    for bad in (with_run(good, data_sha256="0" * 64), good.model_copy(update={"scoring_version": 0})):
        with pytest.raises(ResultError, match="sw_avg"):
            errors_of([good, bad], "window_tv")


def test_a_re_run_that_agrees_says_nothing_and_costs_are_not_compared() -> None:
    """Commit, hardware and times may differ."""
    good = sw_avg()
    slow = with_run(good, cost=good.runs[0].cost.model_copy(update={"forecast_wall_s": 1e6}))
    assert list(compare(good, slow, reproduce.exactly)) == []


def test_what_differs_is_named_in_full() -> None:
    """Trace, state, horizon, metric, what was got and what is committed."""
    good = sw_avg()
    (line,) = compare(good, with_value(good, 0.5), close)
    committed = good.runs[0].tasks[0].metrics["window_tv"][1]
    assert line == (
        f"{good.runs[0].trace}: origin 20 (transient), window_tv at horizon 10: committed {committed}, got 0.5"
    )


def made_with(result: Result, **versions: str) -> Result:
    """The result with other entries among the versions of its environment."""
    where = result.environment.model_copy(update={"versions": {**result.environment.versions, **versions}})
    return result.model_copy(update={"environment": where})


def last_digit(result: Result) -> Result:
    """The same but for the last digit of one score."""
    return with_value(result, (result.runs[0].tasks[0].metrics["window_tv"][1] or 0) * (1 + 1e-8))


def test_the_last_digit_counts_on_the_recording_machine_only() -> None:
    """Exact where hardware, kernels, Python and libraries are the same; elsewhere within the forecaster's tolerance."""
    good = made_with(sw_avg(), **kernels())
    near = last_digit(good)
    assert same_machine(good.environment, near.environment) is None
    how, found = report(good, near, None)
    assert (how, len(found)) == ("exactly", 1)
    elsewhere = near.model_copy(update={"environment": near.environment.model_copy(update={"python": "3.99"})})
    for other, named in (
        (elsewhere, "python"),
        (made_with(near, **{"blas kernels": "openblas Other"}), "blas kernels"),
    ):
        how, found = report(good, other, None)
        assert named in how
        assert found == []
        assert report(good, other, True)[1] != []


def test_a_result_that_names_no_kernels_is_compared_exactly_only_if_that_holds() -> None:
    """Its machine may be this one or another with a processor of the same name: nobody can say any more."""
    old = sw_avg()
    for name in kernels():
        old.environment.versions.pop(name, None)
    here = made_with(old, **kernels())
    assert report(old, here, None) == ("exactly", [])
    how, found = report(old, last_digit(here), None)
    assert how.startswith("within tolerances (blas kernels None -> ")
    assert found == []
    assert report(old, with_value(here, 0.5), None)[1] != []
    assert report(old, last_digit(here), True)[1] != []


def test_other_forecasts_with_the_same_scores_differ_on_the_recording_machine() -> None:
    """The hash of the forecasts is compared where nothing else differs."""
    good = sw_avg()
    (line,) = compare(good, with_run(good, forecasts_sha256="0" * 64), reproduce.exactly)
    assert "forecasts_sha256" in line


def times(result: Result, factor: float, runs: int | None = None) -> Result:
    """The result with every window_tv of its first so many runs times a factor."""

    def scaled(task: TaskResult) -> TaskResult:
        value_K = [value if value is None else factor * value for value in task.metrics["window_tv"]]
        return task.model_copy(update={"metrics": {**task.metrics, "window_tv": value_K}})

    changed = [run.model_copy(update={"tasks": tuple(map(scaled, run.tasks))}) for run in result.runs[:runs]]
    return result.model_copy(update={"runs": (*changed, *result.runs[len(changed) :])})


def test_a_network_that_is_fitted_again_elsewhere_is_compared_by_its_means() -> None:
    """One run may move by what a value may, all runs by what a run's mean may, and what is not fitted by neither."""
    fitted = made_with(load_result(RESULTS / "v3" / "gated.json"), **kernels())

    def compared(again: Result) -> tuple[str, list[str]]:
        return report(fitted, made_with(again, numpy="another"), None)

    how, found = compared(times(fitted, 1.04, runs=1))
    assert how.startswith("by its means, as fitted again (")
    assert found == []
    _, found = compared(times(fitted, 1.2, runs=1))
    assert found != []
    assert all(f"{fitted.runs[0].trace}: " in line for line in found)
    _, found = compared(times(fitted, 0.98))
    assert found != []
    assert all("mean window_tv over runs at horizon" in line for line in found)
    unfitted = fitted.model_copy(update={"fit_wall_s": None})
    how, found = report(unfitted, made_with(times(unfitted, 1.04, runs=1), numpy="another"), None)
    assert how.startswith("within tolerances")
    assert found != []


@pytest.mark.slow
def test_every_forecaster_has_a_stated_tolerance_with_a_reason() -> None:
    """For each forecaster with results; the errors of all but the trained one are held closer than a stranger's."""
    stated = tomllib.loads(TOLERANCES.read_text())
    for suite in suites_with_results():
        for result in load_all(load_suite(suite)).values():
            name = result.forecaster.target.partition("@")[0]
            assert len(stated[name]["reason"]) > 20
            assert len(stated[name]["measured"]) > 10
            bounds = bounds_of(result)
            assert bounds("hot_recall") == value_bound("hot_recall")
            assert name == "lstm" or bounds("window_tv") <= value_bound("window_tv")
    assert bounds_of(sw_avg())("window_tv") == (1e-6, 1e-9)
    assert bounds_of(sw_avg())("regret@half") == value_bound("regret@half") == (0.05, 0.1)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Suite, Path]:
    """A suite file, its suite, and a folder with the results of two forecasters on it."""
    trace: Trace = dataclasses.replace(
        synthetic_trace(), meta=synthetic_trace().meta.model_copy(update={"recipe": "r"})
    )
    write_trace(trace, tmp_path / "traces" / f"{trace.id}.parquet")
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path / "traces"))
    suite = small_suite(trace)
    path = tmp_path / "small.toml"
    path.write_text(to_toml(suite))
    for result in evaluate(["uniform", "sw_avg@window=10"], suite, level="none"):
        result.save(tmp_path / "results" / suite.name / f"{result.name}.json")
    return path, suite, tmp_path / "results"


def test_the_command_agrees_and_writes_nothing(
    world: tuple[Path, Suite, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run again from nothing; no file appears or changes, not even in the cache."""
    path, _, results = world
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert leaderboard("reproduce", path, "--results", results) == 0
    out = capsys.readouterr().out
    assert "sw_avg@window=10: compared exactly: agrees" in out
    assert "2 of 2 results agree" in out
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_command_says_what_differs_and_exits_with_1(
    world: tuple[Path, Suite, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed number and local changes are said; the other result still agrees, though other code made it."""
    path, suite, results = world
    other = results / suite.name / "sw_avg@window=10.json"
    with_forecaster(load_result(other), source_sha256="0" * 64).save(other)
    with_value(load_result(results / suite.name / "uniform.json"), 0.9).save(results / suite.name / "uniform.json")
    monkeypatch.setattr(reproduce, "local_changes", lambda: ["baselines/uniform.py"])
    assert leaderboard("reproduce", path, "--results", results) == 1
    out = capsys.readouterr().out
    assert "local changes, so the code is not that of any commit: baselines/uniform.py" in out
    assert "window_tv at horizon 10: committed 0.9, got" in out
    assert "1 of 2 results agree" in out


def test_a_trace_that_is_not_the_suite_s_is_refused(
    world: tuple[Path, Suite, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same id with other content: exit status 2, the file and both hashes are named. So is a missing trace."""
    path, suite, results = world
    other = dataclasses.replace(synthetic_trace(seed=5), meta=synthetic_trace().meta.model_copy(update={"recipe": "r"}))
    file = tmp_path / "traces" / f"{other.id}.parquet"
    write_trace(other, file, overwrite=True)
    open_truth.cache_clear()  # what this process has read already
    assert leaderboard("reproduce", path, "--results", results) == 2
    assert f"expected {suite.traces[0].data_sha256}" in capsys.readouterr().err
    file.unlink()
    assert leaderboard("reproduce", path, "--results", results) == 2
    assert suite.traces[0].id in capsys.readouterr().err


def test_no_results_and_unknown_names_are_refused(
    world: tuple[Path, Suite, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, with what exists instead."""
    path, _, results = world
    assert leaderboard("reproduce", path, "--results", results / "nowhere") == 2
    assert "no committed result of suite small" in capsys.readouterr().err
    assert leaderboard("reproduce", path, "--results", results, "--only", "sw_agv") == 2
    assert "sw_avg@window=10" in capsys.readouterr().err


def test_problems_of_a_good_result_are_none() -> None:
    """The checks pass what they should pass."""
    assert list(result_problems(sw_avg(), load_suite("mini"))) == []


def submitted(root: Path, target: str = "forecaster.py:Mine", requirements: str | None = None) -> Result:
    """A committed submission of a stranger below ``root``, and its result, which names level `process`."""
    world = make_world(root / "world")
    folder = read_folder(write_folder(root, world, requirements=requirements))
    made = {"name": folder.record.name, "target": target, "requirements": folder.requirements}
    return with_forecaster(sw_avg().model_copy(update={"isolation": "process"}), **made)


def test_a_strangers_code_runs_in_the_sandbox_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever level the result names; where there is no sandbox it is refused by name. A baseline keeps its level."""
    result = submitted(tmp_path)
    monkeypatch.setattr("moeload_bench.submissions.check.level_available", lambda level: None)
    target, level = prepared(result, tmp_path / "submissions")
    assert (target.class_name, target.packages, level) == ("Mine", None, "sandbox")
    elsewhere = f"{tmp_path / 'submissions' / 'mine' / 'forecaster.py'}:Mine"
    unnamed = with_forecaster(result, name="other", target=elsewhere)
    assert prepared(unnamed, tmp_path / "submissions")[1] == "sandbox"
    monkeypatch.setattr("moeload_bench.submissions.check.level_available", lambda level: f"no {level} on this machine")
    with pytest.raises(IsolationError, match=r"no sandbox on this machine; mine is not a baseline .* --only"):
        prepared(result, tmp_path / "submissions")
    assert prepared(sw_avg())[1] == sw_avg().isolation


def test_a_strangers_requirements_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the submission's folder, which are pins; what the result says of them is not used."""
    result = with_forecaster(submitted(tmp_path, requirements="a==1.0\n"), requirements=("https://example.org/evil",))
    asked: list[object] = []
    monkeypatch.setattr("moeload_bench.submissions.check.level_available", lambda level: None)
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
