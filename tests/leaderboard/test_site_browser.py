"""The built site in a browser: opened from disk, without a network.

Numbers are compared with what `moeload_bench` computes from the same result files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard.site.assets import asset_files
from leaderboard.site.command import write_site
from leaderboard.site.inputs import Inputs, Slice, read_inputs
from leaderboard.site.pages import described_traces, site_files, trace_files
from moeload_bench.files import file_name
from moeload_bench.results.grid import result_grid, run_means
from moeload_bench.results.html import MINUS, NONE
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.tables import marked_floor
from moeload_bench.suites.suite import CROSSING
from moeload_bench.traces.store import list_traces, write_trace
from tests.conftest import need, synthetic_trace
from tests.leaderboard.test_captions import SAYS
from tests.support.site_browser import PHONE, WAIT_S, browser, complaints, open_page, overflow, requested, wait_drawn
from tests.support.site_world import FEW, HOSTILE, TRACE, add_hostile, copy_checkout, many_recipes

for _package in ("jinja2", "altair", "itables", "vl_convert", "matplotlib", "markdown_it", "yaml"):
    need(_package, "pip install -e '.[site]'")

pytestmark = pytest.mark.slow  # a browser, and sites of several suites
ROOT = Path(__file__).parents[2]
GROUP = Slice("expert_tokens:small", "small batches", frozenset())
TRACE_PAGE = "traces/qwen3moe-tiny-8e.test.seed1.html"
HOSTILE_PAGE = f"forecasters/{file_name(HOSTILE)}.html"
PAGES = ("index.html", "forecasters/lstm.html", HOSTILE_PAGE, "traces/index.html", TRACE_PAGE, "methods/metrics.html",
         "submit.html", "cite.html")  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed mini results, a suite of six recipes, one trace, and two entries full of markup."""
    root = copy_checkout(many_recipes(tmp_path_factory.mktemp("checkout")), (TRACE,), FEW)
    add_hostile(root)
    return root


@pytest.fixture(scope="module")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    inputs = read_inputs(checkout)
    few = frozenset(f"recipe{r}/test/seed{s}" for r in range(5) for s in (1, 2))
    boards = [replace(b, slices=(GROUP._replace(traces=few),)) if b.suite.name == "many" else b for b in inputs.boards]
    write_site(site_files(replace(inputs, boards=tuple(boards))), out)
    return out


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def results(checkout: Path) -> dict[str, Result]:
    """The mini suite's results by name."""
    found = map(load_result, sorted((checkout / "leaderboard" / "results" / "mini").glob("*.json")))
    return {result.name: result for result in found}


@pytest.fixture
def board(driver: Any, site: Path) -> Any:
    """The leaderboard at the mini suite."""
    open_page(driver, site / "index.html", "#suite=mini")
    return driver


def choose(driver: Any, **choice: str) -> None:
    """Set switches as a user does, and wait until the page shows the choice."""
    from selenium.webdriver.support.select import Select

    for name, value in choice.items():
        Select(driver.find_element("id", name)).select_by_value(value)
    wait_drawn(driver)


def grid_of(driver: Any, table: str) -> list[list[str]]:
    """Rows of texts of a table, heads first; what a screen reader would read, without the sorting marks."""
    rows: list[list[str]] = driver.execute_script(
        """return [...document.querySelectorAll(arguments[0] + " tr")].map((row) =>
             [...row.children].map((one) => (one.querySelector(".dt-column-title, a") || one).textContent.trim()))""",
        table,
    )
    return rows


def column(driver: Any, head: str) -> dict[str, str]:
    """Forecaster to the text of the column that is headed so, from top to bottom."""
    heads, *rows = grid_of(driver, "#board")
    return {row[0]: row[heads.index(head)] for row in rows}


def close_to(text: str, value: float) -> bool:
    """Equal to the three digits that are shown."""
    return math.isclose(float(text.replace(MINUS, "-")), value, rel_tol=5.1e-3, abs_tol=1e-12)


