"""Committed results stay bound to the code that they were made from, today's or frozen, whatever changes later."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leaderboard import reproduce
from leaderboard.__main__ import app
from leaderboard.committed import FROZEN, RESULTS, SUBMISSIONS, committed_results, result_problems
from leaderboard.freeze_code import BOARD, bound_results, freeze, made_by
from leaderboard.frozen_code import LIST, check_frozen, code_sha256, freeze_target
from leaderboard.site.inputs import make_entry
from leaderboard.verifying.baselines import write_submission
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.isolation import sources
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.results.record import Result, load_result
from moeload_bench.suites.suite import default_suite, load_suite
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.evaluation.test_harness import small_suite
from tests.support.committed import by_result

BOUND = bound_results()
made_from = functools.cache(made_by)


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module of the package has one comment more than on the disk, as far as hashes go."""
    found = sources.find_module

    def elsewhere(name: str) -> Path | None:
        path = found(name)
        if path is None or not name.startswith("moeload_bench."):
            return path
        copy = tmp_path / "changed" / name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes() + b"# changed\n")
        for weights in sources.weights_beside(path).values():
            shutil.copy(weights, copy.parent)
        return copy

    monkeypatch.setattr(sources, "find_module", elsewhere)


@functools.cache
def committed(name: str = "gated") -> Result:
    return load_result(RESULTS / "v1" / f"{name}.json")


@pytest.mark.parametrize("path", by_result(BOUND))
@pytest.mark.usefixtures("changed")
def test_the_code_of_every_committed_result_is_frozen(path: Path) -> None:
    """Or lies in the entry's own folder. When this fails after new results: `python -m leaderboard freeze-code`."""
    made = made_from(path)
    if made.target.startswith("forecaster.py:"):
        folder = path.parents[1] / "entries" / made.name if path.parent.name == "results" else SUBMISSIONS / made.name
        assert sources.file_sha256(folder / "forecaster.py") == made.source_sha256
    else:
        assert code_sha256(made.target, made_from=made.source_sha256, store=FROZEN) == made.source_sha256


@pytest.mark.slow
def test_the_store_holds_what_is_needed_and_nothing_else() -> None:
    """The list above has every suite but `mini`, and every season."""
    folders = {path.parent.relative_to(BOARD).as_posix() for path in BOUND}
    assert folders == {"results/v3", "seasons/2027-01/results"}
    assert {path.name for path in FROZEN.iterdir()} <= {made_from(path).source_sha256 for path in BOUND}
    assert all(check_frozen(path) for path in FROZEN.iterdir())


def test_results_are_frozen_while_their_code_is_there(tmp_path: Path) -> None:
    """Once, with weights; later their code is nowhere, which is said with the file."""
    file = tmp_path / "results" / "v1" / "gated.json"
    file.parent.mkdir(parents=True)
    shutil.copy(RESULTS / "v1" / "gated.json", file)
    made = freeze(tmp_path / "frozen", tmp_path)
    assert made == [committed().forecaster.source_sha256]
    names = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "frozen" / made[0]).iterdir())]
    assert names == [(path.name, path.read_bytes()) for path in sorted((FROZEN / made[0]).iterdir())]
    assert freeze(tmp_path / "frozen", tmp_path) == []
    file.write_text(file.read_text().replace(made[0], "0" * 64))
    with pytest.raises(ResultError, match=r"gated\.json: its code 000000000000 is not in this checkout"):
        freeze(tmp_path / "frozen", tmp_path)


@pytest.mark.usefixtures("changed")
def test_results_of_code_that_changed_are_accepted_from_the_store() -> None:
    """So tables stay as they are. Results of `mini`, which is scored again, are refused with their commit."""
    assert source_sha256(parse_target("uniform")) != committed("uniform").forecaster.source_sha256
    assert len(committed_results("v1")) == 19
    with pytest.raises(ResultError, match=r"arima\.json: made from other code: .*the result names commit [0-9a-f]{40}"):
        committed_results("mini")


