"""`.ci/check-submissions`: what a pull request changes below leaderboard/ is checked with the code of its base."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.publishing.folder import CARD, CLAIM, VERIFICATION, read_folder
from moeload_bench.publishing.submission import Verification
from tests.support.submitted import World, results_of, write_folder

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(repo: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(repo), *who, *arguments], check=True, capture_output=True, text=True).stdout


def commit(repo: Path, message: str) -> None:
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", message)


@pytest.fixture
def repo(tmp_path: Path, world: World) -> Path:
    """A repository with the package's code, a small suite and one entry on `main`; a pull request is checked out."""
    repo = tmp_path / "repo"
    for name in ("moeload_bench", "baselines"):
        shutil.copytree(ROOT / name, repo / name, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    for path in (ROOT / "leaderboard").rglob("*.py"):
        code = repo / path.relative_to(ROOT)
        if "entries" not in path.parts:
            code.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, code)
    shutil.copy(world.suite_file, repo / "moeload_bench" / "suites" / "small.toml")
    write_folder(repo / "leaderboard", world, name="theirs")
    result(repo, "theirs").write_text("{}\n")
    git(tmp_path, "init", "-q", "-b", "main", str(repo))
    commit(repo, "base")
    git(repo, "switch", "-q", "-c", "request")
    return repo


def checked(repo: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script on the commit that is checked out; it leaves no worktree behind."""
    command = ["bash", str(ROOT / ".ci" / "check-submissions"), "main"]
    env = {**os.environ, "PYTHON": sys.executable, **variables}
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    return done


def forge(repo: Path, name: str) -> None:
    """A verification.json of an entry's form, and a result."""
    made = Verification(status="verified", level="sandbox", date="2026-11-25", commit=None)
    (repo / "leaderboard" / "submissions" / name / VERIFICATION).write_text(made.to_json())
    result(repo, name).write_text('{"forged": 1}\n')


def result(repo: Path, name: str) -> Path:
    """The place of an entry's result."""
    path = repo / "leaderboard" / "results" / "small" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_an_honest_submission_is_accepted_and_a_forged_verification_is_not(repo: Path, world: World) -> None:
    """Also when the pull request brings a checker of its own: the code of the base decides."""
    write_folder(repo / "leaderboard", world)
    (repo / "leaderboard" / "submissions" / "mine" / CARD).write_text("# mine\n")
    commit(repo, "Submission mine")
    done = checked(repo)
    assert (done.returncode, done.stdout) == (0, "checked\naccepted: mine\n"), done.stderr
    forge(repo, "mine")
    (repo / "leaderboard" / "__main__.py").write_text("pass\n")
    (repo / "baselines" / "__init__.py").write_text("raise SystemExit(0)\n")
    (repo / "tomllib.py").write_text("open('ran', 'w')\n")
    commit(repo, "verified by myself")
    done = checked(repo)
    assert done.returncode == 1
    assert not (repo / "ran").exists()
    assert "submissions/mine/verification.json: the maintainers' file: remove it" in done.stderr
    assert "not checked: verification.json is the maintainers' file" in done.stderr


@pytest.mark.slow
def test_another_s_entry_is_neither_verified_nor_removed_nor_given_other_numbers(repo: Path) -> None:
    """A forged verification and result of an entry that was there, and an entry that goes."""
    forge(repo, "theirs")
    commit(repo, "more")
    done = checked(repo)
    assert done.returncode == 1
    assert "submissions/theirs/verification.json: the maintainers' file" in done.stderr
    assert "results/small/theirs.parquet: the maintainers' run writes results" in done.stderr
    git(repo, "reset", "-q", "--hard", "main")
    shutil.rmtree(repo / "leaderboard")
    commit(repo, "nobody else")
    done = checked(repo)
    assert done.returncode == 1
    assert "theirs: an entry that is removed" in done.stderr


def test_a_submission_brings_no_result(repo: Path, world: World) -> None:
    """Its numbers are those of the maintainers' run; the rest of the request is as it should be."""
    write_folder(repo / "leaderboard", world)
    result(repo, "mine").write_text("{}\n")
    commit(repo, "and its numbers")
    done = checked(repo)
    assert done.returncode == 1
    assert "results/small/mine.parquet: the maintainers' run writes results: leave it as it is" in done.stderr
    assert "accepted: mine" in done.stdout


def test_the_board_is_shown_with_the_author_s_own_numbers_marked(repo: Path, world: World, tmp_path: Path) -> None:
    """In the output and on the page of the run; published rows are the base's, and only the claim is marked."""
    git(repo, "switch", "-q", "main")
    result(repo, "theirs").unlink()
    board = evaluate(["sw_avg", "uniform"], world.suite, paths=world.paths, level="none")
    board.save(repo / "leaderboard" / "results" / "small")
    commit(repo, "a board")
    git(repo, "switch", "-q", "-C", "request")
    folder = read_folder(write_folder(repo / "leaderboard", world))
    own = results_of(folder, world)
    own.save(folder.path / CLAIM)
    commit(repo, "Submission mine, with its author's own run")
    done = checked(repo, GITHUB_STEP_SUMMARY=str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert page in done.stdout
    rows = dict(re.findall(r"^\| ([^|]+) \| ([+-]\d.*) \|$", page, re.M))
    assert {*rows} == {"sw_avg", "uniform", "**mine** (claimed, not run again)"}
    assert rows["sw_avg"] == "+0.000 | +0.000"
    assert not list((repo / "leaderboard" / "results").rglob("mine*"))


def test_a_request_that_changes_no_submission_passes(repo: Path) -> None:
    """Nothing is checked; a base that is not there is refused by git's own words."""
    (repo / "more.md").write_text("more\n")
    commit(repo, "a page")
    assert checked(repo).returncode == 0
    git(repo, "branch", "-q", "-D", "main")
    assert "main" in checked(repo).stderr
