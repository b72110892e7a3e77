"""A season of three small recipes in a repository of its own: what the tests of seasons start from."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from leaderboard.season import scoring
from leaderboard.season.drawing import PublicValue, draw_season, season_recipes
from leaderboard.season.folder import SeasonFolder
from leaderboard.season.opening import open_season
from leaderboard.season.recording import keep_recording
from leaderboard.season.records import Recording, file_sha256
from leaderboard.season.scoring import score_season
from leaderboard.suites.freeze import to_toml
from moeload_bench.generator.recipe import Recipe
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.support.memoriser import HONEST
from tests.support.recording.recipes import RECIPE, use_small_text
from tests.support.submitted import make_world, write_folder

NAME, STEPS, VALUE = "2027-03", 200, "ab" * 32
WHERE = "round 7 of a beacon, https://beacon.example/7"
CHANGES = {
    '"kjv"': '"prose"',
    '"factbook"': '"code"',
    "steps = [400]": f"steps = [{STEPS}]",
    "[32, 64]": "[32]",
    "AdamW = [1e-3]": "NAdam = [1e-3]",
    "[quotas.large]\naux_loss = 2\n": "",
}
"""What a season has that the shared distribution has not: the small texts, few steps, small batches alone."""
TERMS = """
suite = "{suite}"
horizon = 10
candidate = "mine"
reference = "sw_avg"
tests = [{{ candidate = "mine", reference = "sw_avg", state = "transient" }}]
headline = "{{candidate}} against {{reference}} on set {{set}}: {{gains}}."
shown = ["shown"]
value_rule = "round 7 of the beacon"
value_form = "[0-9a-f]{{64}}"
value_after = 2026-01-01T00:00:00Z

[[sets]]
name = "a"
distribution = "drawn.toml"
new_levels = 1

[[sets]]
name = "b"
recipes = ["small"]
report = "means"
"""


@dataclass(frozen=True)
class Repository:
    """A repository with terms and submissions, in which a season can be opened."""

    root: Path

    @property
    def folder(self) -> SeasonFolder:
        return SeasonFolder(self.root / "seasons" / NAME)

    @property
    def submissions(self) -> list[Path]:
        return sorted((self.root / "submissions").iterdir())

    @property
    def terms(self) -> Path:
        return self.root / "terms.toml"

    def git(self, *words: str) -> str:
        return subprocess.run(["git", "-C", str(self.root), *words], check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "-qm", "a step of the season")

    def opened(self) -> SeasonFolder:
        """Open the season and commit it."""
        open_season(self.folder, self.terms, self.submissions)
        self.commit()
        return self.folder

    def drawn(self) -> SeasonFolder:
        """Open and draw the season."""
        draw_season(self.opened(), PublicValue(VALUE, WHERE))
        self.commit()
        return self.folder


def distribution() -> str:
    """The distribution that the season draws from."""
    text = Path(__file__).with_name("distribution.toml").read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    return text


def use_small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small texts and few origins, which the season was made with."""
    use_small_text(monkeypatch)
    monkeypatch.setattr(scoring, "LEAST_ORIGINS", 2)
    monkeypatch.setattr(scoring, "ORIGINS_PER_STATE", 4)


def make_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a baseline, a file of code and a demonstration, on a suite without open runs."""
    use_small_world(monkeypatch)
    repository = Repository(root)
    root.mkdir(parents=True, exist_ok=True)
    repository.git("init", "-q")
    repository.git("config", "user.email", "a@b.c")
    repository.git("config", "user.name", "a")
    world = make_world(root / "world")
    base = Suite(name="small", horizons=(1, 10), traces=world.suite.traces, quantiles=(0.1, 0.5, 0.9))
    (root / "suite.toml").write_text(to_toml(base))
    for name, window in (("mine", 50), ("shown", 5)):
        write_folder(root, world, name=name, kwargs={"window": window}, code=HONEST)
    for target in ("sw_avg", "adaptive"):
        write_folder(root, world, name=target, target=target, code=None)
    (root / "submissions" / "sw_avg" / "fitted.bin").write_bytes(b"")
    (root / "small.toml").write_text(RECIPE.replace("steps = 12", f"steps = {STEPS}"))
    (root / "drawn.toml").write_text(distribution())
    repository.terms.write_text(TERMS.format(suite=root / "suite.toml"))
    (root / ".gitignore").write_text("*.parts/\n__pycache__/\n")
    repository.commit()
    return repository


def made_trace(recipe: Recipe, seed: int, split: str, end: int | None = None) -> Trace:
    """A trace as the recorder would have made it of these loads."""
    steps = range(STEPS if end is None else end)
    columns = {
        "lr": np.array([recipe.lr_at(step) for step in steps]),
        "stage": np.array([float(recipe.stage_at(step)) for step in steps]),
    }
    load_SLE = synthetic_load_SLE(STEPS, seed=seed % 1000)[:end]
    trace = Trace.from_arrays(load_SLE, 512, 2, columns=columns, recipe=recipe.name, split=split, run=0, seed=seed)
    return replace(trace, meta=trace.meta.model_copy(update={"complete": end is None}))


def record_made(folder: SeasonFolder) -> None:
    """Write made traces in place of recorded ones; the last run diverges before it can be scored."""
    recipes = [one for of_set in season_recipes(folder, folder.draw.value).values() for one in of_set.values()]
    for recipe in recipes:
        ended = "step 3: the loss is nan: training diverged" if recipe is recipes[-1] else None
        end = 3 if ended else None
        trace = made_trace(recipe, folder.draw.runs[recipe.name].seed, folder.season.split, end)
        write_trace(trace, folder.trace(recipe.name))
        made = Recording(
            draw_sha256=file_sha256(folder.path / "draw.json"),
            data_sha256=data_sha256(trace),
            meta_sha256=trace.meta.sha256(),
            ended=ended,
        )
        keep_recording(folder, recipe.name, made)


def scored_season(root: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a season that was drawn, recorded from made traces and scored."""
    repository = make_repository(root, monkeypatch)
    record_made(repository.drawn())
    repository.commit()
    score_season(repository.folder, level="process")
    repository.commit()
    return repository
