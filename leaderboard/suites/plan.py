"""What a suite is to be made of: a list of runs, committed once and read by those who record or freeze them.

A plan is one TOML file in leaderboard/suites/plans/. `run_problems` says in words what stands between a folder of
traces and the plan: a missing or an extra run, another recipe version, too few steps, no half batches, one training
under two names.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from pydantic import Field, ValidationError, model_validator

from leaderboard.committed import recipe_of_run
from moeload_bench.arrays import Array
from moeload_bench.errors import SuiteError, not_found
from moeload_bench.generator.recipe import Recipe
from moeload_bench.publishing.submission import Name
from moeload_bench.schema import Schema, first_problem
from moeload_bench.states.rule import StateRule
from moeload_bench.suites.suite import HORIZONS, ORIGINS_PER_STATE, HubPlace, check_baselines
from moeload_bench.traces.lookup import TraceRef, list_traces
from moeload_bench.traces.trace import Trace
from moeload_bench.words import ordinal

SHORT_HORIZON = 1000
SPREAD_STEPS = 100
"""Steps between the first and the last origin of a state: in fewer they would all ask about one moment of the run."""
PLANS = Path(__file__).resolve().parent / "plans"
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/(train|test)/seed\d+$")]


class Lacking(Schema):
    """A state that a run is not scored in, and why."""

    state: Literal["transient", "stable"]
    reason: str = Field(min_length=1)


class Plan(Schema):
    """The runs of a suite, how long each must be at least, its baselines and the constants of its states.

    ``hub``: the dataset repository and tag, written once it is known.
    ``near_twins``: recipes that are one training at first have one vote together in the suite's statistics, and
    families of models are named, each of which is a unit where statistics say so.
    ``apart``: nothing is averaged over runs.
    ``beside``: runs that the folder holds and the suite does not. ``lacking``: runs in which a state is too rare for
    `ORIGINS_PER_STATE` origins over `SPREAD_STEPS`; they are scored in the other one. ``short``: below so many steps a
    run is asked for the next `SHORT_HORIZON` steps at most; ``as_far_as_it_goes``: each run for the largest horizon, of
    at most half its length, at which it has enough origins. ``strata``: each run is small or large by its tokens per
    expert. ``fitted_on``: the suite whose open runs are open here, too. ``without_half``: runs that were recorded
    without half batches.
    """

    name: str = Field(pattern=r"^[a-z0-9][\w.-]*$")
    description: str
    steps: int = Field(ge=1)
    horizons: tuple[int, ...] = HORIZONS
    baselines: tuple[Name, ...]
    runs: tuple[RunId, ...]
    beside: tuple[RunId, ...] = ()
    rule: StateRule = StateRule()
    hub: HubPlace | None = None
    lacking: dict[str, Lacking] = {}
    near_twins: bool = False
    apart: bool = False
    short: int = 0
    as_far_as_it_goes: bool = False
    strata: bool = False
    fitted_on: str = ""
    without_half: tuple[RunId, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if len({*self.runs, *self.beside}) != len(self.runs) + len(self.beside):
            raise ValueError("a run is listed twice")
        check_baselines(self.baselines)
        if self.fitted_on and (train := [run for run in self.runs if "/train/" in run]):
            raise ValueError(f"the open runs are those of suite {self.fitted_on}, but {train[0]} is one, too")
        unknown = sorted(self.lacking.keys() - {run for run in self.runs if "/test/" in run})
        if unknown:
            raise ValueError(f"lacking names {unknown[0]}, which is not a test run of the plan")
        return self


def load_plan(name_or_path: str) -> Plan:
    """Return a plan by name or by the path of a TOML file; raise `SuiteError` or `NotFoundError`."""
    path = Path(name_or_path) if name_or_path.endswith(".toml") else PLANS / f"{name_or_path}.toml"
    if not path.is_file():
        raise not_found("plan", name_or_path, [*sorted(p.stem for p in PLANS.glob("*.toml")), "FILE.toml"])
    try:
        return Plan.model_validate(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        raise SuiteError(f"{path}: {first_problem(error, 'plan')}") from None


def compare_folder(plan: Plan, folder: Path) -> tuple[list[TraceRef], list[str]]:
    """Return the plan's runs that the folder holds, by name, and a line for each run missing from it or there besides.

    Runs of recipes that the plan has none of are another plan's.
    """
    found = {ref.id: ref for ref in list_traces(folder)}
    recipes = {run.split("/")[0] for run in plan.runs}
    extra = {run for run in found.keys() - {*plan.runs, *plan.beside} if run.split("/")[0] in recipes}
    wrong = [f"{run}: missing from {folder}" for run in sorted(set(plan.runs) - found.keys())]
    wrong += [f"{run}: in {folder}, but not in the plan of suite {plan.name}" for run in sorted(extra)]
    return [found[run] for run in sorted(set(plan.runs) & found.keys())], wrong


def run_problems(plan: Plan, ref: TraceRef, trace: Trace) -> Iterator[str]:
    """Yield what keeps a run out of the suite, in words."""
    if trace.id != ref.id:
        yield f"{ref.id}: the file holds {trace.id}"
    recipe = recipe_of_run(ref.id)
    if trace.meta.recipe_version != recipe.version:
        yield f"{ref.id}: recorded with version {trace.meta.recipe_version} of its recipe, which is at {recipe.version}"
    if trace.meta.stride != 1:
        yield f"{ref.id}: every {ordinal(trace.meta.stride)} step, expected every step"
    if trace.steps < plan.steps or not trace.meta.complete:
        yield f"{ref.id}: {trace.steps} steps, expected at least {plan.steps} of a recording that was not broken off"
    if "load_half" not in trace.columns and ref.id not in plan.without_half:
        yield f"{ref.id}: no column load_half, without which the batch noise is not measured"


def twin_problem(run: str, start_SLE: Array, before: Mapping[str, Array]) -> str | None:
    """Return why a run cannot count beside those ``before`` it: one starts as it does, and one of the two is scored.

    Recipes that differ only in what comes later give one training at first when the seed is the same. As two recipes it
    would be counted twice, and a scored run's start could be open for fitting. Two open runs may be twins.
    """
    for other, other_SLE in before.items():
        if "/test/" in run + other and np.array_equal(start_SLE, other_SLE):
            return f"{run}: begins as {other} does, loads of {len(start_SLE)} steps are the same: record another seed"
    return None


def near_twins(recipes: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return groups of recipes that train one model with one balancing on one text at first, and part only later."""
    groups: dict[str, list[str]] = defaultdict(list)
    for recipe in sorted(set(recipes)):
        groups[first_training(recipe)].append(recipe)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def families(recipes: Iterable[Recipe]) -> dict[str, tuple[str, ...]]:
    """Return the names of recipes by their family of models, both in the order of the alphabet."""
    groups: dict[str, set[str]] = defaultdict(set)
    for recipe in recipes:
        groups[recipe.model.family].add(recipe.name)
    return {family: tuple(sorted(groups[family])) for family in sorted(groups)}


