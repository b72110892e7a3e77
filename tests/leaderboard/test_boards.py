"""The board of quantiles and the matrix of pairs say what the statistics say."""

from __future__ import annotations

import re

import pytest

from leaderboard.pages.boards import Board, newest, pairs_part, quantile_part
from moeload_bench.results.comparison import errors_of, skill


@pytest.fixture(scope="module")
def board() -> Board:
    return newest()[0]


def cells(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins so, by their first cell."""
    lines = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    return {
        row[0].strip("`"): row[1:] for row in (line.strip("| ").split(" | ") for line in lines) if row[0][:1] == "`"
    }


def test_the_board_of_quantiles_is_measured_by_the_conformal_average(board: Board) -> None:
    """Only forecasters with quantiles, by skill in wql; the reference has none, and coverage is a part of 1."""
    rows = cells(quantile_part(board), "stable, `wql`")
    assert "sw_avg_conformal" in rows
    assert "sw_avg" not in rows
    named = [result for result in board.results if result.name in rows]
    errors = errors_of(named, "wql").select(state="stable")
    for name, row in rows.items():
        assert row[-3].startswith(f"{skill(errors, name, 'sw_avg_conformal')[0]:+.3f}")
        assert 0 <= float(row[-1]) <= 1
    found = [float(row[-3].split(" ")[0]) for row in rows.values()]
    assert found == sorted(found, reverse=True)


def test_every_pair_is_the_skill_of_the_row_against_the_column(board: Board) -> None:
    """With its interval; bold where that does not hold 0; the diagonal is empty."""
    rows = cells(pairs_part(board), "transient |")
    names, errors = [*rows], errors_of(board.results, "window_tv").select(state="transient")
    for i, one in enumerate(names):
        assert rows[one][i] == "-"
        for other, text in zip(names, rows[one], strict=True):
            if one != other:
                value, low, high = map(float, re.findall(r"[-+][\d.]+", text))
                assert value == pytest.approx(skill(errors, one, other)[0], abs=0.006)
                assert text.startswith("**") or low <= 0 <= high
