"""docs/guide/api.md is what the code says: names, arguments, defaults, fields, and the code blocks run."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import moeload_bench
from moeload_bench import Forecaster, list_traces, write_trace
from moeload_bench.forecaster import SUM_TOLERANCE, FittedForecaster
from moeload_bench.isolation.targets import load_class, parse_target
from moeload_bench.recording.options import DEFAULTS
from moeload_bench.results.results import Results
from tests.conftest import need, synthetic_trace

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guide" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CALL = re.compile(r"(\w+(?:\.\w+)?)(\(.*\))?")


def signatures() -> list[tuple[str, str]]:
    """(name, arguments) of each line in a block that holds nothing but public names and their arguments."""
    found = []
    for block in BLOCKS:
        lines = [CALL.fullmatch(line) for line in block.splitlines()]
        named = [line for line in lines if line and line[1].split(".")[0] in (*moeload_bench.__all__, "Results")]
        if len(named) == len(lines):
            found += [(line[1], line[2] or "") for line in named]
    return found


def owner_of(name: str) -> Any:
    first, *parts = name.split(".")
    found: Any = Results if first == "Results" else getattr(moeload_bench, first)
    for part in parts:
        found = inspect.getattr_static(found, part, None) or getattr(found, part)
    return found


def fields(heading: str) -> list[str]:
    """The names in the first column of the first table after the heading."""
    table = re.search(r"\n\|.*?\n\n", PAGE[PAGE.index(heading) :], re.DOTALL)
    assert table is not None
    return [name for row in table[0].strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_page_names_what_the_package_exports() -> None:
    """Each public name once, none that does not exist."""
    assert sorted(fields("# The Python API")) == sorted(moeload_bench.__all__)


@pytest.mark.parametrize(("name", "arguments"), signatures())
def test_every_signature_is_the_code_s(name: str, arguments: str) -> None:
    """Arguments, their order and defaults, without annotations; an attribute has none."""
    found = owner_of(name)
    if isinstance(found, property):
        assert arguments == ""
        return
    bound = isinstance(found, classmethod)
    signature = inspect.signature(found.__func__ if bound else found)
    empty = inspect.Parameter.empty
    parameters = [p.replace(annotation=empty) for p in signature.parameters.values() if p.name not in ("self", "cls")]
    assert arguments == str(signature.replace(parameters=parameters, return_annotation=empty))


def test_the_page_shows_every_function() -> None:
    """A public function without its signature would be a function without a page."""
    functions = {name for name in moeload_bench.__all__ if inspect.isfunction(getattr(moeload_bench, name))}
    assert functions <= {name for name, _ in signatures()}


@pytest.mark.parametrize("name", ["TraceInfo", "StepBlock", "ForecastRequest", "Forecast"])
def test_every_field_of_the_contract_is_on_the_page(name: str) -> None:
    """In the order of the code."""
    assert fields(f"### `{name}`") == [field.name for field in dataclasses.fields(getattr(moeload_bench, name))]


def test_every_field_of_a_trace_is_on_the_page() -> None:
    """The table under `Traces`."""
    assert fields("## Traces") == [field.name for field in dataclasses.fields(moeload_bench.Trace)]


def test_every_option_of_a_recording_is_on_the_page() -> None:
    """With its default."""
    section = PAGE[PAGE.index("`options` of `record`") :]
    rows = re.findall(r"\n\| (`.*?`) \| `(.*?)` \|", section)
    options = {name: ast.literal_eval(value) for names, value in rows for name in re.findall(r"`(\w+)`", names)}
    assert list(options.items()) == list(DEFAULTS.items())


def test_constants_on_the_page_are_the_code_s() -> None:
    """How far from 1 a row may sum."""
    assert f"within {SUM_TOLERANCE:g}," in PAGE


@pytest.mark.slow
def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, in a checkout, with the class of the tutorial; a table has the columns that the page names."""
    tutorial = (ROOT / "docs" / "guide" / "tutorial-forecasting.md").read_text(encoding="utf-8")
    mine = re.search(r"```python\n(# my\.py\n.*?)```", tutorial, re.DOTALL)
    assert mine is not None
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(mine[1], encoding="utf-8")
    trace = synthetic_trace(1200, recipe="my-run")
    write_trace(trace, f"runs/{trace.id}.parquet")
    Path("leaderboard").symlink_to(ROOT / "leaderboard")
    need("transformers", "pip install '.[record]'")
    mine_alone: dict[str, Any] = {"Mine": load_class(parse_target("my.py:Mine"))}
    scope = dict(mine_alone)
    for block in BLOCKS:
        if "import" in block.split() or block.startswith(("class", "results =")):
            exec(block, scope)
            scope |= mine_alone  # the page's skeleton has no body
    assert scope["mean_KLE"].shape == (2, 6, 8)
    assert (scope["imported"].steps, list_traces(tmp_path / "runs")[-1].id) == (50, "tiny/test/seed0")
    assert scope["decision"].take in scope["decision"].candidates
    assert scope["first"].names == scope["again"].names == ["last_value"]
    columns = fields("`Results` is one table")
    assert columns == [field.name for field in dataclasses.fields(Results) if not field.name.startswith("_")]
    assert scope["best"] != scope["second"]
    assert scope["results"].suite.name == "v3"


def test_the_skeleton_of_the_page_keeps_the_protocols() -> None:
    """What the page calls a forecaster is one for the type checker and at run time."""
    scope: dict[str, Any] = {}
    exec(next(block for block in BLOCKS if block.startswith("class Mine")), scope)
    mine = scope["Mine"](None, 0)
    assert isinstance(mine, Forecaster)
    assert isinstance(mine, FittedForecaster)
