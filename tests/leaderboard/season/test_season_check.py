"""A season is what it says, and each falsification is named."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leaderboard.season.checking import check_season, end_problems
from leaderboard.season.claims import claim_lines
from leaderboard.season.folder import SEASONS, SeasonFolder, recordings_sha256
from leaderboard.season.records import Recording, file_sha256
from leaderboard.season.rescoring import Findings, chosen
from leaderboard.season.scored import ScoredSeason, load_table
from moeload_bench.errors import MoeloadError
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.support.no_files import NO_FILES, put_no_file
from tests.support.seasons import NAME

RECIPE = f"{NAME}a-s01"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON record by hand."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree, sort_keys=True, indent=1) + "\n")


def changed_trace(season: SeasonFolder, **changes: Any) -> None:
    path = season.trace(RECIPE)
    trace = read_trace(path)
    write_trace(replace(trace, **{name: change(trace) for name, change in changes.items()}), path, overwrite=True)


def another_load(season: SeasonFolder) -> None:
    def rolled(trace: Any) -> Any:
        load_SLE = trace.load_SLE.copy()
        load_SLE[-1] = np.roll(load_SLE[-1], 1, axis=-1)
        return load_SLE

    changed_trace(season, load_SLE=rolled)


def another_trace_seed(season: SeasonFolder) -> None:
    changed_trace(season, meta=lambda trace: trace.meta.model_copy(update={"seed": 7}))


def another_rate(season: SeasonFolder) -> None:
    changed_trace(season, columns=lambda trace: {**trace.columns, "lr": 2 * trace.columns["lr"]})


Change = Callable[[pd.DataFrame], pd.DataFrame]


def rewrite(season: SeasonFolder, *, table: Change = lambda t: t, layers: Change = lambda t: t) -> None:
    """Change the table or the means by layer of all entries, and make the chain of hashes again, as a forger would."""
    results = load_table(season, layers=True)
    assert results.layers is not None
    forged = replace(results, table=table(results.table), layers=layers(results.layers), facts=results.facts.iloc[:0])
    shutil.rmtree(season.results)
    forged.save(season.results)
    chain(season)


def chain(season: SeasonFolder) -> None:
    """Write all hashes again: of fixed files, of the draw, of recordings and of scores."""
    terms = season.path / "season.toml"
    text = terms.read_text()
    for place, sha256 in tomllib.loads(text)["files"].items():
        text = text.replace(sha256, file_sha256(season.path / place))
    terms.write_text(text)
    edit(season.path / "draw.json", lambda tree: tree.update(season_sha256=file_sha256(terms)))
    draw_sha256 = file_sha256(season.path / "draw.json")

    def recorded(tree: Any) -> None:
        for run in tree["runs"].values():
            run["draw_sha256"] = draw_sha256

    edit(season.path / "recordings.json", recorded)
    files = [path for path in season.results.rglob("*.parquet")] + [season.path / "facts.parquet"]
    hashes = {path.relative_to(season.path).as_posix(): file_sha256(path) for path in files}
    recordings = recordings_sha256(SeasonFolder(season.path).recordings)
    edit(season.path / "scores.json", lambda tree: tree.update(files=hashes, recordings_sha256=recordings))


def times(name: str, factor: float, column: str = "window_tv") -> Change:
    """Multiply a column of an entry."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["forecaster"] == name
        return table.assign(**{column: table[column].where(~rows, table[column] * factor)})

    return change


def dear(name: str | None) -> Change:
    """Let an entry's runs, or those of all, have taken 30 s."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["forecaster"].isin(table["forecaster"] if name is None else [name])
        return table.assign(observe_wall_s=table["observe_wall_s"].where(~rows, 30.0))

    return change


def forge(season: SeasonFolder, name: str, factor: float) -> None:
    """Multiply an entry's errors, and make the chain of hashes again."""
    rewrite(season, table=times(name, factor))