def test_runs_are_chosen_by_what_their_traces_are(driver: Any, site: Path, checkout: Path) -> None:
    """The switch names groups of runs before recipes; a choice shows the means of its runs, in words too."""
    from selenium.webdriver.support.select import Select

    open_page(driver, site / "index.html", "#suite=many")
    titles = [one.text for one in Select(driver.find_element("id", "recipe")).options]
    assert titles[:3] == ["all recipes", GROUP.title, "recipe0"]
    choose(driver, state="stable", horizon="10", recipe=GROUP.id)
    shown = column(driver, "window_tv")
    for name in ("uniform", "other0"):
        result = load_result(checkout / "leaderboard" / "results" / "many" / f"{name}.json")
        own = [run for run in result.runs if run.recipe != "recipe5"]
        values = [value for run in own if (value := run_means(run, "stable", "window_tv")[1]) is not None]
        assert len(values) == 10
        assert close_to(shown[name], sum(values) / 10), name
    assert f"mean over 10 runs of 5 recipes with {GROUP.title}" in driver.find_element("id", "over").text
    assert f"layers; {GROUP.title} of suite many." in driver.find_element("id", "horizons-caption").text
    choose(driver, suite="mini")
    assert driver.find_element("id", "recipe").get_property("value") == "all", "it has no such group"


def test_the_switches_show_the_numbers_of_the_results(board: Any, results: dict[str, Result]) -> None:
    """State, horizon, recipe and metric: each changes the column, always to the mean of the result files."""
    seen = []
    for state, horizon, recipe, metric in (
        ("transient", "100", "all", "window_tv"), ("stable", "100", "all", "window_tv"),
        ("stable", "2000", "all", "window_tv"), ("stable", "2000", "qwen3moe-tiny-8e", "window_tv"),
        ("stable", "2000", "qwen3moe-tiny-8e", "regret@quarter"), ("crossing", "1000", "all", "tv"),
    ):  # fmt: skip
        choose(board, state=state, horizon=horizon, recipe=recipe, metric=metric)
        shown = column(board, metric)
        assert shown.keys() == results.keys()
        for name, result in results.items():
            k = result.suite.horizons.index(int(horizon))
            runs = [run for run in result.runs if recipe in ("all", run.recipe)]
            values = [value for run in runs if (value := run_means(run, state, metric)[k]) is not None]
            assert close_to(shown[name], sum(values) / len(values)), (name, state, horizon, recipe, metric)
        seen.append(shown)
    assert all(one != other for one, other in itertools.pairwise(seen))
    assert "regret@quarter" not in board.find_element("id", "about-text").text
    assert complaints(board) == []


def test_the_suite_is_switched(board: Any) -> None:
    """Other forecasters, recipes and horizons; intervals where there are recipes enough, each under its claim."""
    assert set(column(board, "95 %, a new recipe").values()) == {"n/a"}
    choose(board, suite="many")
    assert set(column(board, "Skill")) == {"uniform", "sw_avg", "sw_avg.w50", "other0", "other1", "other2"}
    assert all(" to " in text for text in column(board, "95 %, a new recipe").values())
    assert all(" to " in text for text in column(board, "95 %, new seeds").values())
    assert column(board, "Ranks")["other0"].startswith("1 to ")
    assert "sw_avg.w50, of 2 windows" in board.find_element("id", "hindsight").text
    options = board.find_elements("css selector", "#recipe option")
    assert [option.get_attribute("value") for option in options] == ["all", GROUP.id, *(f"recipe{r}" for r in range(6))]
    assert complaints(board) == []


def test_entries_are_filtered_by_what_they_are(board: Any, results: dict[str, Result]) -> None:
    """In the table, below the charts and in them; what learned from other data says so, and which where pointed at."""
    board.find_element("id", "all-columns").click()
    types = column(board, "Type")
    assert {types["uniform"], types["lstm"], types["sw_avg"]} == {"yardstick", "learned", "statistical"}
    options = [option.get_attribute("value") for option in board.find_elements("css selector", "#type option")]
    assert options == ["all", *(name for name in ("statistical", "learned", "pretrained", "yardstick")
                                if name in types.values())]  # fmt: skip
    for kind in options[1:]:
        choose(board, type=kind)
        chosen = {name for name, own in types.items() if own == kind}
        assert set(column(board, "Type")) == chosen
        assert {row[0] for row in grid_of(board, "#horizons")[2:]} & set(results) <= chosen
        data = board.execute_script("return document.querySelector('#horizon-charts .chart > div').moeloadDatasets")
        assert {row["forecaster"] for row in data["rows"]} == chosen
        assert {row["forecaster"] for row in board.execute_script(
            "return document.querySelector('#cost-chart').moeloadDatasets")["points"]} <= chosen  # fmt: skip
    assert "learned from other data" in grid_text(board, "evil")
    (mark,) = board.find_elements("css selector", "#board tbody th .elsewhere")
    assert mark.get_attribute("title") == "learned from other data: pages of a wiki"
    assert complaints(board) == []


