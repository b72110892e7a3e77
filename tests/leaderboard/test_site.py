"""The site says what the results say, shows strangers' text as text, and is the same each time it is built.

What needs a browser is in test_site_browser.py.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from leaderboard.committed import RESULTS
from leaderboard.leading import summary
from leaderboard.season.scored import scored_seasons
from leaderboard.site import board_page, forecaster_page
from leaderboard.site.board import Cell
from leaderboard.site.command import MARK, write_site
from leaderboard.site.forests import forest
from leaderboard.site.inputs import board_entry, read_inputs, score_command, season_boards
from leaderboard.site.pages import board_files, forecaster_files, text_files
from leaderboard.site.submit_page import doc_html
from leaderboard.site.trace_page import load_picture
from leaderboard.site.words import NOT_GIVEN, interval_text, run_command, three_digits, web_link
from moeload_bench.errors import MoeloadError, ResultError
from moeload_bench.files import file_name
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import RECORD, VERIFICATION, parse_submission
from moeload_bench.publishing.submission import Verification, VerificationStatus
from moeload_bench.results.render import NONE, Table
from moeload_bench.suites.suite import load_suite
from tests.conftest import need
from tests.support.site_world import (
    HOSTILE,
    ROOT,
    drawn_board,
    hostile_board,
    inputs_of,
    mini_board,
    tables_of,
)

need("jinja2", "pip install -e '.[site]'")

LEVELS = {"uniform": 0.3, "sw_avg": 0.1, "best": 0.05}


def test_numbers_can_be_computed_from_the_files_by_hand() -> None:
    """With nothing but pyarrow and numpy: means over runs of means over origins, by horizon, of every forecaster."""
    board, cell = mini_board(), Cell("", "stable")
    table = board_page.horizons(board, cell)
    assert [list(table.heads), *map(list, table.rows)] in tables_of(dict(board_files(inputs_of(board)))["index.html"])
    for name, *texts in (row for row in table.rows if row[0] in board.results.entries):
        columns = pq.read_table(RESULTS / "mini" / f"{name}.parquet").to_pydict()
        found = {key: np.array(columns[key]) for key in ("trace", "state", "horizon", "window_tv")}
        for horizon, text in zip(board.horizons(cell), texts, strict=True):
            at = (found["state"] == "stable") & (found["horizon"] == horizon)
            runs = [found["window_tv"][at & (found["trace"] == trace)].mean() for trace in np.unique(found["trace"])]
            assert float(text) == pytest.approx(np.mean(runs), rel=5.1e-3), (name, horizon)


def test_every_number_of_the_standings_is_that_of_the_summary() -> None:
    """Skill, both intervals, possible ranks, error, regret and time, in the order of skill."""
    board = drawn_board(LEVELS, recipes=12)
    summary, ranks = board.results.summarize(("stratum", "state")), board.results.ranks(("stratum", "state"))
    regret = board.results.summarize(("stratum", "state"), "regret@quarter")
    for cell in board.cells:
        rows = cell.of(summary)
        table = board_page.standings(board, cell)
        assert [row[0] for row in table.rows] == list(rows["forecaster"])
        for shown, row in zip(table.rows, rows.to_dict("records"), strict=True):
            name = row["forecaster"]
            assert shown[2:4] == (
                interval_text(row["low"], row["high"]), interval_text(row["seeds_low"], row["seeds_high"])
            )  # fmt: skip
            rank = cell.of(ranks).set_index("forecaster").loc[name]
            assert shown[4] == board_page.rank_text(rank)
            of_plans = cell.of(regret).set_index("forecaster").loc[name, "value"]
            assert shown[5:8] == tuple(map(three_digits, (row["value"], of_plans, row["ms"])))
    assert board_page.standings(mini_board(), Cell("", "stable")).rows[0][2:5] == (NOT_GIVEN,) * 3, "two recipes"


def test_the_answer_is_the_sentence_of_all_pages() -> None:
    """That of `leaderboard.leading`, for each group of runs that is averaged; the numbers behind it are a table."""
    board = drawn_board({**LEVELS, "simple": 0.08}, recipes=16)
    groups = board_page.groups(board)
    assert [title.split(",")[0] for title in groups] == ["Small batches", "Large batches"]
    texts = board_page.sentences(board)
    assert texts == [f"{title}. {board_page.plain(summary(part))}" for title, part in groups.items()]
    assert all("best" in text and "`" not in text for text in texts)
    shown = tables_of(dict(board_files(inputs_of(board)))["index.html"])
    for _, table in board_page.numbers(board):
        assert [list(table.heads), *map(list, table.rows)] in shown
    few = drawn_board(LEVELS, recipes=2)
    assert all("Too few recipes to say who leads: 1." in text for text in board_page.sentences(few))
    assert board_page.numbers(few) == []


def test_entries_that_equal_another_have_no_rank() -> None:
    """`sw_avg_conformal` only adds quantiles, `lstm.online` forecasts as `lstm` does; it is not listed."""
    board = season_boards(next(one for one in scored_seasons() if one.name == "2027-02"))[0]
    ranked = {*board.ranks["forecaster"]}
    assert {*board.results.names} - ranked == {"sw_avg_conformal", "lstm.online"}
    assert {*board.results.names} - {entry.name for entry in board.entries} == {"lstm.online"}
    assert {*board.summary["forecaster"]} == {entry.name for entry in board.entries}
    titles = [title for title, _ in board_page.boards_beside(board)]
    assert titles == ["By decision", "By quantiles"]


def test_a_board_says_how_to_score_on_its_runs() -> None:
    """The command is that of the season, and none where the package has no task list."""
    boards = season_boards(next(one for one in scored_seasons() if one.name == "2027-02"))
    assert {board.score for board in boards} == {"moeload-bench run mine.py:Mine --suite 2027-02"}
    html = dict(board_files(inputs_of(boards[0])))["index.html"].decode()
    assert "Score yours on these runs, beside this table: <code>moeload-bench run mine.py:Mine --suite 2027-02" in html
    assert score_command("2099-01") == ""


def test_horizons_without_a_value_are_neither_shown_nor_counted() -> None:
    """The drawn results have none at the last horizon."""
    board = drawn_board(LEVELS)
    assert board_page.horizons(board, board.cells[0]).heads == ("forecaster", "h = 1", "h = 10")
    assert "forecasts of 1 and 10 steps" in board_page.size(board)
    assert forecaster_page.by_horizon(board, "best").heads == ("runs", "h = 1", "h = 10")


def test_the_site_opens_with_the_season_s_runs_unlike_the_training() -> None:
    """Sets with new settings, none that is shown by run only; demonstrations are no entries."""
    season = next(one for one in scored_seasons() if one.name == "2027-02")
    boards = season_boards(season)
    assert [board.name for board in boards] == ["2027-02-b2", "2027-02-o"]
    for board in boards:
        assert {board.suite.name} == {season.suite.name}
        assert not set(board.results.names) & set(season.season.shown)
        assert {entry.standing for entry in board.entries} == {"scored"}
        types = {name: board.entry(name).model_type for name in ("guarded", "adaptive", "uniform")}
        assert types == {"guarded": "learned", "adaptive": "statistical", "uniform": "yardstick"}
    assert not boards[0].traces & boards[1].traces


def test_a_picture_has_a_dot_at_the_skill_between_the_ends_of_its_intervals() -> None:
    """All panels have one scale; less skill than -1 is at the edge."""
    board = drawn_board(LEVELS, recipes=12)
    panels = forest({cell.title: cell.of(board.summary) for cell in board.cells}, "forecaster")
    assert len({(panel.zero, *panel.ticks) for panel in panels}) == 1
    for panel in panels:
        places = {row.name: row for row in panel.rows}
        assert places["best"].at > panel.zero == places["sw_avg"].at
        assert places["uniform"].at == pytest.approx(0.0, abs=3.0)
        recipe, seeds = places["best"].bars
        for bar in (recipe, seeds):
            assert bar.left <= places["best"].at <= bar.left + bar.width


def test_a_map_of_loads_has_a_row_for_each_expert() -> None:
    """Twice an even load is reddish, half bluish; an expert without a token is black, a layer without load clear."""
    from matplotlib.image import imread

    relative_NE = np.array([[2.0, 0.5, 0.0], [np.nan, np.nan, np.nan]])
    picture = imread(io.BytesIO(base64.b64decode(load_picture(relative_NE))), format="png")
    assert picture.shape == (3, 2, 4)
    red, blue, black = picture[:, 0]
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    assert black.tolist() == [0, 0, 0, 1]
    assert (picture[:, 1, 3] == 0).all()


def test_results_without_uniform_are_refused(tmp_path: Path) -> None:
    """And the message says what writes them."""
    folder = tmp_path / "leaderboard" / "results" / "mini"
    shutil.copytree(RESULTS / "mini", folder)
    (tmp_path / "moeload_bench").symlink_to(ROOT / "moeload_bench")
    (folder / "uniform.parquet").unlink()
    with pytest.raises(ResultError, match=r"no result of uniform.*make results"):
        read_inputs(tmp_path)
    with pytest.raises(ResultError, match="no SUITE/NAME"):
        read_inputs(tmp_path / "moeload_bench")


@pytest.mark.parametrize("kwargs", [{}, {"window": 50, "a": 0.5, "b": True}, {"order": [1, 1, 1], "s": "two words"}])
def test_the_command_on_a_page_runs_the_same_forecaster(kwargs: dict[str, Any]) -> None:
    """What a shell makes of it is the target with the same arguments; a submission's code runs in the sandbox."""
    entry = mini_board().results.entries["sw_avg"]
    for target, expected in (
        ("sw_avg", "sw_avg"),
        ("forecaster.py:Mine", "leaderboard/submissions/mine/forecaster.py:Mine"),
    ):
        made = entry.model_copy(update={"name": "mine", "target": target, "kwargs": kwargs})
        program, verb, given, *options = shlex.split(run_command(made))
        assert (program, verb, given.partition("@")[0]) == ("moeload-bench", "run", expected)
        assert parse_target("sw_avg" + given.removeprefix(expected)).kwargs == kwargs
        assert options[:4] == ["--suite", "mini", "--seed", "0"]
        assert options[4:6] == ["--level", entry.isolation if expected == target else "sandbox"]


