"""A season of two small recipes whose traces are made here instead of trained: what the tests of checks start from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboard.season_tools import folder as season_folder
from leaderboard.season_tools.closing import close_season, new_season, planned_recipe, reveal_season
from leaderboard.season_tools.drawing import draw_run, varied_recipe
from leaderboard.season_tools.drawn import drawn_plan
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt
from leaderboard.season_tools.public_value import RELEASE, RELEASE_BEFORE, draw_season
from leaderboard.season_tools.recording import draw_value
from leaderboard.season_tools.records import Drawn, Plan, RunHashes, Varies
from leaderboard.season_tools.scoring import score_season
from leaderboard.suites.freeze import to_toml
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.support.recording.recipes import RECIPE
from tests.support.submitted import NAIVE, make_world, write_folder

STEPS, EVERY = 400, 20
VALUE = "the value that is known after closing"
PUBLIC = "round 1000 of a public beacon, at https://beacon.example"


def planned_season(
    root: Path, name: str = "2026-12", recipes: Sequence[str] | None = None, **options: Any
) -> tuple[SeasonFolder, list[Path]]:
    """A season that is not closed yet, and its entries: a file of code and a baseline."""
    world = make_world(root / "world")
    base = Suite(name="small", horizons=(1, 10, 50), traces=world.suite.traces, fit=())
    (root / "small.toml").write_text(to_toml(base))
    entries = [
        write_folder(root, world, name="mine", kwargs={"window": 50}, code=NAIVE),
        write_folder(root, world, name="sw_avg", target="sw_avg", code=None),
    ]
    other = RECIPE.replace('name = "small"', 'name = "other"').replace("steps = 12", f"steps = {STEPS}")
    (root / "other.toml").write_text(other)
    recipe = root / "recipes" / "small.toml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(RECIPE.replace("steps = 12", f"steps = {STEPS}"))
    folder = SeasonFolder(root / "seasons" / name)
    defaults: dict[str, Any] = {
        "suite": str(root / "small.toml"),
        "secret_recipes": [root / "other.toml"],
        "varies": {"small": (Varies(key="data.stages.1.start", low=5, high=300),)},
        "checkpoint_every": EVERY,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: f"{zlib.crc32(name.encode()):0{2 * size}x}")
        new_season(folder, name, [str(recipe)] if recipes is None else recipes, PUBLIC, **{**defaults, **options})
    return folder, entries


def open_season(root: Path, *, shown: bool = False, **options: Any) -> SeasonFolder:
    """A season that is closed with its entries; ``shown``: with one more, without a rank."""
    folder, entries = planned_season(root, **options)
    unranked = []
    if shown:
        unranked.append(write_folder(root, make_world(root / "shown"), name="shown", kwargs={"window": 5}, code=NAIVE))
    close_season(folder, entries, unranked=unranked)
    return folder


def made_trace(plan: Plan, values: Drawn, recipe: Recipe, load_SLE: Any, first: int, split: str, run: int) -> Trace:
    """A trace as the recorder would have made it of these loads."""
    steps = [first + i for i in range(len(load_SLE))]
    columns = {
        "lr": np.array([recipe.lr_at(step) for step in steps]),
        "stage": np.array([recipe.stage_at(step) for step in steps]),
    }
    trace = Trace.from_arrays(
        load_SLE, 512, 2, columns=columns, recipe=values.recipe, split=split, run=run, seed=values.seed
    )
    step_S = np.arange(first, first + len(load_SLE), dtype=np.int64)
    return Trace(trace.meta, step_S, trace.tokens_SL, trace.load_SLE, trace.columns)


def record_made(folder: SeasonFolder, diverges: Mapping[str, int] | None = None) -> None:
    """Draw unless that is done, and publish the hashes of made traces in place of recorded ones.

    ``diverges``: recipes whose runs end at a step.
    """
    draw = folder.draw() or draw_value(folder, VALUE, "the test")
    plan = drawn_plan(folder)
    for recipe, run in plan.wanted():
        values = draw_run(plan, folder.secret(), draw.value, recipe, run)
        own = varied_recipe(planned_recipe(folder, plan.recipe(recipe)), plan.recipe(recipe), values)
        load_SLE = synthetic_load_SLE(STEPS, seed=values.seed % 1000)
        end = (diverges or {}).get(recipe)
        trace = made_trace(plan, values, own, load_SLE[:end], 0, plan.split, run)
        write_trace(trace, folder.recordings / f"{trace.id}.parquet")
        hashes = RunHashes(
            season=plan.name,
            draw_sha256=draw.sha256(),
            recipe=recipe,
            run=run,
            trace=trace.id,
            data_sha256=data_sha256(trace),
            meta_sha256=trace.meta.sha256(),
            diverged=None if end is None else f"step {end}: the loss is nan: training diverged",
        )
        folder.write(hashes, f"runs/{recipe}.{run}.json")


def revealed_season(root: Path, *, shown: bool = False) -> SeasonFolder:
    """A whole season: recorded, scored and revealed."""
    folder = open_season(root, shown=shown)
    with logged_attempt(folder, "record"):
        record_made(folder)
    score_season(folder, level="none", published="the test")
    reveal_season(folder)
    return folder


RELEASE_AFTER = datetime(2027, 3, 1, 12, tzinfo=UTC)
DISTRIBUTION = """
name = "{name}"
prefix = "any-"
version = 1
vocabulary = 300
head_dim = 8
tokenizer_sources = ["kjv"]
bytes_per_token = 2.0