def grid_text(driver: Any, name: str) -> str:
    """All that the first cell of a forecaster's row says, with every type shown."""
    choose(driver, type="all")
    cells = driver.find_elements("css selector", "#board tbody th")
    return next(str(cell.text) for cell in cells if cell.text.startswith(name))


def test_errors_by_horizon_and_charts_are_those_of_the_tables(board: Any, results: dict[str, Result]) -> None:
    """`result_grid`, floors included, in the table below the charts; the charts hold the very same texts."""
    grid = result_grid(list(results.values()), "window_tv")
    assert grid is not None
    for state in ("transient", "stable", CROSSING):
        choose(board, state=state)
        rows = {row[0]: row[1:] for row in grid_of(board, "#horizons")[2:]}
        expected = {row.forecaster: row.value_K for row in grid.rows if row.state == state}
        expected |= {
            marked_floor(floor, grid.marks): values for (at, floor), values in grid.floors.items() if at == state
        }
        assert rows.keys() == expected.keys()
        for name, value_K in expected.items():
            assert all(text == NONE if value is None else close_to(text, value)
                       for text, value in zip(rows[name], value_K, strict=True))  # fmt: skip
        data = board.execute_script("return document.querySelector('#horizon-charts .chart > div').moeloadDatasets")
        drawn = {(row["forecaster"], row["horizon"]): row["text"] for row in data["rows"]}
        assert drawn == {(name, h): text for name in results for h, text in zip(grid.horizons, rows[name], strict=True)
                         if text != NONE}  # fmt: skip
        floors = [float(row["text"]) for row in data["floors"]]
        least = min(float(text) for text in drawn.values())
        assert all(floor >= least / 2 for floor in floors)  # a floor far below would squash the lines
        marks = board.find_elements("css selector", "#horizon-charts svg path, #cost-chart svg path")
        assert len(marks) > len(results)


def test_on_a_phone_what_scrolls_says_so(driver: Any, site: Path) -> None:
    """A table or figure that is wider than the screen has a line below it, which goes at its end; others have none."""
    for page in (TRACE_PAGE, "forecasters/lstm.html"):
        open_page(driver, site / page, size=PHONE)
        boxes = driver.execute_script(
            """return [...document.querySelectorAll(".scroll")].map((box) => [box.scrollWidth > box.clientWidth + 1,
                 getComputedStyle(box.nextElementSibling).display !== "none"
                 && box.nextElementSibling.textContent.includes("scroll")])"""
        )
        assert any(wide for wide, _ in boxes)
        assert all(wide == said for wide, said in boxes)
        hidden = driver.execute_async_script(
            """const [done] = arguments; const box = [...document.querySelectorAll(".scroll")].find(
                 (one) => one.scrollWidth > one.clientWidth + 1);
               box.scrollLeft = box.scrollWidth;
               setTimeout(() => done(getComputedStyle(box.nextElementSibling).display === "none"), 300);"""
        )
        assert hidden


