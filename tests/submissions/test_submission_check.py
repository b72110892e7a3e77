"""The check of a result against its submission and suite: honest ones pass, each falsification is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard.verifying.claims import load_claim
from moeload_bench.errors import ResultError, SubmissionError, printable
from moeload_bench.results.comparison import bundled_reference
from moeload_bench.results.record import Result, RunResult, load_result, parse_result
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.submissions.check import check_submission
from moeload_bench.submissions.folder import CODE, Folder, read_folder
from moeload_bench.submissions.record import Verification
from moeload_bench.suites.suite import load_suite
from tests.support.submitted import World, honest, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def entry(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Result]:
    return honest(tmp_path_factory.mktemp("entry"), world)


def test_an_honest_submission_passes(entry: tuple[Folder, Result], world: World, tmp_path: Path) -> None:
    """Also after the way through its file."""
    folder, result = entry
    assert check_submission(folder, load_result(result.save(tmp_path / "r.json")), world.suite) == []


def test_an_honest_baseline_passes(world: World, tmp_path: Path) -> None:
    """A baseline is a submission without code."""
    folder, result = honest(tmp_path, world, code=None, name="sw_avg", target="sw_avg")
    assert check_submission(folder, result, world.suite) == []


def edit(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set one place of a nested record, given as `runs.0.tasks.1`; a callable changes what is there."""
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    place: Any = tree
    for part in parents:
        place = place[part]
    place[last] = value(place[last]) if callable(value) else value
    return tree


def everywhere(name: str, values: Any = (0.0, 0.0, 0.0)) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """A change of a run's tasks: one metric more in each, or less."""

    def change(task: dict[str, Any]) -> dict[str, Any]:
        metrics = {**task["metrics"], name: values}
        return {**task, "metrics": {key: value for key, value in metrics.items() if value is not None}}

    return lambda tasks: [change(task) for task in tasks]


