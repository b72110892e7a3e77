"""The built site in a browser: opened from disk, without a network.

Numbers are compared with what `moeload_bench` computes from the same result files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboard.make_site import write_site
from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import site_files
from moeload_bench.results import Result, load_result
from moeload_bench.tables import result_grid, run_means
from tests.site_browser import DESKTOP, PHONE, browser, complaints, open_page, overflow, requested, wait_drawn
from tests.site_world import TRACE, copy_checkout

SWITCHES = ("suite", "state", "horizon", "recipe", "metric")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copy_checkout(tmp_path_factory.mktemp("checkout"), (TRACE,))
    out = tmp_path_factory.mktemp("out") / "site"
    write_site(site_files(read_inputs(root)), out)
    return out


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.fixture
def results(site: Path) -> dict[str, Result]:
    folder = next(site.parent.parent.glob("checkout*")) / "leaderboard" / "results" / "mini"
    return {path.stem: load_result(path) for path in sorted(folder.glob("*.json"))}


def choose(driver: Any, **choice: str) -> None:
    """Set switches as a user does, and wait until the page shows the choice."""
    from selenium.webdriver.support.select import Select

    for name, value in choice.items():
        Select(driver.find_element("id", name)).select_by_value(value)
    wait_drawn(driver)


def column(driver: Any, head: str) -> dict[str, str]:
    """Forecaster to the text of the column that is headed so."""
    heads = [th.text.split("\n")[0].strip("↕↑↓ ") for th in driver.find_elements("css selector", "#board thead th")]
    found = {}
    for row in driver.find_elements("css selector", "#board tbody tr"):
        cells = row.find_elements("css selector", "th, td")
        found[cells[0].text.split()[0]] = cells[heads.index(head)].text
    return found


def close_to(text: str, value: float) -> bool:
    """Equal to the three digits that are shown."""
    return math.isclose(float(text.replace("−", "-")), value, rel_tol=5.1e-3, abs_tol=1e-12)


def test_the_switches_show_the_numbers_of_the_results(driver: Any, site: Path, results: dict[str, Result]) -> None:
    """State, horizon, recipe and metric: each changes the column, always to the mean of the result files."""
    open_page(driver, site / "index.html")
    seen = []
    for state, horizon, recipe, metric in (
        ("transient", "100", "all", "window_tv"), ("stable", "100", "all", "window_tv"),
        ("stable", "2000", "all", "window_tv"), ("stable", "2000", "qwen3moe-tiny-8e", "window_tv"),
        ("stable", "2000", "qwen3moe-tiny-8e", "regret@quarter"), ("crossing", "1000", "all", "tv"),
    ):  # fmt: skip
        choose(driver, state=state, horizon=horizon, recipe=recipe, metric=metric)
        shown = column(driver, metric)
        assert shown.keys() == results.keys()
        for name, result in results.items():
            k = result.suite.horizons.index(int(horizon))
            runs = [run for run in result.runs if recipe in ("all", run.recipe)]
            values = [value for run in runs if (value := run_means(run, state, metric)[k]) is not None]
            assert close_to(shown[name], sum(values) / len(values)), (name, state, horizon, recipe, metric)
        seen.append(shown)
    assert all(one != other for one, other in zip(seen, seen[1:], strict=False))
    assert complaints(driver) == []
