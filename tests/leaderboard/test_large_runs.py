"""docs/reports/large-runs.md is made from the traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.pages import large_runs
from leaderboard.pages.command import chosen
from leaderboard.pages.large_runs import beside_table, later_table, runs_table, statistics
from leaderboard.pages.parts import stale_files
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace


def test_statistics_are_known_where_the_truth_is(tmp_path: Path) -> None:
    """512 tokens, top-2 of 4 experts: 256 each. Independent draws: no over-dispersion, and next to no drift later."""
    trace = synthetic_trace(2000, recipe="r")
    write_trace(trace, tmp_path / f"{trace.id}.parquet")
    (found,) = statistics([tmp_path])
    assert found.run.id == "r/test/seed0"
    assert found.tokens_per_expert == 256
    assert found.drift is not None
    assert found.drift < 0.01
    assert len(found.onsets) == 2
    assert found.over_dispersion == pytest.approx(2**0.5, rel=0.05)  # multinomial draws: top-2 without replacement


def test_a_run_is_a_row_of_both_tables(tmp_path: Path) -> None:
    """The first names it; the second counts it."""
    trace = synthetic_trace(2000, recipe="r")
    write_trace(trace, tmp_path / f"{trace.id}.parquet")
    found = list(statistics([tmp_path]))
    assert "| `r/test/seed0` | 2 x 4, 2 |" in runs_table(found)
    assert "here, 1 test runs" in beside_table(found)


def test_a_long_run_says_what_comes_after_the_stable_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imbalance of each window by hand, that of the last layer beside the mean; shorter runs are not asked."""
    monkeypatch.setattr(large_runs, "LONG", 2000)
    for run, steps in ((0, 2000), (1, 1500)):
        trace = synthetic_trace(steps, recipe="r", run=run)
        write_trace(trace, tmp_path / f"{trace.id}.parquet")
    found = list(statistics([tmp_path]))
    load_LE = synthetic_trace(2000, recipe="r").load_SLE[1000:].sum(axis=0)
    imbalance_L = load_LE.max(axis=1) / load_LE.mean(axis=1)
    table = later_table(found)
    assert f" | {imbalance_L.mean():.2f} ({imbalance_L[-1]:.2f}) |" in table.splitlines()[2]
    assert "| run | up to step | 1,000 | 2,000 |" in table
    assert "seed1" not in table


@pytest.mark.slow
def test_the_page_agrees_with_the_traces() -> None:
    """Made by `make tables`; a new trace without it is an error."""
    assert list(stale_files(chosen(["large-runs"]))) == []
