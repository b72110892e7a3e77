"""The symbols of the maths pages are the names in the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

from moeload_bench import forecaster
from moeload_bench.results import comparison, differences, leaders, ranks, results, significance, skill
from moeload_bench.scoring import catalogue, description, floors, forks, metrics, noise, scores
from moeload_bench.states import drift, rule, shifts
from moeload_bench.states.rule import StateRule
from tests.conftest import needs_traces

ROOT = Path(__file__).parents[2]
MODULES = (
    *(description, drift, forecaster, metrics, catalogue, scores, rule),
    *(floors, noise, skill, ranks, results, leaders, comparison, differences, significance, shifts, forks),
)
PAGES = ("states", "floors", "statistics", "metrics", "sampling-floor-note")
RECIPES = {path.stem for path in (ROOT / "moeload_bench" / "recipes").glob("*.toml")}
OTHER = {
    "load_half", "share", "scales", "margin", "uniform", "window_tv", "train", "inspect", "n/a",
    "sw_avg(100)", "fork_floors.json",
}  # fmt: skip


def quoted(page):
    text = (ROOT / "docs" / "methods" / f"{page}.md").read_text()
    return set(re.findall(r"`([^`\n]+)`", text))


def exists(name):
    if "." in name:
        head, _, attribute = name.removeprefix("moeload_bench.").rpartition(".")
        classes = {name: value for module in MODULES for name, value in vars(module).items() if isinstance(value, type)}
        owner = {**classes, **{module.__name__.split(".")[-1]: module for module in MODULES}}.get(
            head.rpartition(".")[2]
        )
        if owner is None:
            return name.startswith(("moeload_bench.", "leaderboard.")) and importlib.util.find_spec(name) is not None
        return hasattr(owner, attribute) or (
            dataclasses.is_dataclass(owner) and attribute in {f.name for f in dataclasses.fields(owner)}
        )
    listed = set(catalogue.METRICS) | {metric.label for metric in catalogue.METRICS.values()} | set(floors.FLOOR_NAMES)
    fields = {field.name for field in dataclasses.fields(rule.StateLabels)}
    return name in listed | fields or any(hasattr(module, name) for module in MODULES)


@needs_traces
@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_the_page_exists(page):
    """Each name in code style is a metric, floor, constant, field, recipe, function, module or file that exists."""
    for name in quoted(page) - OTHER - RECIPES:
        if (ROOT / "traces" / f"{name}.parquet").exists():
            continue
        if name.startswith(("moeload-bench ", "python -m leaderboard ")):
            continue  # commands: test_commands_of_pages.py and test_commands.py
        if "/" in name:
            assert (ROOT / name).exists(), name
        else:
            assert exists(name), name


def test_the_constants_on_the_states_page_are_the_rules():
    """Every `StateRule.x` = value on the page is the package's."""
    text = (ROOT / "docs" / "methods" / "states.md").read_text()
    found = dict(re.findall(r"`StateRule\.(\w+)`\s*=\s*(\([^)]*\)|[\d.]*\d)", text))
    assert set(found) == {field.name for field in dataclasses.fields(StateRule)}
    for name, value in found.items():
        got = getattr(StateRule(), name)
        assert value == (str(got) if isinstance(got, tuple) else f"{got:g}"), name


def test_the_other_constants_on_the_pages_are_the_codes():
    """`NAME` = number in any page is that module constant."""
    for page in PAGES:
        text = (ROOT / "docs" / "methods" / f"{page}.md").read_text()
        for name, value in re.findall(r"`([A-Z_]+)`\s*=\s*(\d+)", text):
            (got,) = {getattr(module, name) for module in MODULES if hasattr(module, name)}
            assert got == float(value), name
