"""The results page says what the results say; names of files and forecasters are legible."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from leaderboard import pages
from leaderboard.committed import RESULTS, suites_with_results
from leaderboard.pages.headline import headline
from leaderboard.pages.parts import fill_parts
from leaderboard.pages.results import decisions, failures, metric_names, ordered_apart, suite_page, win_rate_table
from leaderboard.pages.separation import compared_cells
from leaderboard.pages.variation import seeds
from moeload_bench.errors import ResultError
from moeload_bench.files import file_name
from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Result, RunResult, TaskResult, load_result
from moeload_bench.results.tables import skill_text, three_digits
from moeload_bench.suites.suite import load_suite
from tests.support.checkout import leaderboard

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


def test_every_suite_with_results_has_its_part() -> None:
    """docs/reports/results.md; that its numbers are those of the results is checked with the other generated tables."""
    text = (ROOT / "docs" / "reports" / "results.md").read_text()
    for name in suites_with_results():
        assert f"## Suite `{name}`" in text


@pytest.mark.parametrize("suite", suites_with_results())
def test_every_baseline_of_a_suite_with_results_has_one(suite: str) -> None:
    """Results of some baselines only would be a table with rows left out."""
    assert set(load_suite(suite).baselines) <= {path.stem for path in (RESULTS / suite).glob("*.json")}


def test_readme_shows_the_largest_suite_with_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says which one that is; where a season was scored, that stands before it (test_seasons.py)."""
    mini = load_suite("mini")
    larger = mini.model_copy(update={"name": "larger", "traces": (*mini.traces, *mini.traces), "description": "More."})
    suites = {"mini": mini, "larger": larger}
    monkeypatch.setattr(pages.results, "load_suite", suites.__getitem__)
    monkeypatch.setattr(pages.results, "suites_with_results", lambda: list(suites))
    monkeypatch.setattr(pages.headline, "scored_seasons", lambda: [])
    read: list[str] = []
    folder = ROOT / "leaderboard" / "results" / "mini"
    monkeypatch.setattr(
        pages.results, "results_of", lambda name: read.append(name) or [load_result(folder / "sw_avg.json")]
    )
    text = fill_parts("a\n<!-- generated: headline window_tv -->\nold\n<!-- end -->\n", pages.headline.PARTS)
    assert text.startswith(
        "a\n<!-- generated: headline window_tv -->\n\nSuite `larger`, *public*. More.\n\n| transient |"
    )
    assert read == ["larger"]
    assert "<!-- generated: brief window_tv -->" in (ROOT / "README.md").read_text()


def test_a_generated_part_of_an_unknown_name_is_refused() -> None:
    """A misspelt name would else leave old numbers standing."""
    with pytest.raises(ResultError, match="no generated part is named 'headlin' here; there is: headline"):
        fill_parts("<!-- generated: headlin window_tv -->\n<!-- end -->\n", pages.headline.PARTS)


def test_the_headline_is_made_of_the_grid_and_the_statistics(mini: list[Result]) -> None:
    """Rows by skill, each with its values; the least of a column bold; n/a without recipes enough; floors below."""
    lines = [line.strip("| ").split(" | ") for line in headline(mini, "window_tv").splitlines() if line[:1] == "|"]
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
    text = headline(many_recipes(mini, recipes=6), "window_tv")
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
    """Skill is against it; without it, or without the metric, there is no table."""
    with pytest.raises(ResultError, match="mini: a headline needs results with wql"):
        headline(mini, "wql")
    with pytest.raises(ResultError, match="the reference's among them"):
        headline([result for result in mini if result.name != "sw_avg"], "window_tv")


def test_the_page_of_a_suite_on_trial_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mini: list[Result]
) -> None:
    """`python -m leaderboard results` takes results from any folder and writes nothing."""
    for result in mini:
        result.save(tmp_path / "mini" / f"{result.name}.json")
    assert leaderboard("results", "mini", tmp_path) == 0
    assert "Results of 3 forecasters: `uniform`, `last_value`, `sw_avg`." in capsys.readouterr().out


def test_every_metric_state_and_horizon_is_there(mini: list[Result]) -> None:
    """A table per metric; a row per forecaster and state; a column per horizon."""
    page = suite_page(load_suite("mini"), mini)
    for name in metric_names(mini):
        part = page.split(f"#### {name}\n")[1].split("\n#")[0]
        for state in ("transient", "stable"):
            for result in mini:
                assert re.search(rf"\| {state} \| `{result.name}` \|( [^|]+ \|){{5}}", part), (name, state)
    assert "floor_batch" in page
    assert "No task failed" in page


def test_the_skill_of_plans_has_their_imbalance_in_percent_beside_it(mini: list[Result]) -> None:
    """The skill of `uniform` is near 0 and its plans are worse by many percent: a column and a line say so."""
    page = suite_page(load_suite("mini"), mini)
    for metric in metric_names(mini):
        part = page.split(f"#### {metric}\n")[1].split("\n#")[0]
        grid = result_grid(mini, metric)
        assert grid is not None
        skill = {(row.state, row.forecaster): row.skill for row in grid.rows}
        rows = re.findall(r"^\| (\w+) \| `(\w+)` \|.* ([-+.\d]+) \|$", part, re.MULTILINE)
        if "@" not in metric or skill["stable", "uniform"] is None:
            assert "imbalance, %" not in part
            continue
        assert "| skill | imbalance, % |" in part
        assert "imbalance, %: of the plans, against that of the reference's plans" in part
        for state, name, percent in rows:
            assert float(percent) == pytest.approx(-100 * (skill[state, name] or 0), abs=0.051)
        assert len(rows) == sum(value is not None for value in skill.values())


