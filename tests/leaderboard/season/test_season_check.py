"""A season is what it says, and each falsification is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leaderboard.season.checking import check_season, runs_to_record_again
from leaderboard.season.folder import SEASONS, SeasonFolder
from leaderboard.season.records import file_sha256
from leaderboard.season.scored import load_table
from moeload_bench.errors import MoeloadError
from moeload_bench.traces.store import read_trace, write_trace
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


def forge(season: SeasonFolder, name: str, times: float) -> None:
    """Multiply an entry's errors, and write the new hash into scores.json."""
    results = load_table(season, layers=True).select([name])
    table = results.table.assign(window_tv=results.table["window_tv"] * times)
    path = season.results / "forged"
    replace(results, table=table, facts=results.facts.iloc[:1]).save(path)
    (path / f"{name}.parquet").replace(season.results / f"{name}.parquet")
    for file in sorted(path.rglob("*.parquet")):
        file.unlink()
    (path / "layers").rmdir()
    path.rmdir()
    place = f"results/{name}.parquet"
    sha256 = file_sha256(season.path / place)
    edit(season.path / "scores.json", lambda tree: tree["files"].update({place: sha256}))


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
    "abandoned.json: no part of the season": write("abandoned.json"),
}


def check(season: SeasonFolder, everything: bool = False) -> list[str]:
    """What is wrong with a season, or why it is refused."""
    try:
        return check_season(SeasonFolder(season.path), everything)
    except MoeloadError as error:
        return [str(error)]


@pytest.mark.sandbox
def test_a_season_that_was_left_alone_passes(season: SeasonFolder) -> None:
    """The candidate and one more entry are scored again."""
    notes: list[str] = []
    assert check_season(season, note=notes.append) == []
    assert notes[0] == "entry mine: scored again on 2 of 2 runs"
    assert len(notes) == 2
    assert set(runs_to_record_again(season)) == {f"{NAME}a-s00", RECIPE}


@pytest.mark.parametrize("words", FALSIFICATIONS)
def test_each_falsification_is_named(words: str, season: SeasonFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaderboard.season.checking.scored_again", lambda *_: iter(()))
    FALSIFICATIONS[words](season)
    found = check(season)
    assert any(words in line for line in found), found


@pytest.mark.sandbox
@pytest.mark.parametrize(("name", "everything"), [("mine", False), ("adaptive", True)])
def test_a_forged_error_is_named_whatever_hashes_say(name: str, everything: bool, season: SeasonFolder) -> None:
    """Of the candidate always, of another entry by `--all`."""
    forge(season, name, 0.5)
    found = check(season, everything)
    assert found
    assert all(line.startswith(f"entry {name}: {NAME}a-s0") for line in found)
    assert all("window_tv" in line for line in found)


@pytest.mark.parametrize("name", ["season.toml", "draw.json", "recordings.json", "drawn.toml", "suite.json"])
@pytest.mark.parametrize("there", NO_FILES)
def test_what_is_no_file_is_not_waited_for(
    name: str, there: str, season: SeasonFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, an endless device, a folder, a link to itself, and a file of a terabyte that takes no place."""
    monkeypatch.setattr("leaderboard.season.checking.scored_again", lambda *_: iter(()))
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
    """With its candidate and one more entry scored again."""
    assert check_season(SeasonFolder(SEASONS / "2027-02")) == []