def test_columns_sort_by_mouse_and_by_key(board: Any) -> None:
    """By number, not by text; either way round; what has no number comes last."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    def order() -> list[float]:
        return [float(text.replace(MINUS, "-")) for text in column(board, "window_tv").values()]

    def becomes(expected: list[float]) -> bool:  # DataTables sorts after the event
        return bool(WebDriverWait(board, WAIT_S).until(lambda _: order() == expected))

    assert column(board, "Skill") == dict(
        sorted(column(board, "Skill").items(), key=lambda item: -float(item[1].replace(MINUS, "-")))
    )
    heads = board.find_elements("css selector", "#board thead th")
    head = next(th for th in heads if "window_tv" in th.text)
    head.click()
    assert becomes(sorted(order()))
    head.find_element("css selector", ".dt-column-order").send_keys(Keys.ENTER)
    assert becomes(sorted(order(), reverse=True))
    assert head.get_attribute("aria-sort") == "descending"


def test_the_search_keeps_the_rows_that_match(board: Any) -> None:
    """By name, and back."""
    box = board.find_element("css selector", ".dt-search input")
    before = column(board, "Skill")
    box.send_keys("lst")
    assert set(column(board, "Skill")) == {"lstm"}
    box.clear()
    box.send_keys("process")
    assert set(column(board, "Skill")) == set(before) - {HOSTILE, "evil"}
    box.clear()
    box.send_keys(" ")
    assert column(board, "Skill") == before


def test_a_link_holds_the_choice(driver: Any, site: Path) -> None:
    """The address of a choice opens that choice; what it does not know is left alone."""
    open_page(driver, site / "index.html", "#suite=mini&state=stable&horizon=10&metric=tv&recipe=nowhere")
    names = ("state", "horizon", "metric", "recipe")
    chosen = [driver.find_element("id", name).get_property("value") for name in names]
    assert chosen == ["stable", "10", "tv", "all"]
    choose(driver, horizon="1000")
    assert "horizon=1000" in driver.current_url


def test_links_lead_to_forecasters_and_traces(board: Any, results: dict[str, Result]) -> None:
    """From the leaderboard to a forecaster, from there to the traces, to one trace with its figures, and back."""
    board.find_element("link text", "lstm").click()
    assert board.find_element("tag name", "h1").text == "lstm"
    grid = result_grid(list(results.values()), "window_tv")
    assert grid is not None
    (row,) = [row.value_K for row in grid.rows if (row.forecaster, row.state) == ("lstm", "stable")]
    first = next(cells for cells in grid_of(board, "table.data") if cells[:2] == ["all recipes", "stable"])
    assert all(close_to(text.split()[0], value or 0) for text, value in zip(first[2:-2], row, strict=True))
    assert "moeload-bench run lstm --suite mini" in board.find_element("css selector", "pre").text
    board.find_element("link text", "Traces").click()
    board.find_element("link text", "qwen3moe-tiny-8e/test/seed1").click()
    wait_drawn(board)
    drawn = board.execute_script(
        """return [...document.querySelectorAll(".chart > div")].map((one) =>
             one.querySelectorAll("canvas, svg").length)"""
    )
    assert drawn == [1] * (6 + 6 + 2), "shares and loads of six layers, drift and states"
    heads = [one.text for one in board.find_elements("css selector", "main h2")]
    assert heads[:2] == ["Shares over time", "States"]
    assert "Tokens per expert and step" in board.find_element("css selector", ".facts").text
    run = next(run for run in results["lstm"].runs if run.trace == "qwen3moe-tiny-8e/test/seed1")
    first = next(cells for cells in grid_of(board, "section table.data") if cells[0] == "lstm")
    assert all(
        close_to(text, value or 0)
        for text, value in zip(first[1:], run_means(run, "transient", "window_tv"), strict=True)
    )
    board.find_element("link text", "lstm").click()
    assert board.find_element("tag name", "h1").text == "lstm"
    assert complaints(board) == []


def test_a_strangers_markup_is_shown_as_text_and_nothing_runs(driver: Any, site: Path) -> None:
    """On the leaderboard and on both pages; and it is the escaping that keeps it out, for nothing was ever refused."""
    for page, where in (
        ("index.html", "#board"), (HOSTILE_PAGE, "main"), ("forecasters/evil.html", "main"),
    ):  # fmt: skip
        open_page(driver, site / page, "#suite=mini" if page == "index.html" else "")
        assert HOSTILE in driver.find_element("css selector", where).get_property("textContent"), page
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('img[src=x], main script').length") == 0
        assert complaints(driver) == []
    link = driver.find_element("css selector", "main a[rel]")
    assert link.get_attribute("href") == "https://example.org/?a=1&b=2"


def test_a_stranger_s_trace_is_text_on_its_page_and_in_the_list(driver: Any, tmp_path: Path) -> None:
    """Family, licence, notes, settings and sources full of markup: all is shown as it is written, and nothing runs."""
    source = {"name": HOSTILE, "version": HOSTILE, "licence": HOSTILE, "sha256": HOSTILE, "bytes": 1}
    texts = {"family": HOSTILE, "group": HOSTILE, "licence": HOSTILE, "gate": HOSTILE, "precision": HOSTILE}
    tables = {name: {HOSTILE: HOSTILE} for name in ("config", "optimizer", "schedule", "hardware", "versions")}
    trace = synthetic_trace(400, recipe="evil", **texts, **tables, notes=(HOSTILE,), sources=(source,))
    write_trace(trace, tmp_path / "traces/evil/test/seed0.parquet")
    inputs = Inputs(tmp_path, (), tuple(list_traces(tmp_path / "traces")), "0" * 64)
    write_site([*asset_files(), *trace_files(inputs, described_traces(inputs))], tmp_path / "site")
    for page in ("traces/evil.test.seed0.html", "traces/index.html"):
        driver.get((tmp_path / "site" / page).as_uri())
        assert "evil" in driver.find_element("tag name", "main").text
        shown = driver.find_element("tag name", "main").get_property("textContent")
        assert (HOSTILE in shown) == (page != "traces/index.html"), "the list shows ids and numbers only"
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
        assert complaints(driver) == []


def test_everything_can_be_done_with_the_keyboard(board: Any) -> None:
    """Tab reaches the skip link first, then navigation, switches, search, sorting, links, boxes; all are seen."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    look = """const one = document.activeElement, left = one.getBoundingClientRect().left;
              const name = one.id || one.className || one.textContent.trim();
              return [one.tagName, name, getComputedStyle(one).outlineStyle, left >= 0]"""
    walked: list[list[Any]] = []
    while len(walked) < 160 and (len(walked) < 3 or walked[-1][0] != "BODY"):
        ActionChains(board).send_keys(Keys.TAB).perform()
        walked.append(board.execute_script(look))
    reached = [one for one in walked if one[0] not in ("BODY", "HTML")]
    assert reached[0][1] == "skip"
    assert all(outline != "none" and seen for _, _, outline, seen in reached)
    names = [name for _, name, _, _ in reached]
    assert {"suite", "state", "horizon", "recipe", "type", "metric", "Traces", "lstm"} <= set(names)
    assert sum("dt-column-order" in name for name in names) >= 8
    assert sum("scroll" in name for name in names) == 3
    assert "all-columns" in names
    board.find_element("id", "state").send_keys(Keys.ARROW_DOWN)
    wait_drawn(board)
    assert board.find_element("id", "state").get_property("value") == "transient"
    labels = "return [...document.querySelectorAll('select, input')].map((one) => one.labels.length)"
    assert board.execute_script(labels) == [1] * 8


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_no_page_is_wider_than_the_screen(dark: bool, driver: Any, site: Path) -> None:
    """Only tables and figures scroll, in their own boxes; the text stands out from the page, light and dark."""
    requested(driver)
    for page in PAGES:
        open_page(driver, site / page, size=PHONE, dark=dark)
        assert overflow(driver) <= 0, page
        paper, *inks = driver.execute_script(
            """return ["--paper", "--ink", "--soft", "--accent", "--bad", "--good", "--wait"].map((name) =>
                 getComputedStyle(document.documentElement).getPropertyValue(name).trim())"""
        )
        assert (_luminance(paper) < 0.1) is dark
        assert all(_contrast(ink, paper) >= 4.5 for ink in inks)
    assert [url for url in requested(driver) if not url.startswith(("file:", "data:", "about:"))] == []
    assert complaints(driver) == []


IN_WINDOW = """
  const inside = ({ width, left, right }) => width > 0 && left >= 0 && right <= innerWidth;
  return [...document.querySelectorAll("#board thead th, #board tbody td .badge")].map((one) =>
    [one.textContent.trim(), inside(one.getBoundingClientRect())]);
