"""The page of a season of drawn recipes says what `claims.py` computes, set by set, whichever way it went."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from leaderboard.pages import drawn_season
from leaderboard.pages import headline as headline_page
from leaderboard.pages.drawn_claims import Drawn, hopes
from leaderboard.pages.drawn_season import cell_dots, report
from leaderboard.pages.headline import season_part
from leaderboard.pages.openings import draw_dots, season_answer, season_dots
from leaderboard.season_tools.claims import claim_lines, headline
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_part, by_set
from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import board_files
from moeload_bench.errors import ResultError
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import Result
from moeload_bench.results.run_result import TaskResult
from moeload_bench.results.tables import signed_percent
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from tests.conftest import need
from tests.leaderboard.test_captions import SAYS, captions
from tests.support.seasons import DIVERGES
from tests.support.seasons import drawn_season as made_season
from tests.support.site_world import copy_checkout

Change = Callable[[str, str, TaskResult], TaskResult]
STABLE = "2027-03b-s00"
"""The recipe whose second half of origins is called stable: the secret, and so the loads, differ each time."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ScoredSeason:
    """A season of two sets in which set a has no stable origin, and set b one run of small batches."""
    with pytest.MonkeyPatch.context() as patch:
        folder = made_season(tmp_path_factory.mktemp("season"), patch)
    (one,) = scored_seasons(folder.path.parent)

    def state_of(name: str, recipe: str, task: TaskResult) -> TaskResult:
        return task.model_copy(update={"state": "stable" if recipe == STABLE and task.origin > 150 else "transient"})

    return changed(one, state_of)


@pytest.fixture(scope="module")
def page(found: ScoredSeason) -> str:
    return report(found, found.results)


def changed(one: ScoredSeason, change: Change) -> ScoredSeason:
    """The season with other tasks; ``change`` is given the names of entry and recipe."""

    def made(result: Result) -> Result:
        runs = tuple(
            run.model_copy(update={"tasks": tuple(change(result.name, run.recipe, task) for task in run.tasks)})
            for run in result.runs
        )
        return result.model_copy(update={"runs": runs})

    return replace(one, results=tuple(map(made, one.results)))


def both_states(one: ScoredSeason, times: float = 1.0) -> ScoredSeason:
    """The season with every second origin called stable, and the candidate's errors so many times as large."""

    def change(name: str, recipe: str, task: TaskResult) -> TaskResult:
        by = times if name == "mine" else 1.0
        scores = tuple(None if value is None else by * value for value in task.metrics[PRIMARY])
        state = "stable" if task.origin % 2 else "transient"
        return task.model_copy(update={"state": state, "metrics": {**task.metrics, PRIMARY: scores}})

    return changed(one, change)


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the rows of the table whose head begins so."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_answer_is_that_of_the_worse_set(found: ScoredSeason, page: str) -> None:
    """After the order, if nobody dated the commitment; then what each set says, in the words of the claims."""
    assert found.draws is not None
    errors = errors_of(found.results, PRIMARY)
    head, _, opening = page.partition("*Answers")
    assert head.startswith("# Season 2027-03\n\nOrder is provable only to those who held a copy before 2027-03-01;")
    assert headline(found.draws, errors) in opening.partition("![")[0]
    said = [line[2:] for line in opening.partition("<details>")[0].splitlines() if line.startswith("- ")]
    assert said == [*claim_lines(found.draws, errors)][:-1]


def test_every_test_has_the_numbers_of_the_claims(found: ScoredSeason) -> None:
    """(a) each entry by set and state, (b) the four cells of each set: gain, lower end, interval, p, recipes."""
    worse = both_states(found, 1.2)
    text, drawn = report(worse, worse.results), Drawn(worse)
    cells = rows_of(text, "set | cell")
    for one in drawn.draws.sets:
        for test in drawn.cells(one):
            (row,) = (row for row in cells if row[:2] == [one.name, test.what])
            if test.estimate is not None:
                ends = ", ".join(map(signed_percent, test.estimate.interval))
                assert row[2:6] == [str(test.estimate.recipes), signed_percent(test.estimate.gain),
                                    signed_percent(test.estimate.low), f"[{ends}]"]  # fmt: skip
                assert row[6:] == [f"{test.estimate.p:.2g}", f"{test.p_holm:.2g}"]
        for state in LABELS:
            (row,), (test,) = rows_of(text, f"set {one.name}, {state} | gain, %"), drawn.against(one, state)
            assert test.estimate is not None
            assert row[:3] == [test.what, signed_percent(test.estimate.gain), signed_percent(test.estimate.low)]
            needed = test.estimate.recipes_needed
            assert row[-2:] == (["yes", "-"] if test.apart else ["no", "-" if needed is None else f"{needed:,}"])


