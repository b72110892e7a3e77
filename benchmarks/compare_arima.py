"""ARIMA side by side: the engine `grid` against statsmodels and statsforecast, A B A B in one process.

Axis letters: S rows, N series, B blocks, O origins.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from compare_common import HERE, Row, run_json, spread, verdict
from moeload_bench.baselines import _arima_batch as batch
from moeload_bench.baselines import _arima_exact as exact
from moeload_bench.baselines._arima_stream import Stream

from moeload_bench.arrays import FloatArray
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import load_trace

HORIZONS = (1, 10, 100, 1000, 2000)
WHOLE = 1_000_000
TRACES = ("qwen3moe-tiny-8e-aux0/test/seed1", "qwen3moe-tiny-8e/test/seed1")
CLOSE = 1e-3


def rows(peer: Path, quick: bool) -> list[Row]:
    """Return the three ARIMA goals, over both bundled test traces."""
    return [*_simple_rows(peer, quick), _paper_row(quick)]


def _simple_rows(peer: Path, quick: bool) -> list[Row]:
    rounds, fits = (1, 2) if quick else (4, 12)
    parts = [simple_orders(peer, trace, rounds, fits) for trace in TRACES]
    ours, theirs, others, gain = ([x for part in parts for x in part[key]] for key in ("ours", "theirs", "sf", "gain"))
    off, best = (np.array([x for part in parts for x in part[key]]) < CLOSE for key in ("off", "off_best"))
    ratio, ratio_sf = (float(np.median(side) / np.median(ours)) for side in (theirs, others))
    failed = sum(part["failed"] for part in parts)
    fast_enough = "" if ratio >= 1000 else "missed in speed; "
    agreement = (
        f"{off.mean():.0%} of {len(off)} forecasts are within 0.1 % of the fit that the goal names, {best.mean():.0%} "
        "within 0.1 % of the exact optimum near our parameters"
    )
    lower = f"the default fit's log-likelihood is lower by more than 0.1 for {(np.array(gain) > 0.1).mean():.0%}"

    return [
        Row(
            "ARIMA(1,1,1), every series and origin of the bundled test traces, against statsmodels' default",
            "1,000 times; forecasts within 0.1 %",
            f"{ratio:,.0f} times: {spread(ours, 1e6)} against {spread(theirs, 1e6)} microseconds per series and "
            f"origin; {lower}",
            "met" if ratio >= 1000 and off.all() else fast_enough + agreement,
        ),
        Row(
            "the same, against statsforecast's ARIMA(1,1,1)",
            "200 times",
            f"{ratio_sf:,.0f} times: {spread(others, 1e6)} microseconds per series and origin; {failed} of "
            f"{rounds * fits * len(TRACES)} fits failed and are left out",
            verdict(ratio_sf >= 200),
        ),
    ]


def _paper_row(quick: bool) -> Row:
    rng = np.random.default_rng(1)
    parts = [paper_order(trace, 1 if quick else 6, 2 if quick else None, rng) for trace in TRACES]
    fast, slow = ([x for part in parts for x in part[key]] for key in ("ours", "theirs"))
    more, tv = (np.array([x for part in parts for x in part[key]]) for key in ("gain", "tv"))
    ratio = float(np.median(slow) / np.median(fast))
    change = float(tv[:, 0].mean() / tv[:, 1].mean() - 1)
    worse = float((more < -1).mean())
    missed = [
        *(["in speed"] if ratio < 100 else []),
        *(["in window_tv"] if abs(change) > 0.01 else []),
        *([f"for {worse:.0%} of series in likelihood"] if worse else []),
    ]

    return Row(
        "ARIMA(5,1,5), history 1,000, against statsmodels with 500 iterations",
        "100 times; log-likelihood no worse than its less 1; window_tv within 1 %",
        f"{ratio:,.0f} times: {spread(fast, 1e3)} against {spread(slow, 1e3)} ms per series. Log-likelihood "
        f"higher by {more.mean():.2f} on average, lower by more than 1 for {worse:.0%} of {len(more)} series "
        f"(least {more.min():.1f}); window_tv at 1,000 steps {tv[:, 0].mean():.4f} against {tv[:, 1].mean():.4f} "
        f"({change:+.1%})",
        "missed " + ", ".join(missed) if missed else "met",
    )


def scaled_series(trace_id: str) -> FloatArray:
    """[S, N]: shares times E."""
    trace = load_trace(trace_id)
    return (trace.share_SLE() * trace.num_experts).reshape(trace.steps, -1)


def origins_of(trace_id: str) -> list[int]:
    entry = next(entry for entry in load_suite("mini").traces if entry.id == trace_id)
    return [origin for origin, _ in entry.origins()]


def stream_all(series_SN: FloatArray, origins: list[int]) -> list[FloatArray]:
    """[B, N] per origin: every fit and forecast of a trace, history since its first step."""
    stream, fed, out = Stream(series_SN.shape[1], WHOLE), 0, []
    for origin in origins:
        stream.push(series_SN[fed:origin])
        fed = origin
        out.append(stream.forecast(True, np.array(HORIZONS)))
    return out


def block_means(path_H: Any) -> FloatArray:
    return np.array([np.mean(path_H[a:b]) for a, b in zip((0, *HORIZONS[:-1]), HORIZONS, strict=True)])


def simple_orders(peer: Path, trace_id: str, rounds: int, fits: int) -> dict[str, Any]:
    """(1,1,1): all series and origins by `grid`, then a seeded sample of them by statsmodels' default and by
    statsforecast, in turns."""
    from statsmodels.tsa.arima.model import ARIMA

    series, origins = scaled_series(trace_id), [o for o in origins_of(trace_id) if o >= 100]
    stream_all(series, origins[:1])
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"ours": [], "theirs": [], "sf": [], "off": [], "off_best": [], "gain": [], "failed": 0}
    for _ in range(rounds):
        start = time.process_time()
        forecasts = stream_all(series, origins)
        out["ours"].append((time.process_time() - start) / (len(origins) * series.shape[1]))
        picked = [(int(rng.integers(len(origins))), int(rng.integers(series.shape[1]))) for _ in range(fits)]
        pasts = [np.ascontiguousarray(series[: origins[i], n]) for i, n in picked]
        spent = 0.0
        for (i, n), past in zip(picked, pasts, strict=True):
            start = time.process_time()
            result = ARIMA(past, order=(1, 1, 1)).fit()
            path = result.forecast(HORIZONS[-1])
            spent += time.process_time() - start
            best = _best_exact(past, series[: origins[i]], n)
            out["off"].append(np.abs(forecasts[i][:, n] / block_means(path) - 1).max())
            out["off_best"].append(np.abs(forecasts[i][:, n] / block_means(best.forecast(HORIZONS[-1])) - 1).max())
            out["gain"].append(best.llf - result.llf)
        out["theirs"].append(spent / fits)
        there = statsforecast(peer, pasts)
        out["sf"].append(there["seconds"])
        out["failed"] += int(there["failed"])
    return out


def _best_exact(past_S: FloatArray, past_SN: FloatArray, n: int) -> Any:
    """statsmodels' optimum started from the parameters that `grid` found: is there a better one nearby?"""
    from statsmodels.tsa.arima.model import ARIMA

    stream = Stream(1, WHOLE)
    stream.push(np.ascontiguousarray(past_SN[:, n : n + 1]))
    theta, phi = stream.fit(True)[0, :2]
    variance = float(np.var(np.diff(past_S)))
    return ARIMA(past_S, order=(1, 1, 1)).fit(
        start_params=[phi, max(theta, -0.9998), variance / 2], method_kwargs={"maxiter": 500}
    )


