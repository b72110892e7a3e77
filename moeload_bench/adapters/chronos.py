"""Chronos (the first, Chronos-Bolt, Chronos-2) from a local folder of weights (`pip install chronos-forecasting`).

    moeload-bench run 'moeload_bench.adapters.chronos:Chronos@folder="/models/chronos-bolt-tiny"'

TimesFM, TiRex and their like follow the same pattern: a class of your own below `BlockAdapter` whose ``predict`` hands
the series to the model and returns points and quantiles; weights from a local folder, or from a pinned wheel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moeload_bench.adapters.blocks import BlockAdapter
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import TraceInfo

if importlib.util.find_spec("chronos") is None:
    raise MissingExtraError("chronos", "adapters", "the forecaster `chronos`")

MEDIAN = 0.5


class Chronos(BlockAdapter):
    """``folder`` holds `config.json` and `model.safetensors`, as the Hub has them; pickled weights are refused."""

    def __init__(self, info: TraceInfo, seed: int, folder: str = "") -> None:
        super().__init__(info, seed)
        place = Path(folder)
        if not folder or not all((place / name).is_file() for name in ("config.json", "model.safetensors")):
            raise TargetError(
                f"chronos: folder is {folder!r}, expected a local folder with config.json and model.safetensors"
            )
        import torch
        from chronos import BaseChronosPipeline

        torch.set_num_threads(1)
        try:
            self._pipeline = BaseChronosPipeline.from_pretrained(
                str(place), device_map="cpu", local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # the library, transformers and safetensors each have their own
            raise TargetError(f"chronos: {folder!r} cannot be read: {error}") from error

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return one batch of all series, as a list, which every class takes; medians as points.

        The first Chronos draws its forecasts, so the seed is set at every call: what was asked before changes nothing.
        """
        import torch

        asked = sorted({MEDIAN, *levels})
        series = list(torch.as_tensor(context_NT, dtype=torch.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            quantiles, _ = self._pipeline.predict_quantiles(series, prediction_length=ahead, quantile_levels=asked)
        value_NHQ = np.stack([np.asarray(v, dtype=np.float64).reshape(ahead, len(asked)) for v in quantiles])
        value_QNH = np.moveaxis(value_NHQ, 2, 0)
        return value_QNH[asked.index(MEDIAN)], value_QNH[[asked.index(q) for q in levels]]
