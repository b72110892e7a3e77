"""What a test needs beyond what `make test` installs is named by its markers; of the rest, it sees nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.needs import NEEDS
from tests.support.programs import HIDDEN, hide, kind_of

ROOT = Path(__file__).resolve().parents[1]
SUITE = """
import shutil
import subprocess

import pytest

from moeload_bench.isolation.hosts import level_available

@pytest.fixture(scope="module")
def early():
    return [shutil.which(name) for name in ("bwrap", "g++", "tool")]

def test_unmarked(early):
    assert early[:2] == [None, None] and early[2]
    assert subprocess.run("command -v bwrap || command -v g++", shell=True).returncode != 0

def test_looks():
    level_available("sandbox")

def test_without(without_sandbox):
    assert "bwrap is not installed" in level_available("sandbox")

@pytest.mark.compiler
def test_compiles():
    assert shutil.which("g++") and not shutil.which("bwrap")

@pytest.mark.browser
def test_browses():
    pass

@pytest.mark.sandbox
def test_is_safe():
    pass
"""


def programs(folder: Path, *names: str) -> Path:
    """A folder with programs that fail."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho it fails >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


def outcomes(tmp_path: Path, **variables: str) -> str:
    """The summary of `SUITE` on a machine that has a compiler, a bubblewrap that does not work, and no browser."""
    (tmp_path / "test_it.py").write_text(SUITE)
    path = f"{programs(tmp_path / 'bin', 'bwrap', 'g++', 'tool')}:{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if key not in ("MOELOAD_REQUIRE_ALL", "PYTEST_ADDOPTS")}
    argv = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", "-rA", "-n", "0"]
    done = subprocess.run(
        [*argv, str(tmp_path / "test_it.py")],
        cwd=ROOT, env={**env, **variables, "PATH": path, "COLUMNS": "400"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "short test summary" in done.stdout, done.stdout + done.stderr
    return done.stdout.partition("short test summary")[2]


def named(summary: str, outcome: str) -> set[str]:
    return set(re.findall(rf"^{outcome} .*::test_(\w+)", summary, re.MULTILINE))


def test_a_test_sees_the_programs_that_its_markers_name_and_no_other(tmp_path: Path) -> None:
    """So do its fixtures and its processes. A missing program skips it; a look for the sandbox needs the marker."""
    summary = outcomes(tmp_path)
    assert named(summary, "PASSED") == {"unmarked", "without", "compiles"}
    assert named(summary, "FAILED") == {"looks"}
    assert "this test looks for a sandbox: mark it `sandbox` if it needs one" in summary
    assert "browser: chromium and chromedriver not installed: apt-get install chromium chromium-driver" in summary
    assert "sandbox: a sandbox does not come up: it fails" in summary
    assert "3 passed, 2 skipped" in summary


def test_a_missing_program_fails_where_nothing_may_be_missing(tmp_path: Path) -> None:
    """With MOELOAD_REQUIRE_ALL, as in `.ci/run`."""
    summary = outcomes(tmp_path, MOELOAD_REQUIRE_ALL="1")
    assert named(summary, "ERROR") == {"browses", "is_safe"}
    assert "skipped" not in summary


def test_only_the_folders_of_hidden_programs_are_replaced(tmp_path: Path) -> None:
    """By links to all others, in the same place of the PATH; the first of a name is the one that is found."""
    both = programs(tmp_path / "a" / "bin", "gcc-12", "x86_64-linux-gnu-g++", "git", "node", "unshare")
    plain = programs(tmp_path / "b" / "bin", "git", "make")
    last = programs(tmp_path / "c" / "bin", "gcc-12", "chromium")
    path = hide(f"{both}:{plain}:{last}:{tmp_path / 'nowhere'}:{plain}", tmp_path)
    shown = path.split(":")
    assert shown[1::2] == [str(plain), str(tmp_path / "nowhere")]
    assert sorted(os.listdir(shown[0])) == ["git", "unshare"]
    assert os.path.realpath(shutil.which("git", path=path)) == str(both / "git")
    assert os.path.realpath(tmp_path / "compiler" / "gcc-12") == str(both / "gcc-12")
    found = {kind: sorted(os.listdir(tmp_path / kind)) for kind in HIDDEN}
    compilers = ["gcc-12", "x86_64-linux-gnu-g++"]
    assert found == {"sandbox": [], "browser": ["chromium"], "compiler": compilers, "other": ["node"]}


@pytest.mark.parametrize("name", ["git", "make", "unshare", "setpriv", "python3", "gcc-ar-12", "ccache", "lscpu", "as"])
def test_other_programs_stay(name: str) -> None:
    """What is hidden is hidden by its whole name."""
    assert kind_of(name) is None


def test_a_marker_is_written_once_more_where_it_is_registered_and_where_it_is_run() -> None:
    """In pyproject.toml, and in the Makefile, by which `.ci/run` runs what a bare machine skips."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert {line.partition(":")[0] for line in settings["markers"]} == {"slow", *NEEDS}
    (listed,) = re.findall(r"^NEEDS \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed.split(" or ") == list(NEEDS)
    assert set(HIDDEN) - {"other"} < set(NEEDS)