def append(path: str, text: str = "# better\n") -> Callable[[SeasonFolder], None]:
    def change(season: SeasonFolder) -> None:
        with (season.path / path).open("a") as file:
            file.write(text)

    return change


def remove(path: str) -> Callable[[SeasonFolder], None]:
    return lambda season: (season.path / path).unlink()


def write(path: str) -> Callable[[SeasonFolder], None]:
    def change(season: SeasonFolder) -> None:
        (season.path / path).write_text("{}")

    return change


def put(path: str, change: Callable[[Any], None]) -> Callable[[SeasonFolder], None]:
    return lambda season: edit(season.path / path, change)


def without_a_task(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the worst task of an entry."""
    mine = table[table["forecaster"] == "mine"]
    worst = mine.loc[mine["window_tv"].idxmax(), "origin"]
    return table[(table["forecaster"] != "mine") | (table["origin"] != worst)]


def without_floors(season: SeasonFolder) -> None:
    """Leave out the floors of a run."""
    path = season.path / "facts.parquet"
    facts = pd.read_parquet(path)
    facts[~facts["trace"].str.startswith(RECIPE)].to_parquet(path, index=False)
    chain(season)


FALSIFICATIONS: dict[str, Callable[[SeasonFolder], None]] = {
    "drawn.toml is not what it was": append("drawn.toml"),
    "drawn.toml: left out": remove("drawn.toml"),
    "season.toml has changed since the draw": append("season.toml", "\n"),
    "recipes/small.toml is not what it was": append("recipes/small.toml"),
    f"the seed of {RECIPE} is 7, the derived one": put("draw.json", lambda tree: tree["runs"][RECIPE].update(seed=7)),
    f"the recipe of {RECIPE} is not what the value draws": put(
        "draw.json", lambda tree: tree["runs"][RECIPE].update(recipe_sha256="0" * 64)
    ),
    f"draw.json: {RECIPE} is left out": put("draw.json", lambda tree: tree["runs"].pop(RECIPE)),
    "draw.json: the seed of": put("draw.json", lambda tree: tree.update(value="cd" * 32)),
    "expected the form": put("draw.json", lambda tree: tree.update(value="a value of ours")),
    "before the public value could be known": put("draw.json", lambda tree: tree.update(drawn="2025-12-31T00:00:00Z")),
    "recorded for another draw": append("draw.json", "\n"),
    "entries/mine/forecaster.py is not what it was": append("entries/mine/forecaster.py"),
    "entries/mine/submission.toml: left out": remove("entries/mine/submission.toml"),
    "entries/_shared/season_entries/baselines/sw_avg.py is not what": append(
        "entries/_shared/season_entries/baselines/sw_avg.py"
    ),
    "entries/mine/helper.py: no part of the season": write("entries/mine/helper.py"),
    f"trace {RECIPE}: its data have changed": another_load,
    f"trace {RECIPE}: its metadata have changed": another_trace_seed,
    f"trace {RECIPE}: recorded from seed 7, drawn was": another_trace_seed,
    f"trace {RECIPE}: lr at step 0 is": another_rate,
    f"trace {RECIPE}: left out": lambda season: season.trace(RECIPE).unlink(),
    f"{RECIPE}: left out: it has no recording": put("recordings.json", lambda tree: tree["runs"].pop(RECIPE)),
    "made from other recordings": put("recordings.json", lambda tree: tree["runs"][RECIPE].update(ended="it diverged")),
    "results/mine.parquet: left out": remove("results/mine.parquet"),
    "results/mine.parquet is not what it was": lambda season: (
        (season.results / "sw_avg.parquet").replace(season.results / "mine.parquet"),
        None,
    )[1],
    "entry sw_avg was left out": put("scores.json", lambda tree: tree["files"].pop("results/sw_avg.parquet")),
    "the task list of suite.json is": put("suite.json", lambda tree: tree.update(seed=7)),
    "the task list of the traces is": put("scores.json", lambda tree: tree.update(suite_sha256="0" * 64)),
    "results/notes.txt: no part of the season": write("results/notes.txt"),
    "scores.json: scored 2998-01-01 00:00, expected a time before now": put(
        "scores.json", lambda tree: tree.update(scored="2998-01-01T00:00:00Z")
    ),
    "expected a time before scores.json: scored 1970": put(
        "scores.json", lambda tree: tree.update(scored="1970-02-01T00:00:00Z")
    ),
    "its result says isolation process, scores.json sandbox": put(
        "scores.json", lambda tree: tree.update(level="sandbox")
    ),
    "entry mine: its result lacks": lambda season: rewrite(season, table=without_a_task),
    "no entry has means by layer": lambda season: (shutil.rmtree(season.results / "layers"), chain(season))[1],
    f"facts.parquet: it has no floors of {RECIPE}": without_floors,
    "abandoned.json: no part of the season": write("abandoned.json"),
}


def check(season: SeasonFolder, **options: Any) -> list[str]:
    """What is wrong with a season, or why it is refused."""
    try:
        return check_season(SeasonFolder(season.path), **options).wrong
    except MoeloadError as error:
        return [str(error)]


@pytest.fixture
def nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry is scored again."""
    monkeypatch.setattr("leaderboard.season.checking.score_again", lambda *_, **__: Findings())


@pytest.mark.sandbox
def test_a_season_that_was_left_alone_passes(season: SeasonFolder) -> None:
    """What tests name is scored again on a third of the runs, all else once; a copy has no history."""
    notes: list[str] = []
    checked = check_season(season, seed=7, note=notes.append)
    assert checked.wrong == []
    assert len(checked.unchecked) == 1
    assert checked.unchecked[0].startswith("the order of the steps")
    assert notes == [
        "seed 7: mine, sw_avg on 1 of the 2 tested runs: one forged run among them is found with a chance of 50 %, "
        "one of three with 100 %; 2 runs of other entries, for at most 15 min; "
        "costs are as measured then: no re-run shows them"
    ]
    assert checked.to_record[0] == "small"
    assert {*checked.to_record} == {f"{NAME}a-s00", RECIPE, "small"}


def test_what_a_seed_chooses_does_not_depend_on_what_was_measured(season: SeasonFolder) -> None:
    """Costs choose nothing; another seed chooses otherwise."""
    before = chosen(ScoredSeason(season, load_table(season)), 7)
    rewrite(season, table=dear(None))
    scored = ScoredSeason(SeasonFolder(season.path), load_table(season))
    assert chosen(scored, 7) == before
    assert {work.entry for work in before.tested} == {"mine", "sw_avg"}
    assert {work.entry for work in before.rest} == {"adaptive", "shown"}
    assert len({chosen(scored, seed).tested for seed in range(20)}) > 1
    everything = chosen(scored, 7, everything=True)
    assert len({*everything.tested, *everything.rest}) == 4 * len(scored.suite.traces)


@pytest.mark.parametrize("words", FALSIFICATIONS)
def test_each_falsification_is_named(words: str, season: SeasonFolder, nothing_again: None) -> None:
    FALSIFICATIONS[words](season)
    found = check(season)
    assert any(words in line for line in found), found


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mine", lambda table: dear("mine")(times("mine", 0.5)(table))),
        ("mine", lambda table: dear(None)(times("mine", 0.1)(table))),
        ("sw_avg", times("sw_avg", 2.0)),
        ("adaptive", times("adaptive", 0.5)),
    ],
    ids=["a dear candidate", "all dear", "the reference", "an entry that no test names"],
)
def test_a_forged_error_is_named_whatever_hashes_and_costs_say(name: str, change: Change, season: SeasonFolder) -> None:
    """Costs steer nothing, and the reference is scored again as the candidate is."""
    rewrite(season, table=change)
    found = check(season)
    assert found
    assert all(line.startswith(f"entry {name}: {NAME}a-s0") for line in found)
    assert all("window_tv" in line for line in found)


