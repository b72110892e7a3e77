"""The one list of metrics: formula, unit, range, direction, tolerance of re-runs and plain words of each.

Scores, checks of submissions, agreement of re-runs, rescoring, tables, docs and the site all read it: a metric that is
added here is known to all of them. Metrics of forecasts have a name each; those of plans are named METRIC@SHAPE, for a
cluster shape of `moeload_bench.placement.plans.headline_shapes` (or ``experts``: tokens that the experts' own buffers
drop).

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.placement.plans import headline_shapes
from moeload_bench.scoring import metrics
from moeload_bench.traces.means import ratio_of

PRIMARY = "window_tv"
"""The metric that forecasters are ranked by."""
EXPERTS = "experts"
"""In place of a cluster shape: the experts' own buffers, which can drop tokens but have no load to balance."""
UNBOUNDED = 1e15
"""No score comes near it; sums of such numbers stay finite."""

LEAST = 1e-6
"""What nine significant digits and other processors do to a number that is nearly 0."""

Bound = tuple[float, float]
"""(relative, absolute): a value may differ by the larger of the two."""


class Tolerance(NamedTuple):
    """How far a re-run of the same code may be from the committed result; see `leaderboard/verifying/agreement.py`.

    ``value`` bounds a single value, ``mean`` the mean over tasks of a run in one state at one horizon, ``overall`` that
    over all horizons. Where a metric is small, an absolute bound is at most ``of_value`` or ``of_mean`` times its own
    size (None: no limit), but a mean's is never less than ``least_mean``. ``kind`` is the key under which
    leaderboard/tolerances.toml narrows ``value``.
    """

    value: Bound
    mean: Bound
    overall: Bound | None = None
    of_value: float | None = 1.0
    of_mean: float = 0.1
    least_mean: float = LEAST
    kind: Literal["errors", "plans", ""] = ""


class Failed(NamedTuple):
    """What a task scores whose forecast failed: ``value``, or so many ``times`` what uniform scores by ``of``.

    ``of`` is the metric itself by default; where uniform has no value by it, neither has the failed task. A failed task
    has the metrics of plans of a uniform plan with twice the load on its largest device, and twice the drops.
    """

    value: float | None = None
    times: float = 2.0
    of: str = ""


TWICE = Failed()


@dataclass(frozen=True)
class Metric:
    """All that there is to know of a metric.

    ``formula`` is a function of a `window.Window` to [L], one value per layer and horizon, or, where ``per`` is "plan",
    of a `window.PlanWindow` to [K, L], one value for each cluster shape too; ``needs`` names the fields without which
    there is no value. ``lower_is_better`` None: a description, nothing to rank by. Values lie in ``span``, to whose end
    a metric of plans ``per_device`` adds the number of devices. ``plain`` is for those who do not know the name.
    ``in_every_layer``: each layer with load has a value, so that means over tasks and layers can be taken in any order.
    """

    name: str
    formula: Callable[[Any], NDArray[np.float64]]
    unit: str
    lower_is_better: bool | None
    span: tuple[float, float]
    tolerance: Tolerance
    plain: str
    description: str
    needs: tuple[str, ...] = ()
    per: Literal["forecast", "plan"] = "forecast"
    per_device: bool = False
    in_every_layer: bool = False
    failed: Failed = TWICE

    @property
    def label(self) -> str:
        """Return the name, with an "@" where one of a cluster shape follows."""
        return self.name if self.per == "forecast" else f"{self.name}@"

    @property
    def needs_quantiles(self) -> bool:
        return "quantile_QLE" in self.needs

    @property
    def stepwise(self) -> bool:
        """Return whether the mean over a window is not enough to score by it."""
        return "steps" in self.needs

    def applies(self, window: Any) -> bool:
        """Return whether a window, of a forecast or of plans, has all that the formula needs."""
        return all(getattr(window, name) is not None for name in self.needs)

    def range(self, devices: int) -> tuple[float, float]:
        """Return the least and the greatest possible value."""
        return self.span[0], self.span[1] + (devices if self.per_device else 0)


_STEPS = Tolerance((0.05, 5e-3), (0.01, 1e-3), kind="errors")
_SHARES = Tolerance((0.05, 1e-3), (0.01, 1e-4), kind="errors")
_ORDER = Tolerance((0.0, 0.25), (0.0, 0.03))
_QUANTILES = Tolerance((0.05, 0.1), (0.01, 0.02))
# single values of plans move by more than their size, so that only their means are held to it
_PLANS = Tolerance((0.05, 0.1), (0.002, 3e-3), (0.0, 1e-3), of_value=None, of_mean=0.5, kind="plans")

