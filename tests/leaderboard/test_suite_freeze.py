"""Freezing: the plan's runs and no others, refused by name when one is not what the plan says."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from leaderboard.committed import recipe_of_run
from leaderboard.suites.freeze import SUITES, frozen_suite, target_file, to_toml
from leaderboard.suites.plan import (
    PLANS,
    Lacking,
    Plan,
    enough_origins,
    load_plan,
    near_twins,
    origin_shortage,
)
from moeload_bench.errors import SuiteError
from moeload_bench.generator.draws import expert_tokens
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.suites.suite import HORIZONS, HubPlace, Suite, load_suite
from moeload_bench.traces.lookup import bundled_folder
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_trace
from tests.support.checkout import leaderboard

RECIPE = "qwen3moe-tiny-8e"
OLDEST_SEED = 4
"""The twelve oldest recipes share the seeds 0 to 4."""
RUNS = (f"{RECIPE}/test/seed1", f"{RECIPE}/train/seed0")
PLAN = Plan(name="trial", description="", steps=2600, baselines=("sw_avg",), runs=RUNS)
ROOT = Path(__file__).resolve().parents[2]


def make(split: str, run: int, steps: int = 2600, **meta: object) -> Trace:
    return synthetic_trace(steps, seed=run, **{"recipe": RECIPE, "split": split, "run": run, **meta})


def put(folder: Path, *traces: Trace) -> Path:
    for trace in traces:
        write_trace(trace, folder / f"{trace.id}.parquet")
    return folder


def test_a_frozen_suite_is_what_its_plan_and_traces_give() -> None:
    """Freezing the bundled traces again writes the committed file, to the byte."""
    suite = frozen_suite(load_plan("mini"), bundled_folder())
    assert to_toml(suite) == (SUITES / "mini.toml").read_text()


def test_freezing_writes_printed_names_and_the_hub_s_place(tmp_path: Path) -> None:
    """What the plan says of both is in the suite's file, read back equal; the suite's hash rests on neither."""
    plan = load_plan("mini")
    hub = HubPlace(repo="acme/traces", revision="v1.0")
    named = {"baselines": (*plan.baselines, "sw_avg.w10"), "hub": hub}
    suite = frozen_suite(plan.model_copy(update=named), bundled_folder())
    (tmp_path / "pinned.toml").write_text(to_toml(suite))
    again = load_suite(tmp_path / "pinned.toml")
    assert again == suite
    assert (again.hub, again.baselines[-1]) == (hub, "sw_avg.w10")
    assert again.sha256() == load_suite("mini").sha256()


def test_a_run_is_asked_as_far_as_it_has_origins(tmp_path: Path) -> None:
    """A short run for a shorter horizon, without half batches where the plan says so; another suite's runs are open."""
    short = dataclasses.replace(make("test", 1, steps=2310), columns={})
    named = {"steps": 2000, "horizons": (10, 300, 2000), "as_far_as_it_goes": True, "fitted_on": "mini",
             "runs": RUNS[:1], "without_half": RUNS[:1], "apart": True}  # fmt: skip
    suite = frozen_suite(PLAN.model_copy(update=named), put(tmp_path, short))
    (trace,) = suite.traces
    assert suite.horizons == (10, 300, 2000)
    assert trace.horizon == 300
    assert max(trace.stable) > 2310 - 2000
    assert suite.fit == load_suite("mini").fit
    assert suite == Suite.model_validate(tomllib.loads(to_toml(suite)))
    with pytest.raises(ValueError, match="the open runs are those of suite mini"):
        Plan.model_validate({**PLAN.model_dump(), "fitted_on": "mini"})


