"""README.md, the site and the terminal show the numbers of leaderboard/results/SUITE.csv."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

import pytest

from leaderboard.committed import RESULTS, ROOT
from leaderboard.pages.results import results_of
from leaderboard.pages.summaries import FIELDS, summary
from leaderboard.season_tools.scored import scored_seasons
from leaderboard.season_tools.sets import by_part
from leaderboard.site import payload
from leaderboard.site.inputs import read_board
from leaderboard.site.words import signed_skill as site_skill
from leaderboard.site.words import three_digits as site_digits
from moeload_bench.cli.progress import plain_console
from moeload_bench.results.brief import _short, brief_tables
from moeload_bench.results.collection import Results
from moeload_bench.results.comparison import errors_of, skill
from moeload_bench.results.grid import ALL, COLUMNS
from moeload_bench.results.tables import signed_skill
from moeload_bench.scoring.catalogue import PRIMARY
from tests.conftest import need
from tests.support.site_world import cell

need("jinja2", "pip install -e '.[site]'")
Numbers = Mapping[tuple[str, str, str], Mapping[str, float | None]]


def numbers_of(name: str) -> Numbers:
    """By forecaster, state and horizon, what the file says of the primary metric over all recipes."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["metric"], row["recipe"]) == (PRIMARY, ALL)]
    return {
        (row["forecaster"], row["state"], row["horizon"]): {
            field: float(row[field]) if row[field] else None for field in ("value", "excess", "skill")
        }
        for row in rows
    }


def test_the_file_of_a_suite_is_what_its_results_give() -> None:
    """Every column is described, and made anew the smallest file is the same; `--check` compares all of them."""
    assert set(FIELDS) <= COLUMNS.keys()
    assert (RESULTS / "mini.csv").read_text(encoding="utf-8") == summary(results_of("mini"))
    for path in RESULTS.glob("*.csv"):
        assert path.stat().st_size < 1.5e6, path.name


def test_readme_shows_the_gains_of_the_newest_season() -> None:
    """A row of README is a part of it; a gain is the skill of the candidate against the tuned average there."""
    season = scored_seasons()[0]
    assert season.draws is not None
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- generated: season")[1].split("<!-- end")[0]
    rows = re.findall(r"^\| (set \w, \w+ batches) \| (\S+) % [^|]+ \| (\S+) % ", text, re.MULTILINE)
    parts = by_part(season)
    assert [title for title, *_ in rows] == list(parts)
    for title, *shown in rows:
        errors = errors_of(parts[title].results, PRIMARY)
        for state, gain in zip(("transient", "stable"), shown, strict=True):
            found, _ = skill(errors.select(state=state), season.draws.candidate, season.draws.tuned_average)
            assert gain == f"{100 * found:+.1f}"


@pytest.mark.slow
def test_the_site_shows_the_numbers_of_the_file() -> None:
    """Value, excess and skill of every forecaster, state and horizon."""
    board = read_board(ROOT, RESULTS / "mini")
    numbers, views = numbers_of("mini"), payload.metric_payload(board, PRIMARY)["views"]
    for (name, state, horizon), found in numbers.items():
        view = views[f"{state} {ALL} {horizon}"]
        at = [entry.name for entry in board.entries].index(name)
        assert cell(view, at, "value") == site_digits(found["value"])
        if horizon == ALL:
            assert cell(view, at, "skill") == site_skill(found["skill"])
        else:
            assert cell(view, at, "excess") == site_digits(found["excess"])


def test_the_terminal_shows_the_numbers_of_the_file() -> None:
    """Error at every horizon and skill, in the tables that `run` prints."""
    numbers, results = numbers_of("mini"), Results(results_of("mini"))
    console = plain_console()
    with console.capture() as captured:
        for part in brief_tables(results, PRIMARY, 200):
            console.print(part, width=200)
    horizons = [str(horizon) for horizon in results[0].suite.horizons]
    lines = [line.split() for line in captured.get().splitlines()]
    for state in ("transient", "stable"):
        for result in results:
            errors = [_short(numbers[result.name, state, horizon]["value"]) for horizon in horizons]
            expected = [result.name, *errors, signed_skill(numbers[result.name, state, ALL]["skill"])]
            assert any(line[: len(expected)] == expected for line in lines), expected


@pytest.mark.parametrize("name", ["mini"])
def test_every_suite_has_a_file(name: str) -> None:
    """With each of its forecasters."""
    assert {key[0] for key in numbers_of(name)} == {result.name for result in results_of(name)}
