"""Replay every policy on a run, whatever it costs: imbalance, replicas fetched or moved.

A row of a trace is taken as one micro-batch of one expert-parallel group, and as one step. Judged are the last 1,000
steps of a run; plans begin from experts held by number. Replays take seconds to minutes a run, so rows are kept in
rivals.csv, by the hashes of the runs in runs.csv.

Axis letters: S steps, L MoE layers, E experts, D devices, N layers of steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from leaderboard.committed import TRACES
from leaderboard.rivals.intervals import Followed, followed, interval_means, oracle, plans_of
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.harness.replay import follow
from moeload_bench.isolation.targets import parse_target
from moeload_bench.ops.planning.quotas import Pool, quotas
from moeload_bench.ops.planning.reaction import Reaction, even_tokens
from moeload_bench.placement.plans import ClusterShape, headline_shapes
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import data_sha256, read_trace
from moeload_bench.traces.trace import Trace

ROWS, RUNS = (Path(__file__).with_name(name) for name in ("rivals.csv", "runs.csv"))
SUITES, BALANCING = ("v3", "shapes"), "balancing-"
FORECASTERS = ("ema", "sw_avg", "adaptive")
EVERY = (1, 10, 100, 1000)
"""Steps between re-plans."""
WINDOW = 1000
"""Steps that are judged, the last ones of a run."""
SHAPES: Mapping[str, str] = {"none": "plain", "slots": "quarter"}
"""The headline shape of plans by the memory that they take: no spare slot, or one on each device in every layer."""
LEAST = (1, 1024)
"""Tokens that a replica within the step takes at least; 1,024 is UltraEP's default."""
NODE = 8
"""Devices of an NVLink domain where it is not the whole group."""
OVER = (1.1, 1.5)


class Policy(NamedTuple):
    """A policy: what it does, the memory that it may use, and its settings.

    ``does``: stay, quotas, even, late, oracle, or a forecaster's name. ``memory``: none; *slots*, one spare slot on a
    device, in every layer or in a pool that layers share; *bytes*, a pool of as many slots as there are layers, which
    takes as much memory as one spare slot in each; *masters*, a pool of as many slots as a device has masters.
    ``every``: steps between decisions; ``least``: tokens of a replica; ``domain``: devices that replicas stay within,
    0 for the whole group.
    """

    does: str
    memory: str = "none"
    every: int = 1
    least: int = 1
    domain: int = 0


class Measured(NamedTuple):
    """A policy on a run: mean max / mean, the part of layers of steps above 1.1 and above 1.5, and replicas.

    ``busiest``: received by the busiest device per layer and step; ``total``: by all devices.
    """

    imbalance: float
    over_11: float
    over_15: float
    busiest: float
    total: float


def pool_slots(policy: Policy, layers: int, masters: int) -> int:
    """Return the slots for replicas on a device that a policy within the step is charged for."""
    return {"slots": 1, "bytes": layers, "masters": masters}[policy.memory]


def within_policies(devices: int) -> Iterator[Policy]:
    """Yield the policies within the step."""
    yield Policy("even", "masters")
    for memory in ("slots", "bytes"):
        for domain in (0, NODE) if devices > NODE and devices % NODE == 0 else (0,):
            yield from (Policy("quotas", memory, 1, least, domain) for least in LEAST)