[kept_out]
families = []
texts = []
methods = []

[cost]
processor = "none"
layer = 0.0
expert = 0.0
width = 0.0
score = 0.0
value = 0.0
parameter = 0.0
vocabulary = 0.0
probe = 0.0

[quotas.small]
none = 2

[quotas.large]
aux_loss = 2

[strata.small]
minutes = 1
steps = [400]
tokens = [512]
sequence_length = [32, 64]
sequences_least = 8
micro_batches = [1]
experts = [8]
top_k = [2]
width = [16]
layers = [2]
inner = [1.0]

[strata.large]
minutes = 1
steps = [400]
tokens = [1024]
sequence_length = [32]
sequences_least = 8
micro_batches = [1]
experts = [8]
top_k = [2]
width = [16]
layers = [2]
inner = [1.0]

[training]
optimizers = {{ {optimizers} }}
warmup = [5]
ramps = [[]]
ramp_at = [0.1]

[[schedules]]
kind = "constant"

[mixes]
prose = ["kjv"]
both = ["kjv", "factbook"]

[[plans]]
mixes = ["prose", "both"]
at = [[0.25], [0.5]]

[methods.none]
families = ["{family}"]

[methods.aux_loss]
families = ["{family}"]
coefficient = [1e-3, 1e-2]

[families.{family}]
config = {{ hidden_size = "width", num_experts = "experts", num_experts_per_tok = "top_k" }}
"""
DRAWS = """
candidate = "mine"
tuned_average = "sw_avg"
tests = "one-sided t tests of the stratified mean, Holm over entries"
headline = "{candidate} against {tuned_average} on set {set}: {gains}."
release_after = 2027-03-01T12:00:00Z
packages = ["alpha", "beta", "gamma"]
horizon = 50
imported = ["log.parquet"]

[[sets]]
name = "a"
distribution = "known.toml"
recipes = 4
weights = { small = 0.5, large = 0.5 }

[[sets]]
name = "b"
distribution = "apart.toml"
recipes = 4
weights = { small = 0.5, large = 0.5 }
new_levels = 2
"""


class Clock(datetime):
    """The clock of a season: `at` is the time."""

    at = RELEASE_AFTER - timedelta(days=2)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.at


def set_clock(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    monkeypatch.setattr(season_folder, "datetime", Clock)
    monkeypatch.setattr(Clock, "at", at)


def in_release(path: Path, at: datetime, **fields: str) -> Path:
    """What Debian's archive signs at a time; its signature is none."""
    said = {"Origin": "Debian", "Suite": "unstable", "Codename": "sid"}
    said |= {"Date": f"{at:%a, %d %b %Y %H:%M:%S} UTC", **fields}
    lines = "".join(f"{name}: {value}\n" for name, value in said.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{lines}"
        "SHA256:\n 00 1 main\n-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"
    )
    return path


def releases(root: Path, before: float = -1, first: float = 1) -> dict[str, Path]:
    """The release before the plan's time and the first one after it, by so many hours."""
    return {
        RELEASE_BEFORE: in_release(root / "before" / RELEASE, RELEASE_AFTER + timedelta(hours=before)),
        RELEASE: in_release(root / "first" / RELEASE, RELEASE_AFTER + timedelta(hours=first)),
    }


def write_draws(root: Path, draws: str = DRAWS) -> Path:
    """The file of `season new --draw` with two distributions and an imported log."""
    root.mkdir(parents=True, exist_ok=True)
    kinds = {"known": ("qwen3_moe", "AdamW = [1e-3]"), "apart": ("glm4_moe", "SGD = [0.1], NAdam = [1e-3]")}
    for name, (family, optimizers) in kinds.items():
        text = DISTRIBUTION.format(name=name, family=family, optimizers=optimizers)
        (root / f"{name}.toml").write_text(text)
    log = Trace.from_arrays(synthetic_load_SLE(STEPS, seed=77), 512, 2, recipe="a-log", split="given", run=0)
    write_trace(log, root / "log.parquet", overwrite=True)
    (root / "draws.toml").write_text(draws)
    return root / "draws.toml"


def planned_draws(root: Path, draws: str = DRAWS, **options: Any) -> tuple[SeasonFolder, list[Path]]:
    """A season of drawn recipes that is not closed yet, and its entries."""
    known: dict[str, Any] = {"secret_recipes": (), "varies": None, "checkpoint_every": EVERY}
    return planned_season(
        root,
        name="2027-03",
        recipes=(),
        draws=write_draws(root / "draws", draws),
        **{**known, **options},
    )


DIVERGES = {"2027-03a-l01": 200, "2027-03b-s01": 25}
"""Runs that end at a step: one that can be scored up to there, and one that cannot."""


def drawn_season(root: Path, monkeypatch: pytest.MonkeyPatch) -> SeasonFolder:
    """A whole season of drawn recipes, recorded, scored and revealed."""
    set_clock(monkeypatch, RELEASE_AFTER - timedelta(hours=8))
    folder, entries = planned_draws(root)
    close_season(folder, entries)
    set_clock(monkeypatch, RELEASE_AFTER + timedelta(hours=2))
    draw_season(folder, releases(root), "the test")
    with logged_attempt(folder, "record"):
        record_made(folder, DIVERGES)
    score_season(folder, level="none", published="the test")
    reveal_season(folder)
    return folder
