"""A season is what it committed to, and each way to cheat is refused by name. Traces are made here, not trained."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from leaderboard.season_tools.checking import check_season, runs_to_record_again
from leaderboard.season_tools.closing import (
    close_season,
    entry_changes,
    entry_of,
    entry_target,
    new_season,
    packages_sha256,
    reveal_season,
)
from leaderboard.season_tools.drawing import draw_number, draw_run, fork_origins, value_in_range
from leaderboard.season_tools.folder import NO_LINE, SeasonFolder, logged_attempt, published_at, read_record
from leaderboard.season_tools.recording import draw_value, record_season
from leaderboard.season_tools.records import Commitment, ForkPlan, LogLine, Plan, Varies
from leaderboard.season_tools.scoring import score_season
from moeload_bench.errors import SeasonError, SubmissionError
from moeload_bench.isolation import sources
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.results.record import load_result
from moeload_bench.submissions.requirements import install_packages
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import read_trace, write_trace
from tests.support.seasons import (
    PUBLIC,
    STEPS,
    VALUE,
    open_season,
    planned_season,
    record_made,
    revealed_season,
)
from tests.support.submitted import wheel


@pytest.fixture(scope="module")
def revealed(tmp_path_factory: pytest.TempPathFactory) -> SeasonFolder:
    """A whole season, once for all tests, which copy it."""
    return revealed_season(tmp_path_factory.mktemp("season"))


@pytest.fixture
def season(revealed: SeasonFolder, tmp_path: Path) -> SeasonFolder:
    shutil.copytree(revealed.path, tmp_path / "2026-12")
    return SeasonFolder(tmp_path / "2026-12")


@pytest.fixture(scope="module")
def repository(revealed: SeasonFolder) -> Path:
    """The season in a repository of two commits."""
    root = revealed.path.parent.parent
    for words in (["init", "-q"], ["config", "user.email", "a@b.c"], ["config", "user.name", "a"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    subprocess.run(["git", "-C", str(root), "add", "seasons"], check=True)
    for name in ("the season", "what came after"):
        subprocess.run(["git", "-C", str(root), "commit", "-q", "--allow-empty", "-m", name], check=True)
    return root


@pytest.fixture
def shallow(repository: Path, tmp_path: Path) -> SeasonFolder:
    """The season in a clone without history."""
    clone = ["git", "clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    return SeasonFolder(tmp_path / "clone" / "seasons" / "2026-12")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Today's code of `sw_avg` is another than at closing."""
    found = sources.find_module

    def changed(name: str) -> Path | None:
        path = found(name)
        if path is not None and name.endswith(".sw_avg"):
            (tmp_path / "sw_avg.py").write_text(path.read_text() + "# changed\n")
            return tmp_path / "sw_avg.py"
        return path

    monkeypatch.setattr(sources, "find_module", changed)


def test_a_season_that_was_kept_passes(season: SeasonFolder) -> None:
    """Commitment, draw, hashes, scores, reveal and log agree, without the maintainer's secret folder."""
    shutil.rmtree(season.private)
    assert check_season(season) == []
    assert set(runs_to_record_again(season.plan(), season.runs())) <= set(season.plan().wanted())


def test_every_entry_has_a_score_on_every_run(season: SeasonFolder) -> None:
    """Results are ordinary records on the season's own suite."""
    for entry in season.commitment().entries:
        result = load_result(season.results / f"{entry.name}.json")
        assert {run.trace for run in result.runs} == {run.trace for run in season.runs()}
        assert result.failures == []


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON record by hand, canonical text kept."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree, sort_keys=True, indent=1) + "\n")


def _another_seed(season: SeasonFolder) -> None:
    edit(season.path / "reveal.json", lambda tree: tree["runs"][0].update(seed=7))


def _another_trace_seed(season: SeasonFolder) -> None:
    path = season.traces / f"{season.runs()[0].trace}.parquet"
    trace = read_trace(path)
    write_trace(replace(trace, meta=trace.meta.model_copy(update={"seed": 7})), path, overwrite=True)


