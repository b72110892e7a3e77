"""Where the golden numbers are read: of the files here, only this one imports the project and changes with it.

Each function returns plain dictionaries, lists and numbers, whose keys name no module and no command.

Axis letters: K horizons, L MoE layers, R replica slots, S steps, E experts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from typer.testing import CliRunner

from leaderboard.season.claims import Test, against_others, cell_gains
from leaderboard.season.scored import ScoredSeason, load_table, scored_seasons
from moeload_bench.cli.app import app
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.ops.facts import experts
from moeload_bench.ops.planning.cluster import CONSTANTS
from moeload_bench.ops.planning.placements import FORMATS, placement_of, write_placement
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.results.columns import CostResult, metric_columns, run_costs
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.significance import p_values_against
from moeload_bench.results.skill import holm
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.states.rule import LABELS, StateRule
from moeload_bench.suites.suite import Suite, load_suite
from moeload_bench.traces.lookup import find_trace
from moeload_bench.traces.store import data_sha256, read_trace, write_trace
from tests.support.foreign import formats, logs
from tests.support.synthetic import settling_trace

ROOT = Path(__file__).resolve().parents[2]
SEASONS = ("2027-02",)
SUITES = ("v3", "mini", "shapes", "shapes-2", *SEASONS)
"""The rounds whose results are committed."""
FORECASTERS = ("uniform", "sw_avg", "ema", "adaptive")
RUNS = (
    "qwen3moe-16e-large-aux/test/seed202",
    "switch-8e-drop/test/seed1",
    "olmoe-16e-zloss/test/seed125",
    "mixtral-8e-cosine/test/seed142",
    "granitemoe-16e-ramp/test/seed143",
    "deepseekv3-16e-shift/test/seed1",
)
"""Runs of v3 that are scored again: six families, the first with a large batch."""
TRACES = (
    "qwen3moe-16e-large-aux/test/seed202",
    "drawn-l10/test/seed410",
    "qwen3moe-16e-large-shift.probe/test/seed204",
    "drawn-l13.probe/test/seed413",
    "switch-8e-drop/test/seed1",
    "mixtral-8e-cosine/test/seed142",
    "olmoe-64e-top8/test/seed1",
    "qwen2moe-128e-shared/test/seed129",
    "qwen3moe-16e-restart/test/seed1",
    "qwen3moe-tiny-8e/test/seed1",
)
"""Recorded runs that a decision and a capacity are asked for: two large batches, two probes, six small batches."""


# What is committed


def published(name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each committed entry of a round; see `_runs`."""
    return _entries(_results(name))


def tasks(name: str) -> dict[str, dict[str, Any]]:
    """Return origins, states, crossings and floors of each run of a round."""
    results = _results(name)
    first = results.table[results.table["forecaster"] == results.names[0]]
    return {str(trace): _tasks(rows, results.facts) for trace, rows in first.groupby("trace", sort=False)}


def statistics(name: str) -> dict[str, Any]:
    """Return skill, intervals, ranks and Holm's p of a round: by part, state, and horizon or all of them.

    None where each run stands by itself.
    """
    results = _ranked(name)
    suite = results.suite.package_suite
    if suite is not None and suite.apart:
        return {}
    return {part: _standings(results.select(traces=runs)) for part, runs in _parts(name, results).items()}


def claims() -> dict[str, Any]:
    """Return of each season's sets its candidate against others, and in each cell; all sets have different names."""
    found = dict[str, Any]()
    for season in map(_season, SEASONS):
        for one in season.season.sets:
            others = {state: _tests(against_others(season, one, state)) for state in LABELS}
            found[one.name] = {"cells": _tests(cell_gains(season, one)), **others}
    return found


def verifications() -> dict[str, Any]:
    """Return how each submission was verified, and what was found."""
    fields = ("status", "level", "date", "findings")
    paths = sorted((ROOT / "leaderboard" / "submissions").glob("*/verification.json"))
    records = {path.parent.name: json.loads(path.read_text()) for path in paths}
    return {name: {key: record[key] for key in fields} for name, record in records.items()}


def suite_hashes() -> dict[str, str]:
    """Return the hash of each round's tasks."""
    return {name: _suite(name).sha256() for name in SUITES}


