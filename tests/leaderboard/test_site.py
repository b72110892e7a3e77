"""The site says what the results say, shows strangers' text as text, and is the same each time it is built.

What needs a browser is in test_site_browser.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np
import pytest

from leaderboard.committed import RESULTS, SUBMISSIONS
from leaderboard.ranking import rank_sets, rank_text
from leaderboard.season_tools.scored import FLOOR as FLOOR_FORK
from leaderboard.seeds import run_ratios, skill_interval
from leaderboard.site import forecaster_page, payload
from leaderboard.site.command import MARK, write_site
from leaderboard.site.docs_pages import doc_html
from leaderboard.site.inputs import Board, Inputs, Slice, make_entry, read_board, read_inputs
from leaderboard.site.pages import board_files, forecaster_files, forecaster_path, places_of, text_files
from leaderboard.site.views import fronts_of, metrics_of, views_of
from leaderboard.site.words import (
    NOT_GIVEN,
    interval_text,
    named,
    run_command,
    signed_skill,
    three_digits,
    web_link,
)
from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.files import file_name
from moeload_bench.isolation.targets import parse_target
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.grid import ALL, result_grid
from moeload_bench.results.html import MINUS, NONE
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.statistics import interval, log_ratio, seed_spread
from moeload_bench.results.tables import imbalance_percent
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.style import PLACES
from moeload_bench.submissions.folder import VERIFICATION, read_folder
from moeload_bench.submissions.record import Verification, VerificationStatus
from moeload_bench.suites.suite import default_suite, load_suite
from tests.conftest import need
from tests.support.site_world import (
    FEW,
    HOSTILE,
    ROOT,
    TRACE,
    add_hostile,
    cell,
    committed_inputs,
    copy_checkout,
    many_recipes,
    shown_metric,
    tables_of,
    write_submission,
)

need("jinja2", "pip install -e '.[site]'")
need("altair", "pip install -e '.[site]'")


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("mini", "others")])
def committed(request: pytest.FixtureRequest) -> Inputs:
    """The committed results: of the mini suite; of the suite that takes submissions and of the seasons."""
    inputs = committed_inputs()
    suite = "mini" if request.param == "mini" else default_suite()
    seasons = [board for board in inputs.boards if board.season is not None and suite != "mini"]
    own = [board for board in inputs.boards if board.results[0].suite.name == suite]
    return replace(inputs, boards=(*seasons, *own))


@pytest.fixture(scope="module")
def mini() -> Board:
    return read_board(ROOT, RESULTS / "mini")


def test_runs_of_a_slice_are_those_of_its_traces(mini: Board) -> None:
    """A group's row is the mean over its runs, and its words say which."""
    runs = frozenset({"qwen3moe-tiny-8e-aux0/test/seed1"})
    board = replace(mini, slices=(Slice("expert_tokens:small", "small batches", runs),))
    views = {(view.recipe, view.state, view.horizon): view for view in views_of(board, "window_tv")}
    group, alone = views["expert_tokens:small", "stable", 100], views["qwen3moe-tiny-8e-aux0", "stable", 100]
    assert np.array_equal(group.value_F, alone.value_F)
    assert "1 run of 1 recipe with small batches" in payload.averaged_over(group, board)


@pytest.mark.slow
def test_a_season_s_interval_for_new_seeds_takes_the_spread_of_the_public_runs() -> None:
    """One run of each recipe says nothing of seeds; the public runs beside it do, and the board says so."""
    board = next(board for board in committed_inputs().boards if board.season is not None)
    at, view = [entry.name for entry in board.entries].index("gated"), next(views_of(board, "window_tv"))
    low, high = view.skills.new_seeds_F2[at]
    assert low < view.skills.skill_F[at] < high
    errors, known = errors_of(board.results, "window_tv"), errors_of(board.known, "window_tv")
    runs = run_ratios(errors, "gated", "sw_avg")
    expected = skill_interval(runs, seed_spread([runs, run_ratios(known, "gated", "sw_avg")]))
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert "the spread of the public runs" in payload.claims(board)
    alone = replace(board, known=())
    assert np.isnan(next(views_of(alone, "window_tv")).skills.new_seeds_F2).all()
    assert "public runs" not in payload.claims(alone)


