"""Small releases to publish, and child processes that use the local Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from leaderboard.pages.croissant import croissant
from moeload_bench.publishing.admission import COMMUNITY
from moeload_bench.publishing.card import render_card
from moeload_bench.scoring.description import read_runs
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

from . import LocalHub

CARD = """# Test traces

<!-- begin generated: summary -->
<!-- end generated -->
"""
RECIPES = ("tiny-a", "tiny-b")


def make_folder(root: Path, recipes: tuple[str, ...] = RECIPES, steps: int = 120) -> Path:
    """A small release: per recipe one `train` and one `test` run, with card and Croissant."""
    for number, recipe in enumerate(recipes):
        for seed, split in enumerate(("train", "test")):
            trace = synthetic_trace(steps, seed=10 * number + seed, recipe=recipe, split=split)
            write_trace(trace, root / recipe / split / "seed0.parquet")
    write_card(root)
    return root


def write_card(root: Path) -> None:
    """(Re)make README.md and croissant.json of a folder."""
    runs, others = read_runs(root), root / COMMUNITY
    card = render_card(CARD, runs, community=read_runs(others) if others.is_dir() else ())
    (root / "README.md").write_text(card)
    (root / "croissant.json").write_text(croissant(root, runs))


def folder_bytes(root: Path) -> dict[str, bytes]:
    """Every file of a folder by path, without what the Hub adds."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".gitattributes")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def run_python(hub: LocalHub, home: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A child process whose environment points the real clients at the local Hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**clean, **hub.environment(home), **variables},
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
