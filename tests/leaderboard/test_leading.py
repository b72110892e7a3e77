"""The sentence of README, site and pages: who leads, by how much, how sure, and what it is worth; no more than that."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from leaderboard.boards import decision_board, quantile_board
from leaderboard.breadth import breadth_words, season_metas
from leaderboard.committed import ROOT, standing_of
from leaderboard.leading import ask_words, lead, lead_table, leads, summary
from leaderboard.pages import results_page
from leaderboard.pages.enter import steps, upcoming
from leaderboard.pages.inputs import season_sets
from leaderboard.season.claims import against_others, deciding_recipes, ordered_outcomes, without_families
from leaderboard.season.folder import SEASONS
from leaderboard.season.page import season_page
from leaderboard.season.scored import ScoredSeason, scored_seasons
from leaderboard.site.board import Board
from leaderboard.site.board_page import plain, sentences
from leaderboard.site.inputs import season_boards
from moeload_bench.harness.conformance import check_forecaster
from moeload_bench.results import entry as entry_module
from moeload_bench.results.leaders import leaders
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.strata import run_groups
from moeload_bench.words import REPOSITORY

STATES = ("transient", "stable")


@pytest.fixture(scope="module")
def season() -> ScoredSeason:
    return next(one for one in scored_seasons() if one.name == "2027-02")


@pytest.fixture(scope="module")
def part(season: ScoredSeason) -> Results:
    return season.on(season.strata(season.season.tested[0]))


@pytest.fixture(scope="module")
def oscillating(season: ScoredSeason) -> Results:
    return season.on(season.strata(next(one for one in season.season.sets if one.name == "o")))


@pytest.fixture(scope="module")
def page(season: ScoredSeason) -> str:
    return season_page(season)


@pytest.fixture(scope="module")
def boards(season: ScoredSeason) -> list[Board]:
    return season_boards(season)


@pytest.fixture(scope="module")
def finding() -> str:
    return results_page.finding()


def percent(values: list[float]) -> str:
    low, high = (f"{round(100 * end, 1) + 0.0:.1f}" for end in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def test_the_sentence_has_the_names_of_the_rule_and_the_numbers_of_the_comparison(part: Results) -> None:
    """Those that can have rank 1, the first entry that cannot, and what is saved of its error in each of three ways."""
    text = summary(part)
    for state in STATES:
        found, by_family = leaders(part, state, "recipe"), leaders(part, state)
        assert found is not None
        assert by_family is not None
        assert f"counted once, {len(by_family.best)} of {len(by_family.entries)} cannot be told from the best" in text
        assert f"which describes these runs alone, {len(found.best)} cannot" in text
        rows = [
            part.compare(name, found.following or "", ["state"]).set_index("state").loc[state] for name in found.best
        ]
        ratio, total = (percent([row[column] for row in rows]) for column in ("saving", "total"))
        low, high = min(row["family_low"] for row in rows), max(row["family_high"] for row in rows)
        near, far = (percent([row[f"h={step}"] for row in rows]) for step in (1, 1000))
        assert (
            f"Compared with `{found.following}`, the first entry that is shown worse, they save, from the least to the "
            f"most, {ratio} of the error, as a geometric mean (95 %: a new family {percent([low, high])}): {near} for "
            f"1 step ahead, {far} for 1,000 steps ahead. Of the sum of errors it is {total}"
        ) in text
        most = max(row[f"busiest@{shape}"] for row in rows for shape in ("half", "quarter", "plain", "nodes"))
        assert f"load of the busiest device it is at most {round(100 * most, 1):.1f} %" in text


def test_no_entry_is_said_to_lead_that_was_only_picked_on_the_table(part: Results) -> None:
    """Where several can have rank 1, all are named, and none leads."""
    assert "no entry leads alone" in summary(part)
    assert not re.search(r"` leads", summary(part))
    table = part.table.copy()
    own = table["forecaster"] == "guarded"
    table.loc[own, "window_tv"] = table.loc[own, "window_tv"] / 10
    assert "Before loads settle, `guarded` leads alone. Compared with" in summary(replace(part, table=table))


def test_where_many_lead_one_is_named_and_said_to_be_picked(part: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range over all of them would say nothing."""
    monkeypatch.setattr("leaderboard.leading.MOST", 2)
    lead.cache_clear()
    text = summary(part)
    lead.cache_clear()
    assert "`online.guarded`, picked on these runs as the one with the most skill, saves" in text