def _another_secret(season: SeasonFolder) -> None:
    edit(season.path / "reveal.json", lambda tree: tree.update(secret="0" * 64))


def _a_changed_entry(season: SeasonFolder) -> None:
    path = season.entries / "mine" / "forecaster.py"
    path.write_text(path.read_text() + "# better\n")


def _a_changed_weight(season: SeasonFolder) -> None:
    edit(season.path / "commitment.json", lambda tree: tree["entries"][0]["files"].update({"forecaster.py": "0" * 64}))


def _a_run_left_out(season: SeasonFolder) -> None:
    (season.path / "runs" / "other.0.json").unlink()


def _an_entry_left_out(season: SeasonFolder) -> None:
    (season.results / "sw_avg.json").unlink()


def _a_changed_trace(season: SeasonFolder) -> None:
    path = season.traces / f"{season.runs()[0].trace}.parquet"
    trace = read_trace(path)
    load_SLE = trace.load_SLE.copy()
    load_SLE[-1] = np.roll(load_SLE[-1], 1, axis=-1)
    write_trace(replace(trace, load_SLE=load_SLE), path, overwrite=True)


def _a_score_before_the_hashes(season: SeasonFolder) -> None:
    edit(season.path / "scores.json", lambda tree: tree.update(published_sha256="0" * 64))


def _a_changed_result(season: SeasonFolder) -> None:
    edit(season.results / "mine.json", lambda tree: tree.update(fit_wall_s=1.0))


def _a_line_out_of_the_log(season: SeasonFolder) -> None:
    lines = season.log.read_text().splitlines(keepends=True)
    season.log.write_text("".join(lines[:3] + lines[4:]))


def _a_log_rewritten_as_a_whole(season: SeasonFolder) -> None:
    """Each line follows the one before, and no refused attempt is in it."""
    before, text = NO_LINE, ""
    for number, action in enumerate(("new", "close", "record", "score", "reveal")):
        line = LogLine(number=number, at=season.draw().drawn, action=action, outcome="done", before=before)  # type: ignore[union-attr, arg-type]
        before, text = line.sha256(), f"{text}{line.model_dump_json()}\n"
    season.log.write_text(text)


def _a_date_before_the_one_before(season: SeasonFolder) -> None:
    edit(season.path / "draw.json", lambda tree: tree.update(drawn="2020-01-01T00:00:00+00:00"))


def _a_log_that_runs_backwards(season: SeasonFolder) -> None:
    lines = season.log.read_text().splitlines(keepends=True)
    season.log.write_text("".join([*lines[:-1], re.sub(r'"at":"\d+', '"at":"1999', lines[-1])]))


def _a_time_that_is_none(season: SeasonFolder) -> None:
    edit(season.path / "commitment.json", lambda tree: tree.update(closed="some day"))


def _another_season(season: SeasonFolder, **changes: Any) -> None:
    other = season.path.parent / "2026-09"
    other.mkdir()
    for name in ("plan.json", "draw.json"):
        shutil.copy(season.path / name, other / name)
    edit(other / "plan.json", lambda tree: tree.update(name="2026-09", **changes))


def _a_secret_used_before(season: SeasonFolder) -> None:
    _another_season(season)


def _a_value_used_before(season: SeasonFolder) -> None:
    _another_season(season, secret_sha256="0" * 64)


def _a_value_in_another_spelling(season: SeasonFolder) -> None:
    edit(season.path / "draw.json", lambda tree: tree.update(value=VALUE.replace(" ", "\u00a0")))


def _another_stage(season: SeasonFolder) -> None:
    path = season.traces / "small" / "s2026_12" / "seed0.parquet"
    trace = read_trace(path)
    columns = {**trace.columns, "stage": 1 - trace.columns["stage"]}
    write_trace(replace(trace, columns=columns), path, overwrite=True)


def _changed_metadata(season: SeasonFolder) -> None:
    path = season.traces / f"{season.runs()[0].trace}.parquet"
    trace = read_trace(path)
    write_trace(replace(trace, meta=trace.meta.model_copy(update={"notes": ("better",)})), path, overwrite=True)