@pytest.mark.slow
@pytest.mark.usefixtures("changed")
def test_submissions_of_code_that_changed_stay_verified(tmp_path: Path) -> None:
    """On the site, in the check, and where the baselines' submissions are written; none is run again as what it was."""
    suite, result = load_suite(default_suite()), load_result(RESULTS / default_suite() / "uniform.json")
    assert make_entry(result, SUBMISSIONS / "uniform", suite).standing == "verified"
    shutil.copytree(SUBMISSIONS / "uniform", tmp_path / "submissions" / "uniform")
    result.save(tmp_path / "results" / suite.name / "uniform.json")
    before = (SUBMISSIONS / "uniform" / "verification.json").read_bytes()
    assert (write_submission("uniform", suite, tmp_path).path / "verification.json").read_bytes() == before
    assert CliRunner().invoke(app, ["verify", str(SUBMISSIONS / "uniform"), "--check-only"]).stdout == "checked\n"
    again = CliRunner().invoke(app, ["verify", str(SUBMISSIONS / "uniform"), "--dry-run"])
    assert f"check out commit {result.environment.commit}" in str(again.exception)
    incoming = CliRunner().invoke(app, ["verify", str(SUBMISSIONS / "uniform"), "--check-only", "--incoming"])
    assert "the code has changed since the result was made" in incoming.stderr


@pytest.mark.usefixtures("changed")
def test_a_baseline_that_is_gone_leaves_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are bound to the frozen code alone; nothing else passes for it."""
    monkeypatch.setattr("moeload_bench.isolation.targets.baseline_names", lambda: ["sw_avg"])
    assert list(result_problems(committed(), load_suite("v1"))) == []
    with pytest.raises(Exception, match="unknown forecaster 'ema'"):
        code_sha256("ema", made_from=committed().forecaster.source_sha256, store=FROZEN)


@pytest.mark.slow
@pytest.mark.usefixtures("changed")
def test_the_check_of_a_baseline_that_is_gone_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frozen code where that is kept, else the baselines that exist; a run of it names the commit to check out."""
    monkeypatch.setattr("moeload_bench.isolation.targets.baseline_names", lambda: ["sw_avg"])
    folder = tmp_path / "submissions" / "ema"
    shutil.copytree(SUBMISSIONS / "ema", folder)
    result = load_result(RESULTS / default_suite() / "ema.json")
    result.save(tmp_path / "results" / default_suite() / "ema.json")
    gone = CliRunner().invoke(app, ["verify", str(folder), "--check-only"])
    assert "unknown forecaster 'ema'; there is: " in str(gone.exception)
    assert "sw_avg" in str(gone.exception)
    sha256 = result.forecaster.source_sha256
    shutil.copytree(FROZEN / sha256, tmp_path / "frozen" / sha256)
    assert CliRunner().invoke(app, ["verify", str(folder), "--check-only"]).stdout == "checked\n"
    again = str(CliRunner().invoke(app, ["verify", str(folder), "--dry-run"]).exception)
    assert f"frozen code {sha256[:12]}, and there is no such code today: " in again
    assert f"check out commit {result.environment.commit}" in again


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def _another_file(folder: Path) -> None:
    path = folder / "moeload_bench.baselines._gate.npz"
    path.write_bytes(path.read_bytes() + b"\0")


def _another_list(folder: Path) -> None:
    edit(folder / LIST, lambda tree: tree["files"]["moeload_bench.baselines.gated"].update(sha256="0" * 64))  # type: ignore[index]


def _another_list_and_file(folder: Path) -> None:
    path = folder / "moeload_bench.baselines.gated.py"
    path.write_text("# better\n")
    sha256 = sources.bytes_sha256(path)
    edit(folder / LIST, lambda tree: tree["files"]["moeload_bench.baselines.gated"].update(sha256=sha256))  # type: ignore[index]


def _a_module_left_out(folder: Path) -> None:
    edit(folder / LIST, lambda tree: tree["files"].pop("moeload_bench.baselines._path"))  # type: ignore[attr-defined]


