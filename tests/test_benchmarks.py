"""Scripts of `benchmarks/` start as their own first lines say, and what can be wrong without a clock is right."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^ +(?:make \S+ && )?(PYTHONPATH=\. )?python (benchmarks/\w+\.py)", re.MULTILINE)
COMMANDS = sorted(
    {
        match.groups(default="")
        for path in (ROOT / "benchmarks").glob("*.py")
        for match in COMMAND.finditer(path.read_text())
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "script"), COMMANDS)
def test_a_benchmark_starts_as_its_first_lines_say(path: str, script: str) -> None:
    """Only the documented variable is set, so that a package of this checkout is not found by accident."""
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **({"PYTHONPATH": "."} if path else {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_a_spread_names_the_median_and_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three digits, thousands apart."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    common = importlib.import_module("compare_common")
    assert common.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert common.spread([0.0123456], 1e6) == "12,300 (12,300 to 12,300)"