def test_the_table_says_every_number_with_its_unit_of_independence(part: Results) -> None:
    """Geometric mean, sum of errors, median task, each horizon, each shape; intervals by recipe and by family."""
    table = lead_table(part)
    assert table is not None
    cells = {row[0]: row[1:] for row in table.rows}
    one = lead(part, "transient")
    assert one is not None
    assert one.rows is not None
    saved = cells["saved of its error, geometric mean, horizons alike"][0]
    for low, high, what in (("low", "high", "a new recipe"), ("family_low", "family_high", "a new family")):
        assert f"{what} {percent([one.rows[low].min(), one.rows[high].max()])}" in saved
    assert "jackknife over families" in cells["saved of the sum of errors"][0]
    assert [word.split(":")[0] for word in cells["saved by horizon"][0].split("; ")] == [
        "h = 1", "h = 10", "h = 100", "h = 1,000"]  # fmt: skip
    shapes = cells["saved of the busiest device's load, by shape"][0]
    assert re.findall(r"`(\w+)`", shapes) == ["half", "nodes", "plain", "quarter"]
    assert "each family once" in next(iter(cells))


def test_too_few_recipes_have_neither_leader_nor_interval(season: ScoredSeason, oscillating: Results) -> None:
    """Set o has four; the rule asks for five."""
    assert summary(oscillating) == "Too few recipes to say who leads: 4."
    assert lead_table(oscillating) is None
    one = next(one for one in season.season.sets if one.name == "o")
    assert all(test.interval is None for test in against_others(season, one, "transient") if test.estimate)