@pytest.fixture(scope="module")
def pages(committed: Inputs) -> dict[str, bytes]:
    """The pages of the committed results that hold numbers, without those of traces."""
    return {**dict(board_files(committed)), **dict(forecaster_files(committed))}


def test_every_number_of_the_leaderboard_is_that_of_the_tables(committed: Inputs, pages: dict[str, bytes]) -> None:
    """Value, excess, skill and floors of every row, state, horizon and metric are those of `result_grid`."""
    for board in committed.boards:
        for metric in metrics_of(board):
            grid = result_grid(board.compared, metric)
            assert grid is not None
            data = shown_metric(pages, board.suite.name, metric)
            names = [entry.name for entry in board.entries]
            rows = [row for row in grid.rows if row.forecaster in names]
            assert {row.forecaster for row in rows} == set(names)
            for row in rows:
                for k, horizon in enumerate(grid.horizons):
                    view = data["views"][f"{row.state} {ALL} {horizon}"]
                    at = names.index(row.forecaster)
                    assert cell(view, at, "value") == three_digits(row.value_K[k])
                    assert cell(view, at, "excess") == three_digits(row.excess_K[k] if row.excess_K else None)
                skill = cell(data["views"][f"{row.state} {ALL} {ALL}"], names.index(row.forecaster), "skill")
                text, _, percent = skill.partition(" ")
                assert text == signed_skill(row.skill)
                of_plans = "@" in metric and row.skill is not None
                assert percent == (f"({imbalance_percent(row)} %)".replace("-", MINUS) if of_plans else "")
            shown = {(key.split()[0], floor): texts for key, found in data["floors"].items()
                     if key.endswith(f" {ALL}") for floor, _, texts in found if floor != FLOOR_FORK}  # fmt: skip
            assert shown == {key: list(map(three_digits, values)) for key, values in grid.floors.items()}


def test_numbers_can_be_computed_from_the_files_by_hand(committed: Inputs, pages: dict[str, bytes]) -> None:
    """With nothing but json and means: by recipe, state and horizon. A dash, and why, where no run has the state."""
    board = committed.boards[-1]
    suite, of_board = board.suite, {entry.id for entry in board.suite.traces}
    data = shown_metric(pages, suite.name, "window_tv")
    files = (ROOT / "leaderboard" / "results" / board.results[0].suite.name).glob("*.json")
    raw = {record["forecaster"]["name"]: record for record in (json.loads(path.read_text()) for path in files)}
    for i, entry in enumerate(board.entries):
        runs = [run for run in raw[entry.name]["runs"] if run["trace"] in of_board]
        for recipe in {run["trace"].split("/")[0] for run in runs}:
            for k, horizon in enumerate(suite.horizons):
                by_run = [[values[run["metrics"].index("window_tv")][k] for _, state, _, values in run["tasks"]
                           if state == "stable"]
                          for run in runs if run["trace"].startswith(f"{recipe}/")]  # fmt: skip
                known = [[value for value in values if value is not None] for values in by_run]
                view = data["views"][f"stable {recipe} {horizon}"]
                shown = cell(view, i, "value")
                if not any(known):
                    assert shown == "\u2013"
                    nowhere = f"in recipe {recipe} the suite has no origin in the stable state"
                    too_far = f"recipe {recipe} has none in the stable state, at horizon {horizon:,}"
                    assert view["over"] == f"no value: {too_far if any(by_run) else nowhere}"
                    continue
                expected = fmean([fmean(values) for values in known if values])
                assert math.isclose(float(shown), expected, rel_tol=5.1e-3)


def test_the_pages_of_forecasters_hold_the_same_numbers(committed: Inputs, pages: dict[str, bytes]) -> None:
    """The first table of a page: window_tv by recipe and state."""
    for board in committed.boards:
        grid = result_grid(board.compared, "window_tv")
        assert grid is not None
        for entry in board.entries:
            rows = [row for table in tables_of(pages[forecaster_path(entry.name)]) for row in table]
            for row in (row for row in grid.rows if row.forecaster == entry.name):
                cells = ["all recipes", row.state, *map(three_digits, row.value_K), str(row.runs), str(row.origins)]
                assert cells in [each[:2] + [text.split()[0] for text in each[2:]] for each in rows]


