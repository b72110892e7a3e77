"""The two tutorials, run as they stand in an empty folder, each to the picture at its end."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.terminal import Shown, in_terminal

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
PNG = b"\x89PNG\r\n\x1a\n"


def run_page(page: str, folder: Path) -> dict[str, Shown]:
    """Write the page's files and run its commands in order, at 80 columns; what each showed."""
    text = (GUIDE / page).read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(code, encoding="utf-8")
    shown = {}
    for line in re.findall(r"^    ((?:moeload-bench|python) .*)$", text, re.MULTILINE):
        program, *words = shlex.split(line)
        start = [sys.executable] if program == "python" else [sys.executable, "-m", "moeload_bench"]
        shown[line] = in_terminal([*start, *words], width=80, cwd=folder, timeout=900)
        assert shown[line].status == 0, f"{line}\n{shown[line].text[-2000:]}"
        assert shown[line].faults(80) == [], line
    return shown


def following(shown: Shown) -> str:
    """The command that an output ends with, its subject only."""
    words = shown.text.rpartition("Next")[2].partition("\n")[2].replace("\\\n", " ").split()
    return " ".join(words[1:3])


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_tutorial_for_those_who_train(tmp_path: Path) -> None:
    """Train, inspect, run, plan: each ends with the next; then a picture of the run."""
    shown = run_page("tutorial-training.md", tmp_path)
    steps = [line for line in shown if not line.startswith("moeload-bench export figure")]
    assert len(steps) + 1 <= 5  # and the installation
    for line, after in itertools.pairwise(steps):
        assert after.startswith(f"moeload-bench {following(shown[line])}"), f"{line} does not end with {after}"
    assert (tmp_path / "shares.png").read_bytes().startswith(PNG)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_tutorial_for_those_who_forecast(tmp_path: Path) -> None:
    """Run, check, run, plan; then a picture of the errors."""
    shown = run_page("tutorial-forecasting.md", tmp_path)
    steps = [line for line in shown if not line.startswith("moeload-bench export figure")]
    assert len(steps) + 1 <= 5
    first, check, run = (next(line for line in steps if words in line) for words in (" run", " check ", " run my.py"))
    assert following(shown[first]) == "check my.py:Mine"
    assert following(shown[check]) == "run my.py:Mine"
    assert following(shown[run]) == "plan qwen3moe-tiny-8e/test/seed1"
    assert (tmp_path / "horizon.png").read_bytes().startswith(PNG)
