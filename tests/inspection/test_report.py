"""`moeload-bench report`: one page that says what to do, needs nothing else, and is true to the trace."""

from __future__ import annotations

import re
import struct
import zlib
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import moeload_bench
from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, PlacementError, PlotError
from moeload_bench.inspection.capacity import capacity_of, capacity_sentences
from moeload_bench.inspection.cluster import Cluster
from moeload_bench.inspection.drawing import Axis, Line, heat_png, line_chart, shade, share_lines
from moeload_bench.inspection.findings import advice_sentences
from moeload_bench.inspection.page import Report
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.summary import layer_rows, sentences
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import TraceWriter, rows_of
from moeload_bench.scoring.description import describe_layers
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE, synthetic_trace
from tests.support.site_world import HOSTILE

FEW = ("uniform", "sw_avg")


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
    return synthetic_trace(900)


@pytest.fixture(scope="module")
def page(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOELOAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return moeload_bench.report(trace, forecasters=FEW)


def test_the_page_stands_alone(page: Report) -> None:
    """Well formed; loads nothing but pictures inside itself; no script; the policy forbids the rest."""
    parsed = Text(page.html)
    assert {load.split(",")[0] for load in parsed.loads} == {"data:", "data:image/png;base64"}
    assert "<script" not in page.html
    assert "default-src 'none'" in page.html
    assert len(page.html) < 400_000


def test_the_page_says_what_was_found(page: Report, trace: Trace) -> None:
    """Onsets, the decision with its candidates and the next commands, as the modules give them."""
    text = Text(page.html).text
    for layer in describe_layers(trace):
        assert str(layer.onset) in text
        assert layer.states in text
    decision = page.found.decision
    assert decision is not None
    assert all(line in text for line in decision.lines())
    assert all(f"{one.saved_percent:.2f}" in text for one in decision.candidates)
    assert ".." not in text.replace("...", "")
    assert f"moeload-bench plan {trace.id}" in text
    sentences = advice_sentences(page.found)
    assert sentences[: len(decision.lines())] == decision.lines()
    assert all(sentence in text for sentence in sentences)
    assert any("The expert loads have stabilised: both layers are stable" in sentence for sentence in sentences)


def test_the_moves_shown_are_those_of_the_decision(page: Report, trace: Trace) -> None:
    """The first twelve, in the steps at which it looks."""
    assert page.found.decision is not None
    take = page.found.decision.take
    assert 0 < len(page.found.moves) <= min(12, take.replans)
    assert all(advice.step % take.every == 0 for advice in page.found.moves)


def test_the_page_says_what_capacity_to_keep(page: Report, trace: Trace) -> None:
    """The sentences are those of `moeload-bench capacity`, for the same run."""
    for sentence in capacity_sentences(capacity_of(trace)):
        assert escape(sentence) in page.html


def test_a_stranger_cannot_write_into_the_page(tmp_path: Path) -> None:
    """Names and notes of a trace are text, whatever they hold."""
    evil = synthetic_trace(60, family="<script>alert(1)</script>", notes=("<img src=x onerror=alert(1)>",))
    html = moeload_bench.report(evil, forecasters=FEW, source="<b>x</b>").html
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_what_cannot_be_judged_is_missing_with_its_reason(tmp_path: Path) -> None:
    """A run too short for a look, and a model too small for a cluster: a page all the same."""
    short = moeload_bench.report(synthetic_trace(30), forecasters=FEW)
    assert "Not worked out: watching: 30 steps, the first look comes after 50" in Text(short.html).text
    why = "Whether the expert loads have stabilised cannot be said: 30 steps, the first look comes after 50."
    assert why in advice_sentences(short.found)
    two = Trace.from_arrays(np.full((300, 1, 2), 8), 8, 2)
    small = moeload_bench.report(two, forecasters=FEW)
    assert "no cluster shape fits 2 experts" in Text(small.html).text
    with pytest.raises(PlacementError, match="4 experts"):
        moeload_bench.report(synthetic_trace(60), Settings(cluster=Cluster(ClusterShape("mine", 2, 2))))


@pytest.mark.parametrize("stride", [4, 20])
def test_every_stride_that_has_states_is_watched(stride: int) -> None:
    """Looks come at whole blocks: the interval is rounded up, and the page says when the loads settled."""
    trace = Trace.from_arrays(synthetic_load_SLE(300), 512, 2, step_S=np.arange(300) * stride)
    found = moeload_bench.report(trace, forecasters=FEW).found
    steps = [look.step for look in found.looks]
    assert steps[:2] == {4: [52, 104], 20: [60, 120]}[stride]
    assert not found.missing
    assert "The expert loads have stabilised" in " ".join(advice_sentences(found))


def test_a_run_that_cannot_be_watched_is_not_called_short() -> None:
    """10,000 steps at a stride of 50: the reason is the stride, in the first sentence as among what is missing."""
    trace = Trace.from_arrays(synthetic_load_SLE(200), 512, 2, step_S=np.arange(200) * 50)
    found = moeload_bench.report(trace, forecasters=FEW).found
    first = " ".join(advice_sentences(found))
    assert "short" not in first
    assert "cannot be said: states need a stride that divides 100 steps" in first


@pytest.mark.parametrize("silent", [1, 2])
def test_layers_without_load_are_counted_and_not_called_healthy(silent: int) -> None:
    """In the report, the sentences of `watch` and their table: NaN is below no threshold, so it is asked for itself."""
    load_SLE = synthetic_load_SLE(400)
    load_SLE[:, :silent] = 0
    found = moeload_bench.report(Trace.from_arrays(load_SLE), forecasters=FEW).found
    last = found.last
    assert last is not None
    assert last.silent_L.tolist() == [True, silent == 2]
    watched, told = " ".join(sentences(last)), " ".join(advice_sentences(found))
    assert layer_rows(last)[0][-3:-1] == ("-", "-")
    if silent == 2:
        assert "No layer has any load." in watched
        assert "no layer had any load" in told
        assert "dead" not in watched + told
        assert "stabilised" not in told
        return
    assert "No expert is dead or dying; 1 layer had no load." in watched
    assert "All 4 experts (over the 1 of 2 layers with load) get tokens: none is dead or about to die." in told
    assert "1 layer had no load." in told
    assert "have stabilised: the 1 of 2 layers with load are stable" in told


def test_the_command_writes_it(trace: Trace, tmp_path: Path) -> None:
    """Where --out says, in a folder that is made; the path on the page is the one that was typed."""
    path = write_trace(synthetic_trace(400), tmp_path / "own/test/seed0.parquet")
    out = tmp_path / "pages/mine.html"
    told = CliRunner().invoke(app, ["report", str(path), "--out", str(out), "--devices", "2", "--slots", "6"])
    assert told.exit_code == 0, told.output
    assert f"written: {out}" in told.output
    text = Text(out.read_text(encoding="utf-8")).text
    assert f"moeload-bench run --trace {path}" in text
    assert "Stated: 2 devices with 6 slots." in text
    assert "200 MB per expert (--expert-mb)" in text
    assert f"moeload-bench plan {path} --devices 2 --slots 6" in text
    assert "Decision at step 400: " in told.output
    bad = CliRunner().invoke(app, ["report", str(path), "--devices", "2", "--slots", "2"])
    assert isinstance(bad.exception, MoeloadError)


def test_a_recording_in_progress_can_be_reported(tmp_path: Path) -> None:
    """By its folder, as `plan` and `run` take it, which is left as it was; the commands on the page name the folder."""
    whole = synthetic_trace(400)
    writer = TraceWriter(Parts(tmp_path / "seed0.parquet"), lambda: whole.meta, shard_steps=100)
    writer.parts.start(resume=False)
    for row in rows_of(whole):
        writer.add(row)
    folder, out = tmp_path / "seed0.parts", tmp_path / "page.html"
    before = sorted(path.name for path in folder.iterdir())
    told = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
    assert told.exit_code == 0, told.output
    text = Text(out.read_text(encoding="utf-8")).text
    assert f"moeload-bench run --trace {folder}" in text
    assert f"moeload-bench plan {folder}" in text
    assert "no: cut short" in text
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("shape", "cost", "options"),
    [
        (ClusterShape("mine", 4, 8), {}, " --devices 4 --slots 8"),
        (ClusterShape("mine", 4, 8, 2, 2), {"expert_mb": 2.5}, " --devices 4 --slots 8 --nodes 2 --expert-mb 2.5"),
        (ClusterShape("mine", 4, 8, 2, 4), {}, " --devices 4 --slots 8 --nodes 2 --groups 4"),
        (
            None,
            {"step_ms": 100.0, "expert_fraction": 0.25, "overlap": 0.5, "replan_ms": 3.0},
            " --step-ms 100 --expert-fraction 0.25 --overlap 0.5 --replan-ms 3",
        ),
        (None, {}, ""),
    ],
)
def test_the_options_of_a_cluster_are_what_was_stated(
    shape: ClusterShape | None, cost: dict[str, float], options: str
) -> None:
    """Nodes, groups and constants, so that the next command decides on the same; nothing that is assumed."""
    assert Cluster(shape, cost).options == options


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