def test_uniform_is_a_row_of_every_view(committed: Inputs, pages: dict[str, bytes]) -> None:
    """Of the plain page, and of the data that the switches show."""
    assert [row[0] for row in tables_of(pages["index.html"])[0] if "uniform" in row[0]] == ["uniform"]
    for board in committed.boards:
        at = [entry.name for entry in board.entries].index("uniform")
        views = shown_metric(pages, board.suite.name, "window_tv")["views"]
        assert all(len(view["rows"]) > at for view in views.values())


def test_results_without_uniform_are_refused(tmp_path: Path) -> None:
    """And the message says what writes them."""
    root = copy_checkout(tmp_path, metrics=FEW)
    (root / "leaderboard" / "results" / "mini" / "uniform.json").unlink()
    with pytest.raises(ResultError, match=r"no result of uniform.*make results"):
        read_inputs(root)


def test_a_changed_number_changes_the_site(tmp_path: Path) -> None:
    """One error of one task: the leaderboard, its data and the forecaster's page are others."""
    root = copy_checkout(tmp_path, metrics=FEW)
    path = root / "leaderboard" / "results" / "mini" / "sw_avg.json"
    before = {**dict(board_files(read_inputs(root))), **dict(forecaster_files(read_inputs(root)))}
    raw = json.loads(path.read_text())
    raw["runs"][0]["tasks"][0][3][raw["runs"][0]["metrics"].index("window_tv")][2] += 0.05
    path.write_text(json.dumps(raw))
    after = {**dict(board_files(read_inputs(root))), **dict(forecaster_files(read_inputs(root)))}
    changed = {name for name in before if before[name] != after[name]}
    assert {"index.html", "data/mini.window_tv.js", "forecasters/sw_avg.html"} <= changed
    shown = [cell(shown_metric(files, "mini", "window_tv")["views"][f"transient {ALL} 100"], 2, "value")
             for files in (before, after)]  # fmt: skip
    assert shown[0] != shown[1]


def test_intervals_and_ranks_are_those_of_the_statistics(tmp_path: Path) -> None:
    """Six recipes with two runs each: both claims, each under its own name, and possible ranks; n/a for one recipe."""
    board = read_inputs(many_recipes(tmp_path)).boards[0]
    errors = errors_of(board.results, "window_tv")
    sets = rank_sets(errors.by_forecaster, errors.tasks)
    assert sets is not None
    views = payload.metric_payload(board, "window_tv")["views"]
    for i, entry in enumerate(board.entries):
        ratio_T = log_ratio(errors.by_forecaster[entry.name], errors.by_forecaster["sw_avg"])
        for field, claim in (("new_recipe", "a new recipe"), ("new_seeds", "these recipes, new seeds")):
            found = interval(ratio_T, errors.tasks, claim)  # type: ignore[arg-type]  # one of the two claims
            assert found is not None
            assert cell(views["all all all"], i, field) == interval_text(found.low, found.high)
        assert cell(views["all all all"], i, "skill") == signed_skill(1 - math.exp(fmean(ratio_T)))
        assert cell(views["all all all"], i, "ranks") == rank_text(sets[entry.name])
        assert cell(views["all recipe0 all"], i, "new_recipe") == three_digits(None)
    assert "a new recipe" in payload.claims(board)
    assert "these recipes, new seeds" in payload.claims(board)
    assert "sw_avg.w50, of 2 windows" in payload.hindsight(board)


def test_every_metric_of_the_site_has_a_plain_name(committed: Inputs, pages: dict[str, bytes]) -> None:
    """Beside its symbol: in the switch, in the captions and in the facts of a forecaster."""
    for board in committed.boards:
        described = payload.board_payload(board, places_of(committed))["metrics"]
        assert [metric["name"] for metric in described] == metrics_of(board)
        for metric in described:
            plain = metric["named"].removesuffix(f" ({metric['name']})")
            assert plain not in ("", metric["name"], metric["named"])
        page = pages[forecaster_path("uniform")].decode()
        for metric in ("window_tv", "regret@quarter"):
            assert f"<dt>{named(metric)}</dt>" in page
            assert f"{named(metric)}: mean over runs" in page
    options = re.findall(r'<option value="([a-z_@]+)">([^<]+ \(\1\))</option>', pages["index.html"].decode())
    assert [name for name, _ in options] == metrics_of(committed.boards[0])


