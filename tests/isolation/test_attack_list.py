"""The tables of attacks and of promises in docs/methods name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "methods" / "isolation.md"
DEFINED = re.compile(r"^def (test_\w+)", re.MULTILINE)


def test_every_attack_on_the_page_has_its_tests() -> None:
    """Each row names at least one, and each name is that of a test; every test of hostile files is in a row."""
    section = PAGE.read_text(encoding="utf-8").partition("## Which attack, which test")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    named = [set(re.findall(r"`(test_\w+)`", row)) for row in rows]
    assert len(rows) > 25
    assert all(named), "a row without a test"
    defined = {name for path in (ROOT / "tests").rglob("test_*.py") for name in DEFINED.findall(path.read_text())}
    assert not set().union(*named) - defined
    hostile = DEFINED.findall((Path(__file__).parent / "attacks" / "test_files.py").read_text())
    assert not set(hostile) - set().union(*named) - {"test_brackets_in_strings_do_not_count"}


def test_every_promise_names_tests_that_exist() -> None:
    """Each row of docs/methods/security.md; a promise without a test is only a wish. The page is read in minutes."""
    text = (PAGE.parent / "security.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) > 15
    assert len(text.split()) <= 800
    assert all(re.search(r"`test_\w+`", row) for row in rows), "a promise without a test"
    defined = {name for path in (ROOT / "tests").rglob("test_*.py") for name in DEFINED.findall(path.read_text())}
    assert not set(re.findall(r"`(test_\w+)`", text)) - defined