def constants() -> dict[str, Any]:
    """Return the constants that are shipped: weights by hash, the others as numbers."""
    weights = {}
    for name in ("gate", "guard"):
        with np.load(ROOT / "baselines" / f"_{name}.npz") as arrays:
            weights[name] = {
                key: f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
                for key, array in arrays.items()
            }
    rules = ("BLOCK_STEPS", "DEAD", "DEAD_BLOCKS", "ALIVE_BLOCKS", "FIRST_BLOCK", "DANGER", "RECOVERED")
    return {
        "weights": weights,
        "alarm": {name: getattr(experts, name) for name in rules},
        "alarm measured": experts.measured()._asdict(),
        "state rule": asdict(StateRule()),
        "cluster assumed": {name: one.assumed for name, one in CONSTANTS.items()},
    }


# What is computed again


def scored() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the runs of FORECASTERS on mini and on RUNS of v3, scored now; see `_runs`."""
    v3 = _suite("v3")
    some = v3.model_copy(update={"traces": tuple(entry for entry in v3.traces if entry.id in RUNS)})
    suites = {"mini": _suite("mini"), "v3": some}
    return {name: _entries(evaluate(FORECASTERS, suite, level="none", fresh=True)) for name, suite in suites.items()}


def advice(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield of twelve traces the decision and the capacity that commands print as JSON, without times."""
    long = logs.archive(folder / "log", logs.choices(S=240, T=40))
    made = {"imported": folder / "imported.parquet", "made 58 x 256": folder / "made.parquet"}
    formats.imported("npz", long, made["imported"])
    write_trace(settling_trace(58, 256, 250), made["made 58 x 256"])
    for name, path in ({name: find_trace(name) for name in TRACES} | made).items():
        E = read_trace(path).num_experts
        devices = E // 4
        cluster = f"--devices {devices} --slots {E + devices} --expert-mb 350 --bandwidth 25 --step-ms 100"
        cluster += " --every 50,200,500 --steps-left 200"
        plan = _printed("plan", path, f"{cluster} --expert-fraction 0.5 --overlap 0 --replan-ms 0")
        decision = {key: value for key, value in plan["decision"].items() if key != "constants"}
        decision["alike"] = decision.pop("inseparable")  # its name when the numbers were saved
        for one in (decision["take"], decision["vllm"], *decision["candidates"]):
            del one["cpu_ms"]
        for one in decision["candidates"]:
            del one["moved_at"]
        words = f"--capacity --drop 1% --reruns 5 --devices {devices} --token-bytes 4096"
        need = {key: value for key, value in _printed("inspect", path, words)["capacity"].items() if key != "trace"}
        yield name, {"decision": decision, "capacity": need}


def recorded(folder: Path) -> dict[str, Any]:
    """Return what the recorder counts of fixed routed ids: two layers, three steps of two passes."""
    import torch

    from moeload_bench.recording.recorder import record
    from moeload_bench.recording.routers import Routing

    class Router(torch.nn.Module):
        def forward(self, expert_TK: torch.Tensor) -> torch.Tensor:
            return expert_TK

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.layers = torch.nn.ModuleList([Router(), Router()])

        def forward(self, input_ids: torch.Tensor, expert_LTK: torch.Tensor) -> torch.Tensor:
            for router, expert_TK in zip(self.layers, expert_LTK, strict=True):
                router(expert_TK)
            return self.weight * input_ids.sum()

    def read(router: Any, args: Any, expert_TK: torch.Tensor) -> Routing:
        return Routing(expert_TK.reshape(-1), None, len(expert_TK), 8, expert_TK.shape[1])

    model = Model()
    chosen = torch.from_numpy(logs.choices(S=3, W=2, L=2, T=24))  # [steps, passes, layers, tokens, top-k]
    with record(model, folder, adapters={Router: read}, micro_max=True, on_error="raise") as recorder:
        for passes in chosen:
            for expert_LTK in passes:
                model(torch.ones(4, 6), expert_LTK).backward()
            recorder.step(loss=1.0)
    trace = read_trace(folder / "own" / "test" / "seed0.parquet")
    counts = {name: trace.columns[name].tolist() for name in ("load_half", "micro_max")}
    return {"load": trace.load_SLE.tolist(), "tokens": trace.tokens_SL.tolist(), **counts}