FALSIFIED: dict[str, tuple[str, Any, str]] = {
    "another suite's hash": ("suite/sha256", "0" * 64, "suite hash"),
    "another suite's name": ("suite/name", "other", "suite name"),
    "another seed": ("seed", 7, "seed"),
    "changed code": ("forecaster/source_sha256", "0" * 64, "code has changed"),
    "other arguments": ("forecaster/kwargs", {"window": 3}, "kwargs"),
    "unnamed requirements": ("forecaster/requirements", ["a==1"], "requirements"),
    "another name": ("forecaster/name", "yours", "forecaster name"),
    "another scoring": ("scoring_version", 0, "scoring version"),
    "no isolation": ("isolation", "none", "isolation"),
    "a missing run": ("runs", lambda runs: runs[:1], "missing"),
    "a run twice": ("runs", lambda runs: [*runs, runs[0]], "twice"),
    "a foreign run": ("runs/0/trace", "<b>x</b>", "not in suite"),
    "other data": ("runs/0/data_sha256", "0" * 64, "other data"),
    "a missing task": ("runs/0/tasks", lambda tasks: tasks[1:], "1 of 4 tasks are missing, the first is origin 50"),
    "a task twice": ("runs/0/tasks", lambda tasks: [*tasks, tasks[0]], "5 tasks"),
    "a task's edited number": ("runs/0/tasks/0/metrics/window_tv/0", 0.001, "changed after the run"),
    "a layer's edited number": ("runs/1/per_layer/stable/tv/1/0", 0.001, "changed after the run"),
    "an impossible number": ("runs/0/tasks/0/metrics/window_tv/0", 1.5, "between 0 and 1"),
    "a missing number": ("runs/0/tasks/0/metrics/window_tv/0", None, "window_tv is null, expected a number"),
    "a missing horizon": ("runs/0/tasks/0/metrics/tv", lambda values: values[1:], "each of the 3 horizons"),
    "an unknown metric": ("runs/0/tasks", everywhere("<i>tv</i>"), "is unknown"),
    "a metric in no task": (
        "runs/0/tasks",
        everywhere("tv", None),
        "'tv' is missing",
    ),
    "quantiles by half": (
        "runs/0/tasks",
        everywhere("wql"),
        "'coverage' is missing",
    ),
    "text of many lines": ("environment/hardware", "fast\n::error::", "one line"),
    "endless text": ("notes", ["x" * 2001], "one line"),
    "a negative time": ("runs/0/cost/forecast_wall_s", -1.0, "'forecast_wall_s': got a negative number"),
    "a count of many digits": ("runs/0/counts", {"fits": 10**400}, "'fits': got too large a number"),
    "a fit that gives time back": ("fit_wall_s", -3.0, "'fit_wall_s': got a negative number, expected one between 0"),
    "a fit of centuries": ("fit_wall_s", 1e12, "'fit_wall_s': got too large a number"),
    "more memory than there is": ("runs/0/cost/peak_memory_bytes", 1 << 60, "'peak_memory_bytes': got too large"),
    "no memory": ("runs/0/cost/peak_memory_bytes", 0, "'peak_memory_bytes': got 0, expected at least"),
    "forecasts in no time": ("runs/0/cost/forecast_wall_s", 0.0, "cost: got 0 s of observing or forecasting"),
    "fewer forecasts than tasks": ("runs/0/cost/forecasts", 3, "'forecasts': got 3, expected 4"),
    "a number that sums to infinity": ("runs/0/tasks/0/metrics/tv/0", 1e308, "sane value"),
    "a state that is not there": ("runs/0/per_layer/<b>x", {}, "expected the states"),
    "layers of another number": ("runs/0/per_layer/stable/hot_recall/0", [0.5], "per_layer.stable.'hot_recall'"),
    "ragged floors": ("runs/0/floors/transient/floor_batch/tv", [0.1], "floors: 'transient', 'floor_batch'"),
    "an unknown floor": ("runs/0/floor_marks", {"<b>": "exact"}, "floor_marks: '<b>' is unknown"),
    "counts with escapes": ("runs/0/counts", {"\x1b[2J": 1}, "one line"),
    "a missing metric": ("runs/0/tasks/1/metrics", lambda m: {"window_tv": m["window_tv"]}, "metrics"),
    "a failure that is said": (
        "runs/0/tasks/0/failure",
        "it raised",
        "1 tasks failed, the first is origin 50 of 'one/",
    ),
    "a hidden failure": ("runs/0/tasks/0/failure", "it raised", "failed task scores"),
    "missing layers": ("runs/0/per_layer", {}, "per_layer"),
    "no hash of forecasts": ("runs/0/forecasts_sha256", "none", "forecasts_sha256"),
    "a correlation of five": ("runs/0/tasks/0/metrics/rank_correlation/0", 5.0, "rank_correlation is 5, expected a"),
    "a recall of seven": ("runs/0/tasks/0/metrics/hot_recall/1", 7.0, "hot_recall is 7, expected a number between 0"),
    "a recall of seven in a layer": ("runs/0/per_layer/stable/hot_recall/0/0", 7.0, "got 7, which no layer scores"),
    "a regret of -0.9": (
        "runs/0/tasks/0/metrics/regret@half/0",
        -0.9,
        "regret@half is -0.9, expected a number between",
    ),
    "an imbalance below one": ("runs/0/tasks/0/metrics/imbalance@half/0", 0.5, "imbalance@half is 0.5, expected"),
    "a regret above the imbalance": ("runs/0/tasks/0/metrics/regret@half/0", 0.9, "no plan's is below 1"),
    "a rate that is not twice tv": ("runs/0/tasks/0/metrics/error_rate_uniform/0", 0.01, "expected twice as much"),
    "windows worse than their steps": (
        "runs/0/tasks/0/metrics/window_tv/2",
        0.99,
        "window_tv is 0.99 and tv is",
    ),
    "negative layers": ("runs/0/layers", -2, "got -2 layers of 4 experts"),
    "no experts": ("runs/0/experts", 0, "got 2 layers of 0 experts"),
    "a plan metric in no task": ("runs/0/tasks", everywhere("regret@half", None), "'regret@half' is missing"),
    "a plan metric of another shape": ("runs/0/tasks", everywhere("regret@mine"), "'regret@mine' is unknown"),
    "nulls that hide a sum": (
        "runs/0/per_layer/stable",
        lambda metrics: {name: [[None, None]] * 3 for name in metrics},
        "got no number, expected the mean of every layer",
    ),
    "a null in one metric": ("runs/0/per_layer/stable/tv/0/0", None, "nulls in one metric and not in another"),
    "a null in a task": ("runs/0/tasks/0/metrics/tv/0", None, "tv is null, expected a number"),
    "no floors": ("runs/0/floors", {}, "floors: got those of []"),
    "a floor without its mark": ("runs/0/floor_marks/floor_batch", "not given", "floor_marks says otherwise"),
    "a floor above all": ("runs/0/floors/stable/floor_batch/tv/0", 1.5, "floors: 'stable', 'floor_batch', 'tv'"),
    "too many notes": ("notes", ["x"] * 100_000, "notes: got 100000 entries, expected at most 50"),
    "too many counts": ("runs/0/counts", {f"c{i}": 1 for i in range(40)}, "counts: got 40 entries, expected at most"),
    "a status of its own": ("status", "verified", "leave status at claimed"),
}