@functools.cache
def first_training(recipe: str) -> str:
    """Return what a recipe trains at first, in letters: the same for near twins."""
    found = recipe_of_run(recipe)
    return repr((found.model, found.balancing, found.data.stages[0].sources, found.data.pretraining))


def enough_origins(origins: Sequence[int]) -> bool:
    """Return whether a state is scored: it has `ORIGINS_PER_STATE` origins, over at least `SPREAD_STEPS`."""
    return len(origins) >= ORIGINS_PER_STATE and _spread(origins) >= SPREAD_STEPS


def _spread(origins: Sequence[int]) -> int:
    return max(origins, default=0) - min(origins, default=0)


def origin_shortage(plan: Plan, run: str, state: str, origins: Sequence[int]) -> str | None:
    """Return what is wrong with the origins of a run in a state, None for nothing."""
    listed = plan.lacking.get(run)
    if listed is not None and listed.state == state:
        if enough_origins(origins):
            return f"{run}: the plan says that it lacks the {state} state, but it has {len(origins)} origins there"
        return None
    if not enough_origins(origins):
        return (
            f"{run}: {len(origins)} origins over {_spread(origins)} steps are {state}, expected {ORIGINS_PER_STATE} "
            f"over {SPREAD_STEPS}: record more steps, or, where this is what the recipe does, say so in the plan "
            f'([lacking."{run}"], state, reason): it is then scored in its other state only'
        )
    return None


def runs(plan: Annotated[str, typer.Argument(help="A name in leaderboard/suites/plans/, or a TOML file.")]) -> None:
    """Print the runs of a suite's plan, in the order of recording: RECIPE SEED SPLIT."""
    for run in load_plan(plan).runs:
        recipe, split, seed = re.fullmatch(r"(.+)/(.+)/seed(\d+)", run).groups()  # type: ignore[union-attr]  # RunId
        print(recipe, seed, split)
