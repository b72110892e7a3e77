"""What docs/guide/leaderboard.md says of the screen is what was measured, and what the code applies."""

from __future__ import annotations

import json

from leaderboard.committed import ROOT
from leaderboard.pages.parts import fill_parts
from leaderboard.verifying.screening import MEASURED, MEMORISERS, PARTS
from moeload_bench.submissions.folder import CODE, MAX_BYTES
from moeload_bench.submissions.screen import MAX_MEAN, MAX_RECIPE, MIN_VALUES, SPARE
from moeload_bench.submissions.verify import MAX_GROWTH

PAGE = ROOT / "docs" / "guide" / "leaderboard.md"


def test_the_page_says_what_was_measured() -> None:
    """When this fails: `python -m leaderboard.pages docs/guide/leaderboard.md` (`make verify` runs it); commit."""
    assert fill_parts(PAGE.read_text(), PARTS) == PAGE.read_text()


def test_the_page_names_the_limits_that_are_applied() -> None:
    """Typed into the text, so tied to it here."""
    text = " ".join(PAGE.read_text().split())
    assert f"at most {MAX_RECIPE} in one recipe, and {MAX_MEAN} + {SPARE} / n in the mean over n recipes" in text
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