"""
OVERLAPS = """
  const found = [];
  for (const [owners, labels] of arguments[0]) for (const owner of document.querySelectorAll(owners)) {
    const boxes = [...owner.querySelectorAll(labels)]
      .filter((one) => one.textContent.trim() && getComputedStyle(one).opacity !== "0")
      .map((one) => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push([text, other]);
    }));
  }
  return found;
"""
LABELS = [[".forest thead .axis", "i"], [".forest tbody", "th"], ["#board thead", "th"], ["#recipes thead", "th span"],
          [".switches", "label"]]  # fmt: skip
CHARTS = [".chart svg", "text"]
"""Not of the drawn suite: there all forecasters cost the same, so that its axes have one place."""


@pytest.mark.parametrize("suite", ["many", "mini"])
def test_what_matters_lies_inside_a_window_of_1280(suite: str, driver: Any, site: Path) -> None:
    """Every column that is shown, the status among them; no choice is cut, and no two labels lie on each other."""
    open_page(driver, site / "index.html", f"#suite={suite}")
    shown = driver.execute_script(IN_WINDOW)
    assert {"Forecaster", "Ranks", "Skill", "Status"} <= {text for text, _ in shown}
    assert [text for text, inside in shown if not inside] == []
    assert driver.execute_script(OVERLAPS, [*LABELS, *([CHARTS] if suite == "mini" else [])]) == []
    cut = """return [...document.querySelectorAll(".switches select")].filter((one) => {
        const pen = document.createElement("canvas").getContext("2d"), look = getComputedStyle(one);
        pen.font = `${look.fontSize} ${look.fontFamily}`;
        return [...one.options].some((option) => pen.measureText(option.text).width > one.clientWidth);
      }).map((one) => one.id)"""
    assert driver.execute_script(cut) == []
    driver.find_element("id", "all-columns").click()
    heads = grid_of(driver, "#board")[0]
    assert {"Win rate", "Type", "Level", "% train"} <= set(heads)


def test_the_standings_open_with_a_picture(driver: Any, site: Path, checkout: Path) -> None:
    """Before the table: a line for each forecaster and state, the dot at its skill, between its intervals' ends."""
    open_page(driver, site / "index.html", "#suite=many&horizon=10")
    tops = "return ['.forest', '#board'].map((one) => document.querySelector(one).getBoundingClientRect().top)"
    picture, table = driver.execute_script(tops)
    assert picture < table
    drawn = driver.execute_script(
        """return [...document.querySelectorAll(".forest tbody tr")].map((row) => [row.querySelector("th").textContent,
             [...row.querySelectorAll(".dots")].map((dots) => [
               Number.parseFloat(dots.querySelector(".zero").style.left),
               Number.parseFloat(dots.querySelector("svg").style.left),
               [...dots.querySelectorAll(".recipe, .seeds")].map((bar) => [Number.parseFloat(bar.style.left),
                 Number.parseFloat(bar.style.left) + Number.parseFloat(bar.style.width)]),
               dots.querySelector(".unseen").textContent])])"""
    )
    names = [path.stem for path in (checkout / "leaderboard" / "results" / "many").glob("*.json")]
    assert {name for name, _ in drawn} == set(names)
    for name, panels in drawn:
        assert len(panels) == 2, "transient and stable"
        for zero, dot, bars, text in panels:
            skill = float(text.split(";")[0].replace(MINUS, "-"))
            assert (dot > zero) == (skill > 0) or abs(skill) < 1e-3 or skill < -1
            assert len(bars) == 2
            assert all(low - 1e-6 <= dot <= high + 1e-6 for low, high in bars if skill > -1), name
    assert sum(text.startswith("+0.000; ") for name, panels in drawn for *_, text in panels if name == "sw_avg") == 2


