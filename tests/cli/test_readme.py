"""What README.md and CONTRIBUTING.md show works as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from leaderboard.pages.enter import INSTALL
from moeload_bench import list_traces, load_trace
from tests.conftest import needs_traces

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(begins: str) -> str:
    """The code block that begins so."""
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if text.startswith(begins)]
    return str(found)


def tutorial_code() -> str:
    """The forecaster of the tutorial."""
    tutorial = (ROOT / "docs" / "guide" / "tutorial-forecasting.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my\.py\n.*?)```", tutorial, re.DOTALL)
    return str(code)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tutorial's forecaster in the file that the tutorial names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(tutorial_code(), encoding="utf-8")
    return "my.py:Mine"


def test_the_extras_for_trainers_bring_numba() -> None:
    """Without it ARIMA and the averages on a run of one's own take many times as long."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"pip install 'moeload-bench\[([\w,]+)\]'", README):
        brought = " ".join(part for name in names.split(",") for part in (name, *extras[name]))
        assert "fast" in re.findall(r"\w+", brought), names


def test_load_dataset_in_the_readme_gives_the_loads(tmp_path: Path) -> None:
    """Run in the repository's folder without this package: an int64 array of all steps, layers and experts."""
    check = (
        "import sys\nassert 'moeload_bench' not in sys.modules\n"
        "print(type(load_SLE).__name__, load_SLE.dtype, *load_SLE.shape, load_SLE.sum())\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    child = subprocess.run(
        [sys.executable, "-c", block("from datasets import load_dataset") + check],
        cwd=ROOT,
        env={**clean, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    (ref,) = [
        ref for ref in list_traces(ROOT / "moeload_bench" / "data") if ref.id.startswith("qwen3moe-tiny-8e/test/")
    ]
    load_SLE = load_trace(ref.path).load_SLE
    assert child.stdout.split() == ["ndarray", "int64", *map(str, load_SLE.shape), str(load_SLE.sum())]


@needs_traces
def test_the_readme_says_how_many_runs_load_dataset_joins() -> None:
    """As many as the folder holds in that split of that recipe."""
    said = r'load_dataset\("traces", "([\w-]+)", split="(\w+)"\)` joins the (\w+) runs'
    ((recipe, split, words),) = re.findall(said, README)
    runs = [ref for ref in list_traces(ROOT / "traces") if ref.id.startswith(f"{recipe}/{split}/")]
    assert {"two": 2, "three": 3, "four": 4}[words] == len(runs)


def test_the_readme_says_what_recording_costs_as_it_was_measured() -> None:
    """Rounded, as the page of performance has it."""
    page = (ROOT / "docs" / "reports" / "performance.md").read_text(encoding="utf-8")
    (alone,), (recorded,) = (re.findall(rf"\| {what} \| ([\d.]+) \|", page) for what in ("routers alone", "recorded"))
    assert f"takes {float(recorded) - float(alone):.0f} ms of one core a step" in README


def test_every_page_and_target_that_the_readme_links_exists() -> None:
    """Relative links and pictures; targets of make."""
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\S+)|`make (\S+)`", README, re.MULTILINE):
        assert re.search(rf"^{target[0] or target[1]}:", makefile, re.MULTILINE), target


# ---------------------------------------------------------------- CONTRIBUTING.md and docs/guide/enter.md


def commands_to_enter() -> list[str]:
    """The commands of the second and of the third step, in order."""
    text = (ROOT / "docs" / "guide" / "enter.md").read_text(encoding="utf-8")
    section = text.partition("**2. Run**")[2].partition("<!-- end -->")[0]
    return re.findall(r"^    (\S.*)$", section, re.MULTILINE)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_commands_to_enter_work_as_they_stand(tmp_path: Path) -> None:
    """Run in one shell with the README's forecaster and a fork of this checkout, but for a season, which another test
    scores; the installation, which needs the network, is replaced by this one's interpreter running the clone's
    code. What arrives at the fork is one commit that adds the submission's folder and touches nothing else, and that
    can be read.
    """
    (tmp_path / "mine.py").write_text(tutorial_code())
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(fork)], check=True)
    program = tmp_path / "bin" / "moeload-bench"
    program.parent.mkdir()
    for name, module in (("moeload-bench", "-m moeload_bench"), ("python", "")):
        shim = program.with_name(name)
        shim.write_text(f'#!/bin/sh\nPYTHONPATH="$PWD" exec {shlex.quote(sys.executable)} {module} "$@"\n')
        shim.chmod(0o755)

    lines = [line for line in commands_to_enter() if line != INSTALL and "--suite 20" not in line]
    script = "\n".join(lines).replace("YOUR_FORK", str(fork)).replace("YOUR_FORECASTER", str(tmp_path / "mine.py"))
    identity = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **identity, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ex", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dry run: nothing written, nothing sent" in done.stdout
    assert "\nchecked\n" in done.stdout

    git = ["git", "--git-dir", str(fork)]
    sent, counted = (
        subprocess.run([*git, "diff", form, "HEAD", "submit-mine"], capture_output=True, text=True, check=True).stdout
        for form in ("--name-status", "--numstat")
    )
    assert sent.split("\n")[:-1] == [
        "A\tleaderboard/submissions/mine/README.md",
        "A\tleaderboard/submissions/mine/claimed.parquet",
        "A\tleaderboard/submissions/mine/forecaster.py",
        "A\tleaderboard/submissions/mine/submission.toml",
    ]
    assert sum(int(line.split("\t")[0]) for line in counted.splitlines() if line[0] != "-") < 200
    assert subprocess.run([*git, "rev-list", "--count", "HEAD..submit-mine"], capture_output=True).stdout == b"1\n"