@pytest.mark.sandbox
def test_floors_and_means_by_layer_are_computed_again(season: SeasonFolder) -> None:
    """Of the runs that are scored again."""
    rewrite(season, layers=times("mine", 0.5))
    assert any(line.startswith("entry mine") and ", layer " in line for line in check(season, everything=True))


@pytest.mark.sandbox
def test_forged_floors_are_named(season: SeasonFolder) -> None:
    """Their traces give others."""
    path = season.path / "facts.parquet"
    facts = pd.read_parquet(path)
    floors = facts.select_dtypes("float").columns
    facts.assign(**{name: facts[name] / 2 for name in floors}).to_parquet(path, index=False)
    chain(season)
    found = check(season)
    assert found
    assert all("floor" in line or any(str(name) in line for name in floors) for line in found)


@pytest.mark.sandbox
def test_an_entry_that_cannot_be_run_here_is_not_checked(season: SeasonFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that does not install is no pass, and neither is a run that fails from its first forecast on."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    forge(season, "mine", 0.5)
    (season.entries / "mine" / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    edit_files(season, "entries/mine/requirements.txt")
    checked = check_season(SeasonFolder(season.path), seed=1)
    assert any(line.startswith("entry mine: it cannot be run here") for line in checked.unchecked)


def edit_files(season: SeasonFolder, place: str) -> None:
    """Add a file to those that are fixed, and make the chain of hashes again."""
    terms = season.path / "season.toml"
    terms.write_text(terms.read_text().replace("[files]\n", f'[files]\n"{place}" = "{"0" * 64}"\n'))
    chain(season)


@pytest.mark.sandbox
def test_the_budget_binds_entries_that_no_test_names(season: SeasonFolder) -> None:
    """What did not fit is not checked; the rest is."""
    forge(season, "mine", 0.5)
    checked = check_season(SeasonFolder(season.path), seed=1, minutes=0)
    assert any(line.startswith("entry mine:") for line in checked.wrong)
    assert {"entry adaptive: 1 runs, no time was left", "entry shown: 1 runs, no time was left"} < {*checked.unchecked}


DIVERGED = "step 3: the loss is nan: training diverged"


def left_out(season: SeasonFolder, ended: str = DIVERGED) -> None:
    """Say that a run diverged and leave its trace out, with all hashes."""
    season.trace(RECIPE).unlink()
    change = {"ended": ended, "data_sha256": None, "meta_sha256": None}
    edit(season.path / "recordings.json", lambda tree: tree["runs"][RECIPE].update(change))
    chain(season)


def test_a_run_that_is_said_to_have_diverged_shows_it(season: SeasonFolder, nothing_again: None) -> None:
    """The steps before are recorded; such a run is among those to record again."""
    left_out(season)
    found = check_season(SeasonFolder(season.path))
    assert any(line.startswith(f"{RECIPE}: left out: said to have diverged at step 3") for line in found.wrong)
    assert {RECIPE, "small"} <= {*found.to_record}


ENDS: dict[str, tuple[str | None, int | None, str | None]] = {
    "whole": (None, 200, None),
    "cut before it diverged": (DIVERGED, 3, None),
    "cut after a step": ("training diverged after step 2", 3, None),
    "diverged at once": ("step 0: the loss is nan: training diverged", None, None),
    "no trace, no reason": (None, None, "no reason is given"),
    "no trace, no step": ("it diverged", None, "without the step: 'it diverged'"),
    "cut, no reason": (None, 50, "it ends after step 49, and no reason is given"),
    "cut earlier than said": ("step 60: the loss is nan: training diverged", 50, "and it ends after step 49"),
    "whole, said to have diverged": (DIVERGED, 200, "and it is whole"),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_end_of_a_run_is_what_its_recording_says(case: str) -> None:
    ended, steps, words = ENDS[case]
    cut = None
    if steps is not None:
        whole = Trace.from_arrays(synthetic_load_SLE(200, seed=1)[:steps], 512, 2)
        cut = replace(whole, meta=whole.meta.model_copy(update={"complete": steps == 200}))
    sha256 = None if cut is None else "0" * 64
    recording = Recording(draw_sha256="0" * 64, data_sha256=sha256, meta_sha256=sha256, ended=ended)
    found = list(end_problems(RECIPE, recording, cut))
    assert len(found) == (words is not None)
    assert all(words in line for line in found if words is not None)


def test_a_trace_is_read_once_and_a_small_file_once_more_to_be_hashed(
    season: SeasonFolder, nothing_again: None
) -> None:
    """Counted by Python's own audit of what is opened, in all of a check but the runs that are scored again: what a
    trace holds is hashed as it is read."""
    opened: Counter[str] = Counter()
    counting = [True]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and counting[0] and str(arguments[0]).startswith(str(season.path)):
            opened[str(arguments[0])] += 1

    sys.addaudithook(count)
    try:
        checked = check_season(SeasonFolder(season.path))
        assert checked.scored is not None
        list(claim_lines(checked.scored))
    finally:
        counting[0] = False
    assert len(opened) > 20
    traces = {path: times for path, times in opened.items() if path.startswith(str(season.path / "traces"))}
    assert traces
    assert {path: times for path, times in traces.items() if times > 1} == {}
    assert {path: times for path, times in opened.items() if times > 2} == {}


@pytest.mark.parametrize("name", ["season.toml", "draw.json", "recordings.json", "drawn.toml", "suite.json"])
@pytest.mark.parametrize("there", NO_FILES)
def test_what_is_no_file_is_not_waited_for(name: str, there: str, season: SeasonFolder, nothing_again: None) -> None:
    """A pipe, an endless device, a folder, a link to itself, and a file of a terabyte that takes no place."""
    path = season.path / name
    path.unlink()
    put_no_file(there, path)
    assert check(season)


UNFIT = "expected a name"
HOSTILE: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "an endless name": (
        "draw.json",
        lambda tree: tree["runs"].update({"a" * 5000: tree["runs"][RECIPE]}),
        "expected a name",
    ),
    "a name that leads out": (
        "draw.json",
        lambda tree: tree["runs"].update({"../x": tree["runs"][RECIPE]}),
        "expected a name",
    ),
    "a time before all": ("draw.json", lambda tree: tree.update(drawn="0001-01-01T00:00:00+14:00"), "drawn"),
    "no time": ("scores.json", lambda tree: tree.update(scored="soon"), "scored"),
    "a field that nobody knows": ("scores.json", lambda tree: tree.update(more=1), "more"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused_in_words(case: str, season: SeasonFolder) -> None:
    name, change, words = HOSTILE[case]
    edit(season.path / name, change)
    (line,) = check(season)
    assert name in line
    assert words in line


def test_the_table_is_in_the_order_of_the_suite(season: SeasonFolder) -> None:
    """With rows of every entry on every scored run."""
    results = load_table(season)
    assert isinstance(results.table, pd.DataFrame)
    assert sorted(results.names) == ["adaptive", "mine", "shown", "sw_avg"]
    assert results.traces == [f"{NAME}a-s00/s2027_03/seed0", f"{RECIPE}/s2027_03/seed0"]
    assert len(results.facts) > 0


@pytest.mark.sandbox
@pytest.mark.slow
def test_a_scored_season_is_what_it_says() -> None:
    """With all entries that its tests name scored again on a third of the runs, and every other one on one."""
    checked = check_season(SeasonFolder(SEASONS / "2027-02"))
    assert checked.wrong == []
    assert not any(line.startswith("entry ") for line in checked.unchecked)