_LISTED = (
    Metric(PRIMARY, lambda w: metrics.total_variation(w.forecast_LE, w.share_LE), "fraction of tokens", True, (0, 1),
           _SHARES, "misplaced tokens, as a fraction",
           "fraction of the window's tokens planned for the wrong expert: "
           "0.5 sum_E |mean forecast share - mean true share|", in_every_layer=True, failed=Failed(1.0)),
    Metric("tv", lambda w: 0.5 * ratio_of(w.steps.distance_L, w.steps.rows_L), "fraction of tokens", True, (0, 1),
           _SHARES, "misplaced tokens step by step, as a fraction",
           "the same step by step, averaged over the horizon; the noise of single batches is in it",
           needs=("steps",), in_every_layer=True),
    Metric("error_rate", lambda w: ratio_of(w.steps.ratio_L, w.steps.cells_L), "relative", True, (0, UNBOUNDED),
           _STEPS, "relative error step by step",
           "per-step relative error: mean over steps and experts of |forecast - true share| / true share, where the "
           "true share is above 0", needs=("steps",)),
    Metric("error_rate_covered", lambda w: ratio_of(w.steps.cells_L, w.steps.rows_L * w.share_LE.shape[1]),
           "fraction of cells", None, (0, 1), _STEPS, "loads that error_rate covers, as a fraction",
           "fraction of (step, expert) cells that error_rate covers", needs=("steps",), failed=Failed(times=1.0)),
    Metric("error_rate_uniform", lambda w: ratio_of(w.steps.distance_L, w.steps.rows_L), "relative to 1/E", True,
           (0, 2), _STEPS, "error step by step, in even shares",
           "per-step error relative to the even share: mean over steps and experts of |forecast - true share| / (1/E); "
           "twice tv", needs=("steps",)),
    Metric("window_error_rate", lambda w: metrics.relative_error(w.forecast_LE, w.share_LE), "relative", True,
           (0, UNBOUNDED), _STEPS, "relative error of the window's mean",
           "window-mean relative error: mean over experts of |mean forecast share - mean true share| / mean true "
           "share, where that is above 0"),
    Metric("hot_recall", lambda w: metrics.hot_recall(w.forecast_LE, w.share_LE, metrics.hot_k(w.share_LE.shape[1])),
           "fraction of experts", False, (0, 1), _ORDER, "hot experts that were named, as a fraction",
           "fraction of the k most loaded experts of the window that the forecast names, k = max(1, E // 4)",
           failed=Failed(0.0)),
    Metric("rank_correlation", lambda w: metrics.rank_correlation(w.forecast_LE, w.share_LE), "correlation", False,
           (-1, 1), _ORDER, "correlation of the experts' order with the true one",
           "Spearman's rank correlation over experts of the window-mean shares", failed=Failed(-1.0)),
    Metric("revival_recall", lambda w: metrics.revival_recall(w.forecast_LE, w.share_LE, w.last_share_LE),
           "fraction of tokens", False, (0, 1), Tolerance((0.0, 0.5), (0.0, 0.1)),
           "tokens of revived experts that were provided for, as a fraction",
           "fraction of the tokens of experts dead before the origin and alive in the window that the forecast "
           "provided for", needs=("last_share_LE",), failed=Failed(0.0)),
    # a failed task has twice the loss of uniform, a point forecast, whose loss is 2 * window_tv
    Metric("wql", lambda w: metrics.wql(w.quantile_QLE, w.share_LE, w.levels), "fraction of tokens", True, (0, 4),
           _QUANTILES, "loss of the quantiles",
           "weighted quantile loss of the window-mean shares, mean over the quantile levels",
           needs=("quantile_QLE",), failed=Failed(times=4.0, of=PRIMARY)),
    Metric("coverage", lambda w: metrics.coverage(w.quantile_QLE, w.share_LE, w.levels), "fraction of experts", None,
           (0, 1), _QUANTILES, "true shares within the outermost quantiles, as a fraction",
           "fraction of experts whose window-mean share lies between the outermost quantiles",
           needs=("quantile_QLE",), failed=Failed(0.0, of=PRIMARY)),
    Metric("imbalance", lambda w: w.worst_KL * w.devices / w.rows_KL, "max / mean device load", True, (1, 0), _PLANS,
           "imbalance of the plan",
           "mean over the window's steps of max / mean device load under the plan made from the forecast",
           needs=("worst_KL",), per="plan", per_device=True, in_every_layer=True),
    # the reference plan is greedy, so that another may be better: by 0.05 in the committed results, never by half
    Metric("regret", lambda w: (w.worst_KL * w.devices / w.rows_KL) / (w.oracle_KL * w.devices / w.rows_KL) - 1,
           "fraction of the oracle's imbalance", True, (-0.5, -1), _PLANS,
           "how much more imbalance the plan leaves than the best possible one",
           "imbalance of the plan made from the forecast / that of the plan made from the true window mean, minus 1",
           needs=("worst_KL", "oracle_KL"), per="plan", per_device=True, in_every_layer=True),
    # honest means of a drop rate moved by 2e-5: it is often 0 but for one task
    Metric("drop_rate", lambda w: w.over_KL / w.rows_KL, "fraction of tokens", True, (0, 1),
           _PLANS._replace(value=(0.05, 0.02), mean=(0.002, 1e-3), overall=(0.0, 3e-4), least_mean=2e-5),
           "dropped tokens, as a fraction",
           "share of tokens over the capacity under the plan made from the forecast", per="plan", in_every_layer=True),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _LISTED}
