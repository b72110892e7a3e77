"""Plans that a forecast leads to, to scores: how unequal their device loads are, and how much of that is its fault.

The metrics are the catalogue's. ``regret`` compares with the plan that the same planner makes from the true window
mean; both planners are greedy, so it can be slightly negative. ``drop_rate`` is the share of tokens over a device's
capacity, `CAPACITY_FACTOR` times the mean device load (the device-level rule of DeepSeek-V2, arXiv 2405.04434), or, for
the shape name ``experts``, over the buffers that `plans.expert_capacity` divides by forecast.

Axis letters: H rows of the window, K suite horizons, L MoE layers, E experts, D devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray
from moeload_bench.errors import PlacementError
from moeload_bench.placement.cost import CAPACITY_FACTOR, device_weights
from moeload_bench.placement.plans import ClusterShape, expert_capacity, plan
from moeload_bench.scoring.catalogue import EXPERTS, METRICS
from moeload_bench.scoring.window import PlanWindow

Scores = dict[str, FloatArray]
Costs = Mapping[str, PlanWindow]
"""By the name of a cluster shape, or `EXPERTS`."""


@dataclass(frozen=True, eq=False)
class References:
    """What plans cost that depend on the trace only; made once per origin and used for every forecaster.

    ``costs`` are those of the plans for ``oracle`` (made from the true window mean) and ``uniform``. The plan from the
    last observed load is that of the baseline `last_value`.
    """

    shapes: tuple[ClusterShape, ...]
    rows_K: tuple[int, ...]
    costs: Mapping[str, Costs]

    def failed(self) -> Scores:
        """Return what a task without a forecast scores: twice the load and the drops of the uniform plan."""
        doubled = {
            name: cost._replace(over_KL=2 * cost.over_KL, worst_KL=None if cost.worst_KL is None else 2 * cost.worst_KL)
            for name, cost in self.costs["uniform"].items()
        }
        return self.scored(doubled)

    def scored(self, costs: Costs) -> Scores:
        """Return every metric of plans, METRIC@SHAPE to [K, L]."""
        oracle = self.costs["oracle"]
        windows = {name: cost._replace(oracle_KL=oracle[name].worst_KL) for name, cost in costs.items()}
        return {
            f"{metric.name}@{name}": metric.formula(window)
            for metric in METRICS.values()
            if metric.per == "plan"
            for name, window in windows.items()
            if metric.applies(window)
        }

    def to_tree(self) -> dict[str, Any]:
        """Return the payload, which JSON can hold."""
        costs = {
            plan: {
                name: [None if part is None else np.asarray(part).tolist() for part in cost]
                for name, cost in windows.items()
            }
            for plan, windows in self.costs.items()
        }
        return {"shapes": [asdict(shape) for shape in self.shapes], "rows_K": list(self.rows_K), "costs": costs}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> References:
        """Return the references of a payload of `to_tree`."""
        costs = {
            plan: {
                name: PlanWindow(devices, *(np.array(part, dtype=np.float64) for part in parts if part is not None))
                for name, (devices, *parts) in windows.items()
            }
            for plan, windows in tree["costs"].items()
        }
        return cls(tuple(ClusterShape(**shape) for shape in tree["shapes"]), tuple(tree["rows_K"]), costs)


def reference_plans(
    share_HLE: FloatArray, rows_K: Sequence[int], shapes: Sequence[ClusterShape], experts: bool = True
) -> References:
    """Return plans from the truth and from uniform loads, and their costs on each shape, with `EXPERTS` if asked for.

    ``share_HLE`` [rows, L, E]: true shares of the window, NaN throughout where a layer-step has no load (fastest as a
    view whose rows are contiguous in memory); ``rows_K``: rows of each horizon, rising.
    Raises `PlacementError` for shapes that do not fit E.
    """
    window_LEH, valid_LH = _window(share_HLE, rows_K)
    L, E = share_HLE.shape[1:]
    true_KLE = _prefix_means(window_LEH, valid_LH, rows_K)
    made = {"oracle": true_KLE, "uniform": np.full((1, L, E), 1 / E)}
    costs = {name: _costs(share_KLE, window_LEH, valid_LH, rows_K, shapes, experts) for name, share_KLE in made.items()}
    return References(tuple(shapes), tuple(rows_K), costs)


def score_plans(mean_share_hat_KLE: FloatArray, share_HLE: FloatArray, references: References) -> Scores:
    """Score the plans made from a forecast: every metric of plans, METRIC@SHAPE to [K, L].

    ``mean_share_hat_KLE``: the forecast's mean share over each horizon; ``share_HLE`` as for `reference_plans`. NaN
    where a layer has no load in the whole horizon.
    """
    window_LEH, valid_LH = _window(share_HLE, references.rows_K)
    experts = EXPERTS in references.costs["oracle"]
    costs = _costs(mean_share_hat_KLE, window_LEH, valid_LH, references.rows_K, references.shapes, experts)
    return references.scored(costs)


def _window(share_HLE: FloatArray, rows_K: Sequence[int]) -> tuple[FloatArray, BoolArray]:
    if not rows_K or list(rows_K) != sorted(set(rows_K)) or rows_K[0] < 1 or rows_K[-1] > len(share_HLE):
        raise PlacementError(f"horizons of {list(rows_K)} rows do not fit a window of {len(share_HLE)} rows")
    window_LEH = np.moveaxis(share_HLE[: rows_K[-1]], 0, -1)
    valid_LH = ~np.isnan(window_LEH[:, 0])
    if not valid_LH.all():
        window_LEH = np.where(valid_LH[:, None], window_LEH, 0.0)
    return window_LEH, valid_LH


def _prefix_means(window_LEH: FloatArray, valid_LH: BoolArray, rows_K: Sequence[int]) -> FloatArray:
    """Return the mean share [K, L, E] over each horizon; uniform where there is no load, so that a plan exists."""
    means = []
    for rows in rows_K:
        count = valid_LH[:, :rows].sum(axis=1)
        total = window_LEH[:, :, :rows].sum(axis=2)
        means.append(np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], 1 / total.shape[1]))
    return np.stack(means)


def _costs(
    share_hat_KLE: FloatArray,
    window_LEH: FloatArray,
    valid_LH: BoolArray,
    rows_K: Sequence[int],
    shapes: Sequence[ClusterShape],
    experts: bool,
) -> Costs:
    """Return what plans per horizon cost, or one plan ([1, L, E]) for all horizons."""
    E = window_LEH.shape[1]
    count_KL = np.stack([valid_LH[:, :rows].sum(axis=1) for rows in rows_K]).astype(np.float64)
    count_KL[count_KL == 0] = np.nan
    out: dict[str, PlanWindow] = {}
    for shape in shapes:
        weight_KLDE = device_weights(plan(share_hat_KLE, shape), E, shape.devices)
        worst, over = _totals(weight_KLDE, window_LEH, rows_K, CAPACITY_FACTOR / shape.devices)
        out[shape.name] = PlanWindow(shape.devices, over, count_KL, worst)
    if not experts:
        return out
    dropped = _dropped(expert_capacity(share_hat_KLE, CAPACITY_FACTOR), window_LEH, rows_K)
    return {**out, EXPERTS: PlanWindow(E, dropped, count_KL)}


def _totals(
    weight_KLDE: FloatArray, window_LEH: FloatArray, rows_K: Sequence[int], limit: float
) -> tuple[FloatArray, FloatArray]:
    """Return sums over each horizon's rows of the largest device share, and of what is over the limit; both [K, L]."""
    worst, over = [], []
    shared = len(weight_KLDE) == 1
    for weight_LDE, rows in zip(weight_KLDE, rows_K[-1:] if shared else rows_K, strict=True):
        device_LDH = weight_LDE @ window_LEH[:, :, :rows]
        largest_LH = device_LDH.max(axis=1)
        np.maximum(device_LDH - limit, 0, out=device_LDH)
        worst.append(_prefix_sums(largest_LH, rows_K) if shared else largest_LH.sum(axis=1))
        over.append(_prefix_sums(device_LDH.sum(axis=1), rows_K) if shared else device_LDH.sum(axis=(1, 2)))
    return (worst[0], over[0]) if shared else (np.stack(worst), np.stack(over))


def _dropped(capacity_KLE: FloatArray, window_LEH: FloatArray, rows_K: Sequence[int]) -> FloatArray:
    shared = len(capacity_KLE) == 1
    totals = []
    for capacity_LE, rows in zip(capacity_KLE, rows_K[-1:] if shared else rows_K, strict=True):
        over_LEH = np.maximum(window_LEH[:, :, :rows] - capacity_LE[:, :, None], 0)
        totals.append(_prefix_sums(over_LEH.sum(axis=1), rows_K) if shared else over_LEH.sum(axis=(1, 2)))
    return np.asarray(totals[0] if shared else np.stack(totals))


def _prefix_sums(value_LH: FloatArray, rows_K: Sequence[int]) -> FloatArray:
    return np.stack([value_LH[:, :rows].sum(axis=1) for rows in rows_K])