def placement_files(folder: Path) -> dict[str, str]:
    """Return the hash of the file of a fixed plan in each format, and of what is written beside it."""
    found = {}
    for kind in FORMATS:
        extra = 0 if kind == "megatron" else 4  # Megatron-LM holds each expert once
        slots_LR = (np.arange(8 + extra) + np.arange(3)[:, None]) % 8
        shape, path = ClusterShape("given", 4, 8 + extra), folder / f"{kind}.json"
        write_placement(placement_of(slots_LR, 8, shape, (1, 2, 3), {"forecaster": "ema"}), path, kind)
        about = path.with_name(f"{path.name}.about.json")
        found[kind] = _sha256(path)
        found |= {f"{kind}, about": _sha256(about)} if about.is_file() else {}
    return found


def imports(folder: Path) -> dict[str, str]:
    """Return the hash of the counts that each importer reads from its sample log."""
    paths = {name: formats.made(name, folder) for name in formats.WRITERS}
    logs.sglang_per_pass(folder / "per pass", formats.CHOSEN)
    found = {name: formats.imported(name, path, folder / f"{name}.parquet") for name, path in paths.items()}
    found["sglang, per pass"] = formats.imported("sglang", folder / "per pass", folder / "per pass.parquet")
    return {name: data_sha256(trace) for name, trace in found.items()}


# How these are read


@cache
def _season(name: str) -> ScoredSeason:
    (found,) = (one for one in scored_seasons() if one.name == name)
    return found


def _suite(name: str) -> Suite:
    return _season(name).suite if name in SEASONS else load_suite(name)


@cache
def _results(name: str) -> Results:
    """Return the committed results of a round, by name."""
    if name in SEASONS:
        return load_table(_season(name).folder, layers=True)
    return load_results(ROOT / "leaderboard" / "results" / name, layers=True)


def _ranked(name: str) -> Results:
    """Return the committed results that have a rank: all, but for demonstrations of a season."""
    return _season(name).results if name in SEASONS else _results(name)


def _tasks(rows: pd.DataFrame, facts: pd.DataFrame) -> dict[str, Any]:
    """Return origins, states, crossings and floors of a run, from its rows of one forecaster."""
    first, K = rows.drop_duplicates("origin"), rows["horizon"].nunique()
    crossing_OK = rows["crossing"].to_numpy(bool).reshape(-1, K)
    known = facts[facts["trace"] == rows["trace"].iloc[0]]
    floors: dict[str, Any] = {}
    for column in (column for column in known.columns if "." in column):
        floor, metric = column.split(".")
        for state, own in known.groupby("state", sort=False):
            # a floor that the trace has not is absent; one without a value at a horizon is null there
            if own[floor].notna().all() and own[column].notna().any():
                floors.setdefault(state, {}).setdefault(floor, {})[metric] = own[column].tolist()
    return {
        "origins": first["origin"].tolist(),
        "states": "".join(state[0] for state in first["state"]),
        "crossing": ["".join("-x"[crosses] for crosses in crossing_K) for crossing_K in crossing_OK.astype(int)],
        "floors": floors,
        "marks": {
            floor: known[floor].iloc[0] for floor in FLOOR_NAMES if floor in known and known[floor].notna().any()
        },
    }


