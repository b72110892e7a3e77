"""Tables say what the results say, and over what each cell is a mean."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import NotFoundError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.captions import answer_lines, failure_lines, report_caption, why_no_origin
from moeload_bench.results.choice import verdicts
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.formats import signed
from moeload_bench.results.report import front_of, has_metric, report_of, summary_json
from moeload_bench.results.results import Results
from moeload_bench.results.wide import metric_table, skill_text
from moeload_bench.scoring.catalogue import metric_names, ratio_metric
from moeload_bench.states.rule import StateRule
from tests.support.tables import made_results

HALF = {"sw_avg": [[0.1, 0.2]] * 4, "mine": [[0.05, 0.1]] * 4}
STATES = ["transient", "transient", "stable", "stable"]


@pytest.fixture(scope="module")
def scored() -> Results:
    """Two honest forecasters and one that fails at every origin."""
    return evaluate(["uniform", "sw_avg", "tests/support/forecasters.py:NotANumber"], "mini", level="none")


def recipes_of(errors: dict[str, float], recipes: int) -> dict[str, list[list[float]]]:
    """Return errors around a level, on a task of each of so many recipes."""
    rng = np.random.default_rng(0)
    return {
        name: [[level * np.exp(0.01 * x)] * 2 for x in rng.standard_normal(recipes)] for name, level in errors.items()
    }


def test_skill_of_the_reference_is_zero_and_few_recipes_print_no_interval() -> None:
    """One recipe: n/a instead of an interval."""
    rows = report_of(made_results(HALF, states=STATES)).rows_in("stable")
    assert [(row.forecaster, skill_text(row)) for row in rows] == [("mine", "+0.500 (n/a)"), ("sw_avg", "+0.000 (n/a)")]


@pytest.mark.parametrize("name", ["regret", "imbalance", "drop_rate"])
def test_tables_of_plans_have_the_skill_of_imbalance_with_intervals(name: str) -> None:
    """Regret may be 0 or less: the ratio is that of the imbalance of the same plans, and the caption says so."""
    metric, shape = f"{name}@half", "imbalance@half"
    traces = [f"r{g}/test/seed0" for g in range(6)]
    regret = {"sw_avg": [[0.0, 0.0]] * 6, "mine": [[0.1, 0.1]] * 6}
    imbalance = recipes_of({"sw_avg": 1.2, "mine": 1.5}, 6)
    if metric == shape:
        results = made_results(imbalance, traces, metric=metric)
    else:
        results = made_results(regret, traces, metric=metric, imbalance_half=imbalance)
    found = report_of(results, metric)
    (row,) = (row for row in found.rows_in("stable") if row.forecaster == "mine")
    text = skill_text(row)
    assert text.startswith("-0.2")
    assert "a new recipe [-0.2" in text
    assert f"the ratio {'' if metric == shape else f'of {shape} '}to sw_avg" in report_caption(found)


def test_counts_are_of_the_values_at_each_horizon() -> None:
    """A cell counts the origins that have a value there: crossing windows, layers without load, failed quantiles."""
    crossing = [[False, True], [False, True], [False, True], [True, True]]
    errors = {name: [[0.1, np.nan if i == 2 else 0.2] for i in range(4)] for name in HALF}
    found = report_of(made_results(errors, states=STATES, crossing=crossing))
    counts = {state: found.rows_in(state)[0].origins_K for state in found.states}
    assert counts == {"transient": (2, 2), "stable": (2, 1), "crossing": (1, 3)}
    caption = report_caption(found)
    assert "transient 2 origins of 1 run" in caption
    assert "crossing 1/3 origins (by horizon) of 1 run" in caption


def test_a_state_without_floors_is_named(scored: Results) -> None:
    """A table of errors says where no floor is given, and why."""
    caption = report_caption(report_of(made_results(HALF, states=STATES)))
    assert "No floor is given for: transient, stable." in caption
    assert "No floor is known for hot_recall" not in report_caption(report_of(scored, "hot_recall"))
    table = metric_table(report_of(scored))
    assert [row[1] for i, row in enumerate(table.rows) if i in table.quiet][:2] == [
        "floor_batch",
        "floor_level (approximate)",
    ]
    for metric, words in (("error_rate", "per-step"), ("window_error_rate", "window-mean")):
        assert words in report_caption(report_of(scored, metric))


def test_where_there_is_no_skill_the_reason_is_given(scored: Results) -> None:
    """No reference, a metric without ratios, or a reference from the package: each is said."""
    alone = report_of(made_results({"mine": HALF["mine"]}, states=STATES))
    assert {skill_text(row) for state in alone.states for row in alone.rows_in(state)} == {"-"}
    assert "No skill: the reference sw_avg was not run, and the package has no result of it" in report_caption(alone)
    assert "No skill: hot_recall is no positive error" in report_caption(report_of(scored, "hot_recall"))
    assert "The result of sw_avg comes with the package" in report_caption(report_of(scored.select(["uniform"])))


def test_the_best_fixed_window_is_named_where_there_are_several() -> None:
    """Among the entries of sw_avg only, and said to be chosen in hindsight."""
    results = made_results({**HALF, "w9": [[0.01, 0.01]] * 4}, states=STATES, targets={"w9": "sw_avg@window=9"})
    assert "Best fixed window in hindsight (window_tv): w9, of 2 windows" in report_caption(report_of(results))
    assert "hindsight" not in report_caption(report_of(made_results(HALF, states=STATES)))


def answers(results: Results, metric: str = "window_tv") -> dict[str, str]:
    """Return what is said of each state."""
    lines = answer_lines(results, list(verdicts(results, metric)), StateRule())
    return dict(line.split(": ", 1) for line in lines)


def test_rounding_names_no_best_forecaster() -> None:
    """Two exact forecasts served best together, whatever their last bits."""
    stable = answers(made_results({"sw_avg": [[0.0, 0.0]] * 4, "mine": [[3e-16, 3e-16]] * 4}))["stable"]
    assert ", is as good. " in stable


def test_origins_need_twenty_rows_of_any_stride() -> None:
    """The earliest origin has 20 rows before it: 400 training steps where every 20th is recorded."""
    assert why_no_origin("stable", 200, StateRule(), 550, stride=20) == (
        "needs 600 steps, 400 to be stable and 200 to forecast; has 550"
    )
    assert why_no_origin("stable", 200, StateRule(), 450).startswith("needs 500 steps, 300 to be stable")


@pytest.mark.filterwarnings("error")
def test_the_best_of_nothing_is_nobody() -> None:
    """Without any value nothing is named, without a warning; horizons without values decide nothing."""
    none = made_results({name: [[np.nan, np.nan]] * 4 for name in HALF}, states=STATES)
    assert answers(none) == dict.fromkeys(
        ("transient", "stable"), "nothing can be said: no forecaster was scored at all of its origins"
    )
    some = made_results(
        {name: [[np.nan, error[1]] for error in errors] for name, errors in HALF.items()}, states=STATES
    )
    assert answers(some)["stable"].startswith("mine has the least error (window_tv). The next one, sw_avg, errs 2.0")


def test_every_metric_of_results_can_be_asked_for(scored: Results) -> None:
    """What `--metric` accepts covers what results hold; a metric of nobody has no table, an unknown one is refused."""
    assert set(metric_columns(scored.table)) <= set(metric_names())
    assert ratio_metric("regret@half") == "imbalance@half"
    assert ratio_metric("drop_rate@experts") is None
    assert ratio_metric("window_tv") == "window_tv"
    assert not has_metric(scored, "wql")
    for unknown in ("no_such_metric", "regret@nowhere", "imbalance"):
        with pytest.raises(NotFoundError, match=rf"unknown metric '{unknown}'; there is: .*window_tv"):
            has_metric(scored, unknown)
    with pytest.raises(NotFoundError, match="unknown metric 'wql'"):
        report_of(scored, "wql")


@pytest.mark.parametrize(
    ("value", "two", "three"),
    [(-0.0003, "-0.0003", "-0.0003"), (0.004, "+0.004", "+0.004"), (0.0, "+0.00", "+0.000"), (-1e-9, "+0.00", "+0.000"),
     (-0.07, "-0.07", "-0.070")],
)  # fmt: skip
def test_an_end_of_an_interval_has_digits(value: float, two: str, three: str) -> None:
    """None reads -0.00: it has the decimals that tell it from 0, and 0 has no side."""
    assert (signed(value, 2), signed(value)) == (two, three)


def test_the_direction_of_a_metric_is_in_the_short_table(scored: Results) -> None:
    """Of a metric without skill, where the best stands first."""
    console = plain_console()
    with console.capture() as shown:
        for table in brief_tables(scored, "hot_recall", 80):
            console.print(table)
    assert "training steps ahead; more is better" in shown.get()


@pytest.mark.parametrize(("width", "room"), [(36, "Not shown, no room: h=1."), (120, None)])
def test_a_horizon_without_values_gives_way_and_is_named(width: int, room: str | None) -> None:
    """The last horizon has no origin: no column of dashes, and what has no column stands below the table."""
    shares = [[0.1, 0.2, math.nan]] * 4
    results = made_results({"sw_avg": shares, "mine": shares}, states=STATES, horizons=(1, 100, 2000))
    parts = list(brief_tables(results, "window_tv", width))
    heads = [str(column.header) for part in parts if not isinstance(part, str) for column in part.columns]
    assert "h=2,000" not in heads
    said = [part for part in parts if isinstance(part, str) and part.startswith("Not shown")]
    assert set(said) == {"Not shown, no values: h=2,000.", *([room] if room else [])}


def test_long_targets_have_short_names_that_are_explained_below() -> None:
    """That of the class, numbered where another forecaster has it; no column gives way to a long target."""
    targets = ["arima", "arima@order=[5,1,5],history=1000", "some/folder/my.py:Mine@window=200"]
    results = made_results({name: HALF["mine"] for name in ("sw_avg", *targets)}, states=STATES)
    parts = list(brief_tables(results, "window_tv", 80))
    (names, _) = ([*part.columns[0].cells] for part in parts if not isinstance(part, str))
    assert {"sw_avg", "arima", "arima.2", "Mine"} <= {*names}
    assert {f"arima.2: {targets[1]}", f"Mine: {targets[2]}"} <= {part for part in parts if isinstance(part, str)}


def test_failures_that_differ_in_numbers_are_one_line(scored: Results) -> None:
    """Forecaster, trace, how many origins, the first one, its reason."""
    lines = list(failure_lines(scored))
    assert len(lines) == 2
    assert lines[0].startswith("failed: tests/support/forecasters.py:NotANumber on qwen3moe-tiny-8e")
    assert ", 40 origins from 20 on: " in lines[0]


def test_results_show_themselves(scored: Results) -> None:
    """What was run, what failed, and each forecaster's skill by state, in at most ten lines; HTML holds no markup of a
    name.
    """
    text = repr(scored)
    assert text.startswith("Results: 3 forecasters on 2 runs of suite mini, 80 failed tasks. Skill in window_tv")
    assert re.search(r"^sw_avg +\+0\.000 +\+0\.000$", text, re.MULTILINE)
    assert "<th>sw_avg</th>" in scored._repr_html_()
    assert text.count("\n") < 10
    assert len(text) < 500
    assert (
        repr(scored.select(["sw_avg"]).entries["sw_avg"])
        == "Entry: sw_avg on suite mini; claimed, isolation none, seed 0"
    )
    assert "none" in repr(scored.select([]))


def test_the_json_is_the_summary(scored: Results) -> None:
    """Entries, a metric by state and by horizon, failed tasks."""
    record = json.loads(summary_json(scored))
    assert [entry["name"] for entry in record["entries"]] == scored.names
    cells = {(row["state"], row["horizon"], row["forecaster"]): row["value"] for row in record["by_horizon"]}
    expected = scored.summarize(["state", "horizon"]).set_index(["state", "horizon", "forecaster"])["value"]
    assert cells["stable", 100, "sw_avg"] == pytest.approx(expected["stable", 100, "sw_avg"])
    assert len(record["failures"]) == 80
    assert json.loads(summary_json(scored, "wql"))["by_state"] == []


def test_the_front_is_what_no_other_point_beats() -> None:
    """In cost and value; equals stay both."""
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 2.5), (2.0, 2.0)]
    assert front_of(points, lower=True) == [0, 1, 3]
    assert front_of(points, lower=False) == [0]