def test_a_single_forecaster_has_no_win_rate(mini: list[Result]) -> None:
    """Nobody to win against: a dash, never nan."""
    text = win_rate_table(compared_cells(mini[2:], "window_tv"))
    assert "| transient | `sw_avg` | - | - | - | - | - |" in text
    assert "nan" not in text


def test_few_recipes_are_said_to_tell_nothing(mini: list[Result]) -> None:
    """n/a instead of p, and a sentence instead of ranks."""
    page = suite_page(load_suite("mini"), mini)
    assert "transient: too few recipes to tell any two forecasters apart" in page
    assert "No recipe has several test runs" in page
    assert "Baselines of the suite without a result: `arima`, `lstm`." in page


def test_differences_over_many_recipes_are_found_and_counted(mini: list[Result]) -> None:
    """Six recipes whose errors differ by far more than their spread: apart in every cell; one group each."""
    results = many_recipes(mini, 6)
    for cell in compared_cells(results, "window_tv"):
        assert set(cell.apart) == {"uniform", "last_value"}
        assert cell.groups == (("sw_avg",), ("last_value",), ("uniform",))
    page = suite_page(load_suite("mini"), results)
    assert "at 5 of 5 horizons some forecaster differs from `sw_avg`, at 5 one other than `uniform`." in page


def test_where_all_tie_it_is_said(mini: list[Result]) -> None:
    """Equal forecasters cannot be told apart, and the page says at which horizons."""
    twin = mini[2].model_copy(
        update={"forecaster": mini[2].forecaster.model_copy(update={"name": "twin", "target": "t"})}
    )
    page = suite_page(load_suite("mini"), many_recipes([mini[2]], 6) + [
        r.model_copy(update={"forecaster": twin.forecaster}) for r in many_recipes([mini[2]], 6)
    ])  # fmt: skip
    assert "all tie at 1, 10, 100, 1,000, 2,000" in page


def with_shape(results: list[Result], shape: str, recipes: tuple[str, ...]) -> list[Result]:
    """The results with the plans of `quarter` alone, and again under another shape in some recipes."""

    def metrics_of(recipe: str, task: TaskResult) -> dict[str, tuple[float | None, ...]]:
        kept = {name: value for name, value in task.metrics.items() if name.partition("@")[2] in ("", "quarter")}
        more = {name: kept[f"{name}@quarter"] for name in ("imbalance", "regret") if recipe in recipes}
        return kept | {f"{name}@{shape}": value for name, value in more.items()}

    def changed(run: RunResult) -> RunResult:
        tasks = [task.model_copy(update={"metrics": metrics_of(run.recipe, task)}) for task in run.tasks]
        return run.model_copy(update={"tasks": tuple(tasks)})

    return [result.model_copy(update={"runs": tuple(map(changed, result.runs))}) for result in results]


def test_plans_that_too_few_recipes_have_are_not_counted_as_ties(mini: list[Result]) -> None:
    """A shape that exists in two recipes is tested nowhere: n/a, and neither side of the count grows."""
    results = many_recipes(mini, 6)
    counted = re.compile(r"(\d+) are told apart by plans and not by window_tv, (\d+) by window_tv and not by plans")
    texts = {}
    for recipes in ((), ("r0", "r1")):
        some = with_shape(results, "nodes", recipes)
        texts[len(recipes)] = decisions(some, compared_cells(some, "window_tv"))
    none, two = texts[0], texts[2]
    assert two.startswith("| state | h | window_tv | imbalance@nodes | imbalance@quarter |")
    cells_of_nodes = [line.split(" | ")[3] for line in two.splitlines()[2:12]]
    assert cells_of_nodes == ["n/a"] * 10
    assert counted.findall(two) == counted.findall(none) != []
    assert "Not counted, n/a: cells with fewer than 5 recipes that have the metric." in two
    assert "n/a" not in none


def test_no_table_of_disagreements_where_there_are_none(mini: list[Result]) -> None:
    """One forecaster disagrees with nobody: the counts are said, and no table is announced."""
    (text,) = ordered_apart(mini[2:], ["quarter"])
    assert text.endswith("0 at `quarter`.")


def test_the_spread_over_seeds_is_given_for_recipes_with_several_runs(mini: list[Result]) -> None:
    """Mean and standard deviation over runs, recomputed."""
    results = many_recipes(mini, 3, runs=3)
    text = seeds(results)
    values = [run.tasks[-1].metrics["window_tv"][0] for run in results[2].runs if run.recipe == "r0"]
    line = next(line for line in text.splitlines() if line.startswith("| `r0` | stable | `sw_avg`"))
    assert line.split(" | ")[3] == f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.1g}"


def test_failures_are_listed(mini: list[Result]) -> None:
    """Forecaster, trace, number of tasks and the reason."""
    run = mini[0].runs[0]
    failed = run.model_copy(update={"tasks": (run.tasks[0].model_copy(update={"failure": "it broke"}), *run.tasks[1:])})
    bad = mini[0].model_copy(update={"runs": (failed, *mini[0].runs[1:])})
    assert failures([bad]) == f"- failed: uniform on {run.trace}, 1 origin from 20 on: it broke"


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