def test_the_intervals_of_the_site_have_digits() -> None:
    """Skill of plans is near 0: no interval reads "-0.000 to +0.000"."""
    assert interval_text(-0.00021, 0.00009) == f"{MINUS}0.0002 to +0.0001"
    assert interval_text(math.nan, math.nan) == NOT_GIVEN


def test_a_metric_of_some_forecasters_leaves_the_others_without_numbers(tmp_path: Path) -> None:
    """`wql` needs quantiles: a dash for those that give none, and no number is made up for them."""
    board = read_inputs(many_recipes(tmp_path)).boards[0]
    assert "wql" in metrics_of(board)
    data = payload.metric_payload(board, "wql")
    for i, entry in enumerate(board.entries):
        cells = [cell(data["views"]["transient all 10"], i, field) for field in ("value", "skill", "win_rate")]
        assert (cells[0] == NONE) is (entry.name != "other0")
        assert cells[1:] == [NONE, NONE]


@pytest.mark.parametrize("kwargs", [{}, {"window": 50, "a": 0.5, "b": True}, {"order": [1, 1, 1], "s": "two words"}])
def test_the_command_on_a_page_runs_the_same_forecaster(kwargs: dict[str, Any], mini: Board) -> None:
    """What a shell makes of it is the target with the same arguments; a submission's code runs in the sandbox."""
    for target, expected in (
        ("sw_avg", "sw_avg"),
        ("forecaster.py:Mine", "leaderboard/submissions/mine/forecaster.py:Mine"),
    ):
        made = mini.results[0].forecaster.model_copy(update={"name": "mine", "target": target, "kwargs": kwargs})
        program, verb, given, *options = shlex.split(
            run_command(mini.results[0].model_copy(update={"forecaster": made}))
        )
        assert (program, verb, given.partition("@")[0]) == ("moeload-bench", "run", expected)
        assert parse_target("sw_avg" + given.removeprefix(expected)).kwargs == kwargs
        assert options[:4] == ["--suite", "mini", "--seed", "0"]
        assert options[4:6] == ["--level", mini.results[0].isolation if expected == target else "sandbox"]


def test_skill_in_what_plans_cost_is_that_of_their_imbalance(mini: Board) -> None:
    """As in the tables: regret may be 0, so the ratio is of the imbalance of the same plans, and the page says so."""
    skills = {}
    for metric in ("regret@quarter", "imbalance@quarter"):
        data = payload.metric_payload(mini, metric)
        assert data["skill"]
        assert (metric == "regret@quarter") is ("ratio of imbalance@quarter to that of sw_avg" in data["skill_note"])
        skills[metric] = [[cell(view, i, "skill") for i in range(len(mini.entries))] for view in data["views"].values()]
    assert skills["regret@quarter"] == skills["imbalance@quarter"]
    assert any(text not in (NONE, "+0.000") for texts in skills["regret@quarter"] for text in texts)
    assert "No skill: hot_recall" in payload.skill_note(mini, "hot_recall")


def test_the_chart_of_costs_is_of_cpu_time(mini: Board) -> None:
    """The way to another process is no cost of the forecaster; who was not measured is named and on no front."""
    at = [result.name for result in mini.results].index("sw_avg")
    result = mini.results[at]
    runs = [run.cost for run in result.runs]
    expected = fmean(1e3 * (cost.observe_cpu_s + cost.forecast_cpu_s) / cost.forecasts for cost in runs)
    assert payload.cost_row(result)[2] == three_digits(expected)
    runs_without = tuple(
        run.model_copy(update={"cost": run.cost.model_copy(update={"forecast_cpu_s": None})}) for run in result.runs
    )
    entry = replace(mini.entries[at], result=result.model_copy(update={"runs": runs_without}))
    board = replace(mini, entries=(*mini.entries[:at], entry, *mini.entries[at + 1 :]))
    assert payload.unmeasured(board) == "CPU time not measured: sw_avg."
    assert not any(view.front_F[at] for view in views_of(board, "window_tv"))
    assert any(view.front_F[at] for view in views_of(mini, "window_tv"))


