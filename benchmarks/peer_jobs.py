"""What `compare.py` runs inside the environment of the peers (fev pins datasets < 5). Prints one JSON object.

python peer_jobs.py statsforecast SERIES.npz      mean CPU seconds of ARIMA(1,1,1), fit and 2,000 steps, per series
python peer_jobs.py fev-data FOLDER --series N --steps S
python peer_jobs.py fev FOLDER --series N --steps S --windows W
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

HORIZON = 1000


def statsforecast_job(path: Path) -> dict[str, float]:
    """Time each array of the file, one series up to one origin; the first call (compilation) is not counted."""
    from statsforecast.models import ARIMA

    with np.load(path) as archive:
        series = [archive[name] for name in archive.files]
    ARIMA(order=(1, 1, 1)).forecast(series[0], 10)
    seconds, failed = [], 0
    for values in series:
        start = time.process_time()
        try:
            ARIMA(order=(1, 1, 1)).forecast(values, 2000)
            seconds.append(time.process_time() - start)
        except (ValueError, np.linalg.LinAlgError):
            failed += 1  # its optimiser refuses some series ("non-finite value supplied")
    return {"seconds": float(np.mean(seconds)), "failed": failed}


def write_fev_data(folder: Path, series: int, steps: int) -> dict[str, float]:
    """Write the same share series in fev's layout: one row per series, timestamps a second apart."""
    import datasets

    rng = np.random.default_rng(0)
    stamps = np.datetime64("2020-01-01T00:00:00") + np.arange(steps).astype("timedelta64[s]")
    rows = ({"id": str(i), "timestamp": stamps, "target": rng.uniform(size=steps)} for i in range(series))
    features = datasets.Features(
        id=datasets.Value("string"),
        timestamp=datasets.Sequence(datasets.Value("timestamp[s]")),
        target=datasets.Sequence(datasets.Value("float64")),
    )
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(rows), features=features).to_parquet(str(folder / "data.parquet"))
    return {}


def fev_job(folder: Path, windows: int) -> dict[str, float]:
    """Load, hand out inputs, forecast the last value, score: as fev's own documentation does it."""
    import fev

    start = time.process_time()
    task = fev.Task(dataset_path=str(folder / "data.parquet"), horizon=HORIZON, num_windows=windows, eval_metric="MAE")
    task.load_full_dataset()
    loaded = time.process_time()
    predictions = []
    for window in task.iter_windows():
        past, _ = window.get_input_data()
        last = [row[-1] for row in past.with_format("numpy")["target"]]
        predictions.append([{"predictions": np.full(HORIZON, value)} for value in last])
    asked = time.process_time()
    task.evaluation_summary(predictions, model_name="last_value")
    end = time.process_time()
    return {"load": loaded - start, "replay": asked - loaded, "score": end - asked, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return most resident memory so far. `ru_maxrss` would begin at what the process that started this one had."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["statsforecast", "fev-data", "fev"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--series", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--windows", type=int, default=10)
    args = parser.parse_args()
    if args.job == "statsforecast":
        out = statsforecast_job(args.path)
    elif args.job == "fev-data":
        out = write_fev_data(args.path, args.series, args.steps)
    else:
        out = fev_job(args.path, args.windows)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
