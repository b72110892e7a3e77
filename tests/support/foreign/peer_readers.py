"""Run by the interpreter of the peers' environment: a file read by its tool's own reader, written out as arrays.

    python peer_readers.py statsforecast|fev|gluonts|torch FILE OUT.npz

Every array is one series by its name; `last/NAME` is what the tool forecasts by repeating the last value.
"""

from __future__ import annotations

import sys

import numpy as np


def statsforecast(path: str) -> dict[str, np.ndarray]:
    """Nixtla's long table, as pandas reads it, through `StatsForecast.forecast`."""
    import pandas as pd
    from statsforecast import StatsForecast
    from statsforecast.models import Naive

    frame = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)
    stride = int(frame["ds"].iloc[1] - frame["ds"].iloc[0])
    ahead = StatsForecast(models=[Naive()], freq=stride).forecast(df=frame, h=2)
    out = {str(name): part["y"].to_numpy() for name, part in frame.groupby("unique_id")}
    out |= {f"last/{name}": part["Naive"].to_numpy() for name, part in ahead.groupby("unique_id")}
    return out


def fev(path: str) -> dict[str, np.ndarray]:
    """A task over the file; the past of its one window and the future it holds back make the series again."""
    import fev

    task = fev.Task(dataset_path=path, horizon=5, num_windows=1, eval_metric="MAE")
    past, _ = task.get_window(0).get_input_data()
    future = task.get_window(0).get_ground_truth()
    names = past["id"]
    return {
        name: np.concatenate([np.asarray(a["target"]), np.asarray(b["target"])])
        for name, a, b in zip(names, past, future, strict=True)
    }


def gluonts(path: str) -> dict[str, np.ndarray]:
    """`FileDataset` over the JSON Lines."""
    from pathlib import Path

    from gluonts.dataset.common import FileDataset

    return {entry["item_id"]: np.asarray(entry["target"]) for entry in FileDataset(Path(path), freq="10s")}


def torch(path: str) -> dict[str, np.ndarray]:
    """`torch.load(weights_only=True)`, as sglang opens `--init-expert-location`."""
    import torch

    return {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True).items()}


if __name__ == "__main__":
    np.savez(sys.argv[3], **globals()[sys.argv[1]](sys.argv[2]))