def test_a_heat_map_holds_one_pixel_per_bin_and_expert() -> None:
    """Decoded here: experts from the top, time to the right, brighter for more, grey where nothing is known."""
    share_NE = np.array([[0.5, 0.25, 0.125, 0.125], [np.nan] * 4], dtype=np.float64)
    png = heat_png(share_NE, 4)
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (width, height, depth, kind) == (2, 4, 8, 3)
    at = png.index(b"IDAT")
    size = struct.unpack(">I", png[at - 4 : at])[0]
    rows = zlib.decompress(png[at + 4 : at + 4 + size])
    index = np.frombuffer(rows, dtype=np.uint8).reshape(4, 3)[:, 1:]
    assert index[:, 1].tolist() == [255] * 4
    np.testing.assert_array_equal(index[:, 0], np.round(shade(share_NE[0], 4) * 254))
    assert index[0, 0] > index[1, 0] > index[2, 0]


def test_experts_that_share_a_line_are_drawn_as_their_largest() -> None:
    """Seven experts on at most three lines: three, three and one; unknown only where nothing is known."""
    share_NE = np.array([[0.1, 0.4, np.nan, 0.2, 0.0, 0.1, 0.05], [np.nan] * 7])
    line_NG, group = share_lines(share_NE, 3)
    assert group == 3
    np.testing.assert_array_equal(line_NG, [[0.4, 0.2, 0.05], [np.nan] * 3])
    same_NE, alone = share_lines(share_NE, 7)
    assert alone == 1
    np.testing.assert_array_equal(same_NE, share_NE)