@pytest.mark.parametrize("name", FALSIFIED)
def test_a_falsified_result_is_refused_with_the_reason(name: str, entry: tuple[Folder, Result], world: World) -> None:
    """Each place of the record that matters."""
    folder, result = entry
    path, value, message = FALSIFIED[name]
    bad = Result.model_validate(edit(result.model_dump(mode="json"), path, value))
    found = check_submission(folder, bad, world.suite)
    assert any(message in line for line in found), found


def test_what_was_fitted_is_not_statistical(world: World, tmp_path: Path) -> None:
    """A submission may say more than the harness sees, and not what it knows to be wrong."""
    folder, result = honest(tmp_path, world, model_type="statistical")
    assert check_submission(folder, result, world.suite) == []
    fitted = result.model_copy(update={"fit_wall_s": 1.0})
    assert any("expected 'learned'" in line for line in check_submission(folder, fitted, world.suite))


def test_code_changed_after_the_run_is_refused(world: World, tmp_path: Path) -> None:
    """One more comment is another source."""
    folder, result = honest(tmp_path, world)
    with (folder.path / CODE).open("a") as file:
        file.write("# more\n")
    found = check_submission(read_folder(folder.path), result, world.suite)
    assert len(found) == 1
    assert "code has changed" in found[0]


def test_a_strangers_code_cannot_take_a_baselines_name(world: World, tmp_path: Path) -> None:
    """`sw_avg` is this package's."""
    folder, result = honest(tmp_path, world, name="sw_avg")
    assert any("belongs to a baseline" in line for line in check_submission(folder, result, world.suite))


def test_a_verification_is_bound_to_one_result(entry: tuple[Folder, Result], world: World) -> None:
    """It holds for the result it was made of, whatever its status, and for no other."""
    folder, result = entry
    verification = Verification(
        verified=True, date="2026-11-25", commit=None, level="sandbox", hardware="x", tolerance={}, sample=1.0,
        result_sha256=result.content_sha256, status="verified",
    )  # fmt: skip
    verified: Callable[..., Result] = result.model_copy
    folder = replace(folder, verification=verification)
    assert check_submission(folder, verified(update={"status": "verified"}), world.suite) == []
    said = check_submission(folder, result, world.suite)
    assert said[0] == "the result says claimed, verification.json says verified"
    other = verified(update={"status": "verified", "notes": ("changed",)})
    assert "another result" in check_submission(folder, other, world.suite)[0]