@needs_traces
@pytest.mark.slow
def test_suite_v3_is_what_its_plan_and_the_published_traces_give() -> None:
    """The same for traces/."""
    assert to_toml(frozen_suite(load_plan("v3"), ROOT / "traces")) == (SUITES / "v3.toml").read_text()


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ((make("test", 1),), f"{RUNS[1]}: missing from"),
        ((make("test", 1), make("train", 0), make("test", 2)), f"{RECIPE}/test/seed2: in .*not in the plan"),
        ((make("test", 1, recipe_version=7), make("train", 0)), f"{RUNS[0]}: recorded with version 7 of its recipe"),
        ((make("test", 1), make("train", 0, steps=2500)), f"{RUNS[1]}: 2500 steps, expected at least 2600"),
        ((make("test", 1), make("train", 0, complete=False)), f"{RUNS[1]}: 2600 steps, .* not broken off"),
        ((dataclasses.replace(make("test", 1), columns={}), make("train", 0)), f"{RUNS[0]}: no column load_half"),
    ],
)
def test_a_folder_that_is_not_the_plan_is_refused_by_name(
    traces: tuple[Trace, ...], message: str, tmp_path: Path
) -> None:
    """Missing, extra, another recipe version, too short, broken off, no half batches."""
    with pytest.raises(SuiteError, match=message):
        frozen_suite(PLAN, put(tmp_path, *traces))


OTHER = "qwen3moe-tiny-8e-aux0"  # as the plan's recipe, a training of its own


