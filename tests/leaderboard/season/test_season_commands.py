"""A whole season by its commands: opened, drawn, trained for real, broken off, scored and checked in clones."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from leaderboard.__main__ import app
from leaderboard.committed import ROOT
from leaderboard.season import recording, scoring
from leaderboard.season.folder import SeasonFolder
from moeload_bench.harness import pairs
from moeload_bench.harness.pairs import Pair
from moeload_bench.traces.store import read_trace
from tests.conftest import full_disk
from tests.support.seasons import NAME, VALUE, WHERE, Repository, make_repository

RECIPES = [f"{NAME}a-s00", f"{NAME}a-s01", "small"]
DIES = """
import os, signal, sys
from pathlib import Path

import pytest
from leaderboard.__main__ import app
from tests.support.seasons import use_small_world

name, *words = sys.argv[1:]
replace = Path.replace


def dies(scratch, target):
    if target.name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(scratch, target)


with pytest.MonkeyPatch.context() as patch:
    use_small_world(patch)
    patch.setattr(Path, "replace", dies)
    app(words)
"""
"""A command of the season in its small world, and the name of the file that it may not finish."""


def run(root: Path, command: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["season", command, NAME, *words, "--root", str(root / "seasons")])


def done(root: Path, command: str, *words: str) -> str:
    """The output of a command that ends well."""
    found = run(root, command, *words)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def refused(root: Path, command: str, *words: str) -> str:
    """The words of a refusal."""
    found = run(root, command, *words)
    assert found.exit_code != 0
    return f"{found.output} {found.exception}"


def killed_at(name: str, root: Path, command: str, *words: str) -> None:
    """Run a command in a process that is killed where it would give a file its name.

    It is no fork of this one, which has threads: what one of them had locked would stay locked.
    """
    season = ["season", command, NAME, *words, "--root", str(root / "seasons")]
    ended = subprocess.run([sys.executable, "-c", DIES, name, *season], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]


def killed(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def open_and_draw(repository: Repository) -> None:
    root, terms = repository.root, str(repository.terms)
    submissions = ("--submissions", str(root / "submissions"))
    (root / "stray.txt").write_text("mine")
    assert "stray.txt is not committed as it is" in refused(root, "open", terms, *submissions)
    (root / "stray.txt").unlink()
    assert "4 entries of commit" in done(root, "open", terms, *submissions)
    assert "is there already" in refused(root, "open", terms, *submissions)
    assert "is not committed as it is" in refused(root, "draw", "--value", VALUE, "--where", WHERE)
    repository.commit()
    assert "nothing is drawn yet" in refused(root, "record")
    assert "expected the form" in refused(root, "draw", "--value", VALUE.upper(), "--where", WHERE)
    assert "expected --value and --where" in refused(root, "draw", "--value", VALUE)
    assert "3 runs drawn" in done(root, "draw", "--value", VALUE, "--where", WHERE)
    assert "nothing is drawn twice" in refused(root, "draw", "--value", VALUE, "--where", WHERE)
    assert "is not committed as it is: commit it before the next step" in refused(root, "record")
    repository.commit()


def record(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, through a link, killed, broken off between a trace and its commit, and then to the end."""
    root = repository.root
    with full_disk(30_000):
        refused(root, "record", "--only", RECIPES[0])
    assert repository.folder.recordings == {}
    (repository.folder.path / "traces").rename(root / "elsewhere")
    (repository.folder.path / "traces").symlink_to(root / "elsewhere")
    for command in ("record", "score", "check"):
        assert "traces: a link, expected a season's files" in refused(root, command)
    (repository.folder.path / "traces").unlink()
    (root / "elsewhere").rename(repository.folder.path / "traces")
    killed_at("recordings.json", root, "record", "--only", RECIPES[0])
    assert repository.folder.recordings == {}
    with monkeypatch.context() as patch:
        patch.setattr(recording, "commit_run", killed)
        refused(root, "record", "--only", RECIPES[0])
    assert [*repository.folder.recordings] == RECIPES[:1]
    assert "no recipe 'other' is drawn" in refused(root, "record", "--only", "other")
    assert "2 runs are not recorded yet" in refused(root, "score")
    assert RECIPES[2] in done(root, "record")
    said = repository.git("log", "--format=%s", "-3").splitlines()
    assert said == [f"Season {NAME}: recorded {name}" for name in reversed(RECIPES)]
    assert repository.git("status", "--porcelain", "--untracked-files=no") == ""
    assert done(root, "record") == ""


def score(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after two runs, on a full disk, killed, and then to the end: what was finished is not run again."""
    root, replay, run_entry = repository.root, pairs.replay_and_score, scoring.run_entry
    calls: list[tuple[str, str]] = []

    def counted(pair: Pair, **options: Any) -> Any:
        calls.append((pair.target.label, pair.scored_run.id))
        return replay(pair, **options)

    def dying(*args: Any) -> Any:
        return run_entry(*args) if len(calls) < 2 else killed()

    monkeypatch.setattr(pairs, "replay_and_score", counted)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "run_entry", dying)
        refused(root, "score", "--level", "process")
    assert len(calls) == 2
    with full_disk(10_000):
        refused(root, "score", "--level", "process")
    assert repository.folder.scores is None
    for name in ("facts.parquet", "scores.json"):
        killed_at(name, root, "score", "--level", "process")
        assert [*repository.folder.path.glob(f".{name}.*")]
    done(root, "score", "--level", "process")
    assert not [*repository.folder.path.glob(".*")]
    assert not {*calls[:2]} & {*calls[2:]}
    assert len({*calls}) == 4 * len(RECIPES)
    assert "is scored already" in refused(root, "score")
    repository.commit()


@pytest.mark.sandbox
def test_a_season_from_open_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step refuses what it must; what was broken off goes on; a shallow clone checks all but the order."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "cache"))
    repository = make_repository(tmp_path / "repository", monkeypatch)
    open_and_draw(repository)
    record(repository, monkeypatch)
    score(repository, monkeypatch)
    for name, words in (("clone", ()), ("shallow", ("--depth", "1"))):
        repository.git("clone", "-q", *words, f"file://{repository.root}", str(tmp_path / name))
    assert f"season {NAME}: as it says; to record again: " in done(tmp_path / "clone", "check")
    checked = run(tmp_path / "shallow", "check")
    assert checked.exit_code == 3, checked.output
    assert "not checked: the order of the steps, and whether terms changed since: this clone has no" in checked.output
    folder = SeasonFolder(tmp_path / "shallow" / "seasons" / NAME)
    trace = read_trace(folder.trace("small"))
    assert trace.meta.seed == folder.draw.runs["small"].seed > 2**31
    assert folder.recordings["small"].ended is None
    folder.trace("small").unlink()
    assert "small: left out: its file is not there" in refused(tmp_path / "shallow", "check")
