"""`fracast`: a pretrained model of 85 thousand parameters whose weights are in its wheel (`pip install fracast`).

It has seen no expert loads. Nine quantiles, 0.1 to 0.9; levels between them are interpolated, beyond them constant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

from moeload_bench.adapters.blocks import BlockAdapter, FloatArray
from moeload_bench.bounds import whole_number
from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import TraceInfo

FACTS = {"fracast": {"place": 9, "target": "moeload_bench.adapters.fracast:Fracast@context=512"}}
if importlib.util.find_spec("fracast") is None:
    raise MissingExtraError("fracast", "adapters", "the forecaster `fracast`")


CONTEXT = 2048
"""Values that the published network sees; it pads shorter series to as many, and computes the padding too."""
LEAST_CONTEXT = 64
POSITIONS = 8 * CONTEXT
"""Values of the network computed at a time: with eight times as many, which leave the processor's cache, each takes
more than twice as long."""


class Fracast(BlockAdapter):
    """Zero-shot forecasts of block means; the point forecast is the median.

    ``context``: the values that the network sees. It is a convolution, so that fewer of them cost less in proportion;
    with fewer than `CONTEXT` its weights are used as they were not trained.
    """

    def __init__(self, info: TraceInfo, seed: int, context: int = CONTEXT) -> None:
        super().__init__(info, seed)
        self._context = whole_number(context, "context", LEAST_CONTEXT)
        if self._context > CONTEXT:
            raise TargetError(f"fracast: context is {context}, expected {LEAST_CONTEXT} to {CONTEXT}")
        import torch
        from fracast import FracastModel

        torch.set_num_threads(1)
        self._model = FracastModel.from_pretrained(weights="fp32")
        core = self._model.core
        self._model.context_length = core.W = core.periodic.W = self._context
        core.level_widths = [self._context]

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """As many series at a time as make `POSITIONS` values."""
        size = POSITIONS // self._context
        parts = [context_NT[first : first + size] for first in range(0, len(context_NT), size)]
        native_NHQ = np.concatenate([self._model.forecast_batch(part_NT, horizon=ahead) for part_NT in parts])
        value_NHQ = native_NHQ.astype(np.float64)
        native_levels = np.array(self._model.quantiles)
        median = int(np.abs(native_levels - 0.5).argmin())
        return value_NHQ[:, :, median], between_levels(value_NHQ, native_levels, levels)


def between_levels(value_NHQ: FloatArray, native_levels: FloatArray, levels: Sequence[float]) -> FloatArray:
    """[Q, N, H]: the levels asked for, interpolated between those known, constant beyond them."""
    value_NHQ = np.sort(value_NHQ, axis=2)
    place_Q = np.interp(levels, native_levels, np.arange(len(native_levels)))
    low = np.minimum(place_Q.astype(np.int64), len(native_levels) - 2)
    part_Q = place_Q - low
    return np.moveaxis((1 - part_Q) * value_NHQ[:, :, low] + part_Q * value_NHQ[:, :, low + 1], 2, 0)