def test_without_families_the_sentence_counts_recipes_alone(part: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says no interval over families."""
    monkeypatch.setattr(entry_module, "families_of", lambda *_: {})
    fresh = replace(part)
    assert "model family" not in summary(fresh)
    assert [one.by_family for one in leads(fresh)] == [None, None]


@pytest.mark.slow
def test_readme_site_and_page_say_one_sentence(part: Results, finding: str, page: str, boards: list[Board]) -> None:
    """Word for word."""
    assert summary(season_sets()[-1].results) in finding
    assert summary(part) in page
    assert sentences(boards[0]) == [plain(summary(part))]


def test_every_number_is_asked_for_by_the_call_that_the_page_names(part: Results, season: ScoredSeason) -> None:
    """It is run as it stands."""
    text = ask_words(part, season.folder.shown_results)
    expression, *_ = re.findall(r"`part = (.*?)`", text)
    found = eval(expression, {"run_groups": run_groups, "load_results": load_results})
    assert leaders(found, "transient") == leaders(part, "transient")
    rival = re.findall(r'compare\(NAME, "(.*?)"', text)[0]
    assert found.compare("guarded", rival, ["state"])["total"].tolist() == pytest.approx(
        part.compare("guarded", rival, ["state"])["total"].tolist()
    )


@pytest.mark.slow
def test_sizes_families_texts_and_who_drew_stand_beside_each_headline(
    season: ScoredSeason, finding: str, page: str, boards: list[Board]
) -> None:
    """In README, on the season's page and on the site, which says nothing of chance where none was public."""
    metas = season_metas(season, season.recipes["b2"])
    if not metas:
        pytest.skip("needs the recordings of a season")
    words = breadth_words(metas, season.season.train_levels["text"])
    for part in ("20 runs of 20 recipes, one seed each", "0.069 to 2.5 million parameters (median 0.25)",
                 "16 to 160 tokens a sequence", "9 families of models, each under one way of balancing alone",
                 "the one new text, cloud-api, is in 17 of them"):  # fmt: skip
        assert part in words
    board = boards[0]
    drawn = "drawn by the maintainers, who could have chosen what was drawn"
    assert board.reach == words
    assert words in page
    assert words in finding
    assert drawn in board.about
    assert drawn in finding
    assert "at random" not in board.about
    assert len({one.title for one in boards}) == len(boards)


@pytest.mark.slow
def test_every_test_is_shown_with_each_family_left_out(season: ScoredSeason, page: str) -> None:
    """The last one fails without either of two recipes, and without three families."""
    left = dict(without_families(season))
    assert len(left) == 9
    assert [name for name, found in left.items() if found[-1].p >= 0.05] == [
        "ernie4_5_moe", "glm4_moe_lite", "granitemoeshared"]  # fmt: skip
    last = ordered_outcomes(season)[-1].test
    assert deciding_recipes(season, last) == ["2027-02b2-s05", "2027-02b2-l02"]
    assert "| glm4_moe_lite |" in page


def test_verified_is_what_was_run_a_second_time(boards: list[Board]) -> None:
    """A season's entries were run once, so they are not; wrong files are claimed, whatever else is said."""
    assert {entry.standing for entry in boards[0].entries} == {"scored"}
    assert standing_of(("code has changed",), None) == "claimed"
    assert standing_of((), None) == "checked"


def test_decisions_and_quantiles_have_boards_of_their_own(part: Results) -> None:
    """By regret and by tokens dropped, with intervals; entries without quantiles are not on the other."""
    decisions, quantiles = decision_board(part, "transient"), quantile_board(part, "transient")
    assert decisions is not None
    assert quantiles is not None
    names = [row[0] for row in decisions.rows]
    assert "sw_avg_conformal" not in names
    assert "lstm.online" not in names
    means = part.table[part.table["state"] == "transient"].groupby(["forecaster", "trace"])["regret@half"].mean()
    order = means.groupby("forecaster").mean().sort_values().index
    assert names == [name for name in order if name in names]
    assert {row[0] for row in quantiles.rows} == {
        "online.guarded", "guarded", "gated", "fracast", "sw_avg_conformal", "autotheta"}  # fmt: skip
    zero = next(row for row in quantiles.rows if row[0] == "sw_avg_conformal")
    assert zero[2:] == ("+0.00", "[+0.00, +0.00]", "[+0.00, +0.00]")


def test_the_page_on_how_to_enter_names_one_address_and_its_class_keeps_the_contract(tmp_path: Path) -> None:
    """The three steps: what to write, what to run, what to open."""
    text = steps()
    assert f"in your fork of {REPOSITORY}" in text
    for name in ("README.md", "CONTRIBUTING.md"):
        commands = re.findall(r"git clone .*?(?= &&|`)", (ROOT / name).read_text(encoding="utf-8"))
        assert commands
        assert all(command.endswith(REPOSITORY) for command in commands), name
    code = textwrap.dedent(text.partition("**2. Run**")[0].partition("):\n\n")[2])
    (tmp_path / "my.py").write_text(code)
    report: list[str] = []
    found = check_forecaster(f"{tmp_path / 'my.py'}:Mine", progress=lambda at, of, rule: report.append(rule))
    assert [one.rule for one in found if one.required and not one.passed] == []
    assert report == [one.rule for one in found]
    assert "moeload-bench run my.py:Mine --suite 2027-02" in text


def test_the_page_says_whether_a_season_takes_entries(tmp_path: Path) -> None:
    """None is open where all are scored; an open one has its entries, so a submission waits for the next."""
    assert "no date is set" in upcoming(tmp_path)
    folder = tmp_path / "2027-02"
    folder.mkdir()
    (folder / "season.toml").write_bytes((SEASONS / "2027-02" / "season.toml").read_bytes())
    assert upcoming(tmp_path).startswith("Season 2027-02 has its entries since 2026-12-01 and is not scored yet")