def test_the_status_never_rests_on_what_a_result_says_of_itself(tmp_path: Path) -> None:
    """No submission, other arguments, no verification, a verification of another result, one that failed."""
    suite, entry = load_suite("mini"), mini_board().results.entries["sw_avg"]
    entry = entry.model_copy(update={"status": "claimed"})
    assert board_entry(entry, tmp_path / "sw_avg", suite).standing == "claimed"
    fields = {"name": "sw_avg", "authors": ["The maintainers"], "licence": "Apache-2.0", "hardware": "a laptop",
              "target": "sw_avg", "fitted_beyond_train": False,
              "suite": {"name": suite.name, "sha256": suite.sha256()}}  # fmt: skip
    folder = tmp_path / "sw_avg"
    folder.mkdir()
    (folder / RECORD).write_text(parse_submission({**fields, "kwargs": {"window": 7}}, "test").to_toml())
    found = board_entry(entry, folder, suite)
    assert found.standing == "claimed"
    assert "window" in " ".join(found.wrong)
    (folder / RECORD).write_text(parse_submission(fields, "test").to_toml())
    assert board_entry(entry, folder, suite).standing == "checked"
    told = board_entry(entry.model_copy(update={"status": "verified"}), folder, suite)
    assert told.standing == "claimed"
    assert "no verification.json says so" in told.wrong[0]
    for status in ("failed", "verified (sample)"):
        record = Verification(status=status, level="sandbox", date="2026-01-01", commit=entry.environment.commit)
        (folder / VERIFICATION).write_text(record.to_json())
        found = board_entry(entry, folder, suite)
        assert (found.standing, found.wrong) == (status, ())
        assert ("Run on", "2026-01-01") in forecaster_page.verification(found)
    assert set(forecaster_page.STANDINGS) >= set(get_args(VerificationStatus))


