"""What docs/guide/leaderboard.md says of the screen is what was measured, and what the code applies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leaderboard.committed import ROOT
from leaderboard.pages.parts import fill_parts
from leaderboard.verifying import drawn
from leaderboard.verifying.demonstration import NAME, demonstration
from leaderboard.verifying.screen import MAX_MEAN, MAX_RECIPE, MIN_VALUES, SPARE, Strata, strata_of
from leaderboard.verifying.screening import MEASURED, MEMORISERS, PARTS
from leaderboard.verifying.verify import MAX_GROWTH
from moeload_bench.arrays import FloatArray
from moeload_bench.submissions.folder import CODE, MAX_BYTES, read_folder
from moeload_bench.suites.suite import SuiteTrace
from tests.conftest import synthetic_trace

PAGE = ROOT / "docs" / "guide" / "leaderboard.md"


def test_the_page_says_what_was_measured() -> None:
    """When this fails: `python -m leaderboard pages docs/guide/leaderboard.md` (`make verify` runs it); commit."""
    assert fill_parts(PAGE.read_text(), {**PARTS, **drawn.PARTS}) == PAGE.read_text()


def test_the_page_names_the_limits_that_are_applied() -> None:
    """Typed into the text, so tied to it here."""
    text = " ".join(PAGE.read_text().split())
    assert f"The limits are {MAX_RECIPE} in one recipe, and {MAX_MEAN} + {SPARE} / n in the mean over n recipes" in text
    assert f"fewer than {MIN_VALUES} values" in text
    assert f"the relative loss may grow by {100 * MAX_GROWTH['fresh_runs']:.0f} %" in text


def test_the_limits_separate_what_was_measured() -> None:
    """Every honest forecaster passes, every memoriser of a submission's size is found."""
    measured = json.loads(MEASURED.read_text())
    for suite, found in measured.items():
        assert found.keys() & MEMORISERS.keys(), suite
        assert found.keys() - MEMORISERS.keys(), suite
        for name, one in found.items():
            assert one["found"] == (name in MEMORISERS), (suite, name)
            if name in MEMORISERS:
                assert one["bytes"] <= MAX_BYTES[CODE], (suite, name)


def test_every_memoriser_that_was_drawn_was_found() -> None:
    """Of whole futures, of weight 0.3 and of long horizons only, whatever simple forecast it is mixed with; what was
    measured on a suite that is gone stands as it was.
    """
    measured = json.loads(drawn.DRAWN.read_text())
    assert {suite: measured[suite]["all runs"]["draws"] for suite in drawn.DRAWS} == drawn.DRAWS
    for suite, kinds in measured.items():
        for kind in ("all runs", "all runs, weight 0.3", "beyond horizon 100 only"):
            assert kinds[kind]["found"] == kinds[kind]["draws"], (suite, kind)


def test_sums_of_a_mixture_are_those_of_mixed_forecasts() -> None:
    """`Mixed.at`, from an honest forecast, a remembered one and both by halves."""
    random = np.random.default_rng(0)
    trace = synthetic_trace(400, recipe="one", split="test", run=1)
    origins = tuple(range(100, 380, 4))
    entry = SuiteTrace(id=trace.id, data_sha256="0" * 64, stable=origins)
    one, other = (random.dirichlet(np.ones(4), size=(len(origins), 1, 2)) for _ in range(2))

    def sums(mean_OKLE: FloatArray) -> Strata:
        return strata_of(trace, entry, mean_OKLE, (10,))

    mixed = drawn.Mixed(sums(one), sums(other), sums((one + other) / 2)).at(0.3)
    expected = sums(0.7 * one + 0.3 * other)
    assert mixed.keys() == expected.keys() != set()
    for stratum, found in mixed.items():
        assert found.correlation == pytest.approx(expected[stratum].correlation, abs=1e-9)


def test_the_memoriser_of_a_suite_is_a_submission_that_can_be_entered(tmp_path: Path) -> None:
    """Its folder is read as any other; it says what it has learned by heart, and fits the size of code."""
    demonstration(tmp_path, "mini")
    folder = read_folder(tmp_path / NAME)
    assert folder.record.model_type == "pretrained"
    assert folder.record.fitted_on == ["the test runs of mini, by heart"]
    assert folder.target().file == (tmp_path / "memoriser" / "forecaster.py").resolve()
