"""What a result says about where it was made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeload_bench import environment as module
from moeload_bench.environment import commit_of, environment, kernels


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with code and a result, both committed."""
    (tmp_path / "leaderboard" / "results").mkdir(parents=True)
    for name in ("code.py", "leaderboard/results/mine.json"):
        (tmp_path / name).write_text("1\n")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def head(checkout: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_changed_tracked_file_marks_the_commit(checkout: Path) -> None:
    """The numbers are not those of the commit; a file that git does not know changes none."""
    (checkout / "untracked.py").write_text("2\n")
    assert commit_of(checkout) == head(checkout)
    (checkout / "code.py").write_text("2\n")
    assert commit_of(checkout) == f"{head(checkout)}-dirty"


def test_what_evaluations_write_is_no_change(checkout: Path) -> None:
    """`make verify` writes one record after the other on one commit."""
    (checkout / "leaderboard" / "results" / "mine.json").write_text("2\n")
    assert commit_of(checkout) == head(checkout)


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    """An installed package."""
    assert commit_of(tmp_path) is None


def test_kernels_are_told_apart_where_processors_share_a_name() -> None:
    """What numpy's BLAS computes with is recorded, and follows what the process was started with."""
    found = kernels()
    assert found.items() <= environment().versions.items()
    assert found["blas kernels"] != "unknown"
    if "openblas" not in found["blas kernels"]:
        pytest.skip(f"numpy computes with {found['blas kernels']}, which takes no OPENBLAS_CORETYPE")
    other = "Nehalem" if "Nehalem" not in found["blas kernels"] else "Haswell"
    command = [sys.executable, "-c", "from moeload_bench.environment import kernels; print(kernels()['blas kernels'])"]
    env = {**os.environ, "OPENBLAS_CORETYPE": other}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"openblas {other}"


def test_a_wheel_names_the_commit_that_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and verifications made from a wheel, outside any checkout, name it all the same."""
    package = tmp_path / "moeload_bench"
    package.mkdir()
    monkeypatch.setattr(module, "PACKAGE", package)
    assert environment().commit is None
    (package / "commit.txt").write_text("0" * 40 + "\n")
    assert environment().commit == "0" * 40