def test_what_a_stranger_writes_is_never_markup() -> None:
    """Notes, arguments, reasons, hardware: no page holds a tag of theirs. A name of that kind has no page."""
    inputs = inputs_of(hostile_board())
    files = {**dict(board_files(inputs)), **dict(forecaster_files(inputs))}
    for name, content in files.items():
        assert b"<script>window.hacked" not in content, name
        assert b"<img src=x" not in content, name
        assert content.lower().count(b"</script") == content.lower().count(b"<script"), name
    page = files["forecasters/stranger.html"].decode()
    assert page.count("&lt;script&gt;window.hacked=1") >= 6


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
    """Links go to the web; others are their text; comments are left out."""
    html = doc_html("# A\n<!-- made -->\n<script>x</script>\n[*s* t](statistics.md#a) [w](https://a.org)")
    assert "<script>" not in html
    assert "made" not in html
    assert "<em>s</em> t" in html
    assert re.findall(r'href="([^"]*)"', html) == ["https://a.org"]


def test_columns_without_a_value_are_dropped_and_named() -> None:
    """Text columns stay; the numbers after a dropped column stay numbers."""
    table = Table(
        "A row is a run.", ("run", "low", "error", "use"), (("a", NOT_GIVEN, "1", ""), ("b", NONE, "2", "")), 1, 3
    )
    found = board_page.without_empty_columns(table)
    assert found.heads == ("run", "error", "use")
    assert found.rows == (("a", "1", ""), ("b", "2", ""))
    assert found.caption == "A row is a run. Without a value: low."
    assert [found.numeric(at) for at in range(3)] == [False, True, False]
    assert board_page.without_empty_columns(found) == found