@pytest.mark.parametrize(
    ("split", "refused"),
    [("test", f"begins as {OTHER}/test/seed1 does"), ("train", f"begins as {OTHER}/train/seed1 does")],
)
def test_one_training_under_two_names_is_refused(split: str, refused: str, tmp_path: Path) -> None:
    """Scored twice, or scored and open for fitting: refused by name, however much the runs differ later."""
    twin = make("test", 1)
    load_SLE = twin.load_SLE.copy()
    load_SLE[20:] = make("test", 5).load_SLE[20:]
    meta = twin.meta.model_copy(update={"recipe": OTHER, "split": split})
    twin = dataclasses.replace(twin, meta=meta, load_SLE=load_SLE, columns={"load_half": load_SLE // 2})
    plan = PLAN.model_copy(update={"runs": (*RUNS, twin.id)})
    with pytest.raises(SuiteError, match=refused):
        frozen_suite(plan, put(tmp_path, make("test", 1), make("train", 0), twin))


def test_one_training_may_be_open_under_two_names(tmp_path: Path) -> None:
    """Two runs to fit on that begin alike are both open."""
    meta = make("train", 0).meta.model_copy(update={"recipe": OTHER})
    twin = dataclasses.replace(make("train", 0), meta=meta)
    plan = PLAN.model_copy(update={"runs": (*RUNS, twin.id)})
    suite = frozen_suite(plan, put(tmp_path, make("test", 1), make("train", 0), twin))
    assert {entry.id for entry in suite.fit} == {RUNS[1], twin.id}


def test_a_file_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    """A run put under another's name."""
    put(tmp_path, make("train", 0))
    write_trace(make("test", 3), tmp_path / f"{RUNS[0]}.parquet")
    with pytest.raises(SuiteError, match=f"{RUNS[0]}: the file holds {RECIPE}/test/seed3"):
        frozen_suite(PLAN, tmp_path)


def test_a_state_too_rare_is_refused_with_a_way_on(tmp_path: Path) -> None:
    """Refused by name; listed in the plan with its reason, the run is scored in its other state; listed wrongly,
    refused again."""
    plan = PLAN.model_copy(update={"steps": 2200})
    put(tmp_path, make("test", 1, steps=2200), make("train", 0))
    with pytest.raises(SuiteError, match=rf"{RUNS[0]}: 0 origins over 0 steps are stable.*lacking\."):
        frozen_suite(plan, tmp_path)
    lacking = {RUNS[0]: Lacking(state="stable", reason="too short")}
    suite = frozen_suite(plan.model_copy(update={"lacking": lacking}), tmp_path)
    assert suite.traces[0].stable == ()
    assert len(suite.traces[0].transient) == 20
    lacking = {RUNS[0]: Lacking(state="transient", reason="wrong")}
    with pytest.raises(SuiteError, match="says that it lacks the transient state, but it has 20"):
        frozen_suite(plan.model_copy(update={"lacking": lacking}), tmp_path)


def test_origins_of_one_moment_are_too_few() -> None:
    """A state's 20 origins lie over at least 100 steps, or the plan says that the run lacks the state."""
    moment, spread = range(1000, 1020), range(1000, 1101, 5)
    assert not enough_origins(moment)
    assert enough_origins(spread)
    assert not enough_origins(range(1000, 1190, 10))
    line = origin_shortage(PLAN, RUNS[0], "stable", moment)
    assert line is not None
    assert "20 origins over 19 steps are stable, expected 20 over 100" in line
    lacking = PLAN.model_copy(update={"lacking": {RUNS[0]: Lacking(state="stable", reason="one moment")}})
    assert origin_shortage(lacking, RUNS[0], "stable", moment) is None
    assert "says that it lacks" in str(origin_shortage(lacking, RUNS[0], "stable", spread))


def test_a_frozen_suite_is_never_replaced_by_another_of_its_name() -> None:
    """The same content is written again; other horizons are refused."""
    suite, plan = load_suite("mini"), load_plan("mini")
    assert target_file(plan, suite) == SUITES / "mini.toml"
    with pytest.raises(SuiteError, match="is frozen with"):
        target_file(plan, suite.model_copy(update={"horizons": (1,)}))


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and no file."""
    put(tmp_path, make("test", 1))
    plan = tmp_path / "plan.toml"
    runs = ", ".join(f'"{run}"' for run in RUNS)
    plan.write_text(f'name = "trial"\ndescription = ""\nsteps = 2600\nbaselines = ["sw_avg"]\nruns = [{runs}]\n')
    assert leaderboard("freeze", plan, tmp_path) == 2
    assert f"{RUNS[1]}: missing" in capsys.readouterr().err
    assert not (SUITES / "trial.toml").exists()


def test_runs_of_other_recipes_are_another_plan_s(tmp_path: Path) -> None:
    """One folder holds the runs of several suites: a recipe that the plan has nothing of is not its business."""
    other = make("test", 5, recipe="ladder-2m")
    suite = frozen_suite(PLAN, put(tmp_path, make("test", 1), make("train", 0), other))
    assert [entry.id for entry in suite.traces] == [RUNS[0]]


def test_every_run_has_a_seed_of_its_own_but_those_of_the_oldest_recipes() -> None:
    """No two later runs of any recipe, split or plan share a seed, so none is part of another.

    Runs that stand apart are pooled with none.
    """
    plans = [load_plan(path.stem) for path in PLANS.glob("*.toml") if path.stem != "mini"]
    pooled = [plan for plan in plans if not plan.apart]
    every = {run: int(run.split("/seed")[1]) for plan in pooled for run in (*plan.runs, *plan.beside)}
    seeds = [seed for seed in every.values() if seed > OLDEST_SEED]
    assert len(set(seeds)) == len(seeds) > 30


def test_near_twins_are_found_in_the_recipes() -> None:
    """One model, balancing and first text: what parts only later is one group."""
    twins = ("aux0", "drift", "restart", "shift", "wsd")
    recipes = [run.split("/")[0] for run in load_plan("v3").runs]
    assert tuple(f"qwen3moe-16e-{name}" for name in twins) in near_twins(recipes)
    assert near_twins(recipes) == load_suite("v3").near_twins
    assert near_twins(run.split("/")[0] for run in load_plan("ladder").runs) == ()


def test_a_suite_freezes_its_near_twins_and_its_hash_rests_on_none(tmp_path: Path) -> None:
    """Grouped where the plan asks for it, read back equal, and no part of what decides a score."""
    names = ("qwen3moe-16e-aux0", "qwen3moe-16e-shift", RECIPE)
    runs = [(name, split, 2 * n + i) for n, name in enumerate(names) for i, split in enumerate(("test", "train"))]
    ids = tuple(f"{name}/{split}/seed{n}" for name, split, n in runs)
    version = {name: load_recipe(name).version for name in names}
    put(tmp_path, *(make(split, n, recipe=name, recipe_version=version[name]) for name, split, n in runs))
    plan = PLAN.model_copy(update={"runs": ids})
    grouped = frozen_suite(plan.model_copy(update={"near_twins": True}), tmp_path)
    alone = frozen_suite(plan, tmp_path)
    assert grouped.near_twins == (names[:2],)
    assert (alone.near_twins, alone.sha256()) == ((), grouped.sha256())
    (tmp_path / "trial.toml").write_text(to_toml(grouped))
    assert load_suite(tmp_path / "trial.toml") == grouped
    for wrong, says in (
        (((names[0], "other"),), "'other', of which the suite has no run"),
        ((names[:2], names[:1]), "two groups"),
    ):
        with pytest.raises(ValueError, match=says):
            Suite.model_validate({**grouped.model_dump(), "near_twins": wrong})


@pytest.mark.parametrize("name", ["v3", "ladder"])
def test_a_plan_asks_for_no_more_steps_than_its_recipes_have(name: str) -> None:
    """Each recipe reaches the steps of the plan, and one has no more."""
    plan = load_plan(name)
    assert min(recipe_of_run(run).steps for run in plan.runs) == plan.steps


def test_v3_has_both_sizes_and_what_was_kept_out_in_no_train_run() -> None:
    """Eight large recipes with a `test` run, thirty drawn `train` runs, no hash routing to fit on."""
    plan = load_plan("v3")
    test, train = ({run.split("/")[0] for run in plan.runs if f"/{split}/" in run} for split in ("test", "train"))
    large = [name for name in test if "-large" in name or name.startswith("drawn-l")]
    sizes = {name: expert_tokens(recipe_of_run(name)) for name in large}
    assert len(sizes) >= 8
    assert min(sizes.values()) >= 2048
    assert len([name for name in train if name.startswith("drawn-")]) == 30
    assert {recipe_of_run(name).balancing.method for name in test - train} >= {"hash"}
    assert "hash" not in {recipe_of_run(name).balancing.method for name in train}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "x"\ndescription = ""\nsteps = 1\nbaselines = []\nruns = ["a/test/seed1", "a/test/seed1"]', "twice"),
        ('name = "x"\ndescription = ""\nsteps = 1\nbaselines = []\nruns = ["a/dev/seed1"]', "runs.0"),
        ('name = "x"\ndescription = ""\nsteps = 1\nbaselines = ["sw_avg@window=9"]\nruns = []', "baselines.0: .*got"),
        (
            'name = "x"\ndescription = ""\nsteps = 1\nbaselines = ["a"]\nruns = []\n[variants]\nb = "sw_avg@window=9"',
            "variants: Extra inputs are not permitted",
        ),
        (
            'name = "x"\ndescription = ""\nsteps = 1\nbaselines = []\nruns = []\n'
            '[lacking."a/test/seed1"]\nstate = "stable"\nreason = "r"',
            "not a test run",
        ),
    ],
)
def test_a_broken_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """The message names file and field."""
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=message):
        load_plan(str(path))


def test_short_runs_are_asked_for_less_and_every_run_has_its_stratum(tmp_path: Path) -> None:
    """Below the plan's ``short`` the largest horizon is 1,000, with origins as late as that allows; a run between the
    strata is refused by name.
    """
    plan = PLAN.model_copy(update={"steps": 1500, "short": 6000, "strata": True})
    train = make("train", 0)
    suite = frozen_suite(plan, put(tmp_path / "small", make("test", 1), train))
    (entry,) = suite.traces
    assert (entry.horizon, suite.strata()) == (1000, {"small": [RUNS[0]]})
    assert max(origin for origin, _ in entry.origins()) > 2600 - HORIZONS[-1]
    (tmp_path / "own.toml").write_text(to_toml(suite))
    assert load_suite(tmp_path / "own.toml") == suite
    large = frozen_suite(plan, put(tmp_path / "large", make("test", 1, tokens=8192), train))
    assert large.strata() == {"large": [RUNS[0]]}
    with pytest.raises(SuiteError, match=f"{RUNS[0]}: 1,500 tokens per expert are of no stratum"):
        frozen_suite(plan, put(tmp_path / "between", make("test", 1, tokens=3000), train))
