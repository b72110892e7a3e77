"""`sktime`: any forecaster of sktime by its import path (`pip install sktime`), fitted to each series at every origin.

moeload-bench run 'moeload_bench.adapters.sktime:Sktime@estimator="sktime.forecasting.theta.ThetaForecaster",sp=7'
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from moeload_bench.adapters.blocks import BlockAdapter
from moeload_bench.arrays import FloatArray
from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import TraceInfo

if importlib.util.find_spec("sktime") is None:
    raise MissingExtraError("sktime", "adapters", "the forecaster `sktime`")

CONTEXT = 128
PROBABILISTIC = "capability:pred_int"


class Sktime(BlockAdapter):
    """``estimator``: the path of a class below `sktime.forecasting`; all other arguments are passed to it.

    Quantiles where the class says that it has them.
    """

    def __init__(
        self, info: TraceInfo, seed: int, estimator: str = "sktime.forecasting.naive.NaiveForecaster", **arguments: Any
    ) -> None:
        super().__init__(info, seed)
        module, _, name = estimator.rpartition(".")
        if not module.startswith("sktime.forecasting"):
            raise TargetError(f"sktime: estimator is {estimator!r}, expected a class below sktime.forecasting")
        try:
            self._make = functools.partial(getattr(importlib.import_module(module), name), **arguments)
            self._make()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise TargetError(f"sktime: estimator {estimator!r}: {error}") from None

    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return one fit per series."""
        points, quantiles = [], []
        steps = np.arange(1, ahead + 1)
        for series_T in context_NT[:, -CONTEXT:]:
            fitted = self._make().fit(series_T, fh=steps)
            points.append(np.asarray(fitted.predict(), dtype=np.float64).reshape(ahead))
            if levels and fitted.get_tag(PROBABILISTIC, False, raise_error=False):
                quantiles.append(np.asarray(fitted.predict_quantiles(alpha=list(levels)), dtype=np.float64).T)
        return np.stack(points), np.stack(quantiles, axis=1) if len(quantiles) == len(points) else None
