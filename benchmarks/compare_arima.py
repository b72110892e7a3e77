"""ARIMA side by side: the engine `grid` against statsmodels and statsforecast, A B A B in one process.

Axis letters: S rows, N series, B blocks, O origins.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from moeload_bench.baselines import _arima_batch as batch
from moeload_bench.baselines import _arima_exact as exact
from moeload_bench.baselines._arima_stream import Stream
from numpy.typing import NDArray

from moeload_bench.store import load_trace
from moeload_bench.suite import load_suite

FloatArray = NDArray[np.float64]
HORIZONS = (1, 10, 100, 1000, 2000)
WHOLE = 1_000_000


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


def simple_orders(trace_id: str, rounds: int, fits: int) -> dict[str, Any]:
    """(1,1,1): all series and origins by `grid`, a seeded sample of them by statsmodels' default."""
    from statsmodels.tsa.arima.model import ARIMA

    series, origins = scaled_series(trace_id), [o for o in origins_of(trace_id) if o >= 100]
    stream_all(series, origins[:1])
    rng = np.random.default_rng(0)
    ours, theirs, off, off_best, gain = [], [], [], [], []
    for _ in range(rounds):
        start = time.process_time()
        forecasts = stream_all(series, origins)
        ours.append((time.process_time() - start) / (len(origins) * series.shape[1]))
        start, spent = time.process_time(), 0.0
        for _ in range(fits):
            i, n = int(rng.integers(len(origins))), int(rng.integers(series.shape[1]))
            past = np.ascontiguousarray(series[: origins[i], n])
            start = time.process_time()
            result = ARIMA(past, order=(1, 1, 1)).fit()
            path = result.forecast(HORIZONS[-1])
            spent += time.process_time() - start
            off.append(np.abs(forecasts[i][:, n] / block_means(path) - 1).max())
            best = _best_exact(past, series[: origins[i]], n)
            off_best.append(np.abs(forecasts[i][:, n] / block_means(best.forecast(HORIZONS[-1])) - 1).max())
            gain.append(best.llf - result.llf)
        theirs.append(spent / fits)
    return {"ours": ours, "theirs": theirs, "off": off, "off_best": off_best, "gain": gain, "fits": len(origins)}


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


def paper_order(trace_id: str, layers: int, rng: np.random.Generator) -> dict[str, Any]:
    """(5,1,5), history 1,000: whole layers at seeded origins, statsmodels with 500 iterations."""
    order = (5, 1, 5)
    trace, series = load_trace(trace_id), scaled_series(trace_id)
    E = trace.num_experts
    origins = [o for o in origins_of(trace_id) if o >= 400]
    batch.fit(series[:200, :2], order, 5)
    ours, theirs, gain, tv = [], [], [], []
    for _ in range(layers):
        origin, layer = int(rng.choice(origins)), int(rng.integers(trace.num_layers))
        past = np.ascontiguousarray(series[max(0, origin - 1000) : origin, layer * E : (layer + 1) * E])
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
        truth = series[origin : origin + 1000, layer * E : (layer + 1) * E].mean(axis=0)
        means = [exact.forecast(past, fits, order, (1000,))[0] for fits in (fast, slow)]
        tv.append([0.5 * np.abs(mean / mean.sum() - truth / truth.sum()).sum() for mean in means])
    return {"ours": ours, "theirs": theirs, "gain": gain, "tv": tv}


def statsforecast(peer: Path, trace_id: str, fits: int) -> float:
    """Mean seconds of its ARIMA(1,1,1), by the peers' interpreter, on seeded series and origins."""
    series, origins = scaled_series(trace_id), [o for o in origins_of(trace_id) if o >= 100]
    rng = np.random.default_rng(0)
    picked = {f"s{i}": series[: int(rng.choice(origins)), int(rng.integers(series.shape[1]))] for i in range(fits)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.npz"
        np.savez(path, **picked)
        return float(
            run_json([str(peer), str(Path(__file__).with_name("peer_jobs.py")), "statsforecast", str(path)])["seconds"]
        )


def run_json(command: list[str]) -> dict[str, float]:
    """Run a job and read the JSON object on the last line that it prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    out: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return out


def quiet() -> None:
    """statsmodels warns about start values on almost every series, and switches its warnings on when imported."""
    import statsmodels.tsa.arima.model  # noqa: F401  so that the filter below comes after its own

    warnings.simplefilter("ignore")