def test_the_front_is_what_no_other_beats_in_cost_and_error() -> None:
    """Equal in both does not beat; who was not measured, or has no value, is on none and beats nobody."""
    cost_F = np.array([1.0, 2.0, 3.0, np.nan, 1.0, 0.5])
    error_VF = np.array([[3.0, 2.0, 2.0, 0.1, 3.0, np.nan], [1.0, 2.0, 3.0, 0.1, 2.0, 4.0]])
    assert fronts_of(cost_F, error_VF).tolist() == [
        [True, True, False, False, True, False], [True, False, False, False, False, True],
    ]  # fmt: skip


def test_a_forecaster_keeps_its_colour_in_every_suite(committed: Inputs, pages: dict[str, bytes]) -> None:
    """Its place is one number, on the leaderboard and on its page, and different for those of the project."""
    site = json.loads(re.search(r'id="site-data">(.*?)</script>', pages["index.html"].decode(), re.DOTALL)[1])  # type: ignore[index]  # it is there
    seen = {(one["name"], one["place"]) for board in site["boards"] for one in board["forecasters"]}
    assert len({name for name, _ in seen}) == len(seen)
    assert len({place for name, place in seen if name in PLACES}) == len([name for name, _ in seen if name in PLACES])
    assert f'"place":{dict(seen)["lstm"]}' in pages[forecaster_path("lstm")].decode()


def test_a_page_says_where_a_forecaster_wins_and_loses(committed: Inputs, pages: dict[str, bytes]) -> None:
    """In how many recipes, where most and least; the picture holds the skill of every recipe and group."""
    for board in committed.boards:
        data = shown_metric(pages, board.suite.name, "window_tv")
        at = [entry.name for entry in board.entries].index("lstm")
        page = pages[forecaster_path("lstm")].decode()
        skills = {recipe: cell(data["views"][f"stable {recipe} {ALL}"], at, "skill") for recipe in board.recipes}
        known = {recipe: float(text.replace(MINUS, "-")) for recipe, text in skills.items() if text != NONE}
        best = max(known, key=known.__getitem__)
        won = sum(value > 0 for value in known.values())
        assert f"stable: less error than sw_avg on {won} of {len(known)} recipes; most skill on {best}" in page
        shown = json.loads(re.search(r'id="forecaster-data">(.*?)</script>', page, re.DOTALL)[1])["charts"]  # type: ignore[index]  # it is there
        found = {
            row: one["skill"] for part in shown for chart in part for panel in chart["panels"]
            if panel["title"] == "stable" for row, one in zip(chart["rows"], panel["cells"], strict=True)
        }  # fmt: skip
        assert board is not committed.boards[-1] or found.items() >= skills.items()


def test_few_recipes_have_no_interval_and_say_so(mini: Board) -> None:
    """The mini suite has two."""
    view = next(views_of(mini, "window_tv"))
    assert np.isnan(view.skills.new_recipe_F2).all()
    assert not view.skills.ranks
    assert "With 2 recipes there are none" in payload.claims(mini)


def test_captions_say_over_what_a_number_is_a_mean(mini: Board) -> None:
    """Runs, recipes, origins, state, horizons."""
    texts = {f"{view.state} {view.horizon}": payload.averaged_over(view, mini) for view in views_of(mini, "window_tv")
             if view.recipe == ALL}  # fmt: skip
    assert "2 runs of 2 recipes" in texts["stable 100"]
    assert "40 origins in the stable state" in texts["stable 100"]
    assert "at horizon 100" in texts["stable 100"]
    assert "80 origins whatever the state" in texts["all None"]
    assert "the 5 horizons (1 to 2,000 steps)" in texts["all None"]


def _verification(root: Path, result: Result, status: VerificationStatus) -> None:
    record = Verification(status=status, level="sandbox", date="2026-01-01", commit=result.environment.commit)
    (root / "leaderboard" / "submissions" / result.name / VERIFICATION).write_text(record.to_json())