def _entries(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Return of each entry its runs: tasks, means by layer, events counted, costs, and the hash of its forecasts."""
    rows = {key: found for key, found in results.table.groupby(["forecaster", "trace"], sort=False)}
    layers = {key: found for key, found in results.layers.groupby(["forecaster", "trace"], sort=False)}
    costs = run_costs(results.table).set_index(["forecaster", "trace"])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in results.names}
    for (name, trace), own in rows.items():
        cost = costs.loc[(name, trace)]
        found[name].append(
            {
                "run": trace,
                "horizons": results.suite.horizons,
                "tasks": _scores(own),
                "layers": _means(layers[name, trace]),
                "counts": json.loads(cost["counts"]),
                "costs": {field: _plain(cost[field]) for field in CostResult.model_fields},
                "data_sha256": cost["data_sha256"],
                "forecasts_sha256": cost["forecasts_sha256"],
            }
        )
    return found


def _scores(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return origin, state, failure and metrics of each task."""
    K = rows["horizon"].nunique()
    first = rows.iloc[::K]
    value_OK = {name: rows[name].to_numpy().reshape(-1, K) for name in metric_columns(rows) if rows[name].notna().any()}
    heads = zip(first["origin"].tolist(), first["state"].tolist(), first["failure"].tolist(), strict=True)
    return [
        (origin, state, failure if isinstance(failure, str) else None, {k: v[o].tolist() for k, v in value_OK.items()})
        for o, (origin, state, failure) in enumerate(heads)
    ]


def _means(layers: pd.DataFrame) -> dict[str, Any]:
    """Return by state and metric the means by layer, [K, L]."""
    found: dict[str, Any] = {}
    for state, own in layers.groupby("state", sort=False):
        L = own["layer"].nunique()
        for name in metric_columns(own):
            if own[name].notna().any():
                found.setdefault(state, {})[name] = own[name].to_numpy().reshape(-1, L).tolist()
    return found


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value


def _parts(name: str, results: Results) -> Mapping[str, Sequence[str]]:
    """Return the runs of each part of a round that has a table: sizes of batches, sets of the season and both."""
    if name not in SEASONS:
        return {"all": results.traces, **_suite(name).strata()}
    found: dict[str, list[str]] = {}
    for part in _season(name).parts:
        runs = [run for run in results.traces if run.split("/")[0] in part.recipes]
        found[f"{part.of.name} {part.stratum}"] = runs
        found.setdefault(part.of.name, []).extend(runs)
    return found


def _standings(results: Results) -> dict[str, Any]:
    """Return by metric, state and horizon each forecaster's row, its ranks and its p against the reference."""
    found: dict[str, Any] = {}
    for metric in ("window_tv", "regret@quarter"):
        wide = results.summarize(["state", "horizon"], metric).pivot(
            index=["state", "forecaster"], columns="horizon", values=["value", "excess"]
        )
        for by in (["state"], ["state", "horizon"]) if metric == "window_tv" else (["state"],):
            keys = [*by, "forecaster"]
            rows = results.summarize(by, metric)
            rows = rows.merge(results.ranks(by, metric), how="left", on=keys)
            if metric == "window_tv":
                tests = p_values_against(results, results.reference.names[0], by, metric).drop(columns="skill")
                rows = rows.merge(tests, how="left", on=keys)
            for row in rows.to_dict("records"):
                ends = {"a new recipe": ["low", "high"], "these recipes, new seeds": ["seeds_low", "seeds_high"]}
                one = {
                    "skill": _plain(row["skill"]),
                    "ends": {
                        claim: [row[end] for end in both]
                        for claim, both in ends.items()
                        if row[both[0]] == row[both[0]]
                    },
                    "ranks": None
                    if row["rank_low"] != row["rank_low"]
                    else [int(row["rank_low"]), int(row["rank_high"])],
                    "runs": row["runs"],
                }
                state, forecaster = row["state"], row["forecaster"]
                if "horizon" not in by:
                    value_K, excess_K = (
                        wide.loc[(state, forecaster), name].reindex(results.suite.horizons)
                        for name in ("value", "excess")
                    )
                    one |= {"value": value_K.tolist(), "excess": excess_K.tolist() if excess_K.notna().any() else []}
                if metric == "window_tv" and forecaster != results.reference.names[0]:
                    one |= {"p": _plain(row["p"]), "p_holm": _plain(row["p_holm"])}
                place = (
                    found.setdefault(metric, {}).setdefault(state, {}).setdefault(str(row.get("horizon", "all")), {})
                )
                place[forecaster] = one
    return found


def _tests(found: Sequence[Test]) -> dict[str, Any]:
    p = {test.what: test.estimate.p_worse(0) for test in found if test.estimate}
    corrected = dict(zip(p, holm([*p.values()]), strict=True))
    return {
        test.what: test.estimate
        and {
            "gain": test.estimate.gain,
            "low": test.estimate.low,
            "interval": test.estimate.interval,
            "recipes": test.estimate.units,
            "p": p[test.what],
            "p_holm": corrected[test.what],
        }
        for test in found
    }


def _printed(command: str, path: Path, options: str) -> dict[str, Any]:
    """Return the record that a command prints with `--json`."""
    done = CliRunner().invoke(app, [command, str(path), *options.split(), "--json"])
    if done.exit_code:
        raise RuntimeError(f"{command} {path} {options}: exit status {done.exit_code}\n{done.output}")
    return dict(json.loads(done.stdout))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