def _columns_left_out(season: SeasonFolder) -> None:
    path = season.traces / "small" / "s2026_12" / "seed0.parquet"
    trace = read_trace(path)
    write_trace(replace(trace, columns={}), path, overwrite=True)


def _a_recipe_of_another_season(season: SeasonFolder) -> None:
    for path in (season.path / "runs" / "small.0.json", season.path / "reveal.json"):
        path.write_text(path.read_text().replace('"recipe": "small"', '"recipe": "large"'))


def _chosen_origins(season: SeasonFolder) -> None:
    edit(season.path / "suite.json", lambda tree: tree["traces"][0].update(stable=[], transient=[100]))


def _chosen_origins_everywhere(season: SeasonFolder) -> None:
    """In the task list, and in all that was scored on it: only the traces tell."""
    _chosen_origins(season)
    sha256 = read_record(Suite, season.path / "suite.json").sha256()
    edit(season.path / "scores.json", lambda tree: tree.update(suite_sha256=sha256))


CHEATS: dict[str, Callable[[SeasonFolder], None]] = {
    "seed 7 is not the derived one": _another_seed,
    "recorded from seed 7, the derived one is": _another_trace_seed,
    "the secret's hash is": _another_secret,
    "entry mine has changed since closing: forecaster.py is": _a_changed_entry,
    "commitment.json has changed since the draw": _a_changed_weight,
    "other run 0: left out: it has no hashes": _a_run_left_out,
    "entry sw_avg was left out: it has no result": _an_entry_left_out,
    "seed0 has changed: its hash is": _a_changed_trace,
    "a score before the hashes": _a_score_before_the_hashes,
    "results/mine.json has changed since it was scored": _a_changed_result,
    "a line was changed or left out": _a_line_out_of_the_log,
    "no line of it before record: it was rewritten": _a_log_rewritten_as_a_whole,
    "before what comes before it: dates run backwards": _a_date_before_the_one_before,
    "log.jsonl: line 10 is 1999": _a_log_that_runs_backwards,
    "commitment.json: closed: got 'some day', expected a time": _a_time_that_is_none,
    "the secret is that of season 2026-09 too": _a_secret_used_before,
    "the public value is that of season 2026-09 too": _a_value_used_before,
    "is not of the plan's form": _a_value_in_another_spelling,
    "stage at step 0 is 1, the recipe says 0": _another_stage,
    "there is no column lr, which its recorder writes": _columns_left_out,
    "large run 0: not in the plan": _a_recipe_of_another_season,
    "its metadata have changed since its hashes were published": _changed_metadata,
    "the task list of suite.json is": _chosen_origins,
    "the task list of the traces is": _chosen_origins_everywhere,
}


@pytest.mark.parametrize("words", CHEATS)
def test_the_check_names_what_is_not_as_committed(words: str, season: SeasonFolder) -> None:
    """Each cheat alone, found from the published folder."""
    CHEATS[words](season)
    found = check_season(season)
    assert any(words in line for line in found), found


@pytest.mark.parametrize("words", CHEATS)
def test_a_shallow_clone_shows_each_cheat_too(words: str, shallow: SeasonFolder) -> None:
    """As much as the whole history."""
    CHEATS[words](shallow)
    found = check_season(shallow)
    assert any(words in line for line in found), found


def test_a_season_passes_in_a_shallow_clone(shallow: SeasonFolder, repository: Path) -> None:
    """It says that it does not show when hashes were published; a whole clone does not say so."""
    notes: list[str] = []
    assert check_season(shallow, note=notes.append) == []
    (note,) = notes
    assert "this clone is shallow: it cannot show when the hashes were published" in note
    assert "git fetch --unshallow" in note
    assert check_season(SeasonFolder(repository / "seasons" / "2026-12"), note=notes.append) == []
    assert len(notes) == 1


@pytest.mark.usefixtures("later")
def test_a_baseline_that_changed_since_closing_is_named(shallow: SeasonFolder) -> None:
    """With the commit that has the code of its entry."""
    (line,) = check_season(shallow)
    assert line.startswith("entry sw_avg has changed since closing: the code of its target")
    assert line.endswith(f"the entries were closed at commit {shallow.commitment().commit}")