def test_the_status_never_rests_on_what_a_result_says_of_itself(tmp_path: Path) -> None:
    """No submission, other code, no verification, a verification of another result, one that failed."""
    root = copy_checkout(tmp_path)
    folder = root / "leaderboard" / "results" / "mini"
    names = ("uniform", "last_value", "sw_avg", "arima", "lstm")
    claimed = {"status": "claimed", "scoring_version": SCORING_VERSION}
    made = {name: load_result(folder / f"{name}.json").model_copy(update=claimed) for name in names}
    for name in ("last_value", "arima"):
        made[name] = made[name].model_copy(update={"status": "verified"})
    for name, result in made.items():
        result.save(folder / f"{name}.json")
    write_submission(root, made["uniform"], kwargs={"other": "value"})
    _verification(root, made["arima"], "verified")
    _verification(root, made["lstm"], "failed")
    found = {entry.name: (entry.standing, entry.wrong) for entry in read_inputs(root).boards[0].entries}
    assert found["uniform"][0] == "claimed"
    assert "other" in " ".join(found["uniform"][1])
    assert found["last_value"][0] == "claimed"
    assert "no verification.json says so" in found["last_value"][1][0]
    assert found["sw_avg"] == ("checked", ())
    assert found["arima"] == ("verified", ())
    assert found["lstm"] == ("failed", ())


def test_a_verified_page_shows_what_the_run_was(tmp_path: Path) -> None:
    """A sampled verification is called one on the leaderboard and the page; the page has date and level."""
    root = copy_checkout(tmp_path)
    result = load_result(root / "leaderboard" / "results" / "mini" / "lstm.json")
    result = result.model_copy(update={"status": "checked", "scoring_version": SCORING_VERSION})
    result.save(root / "leaderboard" / "results" / "mini" / "lstm.json")
    _verification(root, result, "verified (sample)")
    entry = make_entry(result, root / "leaderboard" / "submissions" / "lstm", load_suite("mini"))
    assert (entry.standing, entry.wrong) == ("verified (sample)", ())
    assert payload.forecaster_row(entry)["standing"] == "verified (sample)"
    shown = dict(forecaster_page.verification(entry))
    assert (shown["Run on"], shown["Level"]) == ("2026-01-01", "sandbox")
    assert entry.standing in forecaster_page.STANDINGS
    assert set(forecaster_page.STANDINGS) >= set(get_args(VerificationStatus))


def test_a_page_says_where_the_code_is() -> None:
    """In the submission's folder, or in the package: a baseline, or an adapter of somebody's library."""
    entries = (SUBMISSIONS / "sw_avg", SUBMISSIONS / "autotheta")
    said = [forecaster_page.code_of(read_folder(path).record) for path in entries]
    assert said == ["a baseline of the package", "an adapter of the package"]
    own = read_folder(SUBMISSIONS / "sw_avg").record.model_copy(update={"name": "mine", "target": "forecaster.py:Mine"})
    assert forecaster_page.code_of(own) == "mine/forecaster.py"


def test_what_a_stranger_writes_is_never_markup(tmp_path: Path) -> None:
    """Names, authors, notes, arguments, reasons, hardware: no page and no script holds a tag of theirs."""
    root = copy_checkout(tmp_path, metrics=FEW)
    add_hostile(root)
    inputs = read_inputs(root)
    files = {**dict(board_files(inputs)), **dict(forecaster_files(inputs))}
    for name, content in files.items():
        assert b"<script>window.hacked" not in content, name
        assert b"<img src=x" not in content, name
        assert content.lower().count(b"</script") == content.lower().count(b"<script"), name
    page = files[f"forecasters/{file_name(HOSTILE)}.html"].decode()
    assert page.count("&lt;script&gt;window.hacked=1") >= 6
    assert json.loads(re.search(r'id="site-data">(.*?)</script>', files["index.html"].decode(), re.DOTALL)[1])  # type: ignore[index]  # it is there


