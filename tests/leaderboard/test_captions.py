"""Captions of the tables in docs: all of the reports, and those of numbers in guides and methods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard.committed import ROOT

REPORTS = sorted((ROOT / "docs" / "reports").glob("*.md"))
OTHERS = [page for folder in ("guide", "methods") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
NUMBER = re.compile(r"[-+]?\d[\d,.]*")
SAYS = {
    "what a row is": re.compile(r"\brows?\b", re.IGNORECASE),
    "which direction is better, or that none is": re.compile(
        r"\b(better|best|worse)\b|\bno direction\b", re.IGNORECASE
    ),
}


def captions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the head of each table with the prose above it: of its section, and of the sections that hold it."""
    above: list[tuple[int, str]] = []
    before = ""
    for line in text.splitlines():
        title = re.match(r"#+(?= )", line)
        if title:
            level = len(title[0])
            above = [*(one for one in above if one[0] < level), (level, "")]
        elif line.startswith("|") and not before.startswith("|"):
            yield line, " ".join(prose for _, prose in above)
        elif above and not line.startswith(("|", "<!--")):
            above[-1] = above[-1][0], f"{above[-1][1]} {line}"
        before = line


@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_every_table_of_a_report_has_a_caption(page: Path) -> None:
    """The prose above it says what a row is and which direction is better; its columns are named by their heads."""
    found = list(captions(page.read_text(encoding="utf-8")))
    assert [(head, what) for head, said in found for what, rule in SAYS.items() if not rule.search(said)] == []
    for head, _ in found:
        cells = [cell.strip() for cell in head.strip("|").split("|")]
        assert sum(not cell for cell in cells) <= 1, f"{head}: a column without a name"


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_every_table_of_numbers_in_a_guide_has_a_caption(page: Path) -> None:
    """As in a report, where two cells of its first row are numbers; other tables say what their heads say."""
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    for head, said in captions(text):
        first = lines[lines.index(head) + 2].strip("|").split("|")
        if sum(bool(NUMBER.fullmatch(cell.strip())) for cell in first) >= 2:
            assert [what for what, rule in SAYS.items() if not rule.search(said)] == [], head


def test_a_table_without_a_caption_is_found() -> None:
    """Prose below a table, or in a section beside its own, is none of it."""
    text = (
        "# T\n\n## A\n\nA row is a run; less is better.\n\n| a |\n\n## B\n\n| b |\n\nA row is a run; less is better.\n"
    )
    assert [bool(rule.search(said)) for _, said in captions(text) for rule in SAYS.values()] == [
        True,
        True,
        False,
        False,
    ]
