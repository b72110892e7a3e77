"""Fixtures over the local Hub; a test module asks for them with `pytest_plugins = ("tests.hub.fixtures",)`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import LocalHub

CARD = """# Test traces

<!-- begin generated: summary -->
<!-- end generated -->
"""
RECIPES = ("tiny-a", "tiny-b")


def make_folder(root: Path, recipes: tuple[str, ...] = RECIPES, steps: int = 120) -> Path:
    """A small release: per recipe one `train` and one `test` run, with card and Croissant."""
    from moeload_bench.store import write_trace
    from tests.conftest import synthetic_trace

    for number, recipe in enumerate(recipes):
        for seed, split in enumerate(("train", "test")):
            trace = synthetic_trace(steps, seed=10 * number + seed, recipe=recipe, split=split)
            write_trace(trace, root / recipe / split / "seed0.parquet")
    write_card(root)
    return root


def write_card(root: Path) -> None:
    """(Re)make README.md and croissant.json of a folder."""
    from moeload_bench.card import render_card
    from moeload_bench.card_tables import read_runs
    from moeload_bench.croissant import croissant

    runs = read_runs(root)
    (root / "README.md").write_text(render_card(CARD, runs))
    (root / "croissant.json").write_text(croissant(root, runs))


def folder_bytes(root: Path) -> dict[str, bytes]:
    """Every file of a folder by path, without what the Hub adds."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".gitattributes")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def release_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(release_template: Path, tmp_path: Path) -> Path:
    """A release of two recipes that the test may change."""
    import shutil

    return Path(shutil.copytree(release_template, tmp_path / "traces"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running local Hub; clients in this process use HTTP uploads, short waits, and no token but their own."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.02)))
    with LocalHub(tmp_path / "hub") as running:
        yield running
    assert running.leaks == [], "a token was sent to the storage host"


@pytest.fixture
def api(hub: LocalHub, tmp_path: Path) -> Callable[[str | bool], object]:
    """Makes a real client of the local Hub for a user's name (False: without token)."""
    from huggingface_hub import HfApi

    endpoint = hub.endpoint  # known while it runs, used also when it has been stopped

    def make(user: str | bool = "owner") -> HfApi:
        return HfApi(endpoint=endpoint, token=f"hf_{user}" if user else False)

    return make


@pytest.fixture
def snapshot(api: Callable[..., object], tmp_path: Path) -> Callable[[str, str], dict[str, bytes]]:
    """Downloads a revision with the real client and returns its files."""

    def download(repo: str, revision: str) -> dict[str, bytes]:
        folder = api().snapshot_download(  # type: ignore[attr-defined]  # an HfApi, imported late
            repo, repo_type="dataset", revision=revision, cache_dir=tmp_path / "cache" / revision
        )
        return folder_bytes(Path(folder))

    return download


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
