"""`Results` at a prompt, in a notebook and as data frames."""

from __future__ import annotations

import numpy as np
import pytest

from moeload_bench import evaluate, load_trace
from moeload_bench.errors import NotFoundError
from moeload_bench.results.collection import Results
from tests.conftest import need


@pytest.fixture(scope="module")
def results() -> Results:
    """Two honest forecasters and one that fails at every origin."""
    return evaluate(["uniform", "sw_avg", "tests/support/forecasters.py:NotANumber"], "mini", level="none")


def test_results_show_themselves(results: Results) -> None:
    """What was run, what failed, and each forecaster's skill by state; HTML holds no markup of a name."""
    text = repr(results)
    assert text.startswith("Results: 3 forecasters on 2 runs of suite mini, 80 failed tasks. Skill in window_tv")
    assert text.splitlines()[2].startswith("sw_avg ")
    assert "object at" not in text
    assert '<th scope="row">sw_avg</th>' in results._repr_html_()
    assert "none" in repr(Results([]))


def test_no_text_of_a_result_or_of_a_trace_is_longer_than_ten_lines(results: Results) -> None:
    """A prompt shows what it is, not its numbers: a result's fields are 168,243 characters."""
    run = results[0].runs[0]
    assert repr(results[1]).startswith(
        "Result: sw_avg on 2 runs of suite mini, no task failed; claimed, isolation none"
    )
    for shown in (results, results[0], run, load_trace(run.trace)):
        for text in (repr(shown), str(shown)):
            assert len(text) < 400
            assert text.count("\n") < 10


def test_a_figure_shows_itself_without_magic(results: Results) -> None:
    """A notebook asks an object for its picture."""
    need("matplotlib", "pip install -e '.[plot]'")
    assert results.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_failed_task_is_nan_with_its_reason(results: Results) -> None:
    """Penalties are in skill and tables alone."""
    frame = results.to_pandas()
    failed = frame[frame["failure"].notna()]
    assert set(failed["forecaster"]) == {"tests/support/forecasters.py:NotANumber"}
    assert failed["window_tv"].isna().all()
    assert frame[frame["failure"].isna()]["window_tv"].notna().all()
    skill = results.skill().set_index(["state", "forecaster"])["skill"]
    assert skill["stable", "tests/support/forecasters.py:NotANumber"] < skill["stable", "uniform"] < 0


def test_floors_and_costs_are_columns_where_they_are_asked_for(results: Results) -> None:
    """A floor is that of the task's state and horizon."""
    plain, full = results.to_pandas(), results.to_pandas(floors=True, cost=True)
    assert {"floor_batch.window_tv", "forecast_s", "peak_memory_bytes"} <= set(full.columns) - set(plain.columns)
    run = results[0].runs[0]
    rows = full[(full["trace"] == run.trace) & (full["state"] == "stable") & (full["horizon"] == 100)]
    k = results[0].suite.horizons.index(100)
    assert np.allclose(rows["floor_batch.window_tv"], run.floors["stable"]["floor_batch"]["window_tv"][k])


def test_the_table_is_a_frame_in_the_order_of_skill(results: Results) -> None:
    """One state or all; an unknown state or metric is refused by name."""
    stable = results.table(state="stable")
    assert list(stable["skill"]) == sorted(stable["skill"], reverse=True)
    assert {"h=100", "ms", "forecaster"} <= set(stable.columns)
    assert set(results.table()["state"]) == {"transient", "stable", "crossing"}
    with pytest.raises(NotFoundError, match="unknown state 'calm'; there is: crossing, mixed, stable, transient"):
        results.table(state="calm")
    with pytest.raises(NotFoundError, match="unknown metric 'tvv'"):
        results.skill("tvv")


def test_results_draw_themselves(results: Results) -> None:
    """The figure of `plot horizon`."""
    need("matplotlib", "pip install 'moeload-bench[plot]'")
    assert [axis.get_title().partition(":")[0] for axis in results.plot().axes][:2] == ["transient", "stable"]
