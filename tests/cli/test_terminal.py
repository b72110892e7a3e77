"""What a terminal of 80 columns shows: the answer first, tables that fit, the next command last."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from moeload_bench import evaluate, load_suite
from moeload_bench.cli.progress import command_lines
from moeload_bench.results.brief import brief_tables
from moeload_bench.suites.suite import default_suite
from moeload_bench.traces.store import write_trace
from tests.conftest import need, synthetic_trace
from tests.support.terminal import Shown, drawn_in_terminal, moeload_in_terminal

COSTS = ("--expert-mb", "50", "--bandwidth", "25", "--step-ms", "300", "--every", "100,300")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    write_trace(synthetic_trace(900, recipe="own"), made / "own.parquet")
    return made


def well(shown: Shown, width: int) -> list[str]:
    """The lines, once nothing is wrong with them."""
    assert shown.status == 0, shown.text
    assert shown.faults(width) == []
    return shown.lines


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (("run", "guarded", "--level", "none", "--fresh", "--trace"), ("guarded, forecaster 2 of 2, origin",)),
        (
            ("plan", "--devices=4", "--slots=12", "--expert-mb=1", "--bandwidth=25", "--step-ms=99", "--level=none"),
            ("candidates at step",),
        ),
    ],
    ids=["run", "plan"],
)
def test_a_long_command_names_its_stages_as_they_begin(
    words: tuple[str, ...], stages: tuple[str, ...], folder: Path
) -> None:
    """Within two seconds of its start and then at least every five; time left too. Seconds are of CPU, so that other
    work on the machine does not count. A stage that lasts less than a tenth of a second may end before it is shown."""
    need("jinja2", "pip install -e '.[site]'")
    screen = drawn_in_terminal(*words, "own.parquet", width=120, cwd=folder)
    times = [seconds for seconds, _ in screen]
    assert times[0] <= 2
    assert max(after - before for before, after in itertools.pairwise(times)) <= 5
    text = "".join(text for _, text in screen)
    places = [text.index(stage) for stage in ("reading own.parquet", *stages)]
    assert places == sorted(places)
    assert re.search(r"about \d+ s left", text)


def test_a_recipe_can_be_copied(folder: Path) -> None:
    """`--toml` prints the file as it is read."""
    shown = moeload_in_terminal("recipes", "show", "qwen3moe-tiny-8e", "--toml", width=200, cwd=folder)
    (folder / "qwen3moe-tiny-8e.toml").write_text(shown.text)
    of_copy = moeload_in_terminal("recipes", "show", "qwen3moe-tiny-8e.toml", "--json", width=200, cwd=folder)
    assert json.loads(of_copy.text)["name"] == "qwen3moe-tiny-8e"


def test_a_second_trace_is_not_passed_over(folder: Path) -> None:
    """Both were named, so one of them is not scored in silence."""
    shown = moeload_in_terminal("run", "--trace", "own.parquet", "--trace", "own.parquet", cwd=folder)
    assert shown.status == 2
    assert "got --trace 2 times, expected once" in shown.text


def test_a_suite_whose_traces_are_elsewhere_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a checkout, before any work: a clone, a folder, a place on the Hub; --traces is one of the answers."""
    monkeypatch.delenv("MOELOAD_TRACES", raising=False)
    shown = moeload_in_terminal("run", "sw_avg", "--suite", default_suite(), cwd=tmp_path)
    assert shown.status == 2, shown.text
    assert re.search(r"traces are not here, first .*a clone.*MOELOAD_TRACES.*--traces DIR.*MOELOAD_HUB", shown.text)
    data = Path(__file__).resolve().parents[2] / "moeload_bench" / "data"
    suite = tmp_path / "mine.toml"
    entry = load_suite("mini").traces[0]
    suite.write_text(
        f'name = "mine"\nhorizons = [1]\n[[traces]]\nid = "other/test/seed1"\ndata_sha256 = "{entry.data_sha256}"\n'
        "transient = [100]\n"
    )
    shown = moeload_in_terminal("run", "sw_avg", "--suite", "mine.toml", cwd=tmp_path)
    assert "1 of its 1 traces are not here, first other/test/seed1" in shown.text
    (tmp_path / "here/other/test").mkdir(parents=True)
    shutil.copy(data / f"{entry.id}.parquet", tmp_path / "here/other/test/seed1.parquet")
    shown = moeload_in_terminal("run", "sw_avg", "--suite", "mine.toml", "--traces", "here", cwd=tmp_path)
    assert shown.status == 0, shown.text


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_a_row_of_fallbacks_is_marked_and_says_why() -> None:
    """Most of its forecasts were not its own: a star at the name, the part and the reason below the table."""
    results = evaluate(["last_value", "sw_avg"], "mini", level="none")
    of_last_value = results.table["forecaster"] == "last_value"
    counts = results.table["counts"].mask(of_last_value, '{"forecasts": 100, "fallback": 64}')
    counted = dataclasses.replace(results, table=results.table.assign(counts=counts))
    tables = list(brief_tables(counted, "window_tv", 80))
    (why,) = [part for part in tables if isinstance(part, str) and part.startswith("* ")]
    assert why.startswith(
        "* last_value fell back to a plain average in 64 % of its forecasts: it had seen too few rows"
    )
    names = [cell for part in tables if not isinstance(part, str) for cell in part.columns[0]._cells]
    assert names.count("last_value*") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_skill_of_plans_has_the_difference_beside_it() -> None:
    """Skill is a ratio of imbalances, near 0 by nature: imbalance in percent of the reference's says how much."""
    results = evaluate(["uniform", "sw_avg"], "mini", level="none")
    tables = [part for part in brief_tables(results, "regret@quarter", 80) if not isinstance(part, str)]
    for table in tables:
        heads = [str(column.header) for column in table.columns]
        cells = dict(zip(table.columns[0]._cells, table.columns[heads.index("imbal. %")]._cells, strict=True))
        assert float(str(cells["uniform"])) > 3
        assert float(str(cells["sw_avg"])) == 0
    first = next(part for part in brief_tables(results, "window_tv", 80) if not isinstance(part, str))
    assert "plan %" in [str(column.header) for column in first.columns]


@pytest.mark.parametrize("width", [40, 80])
def test_a_long_command_is_broken_where_it_can_be_pasted(width: int) -> None:
    """Each line but the last ends with a backslash; an option stays with its value; joined it is the command."""
    command = "moeload-bench plan 'my run.parquet' --forecaster 'a b' --devices 2 --slots 10 --expert-mb 200 --fresh"
    lines = command_lines(command, width).split("\n")
    assert max(map(len, lines)) <= width
    assert all(line.endswith(" \\") for line in lines[:-1])
    joined = " ".join(line.removesuffix("\\").strip() for line in lines)
    assert joined == command
    assert not any(re.search(r"--(?!fresh)\S+( \\)?$", line) for line in lines)
