"""The page of an inspection says what the inspection says, needs nothing else, and holds no stranger's markup."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moeload_bench
from moeload_bench.errors import PlotError
from moeload_bench.ops.facts.capacity import capacity_of, capacity_sentences, capacity_tables
from moeload_bench.ops.facts.page import Report, curve, excess_colours, png, write_page
from moeload_bench.ops.facts.verdict import assess
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE, synthetic_trace
from tests.support.site_world import HOSTILE


class Text(HTMLParser):
    """The words of a page, what it loads, and whether its tags close."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Two layers, new data at step 500, and a loss."""
    stage_S, loss_S = np.repeat([0, 1], [500, 400]), np.linspace(6.0, 2.0, 900)
    columns = {"stage": stage_S, "loss": loss_S, "lr": np.full(900, 0.001)}
    return Trace.from_arrays(synthetic_load_SLE(900), 512, 2, columns=columns)


@pytest.fixture(scope="module")
def page(trace: Trace) -> Report:
    return moeload_bench.report(trace)


def test_the_page_stands_alone(page: Report) -> None:
    """Well formed; loads nothing but pictures inside itself; no script; the policy forbids the rest."""
    parsed = Text(page.html)
    assert {load.split(",")[0] for load in parsed.loads} == {"data:", "data:image/png;base64"}
    assert "<script" not in page.html
    assert "default-src 'none'" in page.html
    assert len(page.html) < 100_000


def test_the_page_and_the_json_say_the_same(page: Report) -> None:
    """Verdict, tiles and the expert-parallel sizes, read again from the record; nothing about forecasters."""
    text, record, said = Text(page.html).text, page.found.record, assess(page.found)
    assert all(sentence in text for sentence in (record["run"], said.headline, *said.to_do))
    ranks = record["ranks"]
    means = np.array(ranks["busiest"]).mean(axis=1)
    worst = int(np.argmax(ranks["busiest"][-1]))
    now, noise = f"now {means[-1]:.2f} ", f"noise alone {np.mean(ranks['low'][-1]):.2f}"
    assert now in text
    assert noise in text
    assert f"worst layer {ranks['busiest'][-1][worst]:.2f} layer {record['layers'][worst]}" in text
    for size, mean, busiest in zip(ranks["size"], means, ranks["busiest"], strict=True):
        layer = int(np.argmax(busiest))
        assert f"{size} ranks {mean:.2f} layer {record['layers'][layer]}: {busiest[layer]:.2f}" in text
    assert all(f"step {step:,}: a planned stage of data begins" in text for step in record["switch_steps"])
    assert record["switch_steps"] == [500]
    assert "forecast" not in text


def test_the_map_has_a_pixel_per_layer_and_bin(page: Report) -> None:
    """On one time axis with the state, loss and learning rate; the switch is a line across all of them."""
    line = page.found.timeline
    assert line is not None
    assert page.html.count('<i class="planned" style="left: 55.56%"') == 4
    assert page.html.count('<path d="M') == 2


def test_capacity_is_on_the_page_only_where_it_was_asked_for(trace: Trace, page: Report, tmp_path: Path) -> None:
    """Its sentences and tables are those of the terminal."""
    found = capacity_of(trace, devices=2)
    assert "Capacity" not in Text(page.html).text
    text = Text(write_page(page.found, tmp_path / "page.html", found).read_text(encoding="utf-8")).text
    assert all(sentence in text for sentence in capacity_sentences(found))
    assert all(" ".join(row) in text for table in capacity_tables(found) for row in table.rows)


def test_a_stranger_cannot_write_into_the_page() -> None:
    """Names and notes of a trace are text, whatever they hold."""
    evil = synthetic_trace(60, family="<script>alert(1)</script>", notes=("<img src=x onerror=alert(1)>",))
    html = moeload_bench.report(evil).html
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_what_is_not_known_is_left_out_or_said() -> None:
    """A run shorter than a bin has no map; a layer without load is grey and named so."""
    assert "<img" not in moeload_bench.report(synthetic_trace(30)).html
    load_SLE = synthetic_load_SLE(400)
    load_SLE[:, :1] = 0
    silent = moeload_bench.report(Trace.from_arrays(load_SLE)).html
    assert "grey: no load" in silent
    assert "1 layer without load" in silent
    assert "nan" not in Text(silent).text