FALSIFIED: dict[str, Callable[[Path], object]] = {
    r"_gate\.npz: its SHA-256 is \w+, expected": _another_file,
    r"gated\.py: its SHA-256 is \w+, expected 000000000000": _another_list,
    r"modules\.json: it lists the code \w+ of moeload_bench.baselines.gated, expected": _another_list_and_file,
    r"modules\.json: it lists the code": _a_module_left_out,
    r"_measures\.py: is not there, expected": lambda folder: (
        folder / "moeload_bench.baselines._measures.py"
    ).unlink(),
    r"modules\.json: cannot be read: No such file": lambda folder: (folder / LIST).unlink(),
    r"modules\.json: files\.x\.file: .*got '\.\./x'": lambda folder: edit(
        folder / LIST, lambda tree: tree["files"].update(x={"file": "../x", "sha256": "0" * 64})  # type: ignore[attr-defined]
    ),
    r"modules\.json: .*Invalid JSON": lambda folder: (folder / LIST).write_text("{"),
    r"made from other code": lambda folder: edit(
        folder / LIST, lambda tree: tree.update(module="moeload_bench.baselines._gate")
    ),
    r"made from other code: baf57c8204fb, .*commit 0a69edf1bf8d": shutil.rmtree,
}  # fmt: skip


@pytest.mark.parametrize("words", FALSIFIED)
@pytest.mark.usefixtures("changed")
def test_a_falsified_store_is_refused_by_name(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, the list, both, or one that is missing: the message names the file, and the result is not accepted."""
    shutil.copytree(FROZEN, tmp_path / "frozen")
    monkeypatch.setattr("leaderboard.committed.FROZEN", tmp_path / "frozen")
    result = committed()
    assert list(result_problems(result, load_suite("v1"))) == []
    FALSIFIED[words](tmp_path / "frozen" / result.forecaster.source_sha256)
    with pytest.raises(ResultError, match=words):
        raise ResultError("\n".join(result_problems(result, load_suite("v1"))))


def test_no_hash_leads_out_of_the_store(tmp_path: Path) -> None:
    """A claim's source hash is a stranger's word: a path in it is not followed."""
    made = freeze_target(tmp_path / "frozen", "uniform")
    with pytest.raises(Exception, match="unknown forecaster"):
        code_sha256("gone", made_from=f"../frozen/{made}", store=tmp_path / "frozen")
    assert code_sha256("uniform", made_from="../frozen", store=tmp_path / "frozen") == made


@pytest.mark.usefixtures("changed")
def test_reproduce_runs_today_s_code_and_names_the_commit_of_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Other code is said and is no error; other numbers are one."""
    trace = synthetic_trace()
    suite, file = small_suite(trace), write_trace(trace, tmp_path / "trace.parquet")
    (again,) = evaluate(["uniform"], suite, paths={trace.id: file}, level="none")
    made = again.forecaster.model_copy(update={"source_sha256": committed("uniform").forecaster.source_sha256})
    kept = again.model_copy(update={"forecaster": made})
    kept.save(tmp_path / suite.name / "uniform.json")
    monkeypatch.setattr(reproduce, "load_suite", lambda name: suite)
    monkeypatch.setattr(reproduce, "run_again", lambda results, suite, jobs: [again for _ in results])
    assert reproduce.compare_suite(suite.name, tmp_path, None, 1, None) == 0
    assert f"uniform: runs today's code {again.forecaster.source_sha256[:12]}, the result is of 7a9b1f4b5909; the " in (
        capsys.readouterr().out
    )
    other = again.runs[0].model_copy(update={"forecasts_sha256": "0" * 64})
    kept.model_copy(update={"runs": (other,)}).save(tmp_path / suite.name / "uniform.json")
    assert reproduce.compare_suite(suite.name, tmp_path, None, 1, True) == 1
    monkeypatch.setattr("moeload_bench.isolation.targets.baseline_names", lambda: ["sw_avg"])
    assert reproduce.compare_suite(suite.name, tmp_path, None, 1, None) == 1
    assert "uniform: there is no code to run; the result names commit" in capsys.readouterr().out
