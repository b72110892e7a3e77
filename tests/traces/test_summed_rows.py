"""Rows summed over steps: what adds up, what is averaged, and where no sum can stand for the steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeload_bench.errors import TraceError
from moeload_bench.suites.suite import load_suite, suite_names
from moeload_bench.traces.store import load_trace, write_trace
from moeload_bench.traces.summed import JOINS, sum_rows
from moeload_bench.traces.trace import OPTIONAL_COLUMNS, Trace
from tests.conftest import synthetic_trace


def staged(switch: int, steps: int = 400) -> Trace:
    """A trace whose planned data change at a step."""
    trace = synthetic_trace(steps)
    return replace(trace, columns={**trace.columns, "stage": (np.arange(steps) >= switch).astype(np.int32)})


@given(st.integers(2, 200), st.integers(0, 3))
def test_a_row_counts_all_that_its_steps_counted(k: int, seed: int) -> None:
    """Loads, halves and tokens add up over the k steps before and with the row's own; what does not fill one is cut."""
    trace = synthetic_trace(400, seed=seed)
    summed = sum_rows(trace, k)
    assert (summed.steps, summed.step_S[0]) == (400 // k, k - 1)
    assert set(np.diff(summed.step_S)) <= {k}
    row = summed.steps - 1
    steps = slice(row * k, row * k + k)
    np.testing.assert_array_equal(summed.load_SLE[row], trace.load_SLE[steps].sum(axis=0))
    np.testing.assert_array_equal(summed.columns["load_half"][row], trace.columns["load_half"][steps].sum(axis=0))
    np.testing.assert_array_equal(summed.tokens_SL[row], trace.tokens_SL[steps].sum(axis=0))
    assert summed.columns["loss"][row] == pytest.approx(trace.columns["loss"][steps].mean(), rel=1e-6)
    assert ("cut" in summed.meta.notes[-1]) == (400 % k > 0)


def test_every_optional_column_says_how_its_steps_become_one() -> None:
    """A column that the format gains later has to say it too."""
    assert set(JOINS) == set(OPTIONAL_COLUMNS)


def test_a_summed_trace_says_so_in_its_name_and_its_metadata(tmp_path: Path) -> None:
    """And is read back as it was written, in the version of the format that knows `row_steps`."""
    summed = sum_rows(synthetic_trace(), 10)
    assert (summed.id, summed.meta.stride, summed.meta.row_steps) == ("own.sum10/test/seed0", 10, 10)
    write_trace(summed, tmp_path / "summed.parquet")
    again = load_trace(tmp_path / "summed.parquet")
    assert again.meta == summed.meta
    assert again.meta.format_version == "1.3"
    np.testing.assert_array_equal(again.load_SLE, summed.load_SLE)


def test_sums_of_sums_are_sums() -> None:
    """Ten steps as one, twice: a hundred steps as one."""
    trace = synthetic_trace()
    twice, once = sum_rows(sum_rows(trace, 10), 10), sum_rows(trace, 100)
    np.testing.assert_array_equal(twice.load_SLE, once.load_SLE)
    assert twice.meta.row_steps == once.meta.row_steps == 100


def test_steps_that_were_not_counted_are_no_part_of_a_sum() -> None:
    """A row of every tenth step counts one step: ten of them are not the load of a hundred."""
    trace = synthetic_trace()
    every_tenth = Trace.from_arrays(trace.load_SLE[::10], 512, 2, step_S=trace.step_S[::10])
    with pytest.raises(TraceError, match="a row counts 1 of every 10 steps"):
        sum_rows(every_tenth, 2)


def test_a_switch_of_data_within_a_row_is_refused() -> None:
    """Named by stage and row; a k that divides the stages is taken, and the row has the stage of its steps."""
    with pytest.raises(TraceError, match="data stage 1 begins at row 205, within a sum of 10"):
        sum_rows(staged(205), 10)
    assert sum_rows(staged(200), 10).columns["stage"].tolist() == [0] * 20 + [1] * 20
    assert sum_rows(staged(395), 10 * 20 - 3).steps == 2, "the switch lies in what is cut"


@pytest.mark.parametrize("k", [0, 1, -2, 201, 2.0, True, "10"])
def test_a_sum_of_no_use_is_refused(k: object) -> None:
    """Fewer than two steps a row, fewer than two rows, or no whole number."""
    with pytest.raises(TraceError, match=r"expected a whole number from 2 to 200"):
        sum_rows(synthetic_trace(), k)  # type: ignore[arg-type]


def test_no_suite_scores_summed_rows() -> None:
    """They are for logs and for tables of robustness."""
    runs = [run.id for name in suite_names() for run in (*load_suite(name).traces, *load_suite(name).fit)]
    assert runs
    assert not any(".sum" in run for run in runs)
