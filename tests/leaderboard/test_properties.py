"""Results by what a trace is: slices hold the runs that share a property, whatever their recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import ROOT, committed_results
from leaderboard.pages import properties as page
from leaderboard.properties import Properties, Slice, lower_bound, properties_of, slices_of
from moeload_bench.results.comparison import errors_of, runs_of, skill
from moeload_bench.traces.meta import SourceMeta
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace


def of(**changed: object) -> Properties:
    numbers = {"drift": 0.01, "over_dispersion": 2.0, "imbalance": 3.0, "experts": 8, "top_k": 2, "noise": None}
    base = {**numbers, "parameters": None, "expert_tokens": 512.0, "balancing": "none", "changes": ()}
    return Properties.model_validate({**base, "schedule": "constant", **changed})


def test_numbers_are_cut_near_halves_and_equal_ones_stay_together() -> None:
    """The bound is a value of the lower part."""
    assert lower_bound([1, 2, 3, 4]) == 2
    assert lower_bound([8, 8, 8, 16, 64]) == 8
    assert lower_bound([8, 16, 16, 16, 16]) == 8


def test_slices_partition_the_runs_by_each_property_that_differs() -> None:
    """Of a property that all share, or one recipe alone has, there is none; a run without a number is in no half.

    A decaying rate is one kind, whatever its curve.
    """
    runs = {
        "a/test/seed1": of(drift=0.01),
        "b/test/seed1": of(drift=0.02, balancing="loss-free bias"),
        "b/test/seed2": of(drift=None, balancing="loss-free bias", changes=("data change",)),
        "c/test/seed1": of(drift=0.005, balancing="auxiliary loss"),
        "d/test/seed1": of(drift=None, schedule="cosine", changes=("rate decays",)),
        "e/test/seed1": of(drift=None, schedule="warmup stable decay", changes=("rate decays", "data change")),
    }
    found = {one.title: one.traces for one in slices_of(runs)}
    assert found == {
        "drift above 0.50%": {"a/test/seed1", "b/test/seed1"},
        "schedule: constant": {"a/test/seed1", "b/test/seed1", "c/test/seed1"},
        "schedule: data change": {"b/test/seed2", "e/test/seed1"},
        "schedule: rate decays": {"d/test/seed1", "e/test/seed1"},
        "balancing: none": {"a/test/seed1", "d/test/seed1", "e/test/seed1"},
    }
    assert len({one.id for one in slices_of(runs)}) == len(found)
    assert all(" " not in one.id and ":" in one.id for one in slices_of(runs))


def test_properties_are_those_of_the_loads_and_the_metadata(tmp_path: Path) -> None:
    """Computed once: a second look is the cache's, by the hash of the content."""
    text = {"version": "1", "licence": "MIT", "sha256": "0" * 64, "bytes": 1}
    sources = (SourceMeta(name="a", **text), SourceMeta(name="b", stage=1, **text))
    trace = synthetic_trace(900, sources=sources, schedule={"kind": "cosine"})
    growth_S = np.where(np.arange(trace.steps) < 300, 1, 2)
    trace = replace(
        trace, load_SLE=trace.load_SLE * growth_S[:, None, None], tokens_SL=trace.tokens_SL * growth_S[:, None]
    )
    path = write_trace(trace, tmp_path / "x.parquet")
    found = properties_of(path)
    assert (found.experts, found.top_k, found.schedule) == (4, 2, "cosine")
    assert found.changes == ("rate decays", "data change", "batch grows")
    assert found.drift is not None
    assert found.drift < 0.08
    assert found.imbalance is not None
    assert found.imbalance > 1
    assert properties_of(path) == found


def test_a_slice_of_the_table_is_the_skill_of_its_runs() -> None:
    """The row of one recipe's runs is what those runs alone give; the first row is all of them."""
    results = committed_results("mini")
    (first, *_) = results[0].runs
    table = page.slice_table(results, [Slice("x", "mine", frozenset({first.trace}))], "stable")
    head, _, everything, mine = table.splitlines()
    errors = errors_of(results, "window_tv").select(state="stable")
    name = results[0].name
    at = [cell.strip(" `") for cell in head.split("|")].index(name)
    for row, here in ((everything, errors), (mine, runs_of(errors, {first.trace}))):
        assert row.split("|")[at].strip(" *") == f"{skill(here, name, 'sw_avg')[0]:+.3f}"
    assert mine.startswith("| mine | 1 | 1 |")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.skipif(not (ROOT / "traces").is_dir(), reason="no traces in this checkout")
def test_the_committed_page_is_made_from_traces_and_results() -> None:
    """`python -m leaderboard pages properties` leaves it as it is."""
    for path, text in page.PROPERTIES.make().items():
        assert path.read_text(encoding="utf-8") == text
