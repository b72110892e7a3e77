"""The page of a season: what came out, whichever way it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leaderboard.pages.season import NEW_RECIPE, NEW_SEEDS, by_recipe, came_out, rank_sets_of, report
from leaderboard.ranking import rank_text
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_part
from moeload_bench.results.comparison import Errors, reference_of
from moeload_bench.results.grid import Standings
from moeload_bench.results.statistics import Spread, Tasks
from moeload_bench.scoring.catalogue import PRIMARY
from tests.support.seasons import revealed_season

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = [f"r{i}" for i in range(12)]


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> ScoredSeason:
    """A season of two runs with forks and an entry without a rank."""
    folder = revealed_season(tmp_path_factory.mktemp("season"), shown=True)
    (found,) = scored_seasons(folder.path.parent)
    return found


def test_a_demonstration_is_shown_without_a_rank(season: ScoredSeason) -> None:
    """It is scored as all others are, stands in a table of its own, and in no other."""
    assert [result.name for result in season.unranked] == ["shown"]
    text = report(season, season.results)
    ranked, shown = text.split("## Demonstrations, without a rank")
    assert "`shown`" not in ranked
    assert "| `shown` |" in shown


def test_the_distance_to_what_forks_share_is_shown_where_runs_fork(season: ScoredSeason) -> None:
    """By state and horizon, with the power of the fork test; without forks it says so."""
    text = report(season, season.results)
    assert "| state, leader | h | sw_avg | leader | floor_fork | closed |" in text
    assert "The fork test, at 0.05, finds one that knows" in text
    assert "No run of this season forked." in report(replace(season, floors=None), season.results)


def made(skill: float, noise: float) -> Errors:
    """One run of each of twelve recipes; `new` errs by about 1 - skill of the reference, each recipe by chance more."""
    random = np.random.default_rng(0)
    reference_T = np.full(len(RECIPES), 0.1)
    new_T = reference_T * (1 - skill) * np.exp(noise * random.standard_normal(len(RECIPES)))
    tasks = Tasks(RECIPES, [f"{recipe}/s/seed0" for recipe in RECIPES])
    horizon_T, crossing_T = np.ones(len(RECIPES), dtype=np.int64), np.zeros(len(RECIPES), dtype=np.bool_)
    return Errors(tasks, horizon_T, ("stable",) * len(RECIPES), crossing_T, {"sw_avg": reference_T, "new": new_T})


@pytest.mark.parametrize(
    ("skill", "noise", "says"),
    [
        (
            0.4,
            0.02,
            [
                "as hoped: above +0.20",
                "on no recipe worse than `sw_avg` beyond chance",
                "stable, on new seeds of these recipes: `new` is first beyond chance",
                "stable, on a new recipe: `new` is first beyond chance",
            ],
        ),
        (0.1, 0.02, ["not as hoped: above +0.20", "on no recipe worse than `sw_avg` beyond chance"]),
        (0.1, 0.6, ["not as hoped", "worse than `sw_avg` beyond chance on r", "its rank is 1 to 2"]),
    ],
)
def test_hopes_are_said_to_be_kept_or_not(skill: float, noise: float, says: list[str]) -> None:
    """The lower bound, recipes on which it loses beyond chance, and the set of ranks, in plain words."""
    errors, spreads = made(skill, noise), {"new": Spread(0.0004, 12)}
    sets = {**rank_sets_of(errors, errors, "stable"), NEW_SEEDS: {"new": (1, 1)}}
    text = "\n".join(came_out(errors, "sw_avg", "stable", "new", spreads, sets))
    for words in says:
        assert words in text


def test_no_entry_above_the_reference_is_said_so() -> None:
    """And no hope is spoken of."""
    assert list(came_out(made(0.1, 0.0), "sw_avg", "stable", "sw_avg", {}, {})) == [
        "**stable**: no entry has more skill than `sw_avg`."
    ]


def test_a_recipe_with_one_run_has_the_interval_of_the_others_spread() -> None:
    """In the order of their names."""
    found = by_recipe({"b": np.array([0.0]), "a": np.array([-0.5])}, Spread(0.01, 10))
    assert list(found) == ["a", "b"]
    assert found["b"].low < 0 < found["b"].high


def test_ranks_on_new_seeds_take_the_spread_of_the_public_runs() -> None:
    """The season's recipes differ too much to rank on a new one; its public runs say that seeds move little."""
    random = np.random.default_rng(1)
    errors = made(0.1, 0.6)
    recipes = [recipe for recipe in RECIPES for _ in range(3)]
    tasks = Tasks(recipes, [f"{recipe}/test/seed{n}" for n, recipe in enumerate(recipes)])
    error = {name: np.repeat(error_T, 3) for name, error_T in errors.by_forecaster.items()}
    error["new"] = error["new"] * np.exp(0.01 * random.standard_normal(len(recipes)))
    count = len(recipes)
    public = Errors(tasks, np.ones(count, dtype=np.int64), ("stable",) * count, np.zeros(count, dtype=np.bool_), error)
    found = rank_sets_of(errors, public, "stable")
    assert found[NEW_RECIPE] == {"sw_avg": (1, 2), "new": (1, 2)}
    assert found[NEW_SEEDS] is not None
    assert sorted(found[NEW_SEEDS].values()) == [(1, 1), (2, 2)]
    assert rank_sets_of(errors, errors, "stable")[NEW_SEEDS] is None


def ranks_on(page: str, state: str, column: str, after: str = "# ") -> dict[str, str]:
    """The texts of a column of the first table that has it, below some words of a page, and is headed by the state."""
    _, text = (DOCS / "reports" / page).read_text(encoding="utf-8").split(after, 1)
    tables = (table.splitlines() for table in text.split("\n\n") if table.strip())
    rows = next(table for table in tables if table[0].startswith(f"| {state} |") and f" {column} |" in table[0])
    heads, _, *cells = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    return {row[0].strip("`"): row[heads.index(column)] for row in cells if row[0].startswith("`")}


def ranks_by_site(season: ScoredSeason, state: str) -> dict[str, str]:
    """The set of ranks of each entry on a new recipe, as the site computes it."""
    scores = Standings(season.results, PRIMARY, reference_of(season.results))
    return {name: rank_text(ranks) for name, ranks in scores.ranks(state).items()}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["transient", "stable"])
def test_one_claim_has_one_rank_wherever_it_is_shown(state: str) -> None:
    """Ranks on a new recipe: as the site computes them, on the page of a season of known recipes, and on the page of
    results for each part of a season of drawn ones.
    """
    newest, *older = scored_seasons()
    known = next(season for season in older if season.draws is None)
    assert ranks_on(f"season-{known.name}.md", state, "ranks, new recipe") == ranks_by_site(known, state)
    for title, part in by_part(newest).items():
        on_results = ranks_on("results.md", state, "ranks", after=f"**{title[0].upper()}{title[1:]}**")
        on_site = ranks_by_site(part, state)  # none of too few recipes
        assert on_results == {name: on_site.get(name, "-") for name in on_results}
        assert len(on_results) > 10


def test_a_participant_finds_on_one_page_how_to_enter_and_what_comes_of_it() -> None:
    """How, by when, what is frozen, shown and got, in this order; running a season is a page of its own."""
    text = (DOCS / "guide" / "seasons.md").read_text(encoding="utf-8")
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["How to enter", "By when", "What is frozen", "What is shown", "What you get"]
    assert "moeload-bench submit" in text
    assert "draw.json" not in text
    assert "draw.json" in (DOCS / "guide" / "seasons-manual.md").read_text(encoding="utf-8")
