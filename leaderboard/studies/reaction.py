"""What forecasting is worth beside exact reaction: plans of several kinds on the runs of suite v1, and what moves.

For every run, on the headline shape, layers are planned

- never (`static`, the plan for even loads);
- every step from that very step's loads (`exact`: what balancers that react inside a step reach, UltraEP or FEPLB);
- every k steps from a forecast of the next k: of `sw_avg`, of `gated`; from `gated`'s mean + z standard deviations, as
  its quantiles tell them; from the mean and the covariance of the last 100 steps (FlashLB's way);
- every k steps from the true mean of the next k (`true mean`);
- from the mean + z deviations of the last 100 steps, FlashLB's rule without a forecast;
- by policies that react (`reacting`): spilling within each step, and re-planning at a threshold of utilisation, from
  the last k steps or from `gated`.

Each acts some steps late (`LATE`): it knows no load of the steps between its decision and the first step it is for.
Kept are the mean imbalance over steps and layers, and the most replicas that one device receives per plan. With --fit
the `train` runs are measured, on which z is chosen. Writes leaderboard/reaction.json; some minutes of one core.

Axis letters: S steps, L MoE layers, E experts, N decisions, R replica slots, D devices, Q quantiles.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import typer
from moeload_bench.baselines.gated import Gated
from moeload_bench.baselines.sw_avg import SlidingWindowAverage
from moeload_bench.placement.risk import risk_plan

from leaderboard.committed import ROOT, TRACES
from leaderboard.studies.reacting import at_threshold, spilled
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.forecaster import Forecast, ForecastRequest, step_block, trace_info
from moeload_bench.placement.cost import replicas_moved, step_imbalance
from moeload_bench.placement.plans import ClusterShape, headline_shapes, plan
from moeload_bench.placement.replan import with_fewest_moves
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace, shares

OUT = ROOT / "leaderboard" / "reaction.json"
SUITE = "v1"
EVERY = (10, 100, 1000)
FIRST = 100
"""The first step that is counted: until then there is little to forecast from."""
EXACT_EVERY = 10
"""`exact` is measured on pairs of neighbouring steps that lie so far apart."""
Z_TRIED = (0.5, 1.0, 2.0)
Z_DEVIATION, Z_COVARIANCE = 0.5, 1.0
"""Chosen on the `train` runs: the least mean imbalance at k = 10 and 100."""
NORMAL_80 = 2 * 1.2815516
"""Standard deviations between the quantiles 0.1 and 0.9 of a normal distribution."""
PAST = 100
LATE = (0, 1, 10, 50)
"""Steps between a decision and the first step that it is for."""
MOST = (1.0, 1.1)
"""Spilling: the load of a device, over the mean, that is left to it."""
THRESHOLDS = (0.9, 0.95)
Z_STEPS = 0.674
"""FlashLB's number of standard deviations."""

Kinds = dict[str, list[float]]
"""Name of a kind of plan, with @k, and ~ the steps it is late, to its mean imbalance and the most replicas that a
device receives per plan."""


class Run(NamedTuple):
    """A run with its shares, the cluster that is planned for, and every z of plans that reckon with uncertainty."""

    trace: Trace
    share_SLE: FloatArray
    shape: ClusterShape
    z_deviation: Sequence[float]
    z_covariance: Sequence[float]


def measure_run(trace: Trace, z_deviation: Sequence[float], z_covariance: Sequence[float]) -> Kinds:
    """Measure every kind of plan on one run; of those that reckon with uncertainty one for each z."""
    shape = headline_shapes(trace.num_experts)[0]
    share_SLE = np.nan_to_num(shares(trace.load_SLE), nan=1.0 / trace.num_experts)
    run = Run(trace, share_SLE, shape, z_deviation, z_covariance)
    static_LR = plan(np.ones(share_SLE.shape[1:]), shape)
    found = {"static": [float(np.mean(step_imbalance(static_LR, share_SLE[FIRST:], shape.devices))), 0.0]}
    for late in LATE:
        for name, measured in _late(run, static_LR, late):
            found[f"{name}~{late}" if late else name] = [*measured]
    return {name: [float(f"{value:.6g}") for value in values] for name, values in found.items()}


