"""The runs of the ladder, measured: what their loads do in the steps that all rungs have, and how forecasters score.

`leaderboard/ladder.json` keeps a record of each run under the hash of its content, with the hashes of all code that the
scores rest on; `python -m leaderboard pages ladder` measures the runs of traces/ that it lacks (a minute or more of
a core each) and makes the page. No forecaster is fitted on a run of the ladder, so that runs of both splits are scored:
those that must learn from other runs are left out, and `gated` uses the weights that ship with the package.

Axis letters: K horizons, L MoE layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT, TRACES
from leaderboard.properties import layer_medians
from leaderboard.studies.kept import answered, read_records
from leaderboard.suites.plan import Plan, load_plan
from moeload_bench.errors import ResultError
from moeload_bench.evaluation.evaluate import as_target, evaluate
from moeload_bench.isolation.targets import Target, load_class, source_sha256
from moeload_bench.recipes.recipe import Recipe, load_recipe
from moeload_bench.recording.parts import first_steps
from moeload_bench.results.comparison import errors_of, reference_of
from moeload_bench.results.comparison import skill as skill_of
from moeload_bench.results.grid import present_mean, run_means
from moeload_bench.results.json_text import content_sha256
from moeload_bench.schema import Record
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import describe_layers
from moeload_bench.scoring.run_facts import recipe_parameters
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.states.rule import LABELS, label_states
from moeload_bench.suites.suite import load_suite, suite_for_trace
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash
from moeload_bench.traces.trace import Trace

OUT = ROOT / "leaderboard" / "ladder.json"
PLAN = "ladder"
STEPS = 4000
HORIZONS = (1, 10, 100, 1000)
"""Every rung has so many steps, and origins with room for these horizons."""
METRIC, REGRET = PRIMARY, "regret@quarter"
STRONG = "gated"
ALONE = (STRONG, "lstm.online")
"""Those with a `fit` that answer without it: by weights in the package, or by what the run itself taught."""


class Score(Record):
    """A forecaster on one run in one state: skill against the reference over all tasks, and means by horizon."""

    skill: float
    error_K: tuple[float | None, ...]
    regret_K: tuple[float | None, ...]


class LadderRun(Record):
    """One run: its size, what its loads do in the first `STEPS` steps, and the scores.

    ``onset_L``: first stable step of each layer, None for never. ``drift_L``: median over stable steps of the state
    rule's X; ``unrest_L``: its mean over all steps. ``imbalance`` and ``dead``: of the last 100 steps. ``floor``: of a
    mean of 100 steps. ``scores``: forecaster, state. Means are over layers.
    """

    id: str
    data_sha256: str
    code: str
    parameters: int
    steps: int
    step_tokens: int
    learning_rate: float
    onset_L: tuple[int | None, ...]
    drift_L: tuple[float | None, ...]
    unrest_L: tuple[float, ...]
    over_dispersion: float | None
    imbalance: float | None
    dead: int
    floor: float | None
    scores: dict[str, dict[str, Score]]

    @property
    def recipe(self) -> str:
        return self.id.split("/")[0]

    def score(self, forecaster: str, state: str) -> Score | None:
        """Return what a forecaster scored in a state, None where it has no score."""
        return self.scores.get(forecaster, {}).get(state)


def parameters_of(recipe: Recipe) -> int:
    """Return the number of parameters of the recipe's model."""
    return recipe_parameters()[f"{recipe.name} version {recipe.version}"]


def forecasters() -> list[Target]:
    """Suite v1's baselines that need no other runs to learn from, the strong one among them."""
    suite = load_suite("v1")
    found = [as_target(name, suite) for name in dict.fromkeys((*suite.baselines, STRONG))]
    return [target for target in found if target.label in ALONE or not hasattr(load_class(target), "fit")]