@pytest.mark.slow
def test_packages_are_compared_where_the_same_wheels_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed ones are named; on another Python or platform, or offline, a line says that they are not compared."""
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for place, code in (("wheels", "X = 1\n"), ("others", "X = 2\n")):
        wheel(tmp_path / place, "a", "1.0", code)
    source: dict[str, Any] = {"find_links": tmp_path / "wheels", "no_index": True}
    folder, entries = planned_season(tmp_path)
    (entries[0] / "requirements.txt").write_text("a==1.0\n")
    close_season(folder, entries, **source)
    with logged_attempt(folder, "record"):
        record_made(folder)
    score_season(folder, level="none", published="the test", **source)
    reveal_season(folder)
    notes: list[str] = []
    assert check_season(folder, **source, note=notes.append) == notes == []
    for other in ({"find_links": tmp_path / "others"}, {}):
        assert check_season(folder, **other, no_index=True, note=notes.append) == []
        assert "entry mine: packages not compared: the requirements do not install" in notes.pop()
    monkeypatch.setattr("platform.python_version", lambda: "3.99.1")
    assert check_season(folder, find_links=tmp_path / "others", no_index=True, note=notes.append) == []
    assert re.search(
        r"entry mine: packages not compared: they are wheels for Python 3\.\d+ on .*, this is Python 3\.99 on", notes[0]
    )


def test_a_wheel_that_came_after_closing_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a build tag, added to a released version later, is newer to pip; the committed one is scored."""
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    honest = wheel(tmp_path / "wheels", "a", "1.0", "X = 1\n")
    source: dict[str, Any] = {"find_links": tmp_path / "wheels", "no_index": True}
    folder, entries = planned_season(tmp_path)
    (entries[0] / "requirements.txt").write_text("a==1.0\n")
    (entry, *_) = (one for one in close_season(folder, entries, **source).entries if one.name == "mine")
    assert entry.wheels == {honest.name: bytes_sha256(honest)}
    assert entry_changes(entry, entry_of(folder.entries / "mine", entry, **source)) is None
    wheel(tmp_path / "later", "a", "1.0", "X = 2\n").rename(tmp_path / "wheels" / "a-1.0-1-py3-none-any.whl")
    for again in (entry_target, entry_of):
        with pytest.raises(SubmissionError, match="DO NOT MATCH THE HASHES"):
            again(folder.entries / "mine", entry, **source)


def test_a_commitment_names_the_scheme_of_its_wheels() -> None:
    """One of scheme 1 keeps its text; one of scheme 2 without the hash of a wheel is refused."""
    text = Path("leaderboard/seasons/2027-01/commitment.json").read_text()
    assert Commitment.model_validate_json(text).to_json() == text
    without = json.loads(text)
    for entry in without["entries"]:
        entry.pop("wheels", None)
    with pytest.raises(ValidationError, match=r"got the hashes of 0 wheels, expected \d+"):
        Commitment.model_validate(without | {"scheme": 2})
    del without["scheme"]
    assert json.loads(Commitment.model_validate(without).to_json()) == without


def test_a_recipe_that_is_not_planned_is_refused_by_name(season: SeasonFolder) -> None:
    """With the recipes that are."""
    with pytest.raises(SeasonError, match="season 2026-12 has no recipe 'large'; there is: small, other"):
        season.plan().recipe("large")


@pytest.mark.parametrize("name", ["small.1.json", "copy.json"])
def test_a_second_trace_for_one_run_is_refused_by_the_name_of_its_file(name: str, season: SeasonFolder) -> None:
    """A run has one file, named as the run; so one of two recordings cannot be chosen later."""
    shutil.copy(season.path / "runs" / "small.0.json", season.path / "runs" / name)
    said = f"runs/{name}: got the hashes of 'small/s2026_12/seed0', expected small/s2026_12/seed0 in runs/small.0.json"
    assert said in check_season(season)
    for record in ("scores.json", "reveal.json"):
        (season.path / record).unlink()
    with pytest.raises(SeasonError, match="a run has one trace"):
        score_season(season, level="none", published="the test")


