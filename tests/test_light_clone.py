"""The clone without recordings that CONTRIBUTING.md documents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leaderboard.committed import ROOT

NEEDS_RECORDINGS = "tests/traces/test_published.py"
"""Tests of which every one reads `traces/`."""


def served(folder: Path) -> str:
    """Return the address of a server of this checkout's last commit that honours filters.

    The commit has no parents: of a shallow checkout they are missing, and git would fetch them without end.
    """
    bare = folder / "moeload-bench.git"
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")

    def git(where: Path, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        objects = git(ROOT, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        tree = git(ROOT, "rev-parse", "HEAD^{tree}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this checkout cannot be cloned: {error.stderr[:200]}")
    git(folder, "init", "-q", "--bare", str(bare))
    (bare / "objects" / "info" / "alternates").write_text(f"{objects}\n")
    git(bare, "update-ref", "HEAD", git(bare, *identity, "commit-tree", tree, "-m", "All of it"))
    for name in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git(bare, "config", name, "true")
    return bare.as_uri()


@pytest.mark.slow
def test_the_documented_light_clone_leaves_recordings_out_and_works(tmp_path: Path) -> None:
    """The command as it is printed leaves the recordings out; mini is scored there, skipped tests name a reason."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    (command,) = (line.strip() for line in lines if "--filter=blob:none" in line)
    subprocess.run(command.replace("<this repository>", served(tmp_path)), shell=True, cwd=tmp_path, check=True)
    clone = tmp_path / "moeload-bench"

    stated = next(int(found[1]) for line in lines if (found := re.match(r"A lighter clone, (\d+) MB", line)))
    size = sum(path.lstat().st_size for path in clone.rglob("*")) / 1e6
    assert 0.8 * stated <= size <= 1.1 * stated
    assert (clone / "leaderboard" / "results").is_dir()
    assert not (clone / "traces").exists()
    assert not list((clone / "leaderboard" / "seasons").glob("*/traces"))
    objects = subprocess.run(
        ["git", "rev-list", "--objects", "--missing=print", "HEAD^{tree}"], cwd=clone, check=True, capture_output=True
    )
    assert b"\n?" in objects.stdout  # what is left out was not fetched either

    environment = {**os.environ, "MOELOAD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(clone)}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=clone, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = python("-c", "import moeload_bench; print(moeload_bench.__file__)")
    assert Path(where.strip()).is_relative_to(clone)
    assert "sw_avg" in python("-m", "moeload_bench", "run", "sw_avg", "--level", "none", "--fresh")
    said = python("-m", "pytest", "-q", "-rs", "-p", "no:randomly", "-n", "0", NEEDS_RECORDINGS)
    assert "git sparse-checkout disable" in said
