"""What docs/guide/leaderboard.md says of the limits is what was measured, and what the code applies."""

from __future__ import annotations

import json

from leaderboard.committed import ROOT
from leaderboard.pages.parts import filled
from leaderboard.verifying.growth import MEASURED, MEMORISERS, PARTS, TESTS, verified
from moeload_bench.submissions.verify import MAX_GROWTH

PAGE = ROOT / "docs" / "guide" / "leaderboard.md"


def test_the_page_says_what_was_measured() -> None:
    """When this fails: `python -m leaderboard.pages docs/guide/leaderboard.md` (`make verify` runs it); commit."""
    assert filled(PAGE.read_text(), PARTS) == PAGE.read_text()


def test_the_page_names_the_limits_that_are_applied() -> None:
    """Typed into the text, so tied to it here."""
    text = " ".join(PAGE.read_text().split())
    assert f"loss may grow by {100 * MAX_GROWTH['permuted_and_shifted']:.0f} %" in text
    assert f"It may grow by {100 * MAX_GROWTH['future_altered']:.0f} %" in text
    assert f"the relative loss may grow by {100 * MAX_GROWTH['fresh_runs']:.0f} %" in text


def test_the_limits_separate_what_was_measured() -> None:
    """Every honest draw is at most 60 % of the way to each limit; every draw of a memoriser is over one of them."""
    measured = json.loads(MEASURED.read_text())
    for name, growths in [*measured.items(), *verified().items()]:
        if name in MEMORISERS:
            by_draw = zip(*(growths[test] for test in TESTS), strict=True)
            over = [any(value > MAX_GROWTH[test] for test, value in zip(TESTS, draw, strict=True)) for draw in by_draw]
            assert over
            assert all(over), name
        else:
            for test in TESTS:
                assert max(growths[test]) < 0.6 * MAX_GROWTH[test], (name, test)