def test_a_result_has_the_layers_of_the_trace() -> None:
    """They are no forecaster's: those of the package's own result of the suite. (Floors are refused on reading.)"""
    from moeload_bench.submissions.numbers import check_numbers

    reference = bundled_reference("mini", load_suite("mini").sha256(), SCORING_VERSION)
    assert reference is not None
    run, K = reference.runs[0], len(reference.suite.horizons)
    assert list(check_numbers(run, K, run)) == []
    tree = run.model_dump(mode="json")
    layers = RunResult.model_validate({**tree, "layers": run.layers + 1})
    assert any("the trace has" in line for line in check_numbers(layers, K, run))


def test_every_committed_result_passes() -> None:
    """What the harness wrote on the whole of a suite: no bound is too narrow for it."""
    from moeload_bench.submissions.numbers import check_numbers

    suite = load_suite("mini")
    reference = bundled_reference("mini", suite.sha256(), SCORING_VERSION)
    assert reference is not None
    known = {run.trace: run for run in reference.runs}
    for path in sorted((Path(__file__).parents[2] / "leaderboard" / "results" / "mini").glob("*.json")):
        for run in load_result(path).runs:
            assert list(check_numbers(run, len(suite.horizons), known[run.trace])) == [], path.name


def test_a_real_sized_result_recomputes() -> None:
    """A committed result of the bundled suite: no sum differs."""
    path = Path(__file__).parents[2] / "leaderboard" / "results" / "mini" / "sw_avg.json"
    if not path.is_file():
        pytest.skip("no committed results yet")
    from moeload_bench.submissions.numbers import _sums

    result, suite = load_result(path), load_suite("mini")
    assert [line for run in result.runs for line in _sums(run, len(suite.horizons))] == []


@pytest.mark.parametrize("kind", ["link", "device", "none", "large"])
def test_a_result_is_a_file_of_a_sane_size(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link could show what it names, a device would never end."""
    path = tmp_path / "mine.json"
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "device":
        os.mkfifo(path)
    elif kind == "large":
        monkeypatch.setattr("leaderboard.verifying.claims.MAX_CLAIM_BYTES", 3)
        path.write_text("{   }")
    said = {"none": "no result; `moeload-bench submit`", "large": "at most 3 are"}.get(kind, "expected a regular file")
    with pytest.raises(SubmissionError, match=said):
        load_claim(path)


SPOILED = {
    "not JSON": "{",
    "a list": "[]",
    "another version": '{"schema_version": 2}',
    "endless brackets": "[" * 100_000,
    "a number of many digits": '{"seed": ' + "9" * 5000 + "}",
    "a name with an escape": '{"\\u001b[2J": 1}',
}


@pytest.mark.parametrize("place", ["metrics", "counts"])
def test_a_claim_of_many_thousand_names_is_refused_at_once(place: str, entry: tuple[Folder, Result]) -> None:
    """The check's work is by name: 400,000 metrics took it 32 s."""
    tree = json.loads(entry[1].to_json())
    names = [f"x{i}" for i in range(20_000)]
    tree["runs"][0][place] = names if place == "metrics" else dict.fromkeys(names, 1)
    with pytest.raises(ResultError, match="20000 names in one place of a run, expected at most 10000"):
        parse_result(json.dumps(tree).encode(), "the claim")


@pytest.mark.parametrize("name", SPOILED)
def test_a_result_of_another_form_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Each with the file's name; what a stranger wrote moves no cursor when it is printed."""
    path = tmp_path / "mine.json"
    path.write_text(SPOILED[name])
    with pytest.raises(ResultError, match=r"mine\.json: ") as caught:
        load_claim(path)
    assert printable(str(caught.value)).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150)
@given(data=st.data())
def test_no_change_of_a_result_breaks_the_check(
    data: st.DataObject, entry: tuple[Folder, Result], world: World
) -> None:
    """Any place of the record replaced by anything: the record is refused as such, or the check answers."""
    folder, result = entry
    tree = result.model_dump(mode="json")
    place: Any = tree
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.integers(0, 4)) == 0:
            break
        place = place[key]
    place[key] = data.draw(json_values)
    try:
        changed = Result.model_validate_json(json.dumps(tree))
    except ValueError:
        return
    assert all(printable(line) for line in check_submission(folder, changed, world.suite))
