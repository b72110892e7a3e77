"""Every command of README.md and docs/ at 80 columns in a terminal: no cut cell, no long line, no traceback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.cli.app import COMMANDS
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.interchange.test_three_commands import expert_parallel_logs
from tests.isolation.attacks.arena import require_sandbox
from tests.support.terminal import moeload_in_terminal

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FORM = re.compile(r"\.\.\.|\[|\b(FILE|NAME|PATH|RECIPE|FORMAT|FOLDER|DIR|OUT|ORG)\b|2026-12|/tmp/|request/|\.\./")
"""What stands for something of the reader's: the command is a form, not to be run as it stands."""
ELSEWHERE = {
    "record": "trains for minutes",
    "corpora fetch": "downloads",
    "publish": "needs the Hub",
    "submit": "runs the suite to cite; tests/cli/test_contributing.py runs it",
    "verify": "runs the suite to cite; tests/cli/test_contributing.py runs it",
    "merge": "needs the stages of a pipeline; tests/recording/test_recording_stages.py runs it",
    "run my.py:Mine sw_avg --suite v1": "takes minutes",
}
"""Commands that are run by another test or by nobody, and why."""


def commands() -> list[str]:
    """All commands of all pages, once each, comments and line ends taken off."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4})?moeload-bench (\S.*)$", text, re.MULTILINE):
            found[shlex.join(shlex.split(line, comments=True))] = None
    return list(found)


def to_run() -> list[str]:
    return [
        command
        for command in commands()
        if not FORM.search(command) and not any(command.startswith(words) for words in ELSEWHERE)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: a recorded run, logs of an engine, counts, a forecaster of one's own."""
    made = tmp_path_factory.mktemp("reader")
    load = synthetic_load_SLE(1200, layers=2, experts=8)
    trace = Trace.from_arrays(load, 512, 2, columns={"load_half": load // 2})
    for path in ("runs/my-run/test/seed0.parquet", "run.parquet"):
        write_trace(trace, made / path)
    expert_parallel_logs(made / "logs" / "tokens_per_expert", 1500)
    np.savez(made / "counts.npz", load=np.full((50, 2, 4), 2048))
    rows = [f"{s},{layer},{e},2048" for s in range(50) for layer in range(2) for e in range(4)]
    (made / "counts.csv").write_text("\n".join(["step,layer,expert,load", *rows]) + "\n")
    (code,) = re.findall(r"```python\n(# my\.py\n.*?)```", PAGES[0].read_text(), re.DOTALL)
    (made / "my.py").write_text(code)
    return made


def test_every_command_of_the_pages_exists() -> None:
    """Also the forms: the first word is a command."""
    named = {shlex.split(command)[0] for command in commands()}
    assert named <= set(COMMANDS)
    assert len(to_run()) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("command", to_run())
def test_a_command_of_the_pages_fits_80_columns(command: str, folder: Path) -> None:
    """As it stands, in a folder that holds what the page takes for granted."""
    words = shlex.split(command)
    if "sandbox" in words:
        require_sandbox()
    if words[0] == "watch" and "--once" not in words:
        words.append("--once")
    if words[0] == "import":
        (folder / words[words.index("--out") + 1]).unlink(missing_ok=True)
    shown = moeload_in_terminal(*words, cwd=folder)
    assert shown.status == 0, shown.text[-2000:]
    assert shown.faults(80) == []
