"""Parts of `benchmarks/compare.py` that can be wrong without a clock: its page follows from what was measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of `benchmarks/`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_a_spread_names_the_median_and_the_range(part: Any) -> None:
    """Three digits, thousands apart."""
    common = part("compare_common")
    assert common.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert common.spread([0.0123456], 1e6) == "12,300 (12,300 to 12,300)"


def test_only_a_missed_goal_is_explained(part: Any) -> None:
    """What bounds a goal is measured for those that are not simply met; in the reduced form for all."""
    compare, row = part("compare"), part("compare_common").Row

    def unasked() -> list[str]:
        raise AssertionError

    met, missed = row("this", "1", "2", "met", unasked), row("that", "1", "0", "missed for 5 %", lambda: ["because"])
    page = compare.page([met, missed], ["a section", ""], False)
    assert "| that | 1 | 0 | missed for 5 % |" in page
    assert "### that\n\nbecause" in page
    assert "### this" not in page
    assert "Every goal is met." in compare.page([met], [], False)


def test_a_profile_names_the_functions_with_the_most_time_of_their_own(part: Any) -> None:
    """By place and name, at most eight."""
    common = part("compare_common")
    lines = common.profile(lambda: sorted(range(100_000), key=lambda x: -x))
    assert lines[0].startswith("| function")
    assert len(lines) <= 2 + common.TOP
    assert any("sorted" in line for line in lines)