def test_a_chart_draws_what_can_be_drawn() -> None:
    """On a logarithmic axis zero has no place; without any point there is no chart; ticks are round and inside."""
    x, y = Axis("steps", log=True), Axis("error", log=True)
    chart = line_chart([Line("a", [(1, 0.1), (10, 0.0), (100, 0.4)])], x, y, "about")
    assert chart.count("<circle") == 2
    assert re.findall(r'class="tick"[^>]*>([^<]+)<', chart)[-3:] == ["20", "50", "100"]
    assert line_chart([Line("a", [(1, float("nan"))])], x, y, "about") == ""


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
                drawn = driver.execute_script("return [...document.images].every((one) => one.naturalWidth > 0)")
                assert drawn
                assert driver.execute_script(WIDE) == []
        assert len(grounds) == 2
        texts = {"family": HOSTILE, "group": HOSTILE, "licence": HOSTILE, "notes": (HOSTILE,), "config": {"a": HOSTILE}}
        evil = moeload_bench.report(synthetic_trace(400, **texts), forecasters=FEW, source=HOSTILE)
        site_browser.open_page(driver, evil.save(tmp_path / "evil.html"))
        assert HOSTILE in driver.find_element("tag name", "body").get_property("textContent")
        assert driver.execute_script("return window.hacked") is None
        assert driver.execute_script("return document.querySelectorAll('script, img[src=x]').length") == 0
        assert site_browser.complaints(driver) == [], "the escaping keeps it out: nothing had to be refused"
        printed: Any = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
        assert len(printed["data"]) > 20_000


WIDE = """
return [...document.querySelectorAll("figure, svg, pre, .todo, img")].filter(
  (one) => one.getBoundingClientRect().right > window.innerWidth + 1 && !one.closest("details:not([open])")
).map((one) => one.tagName);
"""


def test_a_scale_between_two_round_numbers_still_has_numbers() -> None:
    """A logarithmic axis from 0.0231 to 0.0449 holds no 1, 2 or 5: it shows its two ends instead."""
    line = Line("a", [(0.0, 0.0231), (1.0, 0.0449)])
    drawn = line_chart([line], Axis("step"), Axis("error", log=True), "errors")
    assert drawn.count('class="grid"') == 2
