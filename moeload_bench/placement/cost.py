"""What a plan costs under the true loads, and how much of that is the forecast's fault.

The cost of a plan is the mean over the window's steps of max / mean device load: each MoE layer waits for its most
loaded device in every step. ``regret`` = imbalance / imbalance of the plan that the same planner makes from the true
window mean, minus 1; both planners are greedy, so it can be slightly negative. ``drop_rate`` is the share of tokens
over a device's capacity, `CAPACITY_FACTOR` times the mean device load (the device-level rule of DeepSeek-V2, arXiv
2405.04434), or, for the shape name ``experts``, over the buffers that `plans.expert_capacity` divides by forecast.

Axis letters: H rows of the window, K suite horizons, L MoE layers, E experts, R replica slots, D devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import PlacementError
from moeload_bench.placement.plans import ClusterShape, FloatArray, IntArray, expert_capacity, plan

CAPACITY_FACTOR = 1.25
HEADLINE = "quarter"
"""The shape of `plans.headline_shapes` that a table of one number per forecaster shows."""

Scores = dict[str, FloatArray]


def device_weights(slot_expert: IntArray, experts: int, devices: int) -> FloatArray:
    """The part [..., D, E] of each expert's tokens that each device serves under plans [..., R]: replicas share evenly.

    Device loads are ``device_weights(...) @ load[..., E, steps]``.
    """
    rows, slots = slot_expert.reshape(-1, slot_expert.shape[-1]), slot_expert.shape[-1]
    device = np.arange(slots) // (slots // devices)
    cell = ((np.arange(len(rows))[:, None] * devices + device) * experts + rows).ravel()
    held = np.bincount(cell, minlength=len(rows) * devices * experts).reshape(len(rows), devices, experts)
    total = held.sum(axis=1, keepdims=True)
    if (total == 0).any():
        at = np.argwhere(total == 0)[0]
        raise PlacementError(f"plan {int(at[0])} places expert {int(at[2])} nowhere")
    return np.asarray((held / total).reshape(*slot_expert.shape[:-1], devices, experts))


def step_imbalance(slot_expert_LR: IntArray, share_HLE: FloatArray, devices: int) -> FloatArray:
    """Max / mean device load [H, L] of each step under one plan per layer; NaN where a layer-step has no load."""
    weight_LDE = device_weights(slot_expert_LR, share_HLE.shape[2], devices)
    return np.asarray((weight_LDE @ np.moveaxis(share_HLE, 0, -1)).max(axis=1).T * devices)


def replicas_moved(before: IntArray, after: IntArray, devices: int) -> IntArray:
    """Replicas [..., D] that each device must receive to go from one plan to the next, both [..., R].

    An expert that a device holds already is copied inside the device at no cost.
    """
    if before.shape != after.shape:
        raise PlacementError(f"plans of shapes {before.shape} and {after.shape} cannot be compared; expected the same")
    split = (*before.shape[:-1], devices, before.shape[-1] // devices)
    old, new = before.reshape(split), np.sort(after.reshape(split), axis=-1)
    known = (new[..., :, None] == old[..., None, :]).any(axis=-1)
    known[..., 1:] |= new[..., 1:] == new[..., :-1]
    return np.asarray((~known).sum(axis=-1))


@dataclass(frozen=True, eq=False)
class References:
    """The plans that depend on the trace only; made once per origin and used for every forecaster.

    ``scores`` holds for ``oracle`` (from the true window mean) and ``uniform`` the same metrics as `score_plans`,
    [K, L]. The plan from the last observed load is that of the baseline `last_value`.
    """

    shapes: tuple[ClusterShape, ...]
    rows_K: tuple[int, ...]
    scores: Mapping[str, Scores]

    def failed(self) -> Scores:
        """What a task without a forecast scores: twice the imbalance and drop rate of the uniform plan."""
        out: Scores = {}
        for name, value in self.scores["uniform"].items():
            metric, shape = name.split("@")
            if metric == "regret":
                out[name] = 2 * self.scores["uniform"][f"imbalance@{shape}"] / self._oracle(shape) - 1
            else:
                out[name] = 2 * value
        return out

    def to_tree(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        scores = {plan: {name: value.tolist() for name, value in found.items()} for plan, found in self.scores.items()}
        return {"shapes": [asdict(shape) for shape in self.shapes], "rows_K": list(self.rows_K), "scores": scores}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> References:
        """The record from `to_tree`."""
        scores = {
            plan: {name: np.array(value, dtype=np.float64) for name, value in found.items()}
            for plan, found in tree["scores"].items()
        }
        return cls(tuple(ClusterShape(**shape) for shape in tree["shapes"]), tuple(tree["rows_K"]), scores)

    def _oracle(self, shape: str) -> FloatArray:
        return self.scores["oracle"][f"imbalance@{shape}"]


def reference_plans(share_HLE: FloatArray, rows_K: Sequence[int], shapes: Sequence[ClusterShape]) -> References:
    """Plans from the truth and from uniform loads, and what they cost.

    ``share_HLE`` [rows, L, E]: true shares of the window, NaN throughout where a layer-step has no load (fastest as a
    view whose rows are contiguous in memory); ``rows_K``: rows of each horizon, rising.
    Raises `PlacementError` for shapes that do not fit E.
    """
    window_LEH, valid_LH = _window(share_HLE, rows_K)
    L, E = share_HLE.shape[1:]
    true_KLE = _prefix_means(window_LEH, valid_LH, rows_K)
    uniform = np.full((1, L, E), 1 / E)
    plain_oracle = _scores(true_KLE, window_LEH, valid_LH, rows_K, shapes)
    scores = {
        "oracle": plain_oracle,
        "uniform": _scores(uniform, window_LEH, valid_LH, rows_K, shapes),
    }
    for name in scores:
        scores[name] = _with_regret(scores[name], plain_oracle)
    return References(tuple(shapes), tuple(rows_K), scores)


def score_plans(mean_share_hat_KLE: FloatArray, share_HLE: FloatArray, references: References) -> Scores:
    """``imbalance@SHAPE``, ``regret@SHAPE`` and ``drop_rate@SHAPE``, each [K, L], of the plans made from a forecast.

    ``mean_share_hat_KLE``: the forecast's mean share over each horizon; ``share_HLE`` as for `reference_plans`. NaN
    where a layer has no load in the whole horizon.
    """
    rows_K = references.rows_K
    window_LEH, valid_LH = _window(share_HLE, rows_K)
    scores = _scores(mean_share_hat_KLE, window_LEH, valid_LH, rows_K, references.shapes)
    return _with_regret(scores, references.scores["oracle"])


def _with_regret(scores: Scores, oracle: Scores) -> Scores:
    regret = {
        name.replace("imbalance", "regret"): value / oracle[name] - 1
        for name, value in scores.items()
        if name.startswith("imbalance@")
    }
    return {**scores, **regret}


def _window(share_HLE: FloatArray, rows_K: Sequence[int]) -> tuple[FloatArray, NDArray[np.bool_]]:
    if not rows_K or list(rows_K) != sorted(set(rows_K)) or rows_K[0] < 1 or rows_K[-1] > len(share_HLE):
        raise PlacementError(f"horizons of {list(rows_K)} rows do not fit a window of {len(share_HLE)} rows")
    window_LEH = np.moveaxis(share_HLE[: rows_K[-1]], 0, -1)
    valid_LH = ~np.isnan(window_LEH[:, 0])
    if not valid_LH.all():
        window_LEH = np.where(valid_LH[:, None], window_LEH, 0.0)
    return window_LEH, valid_LH


def _prefix_means(window_LEH: FloatArray, valid_LH: NDArray[np.bool_], rows_K: Sequence[int]) -> FloatArray:
    """Mean share [K, L, E] over each horizon; uniform where there is no load, so that a plan exists."""
    means = []
    for rows in rows_K:
        count = valid_LH[:, :rows].sum(axis=1)
        total = window_LEH[:, :, :rows].sum(axis=2)
        means.append(np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], 1 / total.shape[1]))
    return np.stack(means)


def _scores(
    share_hat_KLE: FloatArray,
    window_LEH: FloatArray,
    valid_LH: NDArray[np.bool_],
    rows_K: Sequence[int],
    shapes: Sequence[ClusterShape],
) -> Scores:
    """Imbalance and drop rate of plans per horizon, or of one plan ([1, L, E]) for all horizons."""
    count_KL = np.stack([valid_LH[:, :rows].sum(axis=1) for rows in rows_K]).astype(np.float64)
    count_KL[count_KL == 0] = np.nan
    out: Scores = {}
    for shape in shapes:
        weight_KLDE = device_weights(plan(share_hat_KLE, shape), window_LEH.shape[1], shape.devices)
        limit = CAPACITY_FACTOR / shape.devices
        worst, over = _totals(weight_KLDE, window_LEH, rows_K, limit)
        out[f"imbalance@{shape.name}"] = worst * shape.devices / count_KL
        out[f"drop_rate@{shape.name}"] = over / count_KL
    out["drop_rate@experts"] = _dropped(expert_capacity(share_hat_KLE, CAPACITY_FACTOR), window_LEH, rows_K) / count_KL
    return out


def _totals(
    weight_KLDE: FloatArray, window_LEH: FloatArray, rows_K: Sequence[int], limit: float
) -> tuple[FloatArray, FloatArray]:
    """Sums over each horizon's rows of the largest device share, and of what is over the limit; both [K, L]."""
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
