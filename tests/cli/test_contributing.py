"""The ten lines of CONTRIBUTING.md by which a stranger submits a forecaster, as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.isolation.attacks.arena import require_sandbox

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -e ."


def ten_lines() -> list[str]:
    """The commands of the section, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## Submit a forecaster\n")[2].partition("\n## ")[0]
    return re.findall(r"^    (\S.*)$", section, re.MULTILINE)


def test_there_are_ten_lines() -> None:
    """The second installs; the rest is replayed by the test below."""
    lines = ten_lines()
    assert len(lines) == 10
    assert lines[1] == INSTALL


def test_contributing_says_who_reads_what_a_request_would_run() -> None:
    """A person reads `.ci/` and `.github/` of a request first; its submission is checked by the base branch."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    assert "`.ci/` and `.github/` of a pull request are read by a person before anything of them runs" in text
    assert "The check of a submission runs the base branch's script and code, never the request's" in text


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_ten_lines_work_as_they_stand(tmp_path: Path) -> None:
    """Run in one shell with the README's forecaster and a fork of this checkout; the installation, which needs the
    network, is replaced by this one's interpreter running the clone's code. What arrives at the fork is one commit that
    adds the submission's folder and touches nothing else, and that can be read.
    """
    require_sandbox()
    example = re.search(r"```python\n(# my\.py\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "mine.py").write_text(example[1])
    fork = tmp_path / "fork.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(fork)], check=True)
    program = tmp_path / "bin" / "moeload-bench"
    program.parent.mkdir()
    for name, module in (("moeload-bench", "-m moeload_bench"), ("python", "")):
        shim = program.with_name(name)
        shim.write_text(f'#!/bin/sh\nPYTHONPATH="$PWD" exec {shlex.quote(sys.executable)} {module} "$@"\n')
        shim.chmod(0o755)

    lines = [line for line in ten_lines() if line != INSTALL]
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
        "A\tleaderboard/submissions/mine/forecaster.py",
        "A\tleaderboard/submissions/mine/submission.toml",
    ]
    assert sum(int(line.split("\t")[0]) for line in counted.splitlines()) < 200
    assert subprocess.run([*git, "rev-list", "--count", "HEAD..submit-mine"], capture_output=True).stdout == b"1\n"