def test_a_page_that_cannot_be_written_is_an_error(page: Report, tmp_path: Path) -> None:
    """It names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PlotError, match=r"file/report\.html: cannot be written"):
        page.save(tmp_path / "file/report.html")


def test_a_notebook_shows_the_page_in_a_frame(page: Report) -> None:
    """Escaped, so that the notebook's own page is left alone."""
    html = page._repr_html_()
    assert html.startswith("<iframe")
    assert "&lt;h1&gt;" in html
    assert "<h1>" not in html


def test_the_map_holds_one_pixel_per_bin_and_layer() -> None:
    """Read back from the file: layers from the top, time to the right, stronger for more, grey for what is unknown."""
    image = png(excess_colours(np.array([[4.0, 2.0, 1.0, 0.5], [np.nan] * 4]).T, most=4.0))
    assert struct.unpack(">IIBB", image[16:26]) == (2, 4, 8, 6)
    at = image.index(b"IDAT")
    size = struct.unpack(">I", image[at - 4 : at])[0]
    lines = np.frombuffer(zlib.decompress(image[at + 4 : at + 4 + size]), dtype=np.uint8).reshape(4, 9)
    pixels = lines[:, 1:].reshape(4, 2, 4).astype(int)
    assert (pixels[:, 1] == [128, 128, 128, 255]).all()
    assert pixels[:, 0].tolist() == [[214, 30, 70, 255], [230, 98, 52, 204], [245, 166, 35, 0], [245, 166, 35, 0]]


def test_a_curve_has_gaps_where_nothing_is_known() -> None:
    """Two parts begin with a move; fewer than two values are no curve."""
    line = curve(np.array([1.0, 2.0, np.nan, 3.0, 1.5]))
    assert line is not None
    assert (line.low, line.high) == (1.0, 3.0)
    assert re.findall("[ML]", line.path) == ["M", "L", "M", "L"]
    assert curve(np.array([1.0, np.nan])) is None


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_in_a_real_browser(page: Report, tmp_path: Path) -> None:
    """Desktop and phone, light and dark: drawn, nothing asked of the network, no complaint, no part
    wider than the window, text that differs from its ground; it prints with its pictures; a stranger's script does
    not run."""
    need("selenium", "pip install -e '.[dev]'")
    from tests.support import site_browser

    path = page.save(tmp_path / "report.html")
    with site_browser.browser() as driver:
        grounds = set()
        for size in (site_browser.DESKTOP, site_browser.PHONE):
            for dark in (False, True):
                site_browser.open_page(driver, path, size=size, dark=dark)
                assert site_browser.complaints(driver) == []
                assert site_browser.overflow(driver) <= 0
                asked = [url for url in site_browser.requested(driver) if not url.startswith(("data:", "about:"))]
                assert asked == [path.resolve().as_uri()]
                grounds.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert driver.execute_script("return [...document.images].every((one) => one.naturalWidth > 0)")
                assert driver.execute_script(WIDE) == []
        assert len(grounds) == 2
        texts = {"family": HOSTILE, "group": HOSTILE, "licence": HOSTILE, "notes": (HOSTILE,), "config": {"a": HOSTILE}}
        evil = moeload_bench.report(synthetic_trace(400, **texts))
        site_browser.open_page(driver, evil.save(tmp_path / "evil.html"))
        assert HOSTILE in driver.find_element("tag name", "body").get_property("textContent")
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('script, img[src=x]').length") == 0
        assert site_browser.complaints(driver) == [], "the escaping keeps it out: nothing had to be refused"
        printed: Any = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
        assert len(printed["data"]) > 20_000


WIDE = """
return [...document.querySelectorAll("figure, svg, .tile, .size, img")].filter(
  (one) => one.getBoundingClientRect().right > window.innerWidth + 1 && !one.closest("details:not([open])")
).map((one) => one.tagName);
"""
