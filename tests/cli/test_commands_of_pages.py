"""Every command of README.md and docs/ at 80 columns in a terminal: no cut cell, no long line, no traceback."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.arrays import IntArray
from moeload_bench.cli.app import COMMANDS
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.ops.interchange.test_shares import history
from tests.ops.interchange.test_three_commands import expert_parallel_logs
from tests.recording.test_recording_stages import stage_traces
from tests.support.terminal import Shown, in_terminal, moeload_in_terminal

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FORM = re.compile(r"\.\.\.|\[|\b(FILE|NAME|PATH|RECIPE|FORMAT|FOLDER|DIR|OUT|ORG|E|K)\b|/tmp/|request/|\.\./")
"""What stands for something of the reader's: the command is a form, not to be run as it stands."""
ELSEWHERE = {
    "record": ("downloads its text", "generator/test_recording_cli.py"),
    "recipes corpora fetch": ("downloads", "generator/test_recording_recipe.py"),
    "export checkpoint": ("needs a checkpoint", "ops/interchange/test_checkpoints.py"),
    "export routing balancing-quantile/test/seed501": (
        "needs a run of the checkout",
        "ops/interchange/test_routing_export.py",
    ),
    "recipes draw": ("needs a file of the checkout", "generator/test_draws.py"),
    "validate traces/community": ("needs a trace of others", "publishing/test_admission.py"),
    "submit my.py:Mine@window=50": ("installs packages", "publishing/test_submission_cli.py"),
}
"""Commands that cannot be run here, why, and the tests that run them."""
FORMS = {
    "publish": "publishing/test_release.py",
    "record": "generator/test_recording_cli.py",
    "verify": "publishing/test_submission_cli.py",
    "import": "ops/interchange/test_logs.py",
    "export": "ops/interchange/test_routing_export.py",
    "run": "cli/test_terminal.py",
}
"""Commands of which a page shows the form, and the tests that run them with something in its place."""
SHORTER = {"submit": ("--suite", "mini")}
"""What makes a command short or end: an option that its help describes."""
LARGE = "v3"
"""A suite whose runs take minutes: `mini` in its place; what its table looks like, committed results tell."""
WIDE = "--devices 8 --slots 72"
"""Of a model with 64 experts."""
SEASON = "--suite 2027-02"
"""Of runs and a table that a checkout has."""