@pytest.mark.parametrize(
    "spelling",
    [VALUE, f" {VALUE}\n", VALUE.replace(" ", "\u00a0"), VALUE.replace(" ", "  "), VALUE.replace("v", "\uff56")],
)
def test_a_public_value_has_one_spelling(spelling: str, tmp_path: Path) -> None:
    """Otherwise a maintainer could try blanks, no-break spaces and full-width letters until the draw suits."""
    folder = open_season(tmp_path)
    assert draw_value(folder, spelling, "the test").value == VALUE


def test_a_public_value_of_another_form_is_refused(tmp_path: Path) -> None:
    """The plan says which: here a hash."""
    folder = open_season(tmp_path, value_form="[0-9a-f]{64}")
    for value in ("A" * 64, f"0x{'0' * 64}", "0" * 63, "\u0430" * 64):
        with pytest.raises(SeasonError, match=r"got '.*', expected the plan's form \[0-9a-f\]\{64\}"):
            draw_value(folder, value, "the test")
    assert draw_value(folder, f"{'ab' * 32} ", "the test").value == "ab" * 32


@pytest.mark.parametrize("field", ["runs", "steps", "checkpoint_every", "value_form"])
def test_what_a_plan_may_ask_for_is_bounded_before_anything_is_made(field: str, tmp_path: Path) -> None:
    """2^31 runs are refused at once, and no secret is drawn for them."""
    with pytest.raises(SeasonError, match=field):
        planned_season(tmp_path, **{field: "(" if field == "value_form" else 2**60})
    assert not (tmp_path / "seasons").exists()


def test_the_product_of_runs_and_futures_is_bounded() -> None:
    """Each within its bound, a billion of them are not."""
    plan = json.loads(Path("leaderboard/seasons/2027-01/plan.json").read_text())
    plan["forks"] |= {"origins": 1000, "futures": 1000, "within": [[0, 1]] * 1000}
    with pytest.raises(ValidationError, match=r"got 2000046 runs and forks, expected at most 100000"):
        Plan.model_validate(plan)