def _late(run: Run, static_LR: IntArray, late: int) -> Iterator[tuple[str, Sequence[float]]]:
    """Yield what every kind of plan costs that acts so many steps late."""
    share_SLE, shape = run.share_SLE, run.shape
    yield "exact@1", _exact(share_SLE, shape, late)
    some = range(FIRST, len(share_SLE), EXACT_EVERY)
    for most in MOST:
        yield f"spill above {most:g}@1", spilled(share_SLE, static_LR, some, late, most, shape.devices)
    for every in EVERY:
        rows_N = np.arange(FIRST, len(share_SLE) - every + 1, every)
        kinds = _plans(run, rows_N, every, late)
        for name, plans_NLR in kinds.items():
            yield f"{name}@{every}", _charged(plans_NLR, share_SLE, rows_N, every, shape)
        last_NLE = np.stack([share_SLE[max(0, row - late - every) : row - late].mean(axis=0) for row in rows_N])
        for name, plans_NLR in {"last steps": plan(last_NLE, shape), "gated": kinds["gated"]}.items():
            for used in THRESHOLDS:
                taken = at_threshold(share_SLE, static_LR, plans_NLR, rows_N, late, used, shape)
                yield f"{name}, below {used:.0%} use@{every}", taken


def _exact(share_SLE: FloatArray, shape: ClusterShape, late: int) -> list[float]:
    """Measure a plan for each step from that step's loads, or those of some steps before, on pairs of neighbours."""
    first = np.arange(FIRST, len(share_SLE) - 1, EXACT_EVERY)
    one, two = (plan(share_SLE[rows - late], shape) for rows in (first, first + 1))
    imbalance = [
        step_imbalance(p, share_SLE[row][None], shape.devices).mean() for row, p in zip(first, one, strict=True)
    ]
    return [float(np.mean(imbalance)), float(np.mean([_moved(a, b, shape) for a, b in zip(one, two, strict=True)]))]


def _plans(run: Run, rows_N: IntArray, every: int, late: int) -> dict[str, IntArray]:
    """[N, L, R] of every kind of plan that is made every k steps; of those made late only the ones of the map."""
    share_SLE, shape = run.share_SLE, run.shape
    average_NLE, mean_NLE, deviation_NLE = _forecasts(run.trace, rows_N, every, late)
    past_NSLE = [share_SLE[max(0, row - late - PAST) : row - late] for row in rows_N]
    steps_mean_NLE, steps_sd_NLE = (np.stack([of(past, axis=0) for past in past_NSLE]) for of in (np.mean, np.std))
    out = {
        "sw_avg": plan(average_NLE, shape),
        "gated": plan(mean_NLE, shape),
        f"last steps + {Z_STEPS:g} sd": risk_plan(steps_mean_NLE, shape, Z_STEPS, deviation=steps_sd_NLE),
    }
    if late:
        return out
    sums = np.concatenate([np.zeros((1, *share_SLE.shape[1:])), np.cumsum(share_SLE, axis=0)])
    out["true mean"] = plan((sums[rows_N + every] - sums[rows_N]) / every, shape)
    covariance_NLEE = np.stack([_covariance(past) for past in past_NSLE])
    for z in run.z_deviation:
        out[f"gated + {z:g} sd"] = risk_plan(mean_NLE, shape, z, deviation=deviation_NLE)
    for z in run.z_covariance:
        out[f"gated + {z:g} sd, covariance of steps"] = risk_plan(mean_NLE, shape, z, covariance=covariance_NLEE)
    return out


