"""What a metric reads: a forecast and what came, over one horizon; and what plans cost, over all horizons.

Axis letters: C rows of a chunk, K suite horizons, L MoE layers, E experts, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.scoring.metrics import valid_rows
from moeload_bench.traces.means import ratio_of


@dataclass
class StepSums:
    """Sums over the rows with load seen so far.

    ``rows_L`` counts them; ``distance_L`` sums |forecast - share| over experts, ``ratio_L`` the same divided by the
    share where that is above 0, and ``cells_L`` counts these cells.
    """

    rows_L: FloatArray
    share_LE: FloatArray
    forecast_LE: FloatArray
    distance_L: FloatArray
    ratio_L: FloatArray
    cells_L: FloatArray

    @classmethod
    def zero(cls, L: int, E: int) -> StepSums:
        return cls(np.zeros(L), np.zeros((L, E)), np.zeros((L, E)), np.zeros(L), np.zeros(L), np.zeros(L))

    def add(self, forecast_CLE: FloatArray, share_CLE: FloatArray) -> None:
        """Take in rows; ``forecast_CLE`` may be [1, L, E]."""
        valid_CL = valid_rows(share_CLE)
        count_L = valid_CL.sum(axis=0).astype(np.float64)
        share = share_CLE if valid_CL.all() else np.where(valid_CL[..., None], share_CLE, 0.0)
        gap = np.abs(forecast_CLE - share)
        if share is not share_CLE:
            gap[~valid_CL] = 0.0
        self.rows_L += count_L
        self.share_LE += share.sum(axis=0)
        if forecast_CLE.shape[0] == 1:
            self.forecast_LE += forecast_CLE[0] * count_L[:, None]
        else:
            self.forecast_LE += np.where(valid_CL[..., None], forecast_CLE, 0.0).sum(axis=0)
        self.distance_L += gap.sum(axis=(0, 2))
        positive = share > 0
        np.divide(gap, share, out=gap, where=positive)
        gap[~positive] = 0.0
        self.ratio_L += gap.sum(axis=(0, 2))
        self.cells_L += positive.sum(axis=(0, 2))

    def window(
        self, last_share_LE: FloatArray | None, quantile_QLE: FloatArray | None, levels: tuple[float, ...]
    ) -> Window:
        """Make the window of the rows seen so far."""
        forecast_LE, share_LE = (ratio_of(sum_LE, self.rows_L[:, None]) for sum_LE in (self.forecast_LE, self.share_LE))
        return Window(forecast_LE, share_LE, self, last_share_LE, quantile_QLE, levels)


class Window(NamedTuple):
    """One forecast and what came over one horizon: mean shares, NaN in a layer without load.

    None where it is not known: ``steps``, where only means were kept; ``last_share_LE``, mean shares before the origin;
    ``quantile_QLE``, where the forecast has no quantiles at these ``levels``.
    """

    forecast_LE: FloatArray
    share_LE: FloatArray
    steps: StepSums | None = None
    last_share_LE: FloatArray | None = None
    quantile_QLE: FloatArray | None = None
    levels: tuple[float, ...] = ()


class PlanWindow(NamedTuple):
    """What the plans for one cluster shape cost: sums over the rows with load, [K, L].

    ``worst_KL`` is the largest device's share and ``oracle_KL`` that of the plans made from the truth (None for the
    experts' own buffers, which are no plan), ``over_KL`` the share over the capacity, ``rows_KL`` how many rows.
    """

    devices: int
    over_KL: FloatArray
    rows_KL: FloatArray
    worst_KL: FloatArray | None = None
    oracle_KL: FloatArray | None = None
