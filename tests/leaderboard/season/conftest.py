"""A scored season, once for the tests of this room, which copy it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard.season.folder import SeasonFolder
from tests.support.package_index import Index, package_index
from tests.support.seasons import NAME, Repository, scored_season, use_small_world


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    with pytest.MonkeyPatch.context() as patch:
        return scored_season(tmp_path_factory.mktemp("season"), patch)


@pytest.fixture
def season(scored: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SeasonFolder:
    use_small_world(monkeypatch)
    shutil.copytree(scored.folder.path, tmp_path / NAME)
    return SeasonFolder(tmp_path / NAME)


@pytest.fixture
def index() -> Iterator[Index]:
    with package_index() as made:
        yield made
