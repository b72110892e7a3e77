"""Means that leave NaN out; NaN where every value is NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import Array, FloatArray


def ratio_of(top: Array, bottom: Array) -> FloatArray:
    """Return top / bottom, NaN where the bottom is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def mean_over(values: NDArray[np.floating], axis: int) -> FloatArray:
    """Return the mean along an axis over the values that exist; NaN where none does, without a warning."""
    exists = ~np.isnan(values)
    if values.size and exists.all():
        return np.asarray(values.mean(axis=axis))
    return ratio_of(np.where(exists, values, 0.0).sum(axis=axis), exists.sum(axis=axis))


def mean_known(values: FloatArray) -> float:
    """Return the mean of all values that are finite, NaN if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