def commands() -> list[str]:
    """All commands of all pages, once each, comments and line ends taken off."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        program = r"(?:moeload-bench|python -m leaderboard(?= verify leaderboard/))"
        for line in re.findall(rf"^(?: {{4}})?{program} (\S.*)$", text, re.MULTILINE):
            found[shlex.join(shlex.split(line, comments=True))] = None
    return list(found)


def to_run() -> list[str]:
    return [command for command in commands() if not FORM.search(command) and starts_with(command, ELSEWHERE) is None]


def sandboxed(command: str) -> bool:
    """Whether it runs a forecaster in the sandbox, asked or by default."""
    words = shlex.split(command)
    return "sandbox" in words or words[0] in ("submit", "verify")


def starts_with(command: str, words: Iterable[str]) -> str | None:
    """The first of the beginnings that is the command's."""
    return next((one for one in words if f"{command} ".startswith(f"{one} ")), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: recorded runs, logs of an engine, counts, a forecaster of one's own."""
    made = tmp_path_factory.mktemp("reader")
    load = synthetic_load_SLE(1200, layers=2, experts=8)
    trace = Trace.from_arrays(load, 512, 2, columns={"load_half": load // 2})
    for path in ("runs/my-run/test/seed0.parquet", "run.parquet"):
        write_trace(trace, made / path)
    write_trace(
        Trace.from_arrays(synthetic_load_SLE(1200, layers=2, experts=64), 512, 2), made / "wide" / "run.parquet"
    )
    stage_traces(made, synthetic_load_SLE(400, layers=4))
    expert_parallel_logs(made / "logs" / "tokens_per_expert", 1500)
    np.savez(made / "counts.npz", load=np.full((50, 2, 4), 2048))
    rows = [f"{s},{layer},{e},2048" for s in range(50) for layer in range(2) for e in range(4)]
    (made / "counts.csv").write_text("\n".join(["step,layer,expert,load", *rows]) + "\n")
    wide_SLE = synthetic_load_SLE(50, layers=2, experts=128)
    (made / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in histograms(wide_SLE)))
    history(made / "shares.jsonl", wide_SLE / wide_SLE.sum(-1, keepdims=True))
    text = "".join(page.read_text() for page in PAGES)
    (code,) = re.findall(r"```python\n(# my\.py\n.*?)```", text, re.DOTALL)
    (made / "my.py").write_text(code)
    checkout = made / "checkout"
    (checkout / "leaderboard").mkdir(parents=True)
    (checkout / "my.py").write_text(code)
    for name in ("leaderboard/seasons", "traces"):
        (checkout / name).symlink_to(ROOT / name)
    return made


def where(command: str) -> str:
    """The folder, below that of the reader, in which a command is run."""
    return "wide" if WIDE in command else "checkout" if SEASON in command else ""


def histograms(load_SLE: IntArray) -> list[dict[str, object]]:
    """Rows of a W&B history with one histogram for each layer, a bin for each expert."""
    bins = list(range(load_SLE.shape[2] + 1))
    return [
        {"_step": step}
        | {
            f"train/router/layer_{layer}/routing_hist": {"_type": "histogram", "values": load_E.tolist(), "bins": bins}
            for layer, load_E in enumerate(load_LE)
        }
        for step, load_LE in enumerate(load_SLE)
    ]


def submitted(folder: Path) -> None:
    """What `verify` takes for granted: a submission and its result."""
    if not (folder / "leaderboard").exists():
        words = ("submit", "my.py:Mine", "--name", "mine", "--author", "A. Uthor", "--licence", "MIT")
        assert moeload_in_terminal(*words, *SHORTER["submit"], cwd=folder).status == 0


def test_every_command_of_the_pages_exists() -> None:
    """Also the forms: the first word is a command."""
    named = {shlex.split(command)[0] for command in commands()}
    assert named <= {*COMMANDS, "verify"}
    assert len(to_run()) >= 35


def test_what_is_not_run_here_is_run_by_the_test_that_is_named() -> None:
    """Nothing is excluded that no page has; each file names the command in a call of the program."""
    left = [command for command in commands() if command not in to_run()]
    elsewhere = {command: starts_with(command, ELSEWHERE) for command in left if not FORM.search(command)}
    assert set(elsewhere.values()) == set(ELSEWHERE)
    assert {command.split()[0] for command in left if FORM.search(command)} == set(FORMS)
    for words, file in [*((words, file) for words, (_, file) in ELSEWHERE.items()), *FORMS.items()]:
        text = (ROOT / "tests" / file).read_text()
        assert re.search(rf'"{words.split()[0]}"|{words.split()[0]} ', text), (words, file)


def run_in_terminal(words: list[str], folder: Path) -> Shown:
    """`verify` is a command of the checkout."""
    if words[0] != "verify":
        return moeload_in_terminal(*words, cwd=folder)
    checkout = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "leaderboard"]
    return in_terminal([*checkout, *words], width=80, cwd=folder)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(
    "command", [pytest.param(one, marks=pytest.mark.sandbox) if sandboxed(one) else one for one in to_run()]
)
def test_a_command_of_the_pages_fits_80_columns(command: str, folder: Path) -> None:
    """As it stands, in a folder that holds what the page takes for granted; a long one shortened by its own options.

    JSON is for programs: its sentences are as long as they are.
    """
    words = shlex.split(command)
    words = ["mini" if word == LARGE else word for word in words]
    words += [word for word in SHORTER.get(words[0], ()) if word not in words]
    if words[0] == "verify":
        submitted(folder)
    if words[0] == "submit" and "--dry-run" not in words:
        shutil.rmtree(folder / "leaderboard", ignore_errors=True)
    if words[0] == "import" and "--out" in words:  # the other commands read run.parquet as it was made
        words[words.index("--out") + 1] = "made.parquet"
        (folder / "made.parquet").unlink(missing_ok=True)
    shown = run_in_terminal(words, folder / where(command))
    assert shown.status == 0, shown.text[-2000:]
    assert "--json" in words or shown.faults(80) == []
