"""The study of `guarded` away from home: what may be learned from, what is measured, what its page says."""

from __future__ import annotations

import numpy as np
import pytest
from moeload_bench.baselines import _gate_fit

from leaderboard.pages import travel as page
from leaderboard.studies import travel
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

RUNS = ["drawn-l00/train/seed1", "drawn-s00/train/seed1", "drawn-s01/train/seed1", "olmoe-64e-top8/train/seed0"]
NAMES = tuple(f"{recipe}/train/seed9" for recipe in ("ladder-2m", "ladder-8m", "qwen3moe-16e-microaux"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[travel.TravelRun]:
    """Two runs of three, each left out once, by networks that learned for two updates."""
    folder = tmp_path_factory.mktemp("travel")
    for number, name in enumerate(NAMES):
        trace = synthetic_trace(400, seed=number, recipe=name.split("/")[0], split="train")
        write_trace(trace, folder / f"{name}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        quick = _gate_fit.Learning(updates=2)
        patch.setattr(_gate_fit, "Learning", lambda: quick)
        patch.setattr(travel, "TRACES", folder)
        patch.setattr(travel, "PER_STATE", 4)
        learners = travel.Learners(NAMES)
        found: list[travel.TravelRun] = []
        for left in NAMES[:2]:
            learn = [name for name in NAMES if name != left]
            for kind, learned in learners.fitted(learn, ["as it is", "thinned"]):
                found += travel.records(left, kind, "of a test", "0" * 64, learned)
    return found


def test_drawn_recipes_are_learned_from_in_the_same_order_everywhere() -> None:
    """Large and small ones in turn, each with all its runs; what is not drawn stays, unless a suite is named."""
    assert travel.runs_for(travel.Lesson(), RUNS) == set(RUNS)
    assert travel.runs_for(travel.Lesson(drawn=0), RUNS) == {RUNS[3]}
    assert travel.runs_for(travel.Lesson(drawn=2), RUNS) == {*RUNS[:2], RUNS[3]}
    assert travel.runs_for(travel.Lesson(suite="v2"), RUNS) == {RUNS[3]}


@pytest.mark.slow
def test_every_forecaster_is_measured_on_every_log(found: list[travel.TravelRun]) -> None:
    """All networks on runs as they are, one on other logs; errors at every horizon, quantiles of those that give them.

    None of the runs is of suite v2: there is no network of its runs alone.
    """
    assert {(one.run, one.kind) for one in found} == {
        (name, kind) for name in NAMES[:2] for kind in ("as it is", "thinned")
    }
    for one in found:
        networks = set(travel.NETWORKS) - {"guarded.home"} if one.kind == "as it is" else {"guarded"}
        assert set(one.log_error_K) == {*networks, "guarded.unguarded", "gated", "average_tuned", *travel.PLAIN}
        assert all(len(errors) == len(one.horizons) for errors in one.log_error_K.values())
        assert set(one.inside_K) == {*networks, "guarded.unguarded", "gated"}
        assert all(0 <= part <= 1 for parts in one.inside_K.values() for part in parts)


def test_probes_are_asked_about_as_they_are() -> None:
    """A probe has every tenth step only: no log with fewer rows is made of it."""
    probe = "drawn-l00.probe/train/seed1"
    assert travel.may_be(probe, "as it is")
    assert not travel.may_be(probe, "summed")
    assert travel.of_kind(synthetic_trace(40, recipe="drawn-l00.probe"), "sampled") is None


@pytest.mark.slow
def test_the_page_says_what_the_records_say(found: list[travel.TravelRun], monkeypatch: pytest.MonkeyPatch) -> None:
    """The part inside the quantiles is the mean over runs; the curve holds the runs as they are alone."""
    monkeypatch.setattr(page, "LEAST_ORIGINS", 1)
    cell = page.Cell(found, "small", found[0].state)
    inside = page.inside_table(found)
    at = [run.inside_K["guarded"][0] for run in cell.runs]
    assert f"{np.mean(at):.2f} ({min(at):.2f} to {max(at):.2f})" in inside
    assert page.KINDS["thinned"] not in page.parts_table(found, page.CURVE)
