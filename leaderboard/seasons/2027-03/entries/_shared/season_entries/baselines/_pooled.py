"""What `online` fits on a run's own past: weights of candidates, a ridge that all layers share, similar rows.

Everything is computed from what is remembered when a forecast is asked for, so that observing only remembers.

Axis letters: N targets (newest first), C candidates, F features, L MoE layers, E experts, J rows of a library.
"""

from __future__ import annotations

import numpy as np

from ._measures import LEAST_TV, tv
from ._series import FloatArray, IntArray

NEIGHBOURS = 4
"""Similar rows of which the mean is taken."""
PENALTY = 0.02
"""Of the ridge, in units of a feature's own sum of squares; a lone target's worth of it is added."""


def log_errors(forecast_NCLE: FloatArray, target_NLE: FloatArray) -> FloatArray:
    """[C, L]: log of the mean error; half of it is the layer's own and half that of the mean over layers."""
    error_CL = np.maximum(tv(forecast_NCLE, target_NLE[:, None]).mean(axis=0), LEAST_TV)
    return np.asarray(0.5 * (np.log(error_CL) + np.log(error_CL.mean(axis=1, keepdims=True))))


def powers(log_CL: FloatArray, sharpness: float) -> FloatArray:
    """[C, L]: weights that sum to 1 over candidates, errors to the power of -``sharpness``."""
    weight_CL = np.exp(-sharpness * (log_CL - log_CL.min(axis=0)))
    return np.asarray(weight_CL / weight_CL.sum(axis=0))


def pooled_ridge(feature_NFLE: FloatArray, residual_NLE: FloatArray, weight_N: FloatArray) -> FloatArray:
    """[F]: one coefficient per feature for all layers and experts, by weighted least squares with a penalty."""
    N, F = feature_NFLE.shape[:2]
    flat_NFK = feature_NFLE.reshape(N, F, -1)
    square_FF = np.tensordot(weight_N, flat_NFK @ flat_NFK.swapaxes(1, 2), axes=1)
    cross_F = np.tensordot(weight_N, (flat_NFK @ residual_NLE.reshape(N, -1, 1))[..., 0], axes=1)
    scale_F = np.sqrt(np.maximum(np.diag(square_FF), 1e-18))
    penalty = PENALTY * (1 + 1 / weight_N.sum())
    scaled_FF = square_FF / np.outer(scale_F, scale_F) + penalty * np.eye(F)
    return np.asarray(np.linalg.solve(scaled_FF, cross_F / scale_F) / scale_F)


def similar_rows(row_JLE: FloatArray, back_N: IntArray, ahead: int) -> tuple[IntArray, FloatArray]:
    """Return which rows are most like the newest one that each origin has seen, and their weights, both [N, K, L].

    ``row_JLE``: newest first. Row j can serve the origin that has not seen ``back`` rows if the ``ahead`` rows after it
    are seen there: j >= back + ahead. Weights fall with the squared distance.
    """
    row_LJE = row_JLE.swapaxes(0, 1)
    size_LJ = (row_LJE * row_LJE).sum(axis=2)
    product_LNJ = row_LJE[:, back_N] @ row_LJE.swapaxes(1, 2)
    square_LNJ = size_LJ[:, back_N][:, :, None] + size_LJ[:, None, :] - 2 * product_LNJ
    square_LNJ = np.maximum(np.round(square_LNJ, 9), 0.0)
    too_new_NJ = np.arange(len(row_JLE)) < (back_N + ahead)[:, None]
    square_LNJ = np.where(too_new_NJ, np.inf, square_LNJ)
    nearest_LNK = np.argsort(square_LNJ, axis=2, kind="stable")[..., :NEIGHBOURS]
    weight_LNK = 1 / (np.take_along_axis(square_LNJ, nearest_LNK, axis=2) + 1e-9)
    weight_LNK /= weight_LNK.sum(axis=2, keepdims=True)
    return np.moveaxis(nearest_LNK, 0, 2), np.moveaxis(weight_LNK, 0, 2)