def reaction_of(policy: Policy, load_NE: IntArray, devices: int, layers: int) -> Reaction:
    """Return what a policy within the step does to layers of steps."""
    if policy.does == "even":
        return even_tokens(load_NE, devices)
    slots = pool_slots(policy, layers, load_NE.shape[1] // devices)
    return quotas(load_NE, devices, Pool(slots, policy.domain or devices, policy.least))


def forecasts_of(trace: Trace, forecaster: str) -> dict[int, FloatArray]:
    """Return the mean shares [J, L, E] that are forecast for each interval of the judged steps, by their length.

    Each forecast is made at the first step of its interval, from the steps before.
    """
    by_length: dict[int, list[FloatArray]] = {every: [] for every in EVERY}
    with follow(parse_target(forecaster), trace, seed=0, level="none") as feed:
        for step in range(WINDOW):
            every = tuple(k for k in EVERY if step % k == 0)
            means_KLE = feed.at(trace.first_step + trace.steps - WINDOW + step, every).window_means(every)
            for k, mean_LE in zip(every, means_KLE, strict=True):
                by_length[k].append(mean_LE)
    return {every: np.stack(means) for every, means in by_length.items()}


def measured(trace: Trace) -> dict[Policy, Measured]:
    """Return every policy on a run of stride 1."""
    shapes = {shape.name: shape for shape in headline_shapes(trace.num_experts)}
    devices, layers = shapes["plain"].devices, trace.num_layers
    load_NE = trace.load_SLE[-WINDOW:].reshape(-1, trace.num_experts)
    rows = {Policy("stay"): _of_reaction(quotas(load_NE, devices, Pool(0, devices)))}
    for policy in within_policies(devices):
        rows[policy] = _of_reaction(reaction_of(policy, load_NE, devices, layers))
    forecasts = {name: forecasts_of(trace, name) for name in FORECASTERS}
    for memory, name in SHAPES.items():
        for every in EVERY:
            by_name = _by_interval(trace.load_SLE, every, shapes[name], {f: forecasts[f][every] for f in FORECASTERS})
            rows |= {Policy(does, memory, every): _of_plans(plans) for does, plans in by_name.items()}
    return rows


def _by_interval(
    load_SLE: IntArray, every: int, shape: ClusterShape, forecast_JLE: Mapping[str, FloatArray]
) -> dict[str, Followed]:
    """Return what plans of one interval come to in the judged steps: late, oracle, by forecaster."""
    count, judged_SLE = WINDOW // every, load_SLE[-WINDOW:]
    plan_JLR = plans_of(interval_means(load_SLE, len(load_SLE) - WINDOW - every, every, count + 1), shape)
    late, fresh = (followed(one_JLR, judged_SLE, shape) for one_JLR in (plan_JLR[:-1], plan_JLR[1:]))
    by_name = {name: followed(plans_of(one_JLE, shape), judged_SLE, shape) for name, one_JLE in forecast_JLE.items()}
    return {"late": late, "oracle": oracle(late, fresh, count), **by_name}


def _of_reaction(reaction: Reaction) -> Measured:
    fetched_ND = reaction.fetched_ND
    return _summary(reaction.imbalance_N, fetched_ND.max(axis=1).mean(), fetched_ND.sum(axis=1).mean())


def _of_plans(plans: Followed) -> Measured:
    cells = plans.imbalance_SL.size
    return _summary(plans.imbalance_SL.ravel(), plans.busiest / cells, plans.total / cells)


def _summary(imbalance_N: FloatArray, busiest: float, total: float) -> Measured:
    known_N = imbalance_N[np.isfinite(imbalance_N)]
    over_11, over_15 = (float((known_N > most).mean()) for most in OVER)
    return Measured(float(known_N.mean()), over_11, over_15, busiest, total)


class Facts(NamedTuple):
    """What the study needs to know of a run, and the hash of the data that it was measured on.

    ``accumulates``: a row is several micro-batches.
    """

    run: str
    data: str
    family: str
    expert_tokens: float
    layers: int
    experts: int
    devices: int
    accumulates: bool


def facts_of(trace: Trace, data: str) -> Facts:
    """Return the facts of a run."""
    shapes = {shape.name: shape for shape in headline_shapes(trace.num_experts)}
    size = float(trace.load_SLE[-WINDOW:].sum(axis=2).mean()) / trace.num_experts
    counts = (trace.num_layers, trace.num_experts, shapes["plain"].devices)
    return Facts(trace.id, data, trace.meta.family, round(size, 1), *counts, "micro_max" in trace.columns)


def policy_rows(trace: Trace) -> pd.DataFrame:
    """Return a row per policy, numbers as the file keeps them."""
    rows: list[dict[str, Any]] = [
        {"run": trace.id} | policy._asdict() | {name: float(f"{value:.5g}") for name, value in row._asdict().items()}
        for policy, row in measured(trace).items()
    ]
    return pd.DataFrame(rows)


def study_runs(folder: Path = TRACES) -> dict[str, tuple[Path, str]]:
    """Return the runs of the study that are recorded: path and hash by id; of v3 and `shapes`, then of the balancing.

    Runs of split `train` are those that forecasters may be fitted on; probes are counts of other runs, so left out.
    """
    paths = {ref.id: ref.path for ref in list_traces(folder)} if folder.is_dir() else {}
    suites = [load_suite(name) for name in SUITES]
    hashes = {run.id: run.data_sha256 for suite in suites for run in (*suite.fit, *suite.traces)}
    hashes |= {name: data_sha256(read_trace(path)) for name, path in paths.items() if name.startswith(BALANCING)}
    return {name: (paths[name], data) for name, data in hashes.items() if name in paths and ".probe/" not in name}


def known_rows(folder: Path = TRACES, rows: Path = ROWS, runs: Path = RUNS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return policies and facts of the runs: those of the files whose data are the same, and made now where not."""
    stored = [pd.read_csv(path) if path.is_file() else pd.DataFrame({"run": [], "data": []}) for path in (rows, runs)]
    same = set(zip(stored[1]["run"], stored[1]["data"], strict=True))
    parts: list[pd.DataFrame] = []
    facts: list[pd.DataFrame] = []
    for name, (path, data) in study_runs(folder).items():
        if (name, data) in same:
            policies, numbers = (frame[frame["run"] == name] for frame in stored)
        else:
            trace = read_trace(path)
            policies, numbers = policy_rows(trace), pd.DataFrame([facts_of(trace, data)])
        parts.append(policies)
        facts.append(numbers)
    return pd.concat(parts, ignore_index=True), pd.concat(facts, ignore_index=True)
