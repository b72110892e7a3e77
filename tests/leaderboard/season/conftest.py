"""A scored season, once for the tests of this room, which copy it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard.season.folder import SeasonFolder
from tests.support.seasons import NAME, Repository, scored_season


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with pytest.MonkeyPatch.context() as patch:
        yield scored_season(tmp_path_factory.mktemp("season"), patch)


@pytest.fixture
def season(scored: Repository, tmp_path: Path) -> SeasonFolder:
    shutil.copytree(scored.folder.path, tmp_path / NAME)
    return SeasonFolder(tmp_path / NAME)
