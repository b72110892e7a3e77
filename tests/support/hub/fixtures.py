"""Fixtures over the local Hub; a test module asks for them with `pytest_plugins = ("tests.support.hub.fixtures",)`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import LocalHub
from .helpers import folder_bytes, make_folder


@pytest.fixture(scope="session")
def release_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(release_template: Path, tmp_path: Path) -> Path:
    """A release of two recipes that the test may change."""
    return Path(shutil.copytree(release_template, tmp_path / "traces"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running local Hub; clients in this process use HTTP uploads, short waits, and no token but their own."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.02)))
    with LocalHub() as running:
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