def test_links_lead_to_files_of_the_site() -> None:
    """Every relative link of pages without traces; those to traces are followed in the browser."""
    inputs = inputs_of(mini_board(), drawn_board(LEVELS))
    files = {**dict(board_files(inputs)), **dict(forecaster_files(inputs)), **dict(text_files(inputs))}
    known = {*files, "traces/index.html", "assets/site.css", "assets/site.js"}
    for name, content in files.items():
        for link in re.findall(r'(?:href|src)="([^"#]+)"', content.decode()):
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


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """Two processes with other hash seeds, one with the extra `site` alone, in a checkout with one suite and trace."""
    root = tmp_path / "root"
    for name in ("leaderboard/results/mini", "docs", "moeload_bench/data/qwen3moe-tiny-8e", "moeload_bench/suites"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "CITATION.cff", root)
    built = []
    for seed, missing in (("1", []), ("2", modules_of_other_extras())):
        program = (
            f"import sys; sys.modules.update(dict.fromkeys({missing})); from leaderboard.__main__ import main; main()"
        )
        command = [sys.executable, "-c", program, "site", "--root", str(root), "--out", str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        paths = sorted(path for path in (tmp_path / seed).rglob("*") if path.is_file())
        built.append({str(path.relative_to(tmp_path / seed)): path.read_bytes() for path in paths})
    assert built[0].keys() == built[1].keys()
    assert [name for name in built[0] if built[0][name] != built[1][name]] == []
    assert {"index.html", "traces/index.html", "submit.html", "cite.html", "assets/site.js"} <= built[0].keys()


def modules_of_other_extras() -> list[str]:
    """Return the modules of packages that extras other than `site` bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {re.split(r"[^\w.-]", one)[0] for name, found in extras.items() if name != "site" for one in found}
    others = brought - {"moeload-bench", "matplotlib", "jinja2"}
    modules = [module for module, found in packages_distributions().items() if others & set(found)]
    assert {"torch", "transformers", "numba", "ijson"} <= set(modules)
    return sorted(modules)


def test_a_board_of_a_thousand_runs_has_pages_in_proportion() -> None:
    """Two runs of each recipe: the board stays small, and a forecaster's page has a row for each recipe."""
    inputs = inputs_of(drawn_board({"sw_avg": 0.1, "mine": 0.2}, recipes=500))
    assert all(len(content) < 200_000 for _, content in board_files(inputs))
    assert all(len(content) < 1_000_000 for _, content in forecaster_files(inputs))