def test_skill_by_recipe_is_a_map_of_colours(driver: Any, site: Path) -> None:
    """A row is a forecaster, a column a recipe; blue above 0, orange below, and the text can be read on either."""
    for dark in (False, True):
        open_page(driver, site / "index.html", "#suite=many&state=stable&horizon=10", dark=dark)
        heads, *rows = grid_of(driver, "#recipes")
        assert heads[1:] == [f"recipe{r}" for r in range(6)]
        kinds = driver.execute_script(
            """return [...document.querySelectorAll("#recipes td")].map((one) => [one.textContent, one.className,
                 getComputedStyle(one).color, getComputedStyle(one).backgroundColor])"""
        )
        for text, kind, ink, paper in kinds:
            value = float(text.replace(MINUS, "-"))
            assert ("win" in kind) == (value > 0), text
            assert ("loss" in kind) == (value < 0), text
            if value:
                assert _contrast(_hex(driver, ink), _hex(driver, paper)) >= 4.5, (text, ink, paper)
        assert len(kinds) == 6 * len(rows)


def _hex(driver: Any, colour: str) -> str:
    """Any colour of CSS as `#rrggbb`."""
    return str(driver.execute_script(
        """const pen = document.createElement("canvas").getContext("2d");
           pen.fillStyle = arguments[0];
           pen.fillRect(0, 0, 1, 1);
           const parts = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
           return "#" + parts.map((one) => one.toString(16).padStart(2, "0")).join("")""",
        colour,
    ))  # fmt: skip


