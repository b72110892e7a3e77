"""A whole season by its commands, trained for real on a recipe of milliseconds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.season_tools.checking import check_season
from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.suites.freeze import to_toml
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import read_trace
from tests.support.recording.recipes import RECIPE, use_small_text
from tests.support.submitted import make_world, write_folder

STEPS, VALUE = 160, "the value of the beacon"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "-qm", "a step of the season")


def season(root: Path, *words: str, code: int = 0) -> str:
    """Run a command of the season; its output."""
    done = CliRunner().invoke(app, ["season", *words, "--root", str(root)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.mark.slow
def test_a_season_from_new_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes, one of them secret, with a drawn switch of data: recorded, scored, revealed, checked.

    The re-recording of the drawn run is the same run.
    """
    use_small_text(monkeypatch)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    root, world = tmp_path / "seasons", make_world(tmp_path / "world")
    base = Suite(name="small", horizons=(1, 10), traces=world.suite.traces)
    (tmp_path / "base.toml").write_text(to_toml(base))
    for name in ("small", "hidden"):
        text = RECIPE.replace('"small"', f'"{name}"').replace("steps = 12", f"steps = {STEPS}")
        (tmp_path / f"{name}.toml").write_text(text)
    write_folder(tmp_path, world, name="mine")
    write_folder(tmp_path, world, name="uniform", target="uniform", code=None)
    for words in (["init", "-q"], ["config", "user.email", "a@b.c"], ["config", "user.name", "a"]):
        git(tmp_path, *words)
    season(
        root, "new", "2026-12", "--recipe", str(tmp_path / "small.toml"),
        "--secret-recipe", str(tmp_path / "hidden.toml"), "--public-value", "round 7 of a beacon",
        "--suite", str(tmp_path / "base.toml"), "--checkpoint-every", "10",
        "--vary", "small:data.stages.1.start=5..50", "--vary", "small:optimizer.lr~0.003..0.01",
    )  # fmt: skip
    season(root, "close", "2026-12", "--submissions", str(tmp_path / "submissions"))
    assert "publish them before the draw" in refused(root, "record", "2026-12", "--value", VALUE)
    commit(tmp_path)
    season(root, "record", "2026-12", "--value", VALUE, "--only", "small")
    assert "no score before the hashes of every run" in refused(root, "score", "2026-12", "--level", "process")
    season(root, "record", "2026-12", "--value", VALUE, "--only", "hidden")
    assert "before they are published" in refused(root, "score", "2026-12", "--level", "process")
    commit(tmp_path)
    season(root, "score", "2026-12", "--level", "process")
    season(root, "reveal", "2026-12")
    commit(tmp_path)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(tmp_path), str(clone))
    said = season(clone / "seasons", "check", "2026-12", "--record-again", str(tmp_path / "again"))
    assert "was recorded again and is the same" in said
    folder = SeasonFolder(clone / "seasons" / "2026-12")
    assert not folder.private.exists()
    reveal = folder.reveal()
    assert reveal is not None
    values = next(d for d in reveal.runs if d.recipe == "small")
    genuine = read_trace(folder.traces / "small" / folder.plan().split / "seed0.parquet")
    assert genuine.meta.seed == values.seed > 2**31
    assert genuine.columns["stage"].tolist().index(1) == values.varied["data.stages.1.start"]
    first = folder.traces / f"{folder.runs()[0].trace}.parquet"
    first.unlink()
    assert "left out: its file is not there" in season(clone / "seasons", "check", "2026-12", code=1)
    assert check_season(SeasonFolder(root / "2026-12")) == []


def refused(root: Path, *words: str) -> str:
    """The words of a refusal."""
    done = CliRunner().invoke(app, ["season", *words, "--root", str(root)])
    assert done.exit_code != 0
    return f"{done.output} {done.exception}"
