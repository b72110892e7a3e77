"""`fracast`: a pretrained model of 85 thousand parameters whose weights are in its wheel (`pip install fracast`).

It has seen no expert loads. Nine quantiles, 0.1 to 0.9; levels between them are interpolated, beyond them constant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

from moeload_bench.adapters.blocks import BlockAdapter, FloatArray
from moeload_bench.errors import MissingExtraError
from moeload_bench.forecaster import TraceInfo

if importlib.util.find_spec("fracast") is None:
    raise MissingExtraError("fracast", "adapters", "the forecaster `fracast`")


class Fracast(BlockAdapter):
    """Zero-shot forecasts of block means; the point forecast is the median."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        super().__init__(info, seed)
        import torch
        from fracast import FracastModel

        torch.set_num_threads(1)
        self._model = FracastModel.from_pretrained(weights="fp32")

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """One batch of all series."""
        native = np.asarray(self._model.forecast_batch(context_NT, horizon=ahead), dtype=np.float32)
        told_NHQ = native.astype(np.float64)
        known = np.array(self._model.quantiles)
        return told_NHQ[:, :, int(np.abs(known - 0.5).argmin())], between_levels(told_NHQ, known, levels)


def between_levels(told_NHQ: FloatArray, known: FloatArray, levels: Sequence[float]) -> FloatArray:
    """[Q, N, H]: the levels asked for, interpolated between those known, constant beyond them."""
    told_NHQ = np.sort(told_NHQ, axis=2)
    at = np.interp(levels, known, np.arange(len(known)))
    low = np.minimum(at.astype(np.int64), len(known) - 2)
    part_Q = at - low
    return np.moveaxis((1 - part_Q) * told_NHQ[:, :, low] + part_Q * told_NHQ[:, :, low + 1], 2, 0)
