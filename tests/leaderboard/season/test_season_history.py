"""Each file of a season is as it was committed first, and its steps have their order."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboard.season.folder import SeasonFolder
from leaderboard.season.history import history_problems, missing_history
from tests.support.seasons import NAME, Repository, use_small_world


@pytest.fixture
def repository(scored: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    use_small_world(monkeypatch)
    shutil.copytree(scored.root, tmp_path / "repository")
    return Repository(tmp_path / "repository")


def problems(folder: SeasonFolder) -> list[str]:
    again = SeasonFolder(folder.path)
    assert again.scores is not None
    assert missing_history(again) is None
    return list(history_problems(again, again.recordings, again.scores))


def replaced(path: str, old: str, new: str) -> Callable[[Repository], None]:
    """Replace a text in a file, and commit it: a forger makes the chain of hashes again, too."""

    def change(repository: Repository) -> None:
        file = repository.folder.path / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        repository.commit()

    return change


def scored_again(repository: Repository, *words: str, **changes: str) -> None:
    """Make the commit of the scores again, on a checkout of the one before by these words of git."""
    before, scored = repository.git("log", "--reverse", "--format=%H").split()[-2:]
    repository.git("checkout", "-q", *words, before)
    if words:
        repository.commit()
    repository.git("checkout", "-q", scored, "--", ".")
    path = repository.folder.path / "scores.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, sort_keys=True, indent=1) + "\n")
    repository.commit()


FORGERIES: dict[str, Callable[[Repository], None]] = {
    "season.toml: not as commit": replaced("season.toml", "horizon = 10", "horizon = 1"),
    "draw.json: not as commit": replaced("draw.json", "round 7", "round 8"),
    "entries/mine/forecaster.py: not as commit": replaced("entries/mine/forecaster.py", "\n", "\n# better\n"),
    "recordings.json: not as commit": replaced("recordings.json", "step 3", "step 4"),
    "scores.json: not as commit": replaced("scores.json", '"process"', '"sandbox"'),
    "a part of the draw, and entries and terms were whole in": lambda repository: scored_again(
        repository, "--orphan", "again"
    ),
}


def test_a_season_as_it_was_committed_has_no_problem(repository: Repository) -> None:
    assert problems(repository.folder) == []


@pytest.mark.parametrize("words", FORGERIES)
def test_what_changed_after_its_first_commit_is_named(words: str, repository: Repository) -> None:
    """Whatever hashes say: terms, a draw, an entry, a recording and the level are as they were committed first."""
    FORGERIES[words](repository)
    found = problems(repository.folder)
    assert any(words in line for line in found), found


@pytest.mark.parametrize("moment", ["1970-02-01T00:00:00Z", "2998-01-01T00:00:00Z"])
def test_a_date_that_no_commit_could_have_is_named(moment: str, repository: Repository) -> None:
    """Before the step that it follows, or after its own commit."""
    scored_again(repository, scored=moment)
    assert any(line.startswith("scores.json: scored") for line in problems(repository.folder))


def test_a_clone_without_history_shows_no_order(repository: Repository, tmp_path: Path) -> None:
    source = f"file://{repository.root}"
    subprocess.run(["git", "clone", "-q", "--depth", "1", source, str(tmp_path / "shallow")], check=True)
    assert "no history" in str(missing_history(SeasonFolder(tmp_path / "shallow" / "seasons" / NAME)))
    assert missing_history(SeasonFolder(tmp_path)) is not None
