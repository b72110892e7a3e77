"""Ordinal numbers as they are read aloud."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moeload_bench.words import ordinal

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (20, "20th"),
     (21, "21st"), (22, "22nd"), (111, "111th"), (1002, "1,002nd")],
)  # fmt: skip
def test_an_ordinal_ends_as_its_number_is_said(number: int, words: str) -> None:
    """Teens end in th, whatever their last digit."""
    assert ordinal(number) == words


def test_no_ordinal_is_made_by_hand() -> None:
    """A number with th behind it is wrong for 2 and 3: every sentence asks `ordinal`."""
    for folder in ("moeload_bench", "leaderboard"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "words.py" or folder == "leaderboard":
                assert not re.search(r"\}th\b", path.read_text(encoding="utf-8")), path