def test_a_cell_without_recipes_is_lacking(found: ScoredSeason, page: str) -> None:
    """It is said so in the tables, in the hopes and in the ranks; the other set stands in for none."""
    cells = {tuple(row[:2]): row[2] for row in rows_of(page, "set | cell")}
    lacking = {cell for cell, recipes in cells.items() if recipes == "lacking"}
    assert lacking == {
        ("a", "small batches, stable"), ("a", "large batches, stable"), ("b", "small batches, transient"),
        ("b", "small batches, stable"), ("b", "large batches, stable"),
    }  # fmt: skip
    assert rows_of(page, "set a, stable | gain, %")[0][1:4] == ["lacking"] * 3
    assert "set a, stable: **lacking**" in page
    assert "Set a, stable: lacking" in page
    assert [len(dots) for dots in cell_dots(found).values()] == [2, 1]


def test_hopes_are_judged_whichever_way_it_went(found: ScoredSeason) -> None:
    """A candidate that is better in both states, and one that is worse than the tuned average everywhere."""
    good, bad = ("\n".join(hopes(Drawn(both_states(found, times)))) for times in (0.2, 3.0))
    assert "set a, stable: `mine` errs less than every other entry, 1 in all; hoped for was at most 1: **as" in good
    assert "set a: the gain over `sw_avg` has a lower bound above 0 in each of the 4 cells, **as hoped**." in good
    assert "in 2 of 4 cells, **not as hoped**: small batches, transient (lacking)" in good
    assert "set b, stable: `mine` is not told apart from 1 of 1 other entries: `sw_avg` (no gain to show)." in bad
    assert "set a: the gain over `sw_avg` has a lower bound above 0 in 0 of 4 cells, **not as hoped**" in bad


def test_a_run_that_diverged_is_named_with_its_step(page: str) -> None:
    """One that is scored up to there, and one that is not; each recipe has its row, in its stratum's order."""
    scored, unscored = DIVERGES
    assert f"- `{scored}`: step {DIVERGES[scored]}: the loss is nan: training diverged; scored up to there" in page
    assert re.search(f"`{unscored}`: step {DIVERGES[unscored]}: .* diverged; unscored, fewer than 10 origins", page)
    rows = {row[0]: row[1:] for one in "ab" for row in rows_of(page, f"set {one} | batches | tokens per expert")}
    assert [*rows] == [f"2027-03{name}-{stratum}0{i}" for name in "ab" for stratum in "sl" for i in (0, 1)]
    assert rows[unscored][3:] == ["-"] * 4
    assert "family glm4_moe" in rows[unscored][2]
    assert "7 of 8 recipes could be scored" in page


def test_every_gain_of_a_recipe_is_that_of_its_tasks(found: ScoredSeason, page: str) -> None:
    """The candidate's, and the best of the others: here the tuned average alone, which gains 0 on itself."""
    (row,) = (row for row in rows_of(page, "set a | batches | tokens per expert") if row[0] == "2027-03a-l00")
    (part,) = (one for one in found.draws.sets if one.name == "a") if found.draws else ()
    (test,) = Drawn(found).against(part, "transient")
    gains = [float(row[4]) for row in rows_of(page, "set a | batches | tokens per expert")]
    assert row[5] == "sw_avg` +0.0"
    assert test.estimate is not None
    assert min(gains) < 100 * test.estimate.gain < max(gains)


def test_an_imported_log_is_shown_and_decides_nothing(found: ScoredSeason, page: str) -> None:
    """It has a table of its own, and is in no set."""
    ranked, _, shown = page.partition("## Logs that others recorded")
    assert "a-log" not in ranked
    assert rows_of(shown, "log | tokens per expert")[0][0] == "a-log"
    assert not any("a-log" in run.id for part in by_set(found).values() for run in part.suite.traces)


def test_a_demonstration_is_shown_set_by_set(found: ScoredSeason) -> None:
    """Without a rank; in a state that a set lacks it has nothing."""
    shown = found.results[0].model_copy(
        update={"forecaster": found.results[0].forecaster.model_copy(update={"name": "memory"})}
    )
    text = report(replace(found, unranked=(shown,)), found.results)
    ranked, _, below = text.partition("## Demonstrations, without a rank")
    assert "memory" not in ranked
    assert [line for line in below.splitlines() if line.startswith("Set ")] == ["Set a:", "Set b:"]
    assert rows_of(below, "skill | transient, season-2027-03 | transient, season | stable, season-2027-03")[0][4] == "-"


