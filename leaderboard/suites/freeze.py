"""`python -m leaderboard freeze`: a suite as one TOML file, traces by content hash and origins by the state rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import recipe_of_run
from leaderboard.suites import plan as plans
from moeload_bench.arrays import Array
from moeload_bench.errors import SuiteError
from moeload_bench.scoring.description import run_facts
from moeload_bench.states.origins import FIRST, choose_origins
from moeload_bench.states.rule import LABELS, StateLabels, label_states
from moeload_bench.suites.suite import ORIGINS_PER_STATE, FitTrace, Suite, SuiteTrace, fitting_horizons, load_suite
from moeload_bench.traces.lookup import TraceRef
from moeload_bench.traces.meta import STRATA, stratum_of
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace

SUITES = Path(__file__).resolve().parents[2] / "moeload_bench" / "suites"
QUANTILES = (0.1, 0.5, 0.9)


def frozen_suite(plan: plans.Plan, folder: Path) -> Suite:
    """Return the suite over the plan's runs; raise `SuiteError` that lists everything wrong with the folder."""
    fit: list[FitTrace] = []
    scored: list[SuiteTrace] = []
    starts: dict[str, Array] = {}
    refs, wrong = plans.compare_folder(plan, folder)
    for ref in refs:
        trace = read_trace(ref.path)
        start_SLE = trace.load_SLE[:FIRST].copy()  # a view would keep every trace in memory
        same = plans.twin_problem(ref.id, start_SLE, starts)
        unfit = [*plans.run_problems(plan, ref, trace), *([same] if same else [])]
        wrong += unfit
        if unfit:
            continue
        starts[ref.id] = start_SLE
        entry = FitTrace(id=ref.id, data_sha256=data_sha256(trace))
        if ref.id.split("/")[1] == "train":
            fit.append(entry)
            continue
        horizon, chosen, missing = _asked(plan, ref, trace)
        tokens = round(run_facts(trace).expert_tokens, 1) if plan.strata else None
        if tokens is not None and stratum_of(tokens) is None:
            missing.append(f"{ref.id}: {tokens:,.0f} tokens per expert are of no stratum: {dict(STRATA)}")
        wrong += missing
        if any(chosen.values()) and not missing:
            asked = None if horizon == plan.horizons[-1] else horizon
            scored.append(SuiteTrace(**entry.model_dump(), **chosen, horizon=asked, expert_tokens=tokens))
    if wrong:
        raise SuiteError(f"suite {plan.name} cannot be frozen:\n" + "\n".join(f"  {line}" for line in wrong))
    if not scored:
        raise SuiteError(f"{folder}: no test run of the plan of suite {plan.name} can be scored")
    recipes = sorted({entry.id.split("/")[0] for entry in scored})
    return Suite(
        name=plan.name,
        description=plan.description,
        horizons=plan.horizons,
        quantiles=QUANTILES,
        baselines=plan.baselines,
        rule=plan.rule,
        hub=plan.hub,
        near_twins=plans.near_twins(recipes) if plan.near_twins else (),
        families=plans.families(map(recipe_of_run, recipes)) if plan.near_twins else {},
        apart=plan.apart,
        fit=load_suite(plan.fitted_on).fit if plan.fitted_on else tuple(fit),
        traces=tuple(scored),
    )


def _asked(plan: plans.Plan, ref: TraceRef, trace: Trace) -> tuple[int, dict[str, tuple[int, ...]], list[str]]:
    """Return the largest horizon that a run is asked for, its origins by state, and what is wrong with their number."""
    labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=plan.rule)
    if not plan.as_far_as_it_goes:
        horizon = plan.horizons[-1] if trace.steps >= plan.short else plans.SHORT_HORIZON
        return horizon, *_origins(plan, ref, trace, labels, horizon)
    usable = fitting_horizons(trace, plan.horizons)
    tried = ((horizon, *_origins(plan, ref, trace, labels, horizon)) for horizon in reversed(usable))
    return next((found for found in tried if not found[2]), (0, {}, [f"{ref.id}: too few origins at any horizon"]))


def _origins(
    plan: plans.Plan, ref: TraceRef, trace: Trace, labels: StateLabels, horizon: int
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return origins by state, and what is wrong with them; a state that is too rare has none."""
    chosen: dict[str, tuple[int, ...]] = {}
    wrong = []
    for state, origins in choose_origins(labels, trace.step_S, horizon, ORIGINS_PER_STATE).items():
        line = plans.origin_shortage(plan, ref.id, state, origins)
        wrong += [line] if line else []
        chosen[state] = tuple(origins) if plans.enough_origins(origins) else ()
    return chosen, wrong


def to_toml(suite: Suite) -> str:
    """Return the suite as TOML; `load_suite` reads the same suite back.

    Not by tomli-w, which writes a line for each of a list's values: a frozen suite is read by people, run by run.
    """
    content = suite.model_dump(mode="json", exclude={"fit", "traces"})
    tables = {name: content.pop(name, None) for name in ("rule", "hub", "families", "tables")}
    lines = [f"{key} = {_value(value)}" for key, value in content.items() if value != []]
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    for key, entries in (("fit", suite.fit), ("traces", suite.traces)):
        for entry in entries:
            lines += ["", f"[[{key}]]"]
            lines += [f"{k} = {_value(v)}" for k, v in entry.model_dump(mode="json").items() if v != []]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def target_file(plan: plans.Plan, suite: Suite) -> Path:
    """Return where the suite is written; raise `SuiteError` for a suite that is frozen otherwise."""
    path = SUITES / f"{plan.name}.toml"
    if path.is_file() and load_suite(path).sha256() != suite.sha256():
        raise SuiteError(
            f"{path}: suite {plan.name} is frozen with {load_suite(path).sha256()[:12]}, this would be "
            f"{suite.sha256()[:12]}: other traces or origins make a new suite, not another version of this one"
        )
    return path


def freeze(
    plan: Annotated[str, typer.Argument(help="A name in leaderboard/suites/plans/, or a TOML file.")],
    folder: Annotated[Path, typer.Argument(help="The traces, as RECIPE/SPLIT/seedN.parquet.")],
) -> None:
    """Freeze a suite: its traces by hash, its origins by the state rule.

    The plan says which runs it is made of. A missing or an extra run, a run of another recipe version, too few steps,
    no half batches or one training under two names are refused by name. `test` runs are scored, `train` runs are open
    for fitting. Origins are spread evenly over the rows where all layers agree on the state and the largest horizon
    still fits; fewer than 20 in a state, or 20 within fewer than 100 steps, are refused unless the plan says so. The
    same traces give the same file.

    \b
    python -m leaderboard freeze v3 traces
    """
    wanted = plans.load_plan(plan)
    suite = frozen_suite(wanted, folder)
    path = target_file(wanted, suite)
    path.write_text(to_toml(suite))
    for entry in suite.traces:
        parts = [f"{s} {len(o)} ({min(o)}-{max(o)})" for s in LABELS if (o := getattr(entry, s))]
        print(f"{entry.id}: origins {', '.join(parts)}")
    print(f'tests/suites/test_suite.py: FROZEN["{suite.name}"] = "{suite.sha256()}"')
    scored, open_ = len(suite.traces), len(suite.fit)
    print(f"{path}: suite {suite.name}, {scored} scored and {open_} open runs, sha256 {suite.sha256()}")