def paper_order(trace_id: str, layers: int, experts: int | None, rng: np.random.Generator) -> dict[str, Any]:
    """(5,1,5), history 1,000: whole layers, or their first experts, at seeded origins, statsmodels with 500
    iterations."""
    order = (5, 1, 5)
    trace, series = load_trace(trace_id), scaled_series(trace_id)
    every, E = trace.num_experts, experts or trace.num_experts
    origins = [o for o in origins_of(trace_id) if o >= 400]
    batch.fit(series[:200, :2], order, 5)
    ours, theirs, gain, tv = [], [], [], []
    for _ in range(layers):
        origin, layer = int(rng.choice(origins)), int(rng.integers(trace.num_layers))
        past = np.ascontiguousarray(series[max(0, origin - 1000) : origin, layer * every : layer * every + E])
        start = time.process_time()
        fast = batch.fit(past, order, 50)
        middle = time.process_time()
        slow = exact.fit(past, order, 500)
        theirs.append((time.process_time() - middle) / E)
        ours.append((middle - start) / E)
        for n in range(E):
            gain.append(
                exact.log_likelihood(past[:, n], fast.param_NP[n], order)
                - exact.log_likelihood(past[:, n], slow.param_NP[n], order)
            )
        truth = series[origin : origin + 1000, layer * every : layer * every + E].mean(axis=0)
        means = [exact.forecast(past, fits, order, (1000,))[0] for fits in (fast, slow)]
        tv.append([0.5 * np.abs(mean / mean.sum() - truth / truth.sum()).sum() for mean in means])
    return {"ours": ours, "theirs": theirs, "gain": gain, "tv": tv}


def statsforecast(peer: Path, pasts: list[FloatArray]) -> dict[str, float]:
    """Mean seconds of its ARIMA(1,1,1), by the peers' interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.npz"
        np.savez(path, *pasts)
        return run_json([peer, HERE / "peer_jobs.py", "statsforecast", path])


def quiet() -> None:
    """statsmodels warns about start values on almost every series, and switches its warnings on when imported."""
    import statsmodels.tsa.arima.model  # noqa: F401  so that the filter below comes after its own

    warnings.simplefilter("ignore")