def test_the_list_of_traces_fits_a_desktop_and_its_rows_are_not_empty_on_a_phone(driver: Any, site: Path) -> None:
    """Where its last columns are in view they wrap; where they are not, they do not make rows tall."""
    longest = """const row = document.querySelector("tbody tr"), cells = [...row.children];
      cells[0].querySelector("a").textContent = "deepseekv3-16e-large-lossfree.probe/test/seed203";
      cells.at(-1).textContent = "loss free bias 0.001, per layer";"""
    tall = "return [...document.querySelectorAll('tbody tr')].map((row) => row.getBoundingClientRect().height)"
    open_page(driver, site / "traces/index.html")
    driver.execute_script(longest)
    wider = "const box = document.querySelector('.scroll'); return box.scrollWidth - box.clientWidth"
    assert driver.execute_script(wider) <= 0
    assert max(driver.execute_script(tall)) < 90  # four lines of a use
    open_page(driver, site / "traces/index.html", size=PHONE)
    assert max(driver.execute_script(tall)) < 65  # two lines of a name


def test_every_table_of_numbers_has_a_caption(driver: Any, site: Path) -> None:
    """It says what a row is and which direction is better; its columns are named by their heads."""
    labels = """const tables = [...document.querySelectorAll("table.data:not(.doc)")];
      return tables.filter((one) => one.querySelector("td.n")).map((one) => one.getAttribute("aria-label")
        || document.getElementById(one.getAttribute("aria-labelledby")).textContent)"""
    for page in ("index.html", "forecasters/lstm.html", HOSTILE_PAGE, "traces/index.html", TRACE_PAGE):
        open_page(driver, site / page)
        found = driver.execute_script(labels)
        assert found, page
        assert [(page, said, what) for said in found for what, rule in SAYS.items() if not rule.search(said)] == []


READER = """<style>body { font: 16px/1.5 "Noto Sans", "DejaVu Sans", sans-serif; margin: 0 }
  h1 { border-bottom: 1px solid } main { max-width: 896px; margin: 0 auto; padding: 32px }
  img { max-width: 100% } pre { padding: 16px; font-size: 85% }
</style><main>"""
"""How a forge shows README: its widths, sizes and margins, about."""


def test_the_first_screen_of_the_readme_says_what_it_is(driver: Any, tmp_path: Path) -> None:
    """At 1,280 x 800: the question, the picture, the commands, and how large the runs are."""
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": True}).enable("table").render((ROOT / "README.md").read_text())
    (tmp_path / "readme.html").write_text(f'<base href="{ROOT.as_uri()}/">{READER}{html}')
    open_page(driver, tmp_path / "readme.html", size=(1280, 800))
    bottoms = driver.execute_script(
        """const paragraphs = [...document.querySelectorAll("p")];
           const shown = [...["p strong", "img", "pre"].map((one) => document.querySelector(one)),
             paragraphs.find((one) => one.textContent.includes("recorded steps"))];
           return shown.map((one) => [one.getBoundingClientRect().height, one.getBoundingClientRect().bottom]);"""
    )
    assert all(height > 10 and bottom <= 800 for height, bottom in bottoms), bottoms


def test_a_missing_browser_is_a_skip_or_a_failure_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skip with the reason; a failure with MOELOAD_REQUIRE_ALL."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("MOELOAD_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"), browser():
        pass
    monkeypatch.setenv("MOELOAD_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"), browser():
        pass


def _luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted([_luminance(one), _luminance(other)])
    return (high + 0.05) / (low + 0.05)
