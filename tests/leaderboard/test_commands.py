"""`python -m leaderboard`: every command helps, old spellings name the new ones, and pages name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboard import __main__ as program
from moeload_bench.suites.suite import ARCHIVED_AT, CLOSED
from tests.support.checkout import leaderboard

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("Makefile", "README.md", "CONTRIBUTING.md", "RELEASING.md")),
    *(path for folder in (".ci", ".github") for path in sorted((ROOT / folder).rglob("*")) if path.is_file()),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "leaderboard").glob("*.md")),
    ROOT / "benchmarks" / "record.sh",
]


def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A command and those below it, each as the words that call it."""
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from below(inner, (*words, name))


def test_the_help_of_all_lists_every_command_and_imports_none() -> None:
    """So that it stays fast: neither numpy nor a command's module is loaded for it."""
    code = (
        "import sys; sys.argv = ['leaderboard', '--help']\n"
        "import leaderboard.__main__ as program\n"
        "try: program.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'pyarrow', 'leaderboard.committed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in program.COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """As of the package's program: no traceback."""
    assert leaderboard("reproduce", "nowhere") == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("leaderboard: unknown suite 'nowhere'; there is: ")


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to install: a checkout may have been installed without the extras."""
    monkeypatch.setitem(sys.modules, "leaderboard.site.command", None)
    assert leaderboard("site") == 2
    assert "is not installed; in the checkout: pip install -e '.[all,dev]'" in capsys.readouterr().err


def test_pages_and_scripts_name_commands_that_there_are() -> None:
    """The word after `python -m leaderboard` is a command, but where a page says by what an earlier commit made it; no
    page has the old spelling of a module or a command.
    """
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        assert not re.search(r"-m leaderboard\.\w|moeload-bench (season|verify|verify-trace|reproduce) ", text), page
        now = re.sub(r"\bat [0-9a-f]{8} by .*", "", text)
        for name in re.findall(r"-m leaderboard\s+([a-z][\w-]*)", now):
            named.add(name)
            assert name in program.COMMANDS, (page, name)
    assert {"season", "verify", "reproduce", "paper", "pages", "site", "freeze"} <= named


@pytest.mark.parametrize("suite", CLOSED)
def test_a_closed_suite_answers_with_one_line(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, where it is, and which suite to use."""
    assert leaderboard("reproduce", suite) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(rf"suite {suite} is closed: .*docs/archive\.md.* at commit {ARCHIVED_AT}; use v3\n$", said)