def _covariance(rows_SLE: FloatArray) -> FloatArray:
    """[L, E, E] over the steps."""
    off_LSE = (rows_SLE - rows_SLE.mean(axis=0)).swapaxes(0, 1)
    return np.asarray(off_LSE.swapaxes(1, 2) @ off_LSE / (len(rows_SLE) - 1))


def _forecasts(trace: Trace, rows_N: IntArray, every: int, late: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[N, L, E] each: the mean over the next k steps as `sw_avg` and as `gated` say, and `gated`'s deviations.

    Both are asked ``late`` steps before the first of the k.

    `gated` has the weights that the package ships: those of the suite's own fit.
    """
    info = trace_info(trace)
    average, gated = SlidingWindowAverage(info, 0), Gated(info, 0)
    found, fed = [], 0
    for row in (rows_N - late).tolist():
        block = step_block(trace, fed, row)
        average.observe(block)
        gated.observe(block)
        fed = row
        request = ForecastRequest(row, late + every, (late + every,), (0.1, 0.9))
        told = gated.forecast(request)
        low_LE, high_LE = (np.zeros(0), np.zeros(0)) if told.quantile_QKLE is None else told.quantile_QKLE[:, 0]
        means = (_window(one, late, every) for one in (average.forecast(request), told))
        found.append((*means, (high_LE - low_LE) / NORMAL_80))
    first, second, third = zip(*found, strict=True)
    return np.stack(first), np.stack(second), np.stack(third)


def _window(forecast: Forecast, late: int, every: int) -> FloatArray:
    """Return the mean share [L, E] over ``every`` steps after the first ``late`` ones."""
    until_LE: FloatArray = forecast.window_means((late + every,))[0]
    if not late:
        return until_LE
    before_LE = forecast.window_means((late,))[0]
    return np.asarray(np.maximum((late + every) * until_LE - late * before_LE, 0.0) / every)


def _charged(
    plans_NLR: IntArray, share_SLE: FloatArray, rows_N: IntArray, every: int, shape: ClusterShape
) -> list[float]:
    """Mean imbalance under plans that hold k steps each, and the mean of what the busiest device receives per plan."""
    imbalance = [
        step_imbalance(p, share_SLE[row : row + every], shape.devices).mean()
        for row, p in zip(rows_N.tolist(), plans_NLR, strict=True)
    ]
    moved = [_moved(a, b, shape) for a, b in itertools.pairwise(plans_NLR)]
    return [float(np.mean(imbalance)), float(np.mean(moved)) if moved else 0.0]


def _moved(before_LR: IntArray, after_LR: IntArray, shape: ClusterShape) -> int:
    """Return the most replicas, all layers together, that one device receives; devices renumbered so that
    fewest move.
    """
    moved_LD = replicas_moved(before_LR, with_fewest_moves(before_LR, after_LR, shape), shape.devices)
    return int(moved_LD.sum(axis=0).max())


def reaction(
    fit: Annotated[bool, typer.Option("--fit", help="Measure the `train` runs, on which z is chosen.")] = False,
) -> None:
    """Measure what forecasting is worth in comparison with exact reaction, on suite v1's runs.

    Kept in leaderboard/reaction.json: the mean imbalance over steps and layers, and the most replicas that one device
    receives per plan. Some minutes of one core; runs that are there already are not measured again.
    """
    suite = load_suite(SUITE)
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    runs = known.setdefault("train" if fit else "test", {})
    for entry in suite.fit if fit else suite.traces:
        if entry.id in runs:
            continue
        started = time.process_time()
        trace = read_trace(TRACES / f"{entry.id}.parquet", expected_sha256=entry.data_sha256)
        runs[entry.id] = measure_run(trace, *((Z_TRIED, Z_TRIED) if fit else ((Z_DEVIATION,), (Z_COVARIANCE,))))
        text = json.dumps(known, indent=1, sort_keys=True).replace("\n    ", " ").replace("\n   ]", " ]")
        OUT.write_text(text + "\n")
        print(entry.id, f"{time.process_time() - started:.0f} s of CPU", flush=True)