"""By name, in the order of tables."""


def forecast_metrics() -> list[Metric]:
    """Return the metrics of forecasts, in the order of tables."""
    return [metric for metric in METRICS.values() if metric.per == "forecast"]


def plan_metrics(experts: int = 64) -> dict[str, tuple[Metric, int]]:
    """Return METRIC@SHAPE: the metric and the shape's devices, for all shapes that so many experts have.

    Without a number of experts: for 64, which have all shapes.
    """
    devices = {shape.name: shape.devices for shape in headline_shapes(experts)}
    plans = [metric for metric in METRICS.values() if metric.per == "plan"]
    return {
        f"{metric.name}@{shape}": (metric, count)
        for metric in plans
        for shape, count in ({**devices, EXPERTS: experts} if "worst_KL" not in metric.needs else devices).items()
    }


def metric_names() -> list[str]:
    """Return every metric that a table can be asked for; which shapes plans have depends on the number of experts."""
    return [*(metric.name for metric in forecast_metrics()), *plan_metrics()]


def metric_spec(name: str) -> Metric | None:
    """Return the metric of this name, METRIC@SHAPE included; None for one that the catalogue does not know."""
    metric, _, shape = name.partition("@")
    spec = METRICS.get(metric)
    if spec is None or (spec.per == "plan") != bool(shape):
        return None
    return replace(spec, name=name, description=f"{spec.description}; cluster shape {shape!r}") if shape else spec


def least_value(name: str) -> float:
    """Return the least value that a metric can have; of one that the catalogue does not know, any number can be."""
    spec = METRICS.get(name.partition("@")[0])
    return -math.inf if spec is None else spec.span[0]


def describe_metric(name: str) -> str:
    """Return what a metric means, with its unit."""
    spec = metric_spec(name)
    return f"{spec.description} [{spec.unit}]" if spec else "a metric of the results"


def plain_name(name: str) -> str:
    """Return what those call a metric who do not know its name; of one that the catalogue does not know, its name."""
    spec = METRICS.get(name.partition("@")[0])
    return spec.plain if spec else name


def lower_is_better(name: str) -> bool | None:
    """Return True for errors and what plans cost, False for scores, None for descriptions; True for an unknown one."""
    spec = metric_spec(name)
    return spec.lower_is_better if spec else True


def needs_quantiles(name: str) -> bool:
    """Return whether only a forecast with quantiles has this metric."""
    spec = metric_spec(name)
    return spec is not None and spec.needs_quantiles


def has_skill(metric: str) -> bool:
    """Return whether a metric has skill, a ratio: it needs an error of a forecast, positive and smaller when better."""
    spec = metric_spec(metric)
    return spec is not None and spec.per == "forecast" and bool(spec.lower_is_better)


def ratio_metric(metric: str) -> str | None:
    """Return the metric whose ratio to the reference's is the skill in a table; None where there is none.

    Regret may be 0 or less and a drop rate 0, so tables of plans take the imbalance of the same plans.
    """
    name, _, shape = metric.partition("@")
    if name in METRICS and f"imbalance@{shape}" in plan_metrics():
        return f"imbalance@{shape}"
    return metric if has_skill(metric) else None
