"""The built site in a browser: opened from disk, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard.site.command import write_site
from leaderboard.site.pages import STATIC, site_files, trace_files
from moeload_bench.results.render import MINUS
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import write_trace
from tests.conftest import need, synthetic_trace
from tests.support.site_browser import PHONE, browser, complaints, open_page, overflow, requested
from tests.support.site_world import HOSTILE, drawn_board, hostile_board, inputs_of

for _package in ("jinja2", "matplotlib", "markdown_it", "yaml"):
    need(_package, "pip install -e '.[site]'")

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
TRACE_PAGE = "traces/qwen3moe-tiny-8e.test.seed1.html"
HOSTILE_PAGE = "forecasters/stranger.html"
MINI = "boards/mini.html"
PAGES = ("index.html", MINI, "forecasters/lstm.html", HOSTILE_PAGE, "traces/index.html", TRACE_PAGE,
         "submit.html", "cite.html")  # fmt: skip
FIRST_SCREEN = """return ["h1", ".answer p", ".button"].map((one) =>
  document.querySelector(one).getBoundingClientRect().bottom <= innerHeight)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn results of twelve recipes, the mini suite with an entry full of markup, its traces."""
    out = tmp_path_factory.mktemp("out") / "site"
    levels = {"uniform": 0.3, "sw_avg": 0.1, "best": 0.05, "a-forecaster-with-a-long-name": 0.2}
    traces = tuple(ref for ref in list_traces(ROOT / "moeload_bench" / "data") if ref.id.endswith("test/seed1"))
    write_site(site_files(inputs_of(drawn_board(levels, recipes=12), hostile_board(), traces=traces)), out)
    return out


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as made:
        yield made


def column(driver: Any, head: str) -> list[str]:
    """The texts of a column of the standings that are shown, from top to bottom."""
    script = """const table = document.querySelector("#standings ~ .choice section:not([hidden]) table");
      const at = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent === arguments[0]);
      return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent)"""
    texts: list[str] = driver.execute_script(script, head)
    return texts


def test_the_first_screen_answers_and_says_how_to_submit(driver: Any, site: Path) -> None:
    """The question, the answer and the button lie in a window of 1,280 x 900; the first answer on a phone, too."""
    open_page(driver, site / "index.html")
    assert driver.execute_script(FIRST_SCREEN) == [True, True, True]
    wider = (
        "const box = document.querySelector('#standings ~ .choice .scroll'); return box.scrollWidth - box.clientWidth"
    )
    assert driver.execute_script(wider) <= 1, "every column of the standings is in view"
    open_page(driver, site / "index.html", size=PHONE)
    assert driver.execute_script(FIRST_SCREEN)[:2] == [True, True]
    driver.find_element("css selector", ".button").click()
    assert "submit" in driver.current_url


def test_errors_by_horizon_are_one_click_away(driver: Any, site: Path) -> None:
    """The link below the answer unfolds them; so does the address."""
    open_page(driver, site / "index.html")
    tables = "return document.querySelector('#horizons').open"
    assert driver.execute_script(tables) is False
    driver.find_element("link text", "Errors by horizon").click()
    assert driver.execute_script(tables) is True
    open_page(driver, site / "index.html", "#horizons")
    assert driver.execute_script(tables) is True


def test_one_table_of_several_is_shown(driver: Any, site: Path) -> None:
    """The switch chooses it; without scripts all of them are there."""
    from selenium.webdriver.support.select import Select

    open_page(driver, site / MINI)
    shown = []
    for state in ("transient", "stable"):
        Select(driver.find_element("css selector", "#standings ~ .choice select")).select_by_visible_text(state)
        shown.append(column(driver, "window_tv"))
        visible = "#standings ~ .choice section:not([hidden])"
        assert [one.get_attribute("data-title") for one in driver.find_elements("css selector", visible)] == [state]
    assert shown[0] != shown[1]


def test_columns_sort_by_mouse_and_by_key(driver: Any, site: Path) -> None:
    """By number, not by text; either way round; the head says which."""
    from selenium.webdriver.common.keys import Keys

    open_page(driver, site / MINI)

    def order() -> list[float]:
        return [float(text.replace(MINUS, "-")) for text in column(driver, "window_tv")]

    heads = driver.find_elements("css selector", "#standings ~ .choice section:not([hidden]) thead button")
    head = next(button for button in heads if button.text == "window_tv")
    head.click()
    assert order() == sorted(order())
    head.send_keys(Keys.ENTER)
    assert order() == sorted(order(), reverse=True)
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_the_search_keeps_the_traces_that_match(driver: Any, site: Path) -> None:
    """By any of its words, and back."""
    open_page(driver, site / "traces/index.html")
    rows = "return [...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length"
    count = driver.execute_script(rows)
    box = driver.find_element("css selector", ".search input")
    box.send_keys("no such run")
    assert driver.execute_script(rows) == 0
    box.clear()
    box.send_keys(" ")
    assert driver.execute_script(rows) == count


def test_links_lead_to_forecasters_and_traces(driver: Any, site: Path) -> None:
    """From the leaderboard to a forecaster and back, to the traces, to one trace with a map of each layer."""
    open_page(driver, site / MINI)
    driver.find_element("css selector", "#standings ~ .choice").find_element("link text", "lstm").click()
    assert driver.find_element("tag name", "h1").text == "lstm"
    driver.find_element("link text", "Traces").click()
    driver.find_element("link text", "qwen3moe-tiny-8e/test/seed1").click()
    widths = "return [...document.querySelectorAll('img.map')].map((one) => one.naturalWidth)"
    assert len(driver.execute_script(widths)) == 6
    assert min(driver.execute_script(widths)) > 20
    assert complaints(driver) == []


def test_a_strangers_markup_is_shown_as_text_and_nothing_runs(driver: Any, site: Path) -> None:
    """On the leaderboard and on its page; and it is the escaping that keeps it out, for nothing was ever refused."""
    for page in (MINI, HOSTILE_PAGE):
        open_page(driver, site / page)
        if page == HOSTILE_PAGE:
            assert HOSTILE in driver.find_element("css selector", "main").get_property("textContent")
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('img[src=x], main script').length") == 0
        assert complaints(driver) == []


def test_a_stranger_s_trace_is_text_on_its_page_and_in_the_list(driver: Any, tmp_path: Path) -> None:
    """Family, licence, notes, settings and sources full of markup: all is shown as it is written, and nothing runs."""
    source = {"name": HOSTILE, "version": HOSTILE, "licence": HOSTILE, "sha256": HOSTILE, "bytes": 1}
    texts = {"family": HOSTILE, "group": HOSTILE, "licence": HOSTILE, "gate": HOSTILE, "precision": HOSTILE}
    tables = {name: {HOSTILE: HOSTILE} for name in ("config", "optimizer", "schedule", "hardware", "versions")}
    trace = synthetic_trace(400, recipe="evil", **texts, **tables, notes=(HOSTILE,), sources=(source,))
    write_trace(trace, tmp_path / "traces/evil/test/seed0.parquet")
    inputs = replace(inputs_of(traces=tuple(list_traces(tmp_path / "traces"))), root=tmp_path)
    assets = [(f"assets/{path.name}", path.read_bytes()) for path in STATIC.iterdir()]
    write_site([*assets, *trace_files(inputs)], tmp_path / "site")
    for page in ("traces/evil.test.seed0.html", "traces/index.html"):
        driver.get((tmp_path / "site" / page).as_uri())
        assert "evil" in driver.find_element("tag name", "main").text
        shown = driver.find_element("tag name", "main").get_property("textContent")
        assert (HOSTILE in shown) == (page != "traces/index.html"), "the list shows ids and numbers only"
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
        assert complaints(driver) == []


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


def _luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted([_luminance(one), _luminance(other)])
    return (high + 0.05) / (low + 0.05)