def test_coverage_is_by_set_state_and_size_of_batch(found: ScoredSeason) -> None:
    """Means over runs, of the entries that give quantiles; lacking where no run is."""
    part = {"mine": 0.75}

    def change(name: str, recipe: str, task: TaskResult) -> TaskResult:
        more = {"coverage": (part[name],) * 3, "wql": (1.0,) * 3} if name in part else {}
        return task.model_copy(update={"metrics": {**task.metrics, **more}})

    given = changed(found, change)
    given = replace(given, suite=given.suite.model_copy(update={"quantiles": (0.1, 0.5, 0.9)}))
    text = report(given, given.results)
    assert "nearest to 0.8 is best" in text
    assert rows_of(text, "set b, transient | small batches") == [["mine", "0.75", "0.75"]]
    assert rows_of(text, "set b, stable | small batches") == [["mine", "0.75", "lacking"]]


def test_what_a_study_measured_once_stands_on_its_season_s_page(
    found: ScoredSeason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file of the season's name beside the module; a season without one has no such part."""
    assert "## Capacity" not in report(found, found.results)
    for path in (Path(drawn_season.__file__).parent).glob("drawn_*.md.j2"):
        shutil.copy(path, tmp_path)
    (tmp_path / "season-2027-03.md").write_text("## Capacity\n\nMeasured once.\n")
    monkeypatch.setattr(drawn_season, "__file__", str(tmp_path / "drawn_season.py"))
    assert "\n\n## Capacity\n\nMeasured once.\n\n## Logs that others" in report(found, found.results)


def test_nothing_on_the_page_is_typed(page: str) -> None:
    """The form holds no number but levels of tests and units; each table has a caption, and the page a figure."""
    form = Path(drawn_season.__file__).with_suffix(".md.j2").read_text(encoding="utf-8")
    typed = re.findall(r"\d[\d,.]*", re.sub(r"{{.*?}}|{%.*?%}", "", form))
    assert {number.strip(",.") for number in typed} <= {"0", "0.05", "1", "80", "95", "100", "256", "1,000"}
    assert [(head, what) for head, said in captions(page) for what, rule in SAYS.items() if not rule.search(said)] == []
    assert "](season-2027-03.svg)" in page.partition("\n## ")[0]


def test_a_season_without_the_plan_s_entries_is_refused(found: ScoredSeason, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that is lacking; one of known recipes has no page."""
    with pytest.raises(ResultError, match="no result of sw_avg, which its plan names"):
        Drawn(replace(found, results=found.results[:1]))
    monkeypatch.setattr(ScoredSeason, "draws", None)
    with pytest.raises(ResultError, match="its recipes were known before closing"):
        Drawn(found)
    assert by_set(found) == by_part(found) == {"": found}


def test_the_newest_season_stands_first_by_set_and_size_of_batch(
    found: ScoredSeason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README.md and results.md: its gains, with a link to its page; the figure: a panel for each set and state."""
    monkeypatch.setattr(headline_page, "scored_seasons", lambda: [found])
    brief = season_part("docs/")
    assert "[Season `2027-03`](docs/season-2027-03.md)" in brief
    assert Drawn(found).answer in brief
    assert [row[0] for row in rows_of(brief, "`mine` against `sw_avg`")] == [
        f"set {name}, {size} batches" for name in "ab" for size in ("small", "large")
    ]
    assert season_answer(found).endswith(Drawn(found).answer)
    assert [*season_dots(found)] == ["set a, transient", "set b, transient", "set b, stable"]
    draw_dots(season_dots(found), tmp_path / "dots.svg")
    assert (tmp_path / "dots.svg").is_file()


def test_the_site_shows_the_sets_of_a_drawn_season_first(found: ScoredSeason, tmp_path: Path) -> None:
    """A board for each, with a choice for each size of batch; sets are never pooled."""
    need("jinja2", "pip install -e '.[site]'")
    need("altair", "pip install -e '.[site]'")
    root = copy_checkout(tmp_path, metrics=(PRIMARY,))
    shutil.copytree(found.folder.path, root / "leaderboard" / "seasons" / "2027-03")
    inputs = read_inputs(root)
    first, second, *others = inputs.boards
    assert [board.suite.name for board in (first, second)] == ["season-2027-03-a", "season-2027-03-b"]
    assert all(board.season is None for board in others)
    assert [[one.title for one in board.slices] for board in (first, second)] == [
        ["small batches", "large batches"]
    ] * 2
    assert set(first.recipes) == {f"2027-03a-{stratum}0{i}" for stratum in "sl" for i in (0, 1)}
    page = dict(board_files(inputs))["index.html"].decode()
    assert '<option value="season-2027-03-a">' in page
