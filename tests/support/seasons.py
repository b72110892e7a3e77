"""A season of two small recipes whose traces are made here instead of trained: what the tests of checks start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.season_tools.closing import close_season, new_season, planned_recipe, reveal_season
from leaderboard.season_tools.drawing import draw_run, varied_recipe
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt
from leaderboard.season_tools.recording import draw_value, fork_path
from leaderboard.season_tools.records import Drawn, ForkHash, ForkPlan, Plan, RunHashes, Varies
from leaderboard.season_tools.scoring import score_season
from leaderboard.suites.freeze import to_toml
from moeload_bench.recipes.recipe import Recipe
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import data_sha256, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import once_per_token, synthetic_load_SLE
from tests.support.recording.recipes import RECIPE
from tests.support.submitted import NAIVE, make_world, write_folder

STEPS, FORK_STEPS, EVERY = 400, 60, 20
VALUE = "the value that is known after closing"
PUBLIC = "round 1000 of a public beacon, at https://beacon.example"


def planned_season(root: Path, **options: Any) -> tuple[SeasonFolder, list[Path]]:
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
    folder = SeasonFolder(root / "seasons" / "2026-12")
    defaults: dict[str, Any] = {
        "suite": str(root / "small.toml"),
        "secret_recipes": [root / "other.toml"],
        "varies": {"small": (Varies(key="data.stages.1.start", low=5, high=300),)},
        "forks": ForkPlan(recipes=("small", "other"), origins=2, futures=3, steps=FORK_STEPS),
        "checkpoint_every": EVERY,
    }
    new_season(folder, "2026-12", [str(recipe)], PUBLIC, **{**defaults, **options})
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


def futures(load_SLE: Any, origin: int, seeds: Sequence[int]) -> list[Any]:
    """One more than there are seeds, [S, L, E] each."""
    level_LE = load_SLE[max(0, origin - 20) : origin].mean(axis=0) + 1
    found = []
    for seed in (seeds[0] + 1, *seeds):
        random = np.random.default_rng(seed)
        shifted_LE = level_LE * np.exp(0.3 * random.standard_normal(level_LE.shape))
        p_LE = shifted_LE / shifted_LE.sum(axis=1, keepdims=True)
        found.append(once_per_token(random.multinomial(1024, p_LE, size=(FORK_STEPS, len(p_LE))), 512))
    return found


def record_made(folder: SeasonFolder) -> None:
    """Draw, and publish the hashes of made traces in place of recorded ones.

    Where a run forks, its own future and the forks are drawn alike: the level before, each with a shift of its own.
    """
    plan, draw = folder.plan(), draw_value(folder, VALUE, "the test")
    for recipe, run in plan.wanted():
        values = draw_run(plan, folder.secret(), draw.value, recipe, run)
        own = varied_recipe(planned_recipe(folder, plan.recipe(recipe)), plan.recipe(recipe), values)
        load_SLE = synthetic_load_SLE(STEPS, seed=values.seed % 1000)
        others = {}
        for i, origin in enumerate(values.fork_origins):
            recorded, *others[i] = futures(load_SLE, origin, values.fork_seeds[i])
            load_SLE[origin : origin + FORK_STEPS] = recorded
        trace = made_trace(plan, values, own, load_SLE, 0, plan.split, run)
        write_trace(trace, folder.recordings / f"{trace.id}.parquet")
        forks = []
        for i, origin in enumerate(values.fork_origins):
            for j, part in enumerate(others[i]):
                path = fork_path(folder.recordings, plan, recipe, run, i, j)
                number = int(path.stem.removeprefix("seed"))
                fork = made_trace(plan, values, own, part, origin, path.parent.name, number)
                write_trace(fork, path)
                forks.append(ForkHash(origin_number=i, future=j, data_sha256=data_sha256(fork)))
        hashes = RunHashes(
            season=plan.name,
            draw_sha256=draw.sha256(),
            recipe=recipe,
            run=run,
            trace=trace.id,
            data_sha256=data_sha256(trace),
            meta_sha256=trace.meta.sha256(),
            forks=tuple(forks),
        )
        folder.write(hashes, f"runs/{recipe}.{run}.json")


def revealed_season(root: Path, *, shown: bool = False) -> SeasonFolder:
    """A whole season with forks: recorded, scored and revealed."""
    folder = open_season(root, shown=shown)
    with logged_attempt(folder, "record"):
        record_made(folder)
    score_season(folder, level="none", published="the test")
    reveal_season(folder)
    return folder