def code_hash(targets: Sequence[Target]) -> str:
    """Return the hash of all that a record rests on beside its trace."""
    sources = {target.label: [source_sha256(target), dict(target.kwargs)] for target in targets}
    rule = dataclasses.asdict(load_suite("v1").rule)
    return content_sha256({"scoring": SCORING_VERSION, "sources": sources, "rule": rule, "horizons": HORIZONS})


def planned(plan: Plan) -> list[Recipe]:
    """Return the recipes of the plan by size, without balancing first."""
    names = dict.fromkeys(run.split("/")[0] for run in plan.runs)
    return sorted(
        map(load_recipe, names), key=lambda recipe: (recipe.balancing.method != "none", parameters_of(recipe))
    )


def all_runs(folder: Path = TRACES, kept: Sequence[LadderRun] | None = None) -> list[LadderRun]:
    """Return a record of every run of the plan in the folder, measured where none is kept; without a folder, the kept
    ones.
    """
    kept = read_records(LadderRun, OUT) if kept is None else kept
    known = {(run.id, run.data_sha256, run.code): run for run in kept}
    if not folder.is_dir():
        return list(known.values())
    targets = forecasters()
    code, wanted = code_hash(targets), set(load_plan(PLAN).runs)
    refs = [ref for ref in list_traces(folder) if ref.id in wanted]
    return [known.get((ref.id, stored_hash(ref.path), code)) or measure_run(ref, targets, code) for ref in refs]


def measure_run(ref: TraceRef, targets: Sequence[Target], code: str) -> LadderRun:
    """Measure one run over its first `STEPS` steps; raise `ResultError` for one that has fewer, or half of the
    steps.
    """
    whole = read_trace(ref.path)
    if whole.steps < STEPS or whole.meta.stride != 1:
        raise ResultError(f"{ref.id}: {whole.steps} rows at stride {whole.meta.stride}, expected {STEPS} steps or more")
    trace = first_steps(whole, STEPS)
    recipe = load_recipe(trace.meta.recipe)
    labels = label_states(trace.load_SLE, rule=load_suite("v1").rule)
    layers, drift_L = describe_layers(trace), layer_medians(labels.drift_SL, ~labels.transient_SL)
    return LadderRun(
        id=ref.id,
        data_sha256=stored_hash(ref.path),
        code=code,
        parameters=parameters_of(recipe),
        steps=whole.steps,
        step_tokens=trace.meta.global_batch_tokens or int(trace.tokens_SL[0].max()),
        learning_rate=recipe.optimizer.lr,
        onset_L=tuple(None if row < 0 else int(row) for row in labels.onset_L),
        drift_L=tuple(None if one is None else _digits(one) for one in drift_L),
        unrest_L=tuple(_digits(value) for value in np.nanmean(labels.drift_SL, axis=0)),
        over_dispersion=present_mean([layer.over_dispersion for layer in layers]),
        imbalance=present_mean([layer.imbalance_last for layer in layers]),
        dead=sum(layer.dead_experts or 0 for layer in layers),
        floor=present_mean([layer.floor_window_tv for layer in layers]),
        scores=dict(_scores(trace, targets)),
    )


def _digits(value: float) -> float:
    return float(f"{float(value):.9g}")


def _scores(trace: Trace, targets: Sequence[Target]) -> Iterator[tuple[str, dict[str, Score]]]:
    suite = suite_for_trace(trace, horizons=HORIZONS, rule=load_suite("v1").rule)
    results = answered(evaluate(targets, suite, traces=[trace], level="none"))
    reference = reference_of(results)
    assert reference is not None, "a baseline of v1"
    errors = errors_of(results, METRIC)
    for result in results:
        own: dict[str, Score] = {}
        for state in LABELS:
            here = errors.select(state=state)
            if here.state_T:
                skill = _digits(skill_of(here, result.name, reference.name)[0])
                error_K, regret_K = (tuple(run_means(result.runs[0], state, metric)) for metric in (METRIC, REGRET))
                own[state] = Score(skill=skill, error_K=error_K, regret_K=regret_K)
        yield result.name, own
