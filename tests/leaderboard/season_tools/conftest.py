"""A season of drawn recipes for the tests of this room; those of known recipes make their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leaderboard.season_tools.folder import SeasonFolder
from tests.support.seasons import drawn_season


@pytest.fixture(scope="session")
def revealed(tmp_path_factory: pytest.TempPathFactory) -> SeasonFolder:
    """A whole season, once for all tests, which copy it."""
    with pytest.MonkeyPatch.context() as patch:
        return drawn_season(tmp_path_factory.mktemp("season"), patch)


@pytest.fixture
def season(revealed: SeasonFolder, tmp_path: Path) -> SeasonFolder:
    shutil.copytree(revealed.path, tmp_path / "2027-03")
    return SeasonFolder(tmp_path / "2027-03")
