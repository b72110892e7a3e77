"""The page of results says what the results say; names of files and forecasters are legible."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from leaderboard.pages.headline import headline

from leaderboard import pages
from leaderboard.pages.parts import fill_parts
from moeload_bench.errors import ResultError
from moeload_bench.files import file_name
from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.tables import skill_text, three_digits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mini() -> list[Result]:
    folder = ROOT / "leaderboard" / "results" / "mini"
    return [load_result(folder / f"{name}.json") for name in ("uniform", "last_value", "sw_avg")]


def many_recipes(results: list[Result], recipes: int, runs: int = 1) -> list[Result]:
    """The runs again under other names, their errors multiplied by a factor of the recipe, run and forecaster."""
    rng = np.random.default_rng(0)
    out = []
    for result in results:
        better = {"uniform": 4.0, "last_value": 1.5, "sw_avg": 1.0}[result.name]
        copies = []
        for recipe in range(recipes):
            for seed in range(1, runs + 1):
                factor = better * float(np.exp(0.1 * rng.standard_normal()))
                run = result.runs[0].model_copy(update={"trace": f"r{recipe}/test/seed{seed}"})
                tasks = [
                    task.model_copy(
                        update={
                            "metrics": {
                                **task.metrics,
                                "window_tv": tuple(min(1.0, factor * (h + 1) * (recipe + 1) * 0.001) for h in range(5)),
                            }
                        }
                    )
                    for task in run.tasks
                ]
                copies.append(run.model_copy(update={"tasks": tuple(tasks)}))
        out.append(result.model_copy(update={"runs": tuple(copies)}))
    return out


def test_a_generated_part_of_an_unknown_name_is_refused() -> None:
    """A misspelt name would else leave old numbers standing."""
    with pytest.raises(ResultError, match="no generated part is named 'headlin' here; there is: headline"):
        fill_parts("<!-- generated: headlin v3 -->\n<!-- end -->\n", pages.headline.PARTS)


def test_the_headline_is_made_of_the_grid_and_the_statistics(mini: list[Result]) -> None:
    """Rows by skill, each with its values; the least of a column bold; n/a without recipes enough; floors below."""
    lines = [line.strip("| ").split(" | ") for line in headline(mini).splitlines() if line[:1] == "|"]
    grid = result_grid(mini, "window_tv")
    assert grid is not None
    for state in ("transient", "stable"):
        start = next(i for i, line in enumerate(lines) if line[0] == state)
        by_name = {line[0].strip("`*"): line for line in lines[start + 2 : start + 2 + len(mini) + 1]}
        rows = {row.forecaster: row for row in grid.rows if row.state == state}
        assert [*by_name] == [*sorted(rows, key=lambda name: -float(rows[name].skill)), "floor_batch"]
        for k in range(len(grid.horizons)):
            shown = {name: by_name[name][k + 1] for name in rows}
            assert {n: text.strip("*") for n, text in shown.items()} == {
                n: three_digits(r.value_K[k]) for n, r in rows.items()
            }
            best = min(rows, key=lambda name: rows[name].value_K[k])
            assert [name for name, text in shown.items() if "**" in text] == [best]
            assert by_name["floor_batch"][k + 1] == three_digits(grid.floors[state, "floor_batch"][k])
        assert all(line[-2] == "-" for name, line in by_name.items() if name in rows)


def test_with_recipes_enough_the_headline_has_intervals_and_ranks(mini: list[Result]) -> None:
    """The interval is the one for a new recipe; the three, all told apart, have ranks of their own."""
    text = headline(many_recipes(mini, recipes=6))
    rows = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines()[2:-1]]
    assert [(row[0], row[-2]) for row in rows] == [
        ("`sw_avg`", "1 to 1"),
        ("`last_value`", "2 to 2"),
        ("`uniform`", "3 to 3"),
    ]
    grid = result_grid(many_recipes(mini, recipes=6), "window_tv")
    assert grid is not None
    for row in rows:
        full = next(skill_text(r) for r in grid.rows if r.state == "transient" and r.forecaster == row[0].strip("`"))
        low, high = re.findall(r"[-+][\d.]+", full.split("a new recipe")[1])[:2]
        value, shown = row[-3].split(" ", 1)
        assert value == full.split()[0]
        for got, expected in zip(re.findall(r"[-+][\d.]+", shown), (low, high), strict=True):
            assert abs(float(got) - float(expected)) <= 0.006


def test_a_headline_needs_the_reference(mini: list[Result]) -> None:
    """Skill is against it; without it there is no table."""
    with pytest.raises(ResultError, match="mini: a headline needs the reference among its results"):
        headline([result for result in mini if result.name != "sw_avg"])


def test_the_page_of_results_is_short() -> None:
    """At most 200 lines: the headline of each suite that stands there; everything else is in files of rows."""
    text = (ROOT / "docs" / "reports" / "results.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for suite in ("v3", "mini"):
        assert f"<!-- generated: headline {suite} -->" in text


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("sw_avg", "sw_avg"),
        ("sw_avg@window=500", "sw_avg_window=500-[0-9a-f]{8}"),
        ("arima@order=[1,1,1]", "arima_order=1-1-1-[0-9a-f]{8}"),
        ("lstm@mode=online", "lstm_mode=online-[0-9a-f]{8}"),
        ('x@a="b c",d=[1, 2]', "x_a=bc-d=1-2-[0-9a-f]{8}"),
        ("my/file.py:Mine", "my_file.py_mine-[0-9a-f]{8}"),
    ],
)
def test_a_forecaster_s_file_is_named_legibly(target: str, name: str) -> None:
    """Arguments stay readable; no character needs quoting; a hash keeps two targets of one readable name apart."""
    assert re.fullmatch(name, file_name(target))


def test_the_baselines_of_a_plan_have_files_of_their_own() -> None:
    """No two of them share a file."""
    from leaderboard.suites.plan import load_plan

    baselines = load_plan("v3").baselines
    assert len({file_name(name) for name in baselines}) == len(baselines)