def test_a_full_disk_in_one_line_of_the_log_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """Half a line would have been the last one forever."""
    folder = SeasonFolder(tmp_path)
    folder.append("new", "begun", "first")
    before, (soft, hard) = folder.log.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.append("new", "done", "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.log.read_bytes() == before
    folder.append("new", "done", "second")
    assert [line.detail for line in folder.lines()] == ["first", "second"]


def test_a_line_of_the_log_that_was_torn_off_is_none(tmp_path: Path) -> None:
    """By a kill in the middle of it: it is not read, and the next line takes its place."""
    folder = SeasonFolder(tmp_path)
    folder.append("new", "begun", "one\u2028line")
    with folder.log.open("a") as file:
        file.write('{"number":1,"at":"20')
    assert [line.number for line in folder.lines()] == [0]
    folder.append("new", "done", "")
    assert [line.before for line in folder.lines()] == [NO_LINE, folder.lines()[0].sha256()]
    folder.log.write_bytes(b"\xff\n")
    with pytest.raises(SeasonError, match="not text: byte 0 is not UTF-8"):
        folder.lines()


def test_a_kill_after_any_record_leaves_a_season_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a record and the line of the log that says it is done; half-made scores count nothing."""
    folder, entries = planned_season(tmp_path)
    append = SeasonFolder.append

    def killed(self: SeasonFolder, action: Any, outcome: Any, detail: str) -> None:
        if outcome == "done":
            raise KeyboardInterrupt
        append(self, action, outcome, detail)

    monkeypatch.setattr(SeasonFolder, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        close_season(folder, entries)
    with pytest.raises(KeyboardInterrupt), logged_attempt(folder, "record"):
        record_made(folder)
    folder.results.mkdir()
    (folder.results / "mine.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        score_season(folder, level="none", published="the test")
    with pytest.raises(KeyboardInterrupt):
        reveal_season(folder)
    monkeypatch.setattr(SeasonFolder, "append", append)
    reveal_season(folder)
    assert check_season(folder) == []


def test_a_clock_that_jumps_back_makes_no_date_run_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the log takes the time of the one before; a record is refused until the clock is set."""
    folder, entries = planned_season(tmp_path)
    monkeypatch.setattr("leaderboard.season_tools.folder.utc_now", lambda: "1999-01-01T00:00:00+00:00")
    with pytest.raises(SeasonError, match="the clock of this machine says 1999-01-01T00:00:00"):
        close_season(folder, entries)
    folder.append("close", "begun", "")
    assert [line.at for line in folder.lines()] == sorted(line.at for line in folder.lines())
    assert folder.lines()[-1].at > "2000"


def test_a_file_that_cannot_be_read_hides_nothing_else(season: SeasonFolder) -> None:
    """Each is named with its reason, beside what is wrong elsewhere: the check ends in words, whatever lies there."""
    _a_line_out_of_the_log(season)
    trace = season.traces / f"{season.runs()[0].trace}.parquet"
    broken = [trace, season.results / "mine.json", season.path / "suite.json"]
    for path in broken:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (season.entries / "sw_avg" / "submission.toml").write_text("name = ")
    found = check_season(season)
    for path in broken:
        assert any(path.name in line for line in found), (path, found)
    assert any("submission.toml" in line or "entry sw_avg" in line for line in found)
    assert any("a line was changed or left out" in line for line in found)


def test_each_step_refuses_what_comes_too_early_or_too_late(tmp_path: Path) -> None:
    """In the order of a season, each refusal in its own words; all of them are in the log."""
    folder = open_season(tmp_path)
    refusals = [
        (lambda: close_season(folder, []), "is closed already"),
        (lambda: new_season(folder, "2026-12", [], PUBLIC), "a secret is drawn once"),
        (lambda: record_season(folder, VALUE), "publish them before the draw"),
        (lambda: score_season(folder, level="none"), "no score before the hashes of every run"),
        (lambda: reveal_season(folder), "has no scores yet"),
        (lambda: check_season(folder), "not revealed yet"),
    ]
    for call, words in refusals:
        with pytest.raises(SeasonError, match=words):
            call()
    record_made(folder)
    with pytest.raises(SeasonError, match="nothing is drawn twice"):
        draw_value(folder, "a better value", "the test")
    with pytest.raises(SeasonError, match="no score before they are published"):
        score_season(folder, level="none")
    refused = [line.detail for line in folder.lines() if line.outcome == "refused"]
    assert any("no score before the hashes" in detail for detail in refused)


def test_both_ends_of_what_may_vary_are_tried_before_closing(tmp_path: Path) -> None:
    """A range that ends beyond the run would make the draw a dead end; so would a name that is no recipe's."""
    late = {"small": (Varies(key="data.stages.1.start", low=5, high=STEPS + 5),)}
    with pytest.raises(
        SeasonError, match=r"recipe small with data.stages.1.start 405: .*data.stages reaches to step 405"
    ):
        planned_season(tmp_path / "a", varies=late)
    with pytest.raises(SeasonError, match="recipe 'smal' is to vary and is not in the season; there is: small, other"):
        planned_season(tmp_path / "b", varies={"smal": late["small"]})


def test_a_value_too_short_to_say_what_it_is_is_refused(tmp_path: Path) -> None:
    """With what to write instead; nothing is drawn."""
    folder = open_season(tmp_path)
    with pytest.raises(SeasonError, match=r"the public value, .*; write a short one with its name and day"):
        draw_value(folder, "0427135", "the test")
    assert folder.draw() is None


def test_an_entry_with_weights_can_be_closed(tmp_path: Path) -> None:
    """They are copied and hashed with its code, and a name that is there twice is refused."""
    folder, entries = planned_season(tmp_path)
    np.savez(entries[0] / "forecaster.npz", w=np.zeros(3))
    record = entries[0] / "submission.toml"
    sha256 = hashlib.sha256((entries[0] / "forecaster.npz").read_bytes()).hexdigest()
    record.write_text(f'weights_sha256 = "{sha256}"\n{record.read_text()}')
    with pytest.raises(SeasonError, match="entries mine are there twice"):
        close_season(folder, entries, unranked=[entries[0]])
    (folder.entries / "left").mkdir(parents=True)
    made = close_season(folder, entries)
    assert made.entries[0].files["forecaster.npz"] == sha256
    assert sorted(path.name for path in folder.entries.iterdir()) == ["mine", "sw_avg"]


def test_a_season_takes_one_of_a_group_of_near_twins(tmp_path: Path) -> None:
    """Each of its recipes has a vote, and they are one training at first."""
    twins, folder = ["qwen3moe-16e-aux0", "qwen3moe-16e-shift"], SeasonFolder(tmp_path / "season")
    with pytest.raises(SeasonError, match="qwen3moe-16e-aux0, qwen3moe-16e-shift are near twins in suite v3"):
        new_season(folder, "2027-01", twins, PUBLIC, suite="v3")
    assert not folder.path.exists()


def test_an_entry_that_changed_after_closing_is_not_scored(tmp_path: Path) -> None:
    """Nor is a trace whose hash is not the published one."""
    folder = open_season(tmp_path)
    record_made(folder)
    code = folder.entries / "mine" / "forecaster.py"
    honest = code.read_text()
    code.write_text(honest + "\n")
    with pytest.raises(SeasonError, match=r"entry mine has changed since closing: forecaster\.py"):
        score_season(folder, level="none", published="the test")
    code.write_text(honest)
    path = next(folder.recordings.glob("small/s2026_12/*.parquet"))
    trace = read_trace(path)
    write_trace(replace(trace, load_SLE=np.roll(trace.load_SLE, 1, axis=0)), path, overwrite=True)
    with pytest.raises(Exception, match="expected"):
        score_season(folder, level="none", published="the test")


def test_a_later_score_is_a_public_one(season: SeasonFolder) -> None:
    """A revealed season is scored no more."""
    with pytest.raises(SeasonError, match="a later score is a public one"):
        score_season(season, level="none", published="the test")


def test_publication_is_a_commit_that_holds_the_files_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is changed, or not committed, is not published; from where one asks does not matter."""
    for words in (["init", "-q"], ["config", "user.email", "a@b.c"], ["config", "user.name", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "one").write_text("1")
    assert published_at([tmp_path / "one"]) is None
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "commit", "-qm", "one"], check=True)
    commit = published_at([tmp_path / "one"])
    assert len(commit or "") == 40
    monkeypatch.chdir(tmp_path.parent)
    assert published_at([Path(tmp_path.name) / "one"]) == commit
    (tmp_path / "one").write_text("2")
    assert published_at([tmp_path / "one"]) is None


def test_git_does_not_see_the_secret(tmp_path: Path) -> None:
    """Whoever commits the whole folder commits no secret, no trace and no secret recipe."""
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    folder = open_season(tmp_path)
    record_made(folder)
    subprocess.run(["git", "-C", str(tmp_path), "add", "--all"], check=True)
    shown = subprocess.run(["git", "-C", str(tmp_path), "ls-files"], capture_output=True, text=True, check=True).stdout
    assert "plan.json" in shown
    assert "private" not in shown
    secret = folder.secret()
    assert all(secret not in path.read_text() for path in folder.path.glob("*.json*"))


def test_an_open_season_is_recorded_in_several_places(tmp_path: Path) -> None:
    """Its folder alone, without what git ignores, gives the same draw elsewhere; no trace has to be moved to reveal."""
    folder = open_season(tmp_path, in_the_open=True, secret_recipes=())
    with logged_attempt(folder, "record"):
        record_made(folder)
    assert not folder.private.exists()
    shutil.copytree(folder.path, tmp_path / "elsewhere")
    moved = SeasonFolder(tmp_path / "elsewhere")
    draws = [draw_run(one.plan(), one.secret(), VALUE, "small", 0) for one in (folder, moved)]
    assert draws[0] == draws[1]
    score_season(moved, level="none", published="the test")
    reveal_season(moved)
    assert check_season(moved) == []
    edit(moved.path / "plan.json", lambda tree: tree.update(secret="0" * 64))
    assert "the secret is another than the one that plan.json shows" in check_season(moved)


def test_an_open_season_has_no_secret_recipes(tmp_path: Path) -> None:
    """Its secrets would be known from the beginning, or be lost with the machine."""
    with pytest.raises(SeasonError, match=r"an open season has no secrets, got the secret recipes \['other'\]"):
        open_season(tmp_path, in_the_open=True)


@given(st.integers(0, 2**63 - 1), st.integers(-50, 50), st.integers(0, 100))
def test_drawn_numbers_lie_in_their_range(number: int, low: int, width: int) -> None:
    """Whole numbers and rates, ends included."""
    value = value_in_range(Varies(key="a.b", low=low, high=low + width), number)
    assert low <= value <= low + width
    assert value.is_integer()
    assert 1e-4 <= value_in_range(Varies(key="a.b", low=1e-4, high=1e-2, kind="log"), number) <= 1e-2


@given(st.tuples(*[st.integers(0, 2**63 - 1)] * 2), st.integers(1, 10))
def test_a_fork_begins_in_the_range_that_the_plan_names(draws: tuple[int, int], every: int) -> None:
    """One early and one late, at checkpoints; a range without a checkpoint is refused."""
    forks = ForkPlan(steps=60, within=((50, 90), (250, STEPS)))
    early, late = fork_origins(STEPS, forks, every, list(draws))
    assert 50 <= early <= 90
    assert 250 <= late <= STEPS - 60
    assert early % every == late % every == 0
    with pytest.raises(SeasonError, match="no fork fits steps 50 to 90: checkpoints are 100 steps apart"):
        fork_origins(STEPS, forks, 100, list(draws))
    with pytest.raises(ValidationError, match="got 1 ranges of steps, expected 2"):
        ForkPlan(recipes=("small",), within=((50, 90),))


def test_every_recipe_run_and_purpose_has_a_number_of_its_own() -> None:
    """63 bits, as docs say: a stranger derives the same ones; another secret or value gives others."""
    text = f'["moeload-bench season",1,"{"0" * 64}","value","small",0,"seed"]'
    number = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2
    assert draw_number("0" * 64, "value", "small", 0, "seed") == number
    keys = [
        ("0", "v", "a", 0, "seed"),
        ("1", "v", "a", 0, "seed"),
        ("0", "w", "a", 0, "seed"),
        ("0", "v", "b", 0, "seed"),
    ]
    keys += [("0", "v", "a", 1, "seed"), ("0", "v", "a", 0, "origin 0")]
    found = {draw_number(*key) for key in keys}
    assert len(found) == len(keys)
    assert all(0 <= number < 2**63 for number in found)


def test_what_is_drawn_needs_both_the_secret_and_the_value(season: SeasonFolder) -> None:
    """A run's seed is another in every recipe."""
    plan, secret = season.plan(), season.reveal().secret  # type: ignore[union-attr]
    one, other = (draw_run(plan, secret, VALUE, recipe, 0) for recipe in ("small", "other"))
    assert one.seed != other.seed
    assert draw_run(plan, secret, "another value", "small", 0).seed != one.seed
    assert 5 <= one.varied["data.stages.1.start"] <= 300


def test_every_byte_of_an_entry_s_wheels_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scripts and records too, wherever it was unpacked; scheme 1 left those out."""

    def unpacked(place: str, members: dict[str, str]) -> tuple[str, str]:
        monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / place / "cache"))
        (tmp_path / place).mkdir()
        wheel(tmp_path / place / "wheels", "a", "1.0", "X = 1\n", members)
        folder = install_packages(("a==1.0",), find_links=tmp_path / place / "wheels", no_index=True)
        assert folder is not None
        return packages_sha256(folder), packages_sha256(folder, every=False)

    first, old = unpacked("here", {"a-1.0.data/scripts/a": "#!python\n"})
    assert unpacked("there", {"a-1.0.data/scripts/a": "#!python\n"}) == (first, old)
    for place, members in {
        "script": {"a-1.0.data/scripts/a": "#!x\n"},
        "url": {"a-1.0.dist-info/direct_url.json": ""},
    }.items():
        found = unpacked(place, members)
        assert found[0] != first
        assert found[1] == old
