"""What docs/archive.md says is closed is gone from the tree, and says so when it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moeload_bench.cli.app import COMMANDS
from moeload_bench.suites.suite import ARCHIVED_AT, CLOSED, suite_names
from tests.support.checkout import leaderboard

ROOT = Path(__file__).resolve().parent.parent
NAMES = re.compile(r"(?<![\w.-])(v1|v2|(season-)?2026-12)(?![\w-])|/(closed|pilots)/")
"""Files and folders that carry a closed suite, the first season, or what only they had."""
ASKED = re.compile(r"(--suite|SUITE=|freeze|reproduce|season check)[ =]?(v1|v2|2026-12)\b|season-2026-12")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "Makefile")]


def test_no_file_of_what_is_closed_is_left() -> None:
    """Suites with plans, results, tables and reference, seasons with pages, entries of closed suites, pilots."""
    folders = ("moeload_bench/suites", "moeload_bench/data/reference", "leaderboard", "docs/reports")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    names = [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    assert [name for name in names if NAMES.search(name)] == []
    assert not set(CLOSED) & {*suite_names()}


def test_no_page_tells_readers_to_run_what_is_closed() -> None:
    """But docs/archive.md, which names the commit that has it; the log of what was tried may name old commands."""
    pages = [*PAGES, *(ROOT / "docs").rglob("*.md")]
    said = {page.name: ASKED.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert [name for name, found in said.items() if found and name not in ("archive.md", "log.md")] == []
    archive = (ROOT / "docs" / "archive.md").read_text(encoding="utf-8")
    assert f"git worktree add ../archived {ARCHIVED_AT}" in archive
    assert "(archive.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("suite", CLOSED)
def test_a_closed_suite_answers_every_command_with_one_line(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, where it is, and which suite to use."""
    assert leaderboard("reproduce", suite) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(rf"suite {suite} is closed: .*docs/archive\.md.* at commit {ARCHIVED_AT}; use v3\n$", said)


def test_commands_of_what_is_closed_are_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """The first seasons are not there, a closed suite has no plan, no suite is frozen in part, no old name answers."""
    for name in ("2026-12", "2027-01"):
        assert leaderboard("season", "check", name) == 2
        assert f"{name}: no such season" in capsys.readouterr().err
    assert leaderboard("freeze", "v1", "traces") == 2
    assert "unknown plan 'v1'" in capsys.readouterr().err
    assert leaderboard("freeze", "mini", "traces", "--partial", "out.toml") == 2
    assert not {"season", "verify", "verify-trace", "reproduce"} & COMMANDS.keys()