def test_only_web_addresses_become_links() -> None:
    """Everything else is text."""
    assert web_link("https://example.org/a?b=1&c=2") == "https://example.org/a?b=1&c=2"
    for other in (
        "javascript:alert(1)",
        "data:text/html,x",
        "https://a\"onload='x",
        "//example.org",
        "ftp://a",
        "",
        None,
    ):
        assert web_link(other) is None


def test_file_names_stay_in_their_folder() -> None:
    """Whatever the name: one plain part, distinct for distinct names."""
    names = ["../../x", "a/b", "index", "A", "a", "sw_avg@window=50", HOSTILE, "x" * 300, "", "a b", "a-b"]
    files = [file_name(name) for name in names]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._=-]{0,79}", one) and ".." not in one for one in files)
    assert len(set(files)) == len(names)


def test_documentation_shows_raw_html_as_text_and_has_no_dead_links() -> None:
    """Links go to the web or to the site's own pages."""
    html = doc_html(
        "# A\n<script>x</script>\n[s](statistics.md#a) [p](performance.md) [w](https://a.org) ![i](i.svg)", "../"
    )
    assert "<script>" not in html
    assert 'href="../methods/statistics.html"' in html
    assert "performance.md" not in html
    assert "<img" not in html


def test_documentation_shows_what_is_folded_and_no_caption_without_its_figure() -> None:
    """A fold's text is there, its tags are not; a figure goes with the paragraph below it, the next one stays."""
    text = "# A\n\n![f](f.svg)\n\nA row is\na run.\n\n<details><summary>How</summary>\n\nSo.\n\n</details>\n\nEnd.\n"
    html = doc_html(text, "")
    assert "summary" not in html
    assert "details" not in html
    assert "a run" not in html
    assert all(f"<p>{words}</p>" in html for words in ("<strong>How</strong>", "So.", "End."))


def test_links_lead_to_files_of_the_site(committed: Inputs, pages: dict[str, bytes]) -> None:
    """Every relative link of pages without traces; those to traces are followed in the browser."""
    files = {**pages, **dict(text_files(committed))}
    known = {
        *files,
        "traces/index.html",
        "assets/site.css",
        "assets/board.js",
        "assets/charts.js",
        "assets/forecaster.js",
        "assets/scroll.js",
        "assets/datatables.js",
    }
    for name, content in files.items():
        for link in re.findall(r'(?:href|src)="([^"#]+)"', content.decode()) if name.endswith(".html") else ():
            if not link.startswith(("https://", "http://", "data:")):
                assert os.path.normpath(Path(name).parent / link) in known, (name, link)


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path) -> None:
    """Only an earlier site is."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(MoeloadError, match="something else"):
        write_site([("index.html", b"")], out)
    assert (out / "thesis.tex").read_text() == "years of work"
    write_site([("index.html", b"1"), ("old.html", b"")], tmp_path / "site")
    write_site([("index.html", b"2")], tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == [MARK, "index.html"]


STAGES = ["files of the checkout", "results, submissions and traces", "leaderboard of mini: window_tv",
          "forecasters on mini", "traces: qwen3moe-tiny-8e/test/seed1", "documentation"]  # fmt: skip


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """Two processes with other hash seeds and folders, nothing kept; each says every stage as it begins."""
    root = copy_checkout(tmp_path / "a", (TRACE,), FEW)
    other = copy_checkout(tmp_path / "elsewhere" / "b", (TRACE,), FEW)
    built = []
    for seed, checkout in (("1", root), ("2", other)):
        command = [
            sys.executable,
            "-m",
            "leaderboard",
            "site",
            "--root",
            str(checkout),
            "--out",
            str(tmp_path / seed),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "MOELOAD_CACHE": str(tmp_path / f"cache{seed}")}
        done = subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True, text=True)
        said = [line.partition(" at ")[2] for line in done.stderr.splitlines() if "begun" in line]
        assert said == STAGES
        built.append({str(p.relative_to(tmp_path / seed)): p.read_bytes() for p in sorted((tmp_path / seed).rglob("*"))
                      if p.is_file()})  # fmt: skip
    assert built[0].keys() == built[1].keys()
    assert [name for name in built[0] if built[0][name] != built[1][name]] == []
    assert len(built[0]) > 20
