"""The one catalogue of metrics: what each means, its unit, which way is better, and whether skill can be taken of it.

Metrics of forecasts have a name each; those of plans are named METRIC@SHAPE, for a cluster shape of
`moeload_bench.placement.plans.headline_shapes` (or ``experts`` for dropped tokens at the experts' own buffers).
"""

from __future__ import annotations

from typing import NamedTuple

from moeload_bench.placement.plans import headline_shapes


class MetricSpec(NamedTuple):
    """What a table must say about a metric. ``lower_is_better`` None: a description, not a score to rank by."""

    name: str
    unit: str
    lower_is_better: bool | None
    needs_quantiles: bool
    description: str
    worst: float | None = None


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("window_tv", "fraction of tokens", True, False,
               "fraction of the window's tokens planned for the wrong expert: "
               "0.5 sum_E |mean forecast share - mean true share|", 1.0),
    MetricSpec("tv", "fraction of tokens", True, False,
               "the same step by step, averaged over the horizon; the noise of single batches is in it"),
    MetricSpec("error_rate", "relative", True, False,
               "per-step relative error: mean over steps and experts of |forecast - true share| / true share, "
               "where the true share is above 0"),
    MetricSpec("error_rate_covered", "fraction of cells", None, False,
               "fraction of (step, expert) cells that error_rate covers"),
    MetricSpec("error_rate_uniform", "relative to 1/E", True, False,
               "per-step error relative to the even share: mean over steps and experts of "
               "|forecast - true share| / (1/E); twice tv"),
    MetricSpec("window_error_rate", "relative", True, False,
               "window-mean relative error: mean over experts of |mean forecast share - mean true share| / "
               "mean true share, where that is above 0"),
    MetricSpec("hot_recall", "fraction of experts", False, False,
               "fraction of the k most loaded experts of the window that the forecast names, k = max(1, E // 4)", 0.0),
    MetricSpec("rank_correlation", "correlation", False, False,
               "Spearman's rank correlation over experts of the window-mean shares", -1.0),
    MetricSpec("revival_recall", "fraction of tokens", False, False,
               "fraction of the tokens of experts dead before the origin and alive in the window that the forecast "
               "provided for", 0.0),
    MetricSpec("wql", "fraction of tokens", True, True,
               "weighted quantile loss of the window-mean shares, mean over the quantile levels"),
    MetricSpec("coverage", "fraction of experts", None, True,
               "fraction of experts whose window-mean share lies between the outermost quantiles", 0.0),
)  # fmt: skip
"""Of forecasts, in the order of tables."""

PLAN_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("imbalance", "max / mean device load", True, False,
               "mean over the window's steps of max / mean device load under the plan made from the forecast"),
    MetricSpec("regret", "fraction of the oracle's imbalance", True, False,
               "imbalance of the plan made from the forecast / that of the plan made from the true window mean, "
               "minus 1"),
    MetricSpec("drop_rate", "fraction of tokens", True, False,
               "share of tokens over the capacity under the plan made from the forecast"),
)  # fmt: skip
"""Of plans, each at every cluster shape."""

_FORECAST = {spec.name: spec for spec in METRICS}
_PLAN = {spec.name: spec for spec in PLAN_METRICS}


def metric_spec(name: str) -> MetricSpec | None:
    """The metric of this name, METRIC@SHAPE included; None for one that the catalogue does not know."""
    metric, _, shape = name.partition("@")
    if not shape:
        return _FORECAST.get(name)
    spec = _PLAN.get(metric)
    return spec and spec._replace(name=name, description=f"{spec.description}; cluster shape {shape!r}")


def describe_metric(name: str) -> str:
    """What a metric means, with its unit."""
    spec = metric_spec(name)
    return f"{spec.description} [{spec.unit}]" if spec else "a metric of the results"


_PLAIN = {
    "window_tv": "misplaced tokens, as a fraction",
    "tv": "misplaced tokens step by step, as a fraction",
    "error_rate": "relative error step by step",
    "error_rate_covered": "loads that error_rate covers, as a fraction",
    "error_rate_uniform": "error step by step, in even shares",
    "window_error_rate": "relative error of the window's mean",
    "rank_correlation": "correlation of the experts' order with the true one",
    "revival_recall": "tokens of revived experts that were provided for, as a fraction",
    "wql": "loss of the quantiles",
    "coverage": "true shares within the outermost quantiles, as a fraction",
    "regret": "excess imbalance of the plan over the best one",
    "imbalance": "imbalance of the plan",
    "drop_rate": "dropped tokens, as a fraction",
    "hot_recall": "hot experts that were named, as a fraction",
}


def plain_name(name: str) -> str:
    """What a metric is called by those who do not know its name; the name of one that the catalogue does not know."""
    return _PLAIN.get(name.partition("@")[0], name)


def lower_is_better(name: str) -> bool | None:
    """True for errors and what plans cost, False for scores, None for descriptions; True for an unknown metric."""
    spec = metric_spec(name)
    return spec.lower_is_better if spec else True


def needs_quantiles(name: str) -> bool:
    """Whether only a forecast with quantiles has this metric."""
    spec = metric_spec(name)
    return spec is not None and spec.needs_quantiles


def has_skill(metric: str) -> bool:
    """Skill is a ratio: it needs an error of a forecast, which is positive and smaller when better."""
    return metric in _FORECAST and bool(_FORECAST[metric].lower_is_better)


def ratio_metric(metric: str) -> str | None:
    """The metric whose ratio to the reference's is the skill in a table; None where there is none.

    Regret may be 0 or less and a drop rate 0, so tables of plans take the imbalance of the same plans.
    """
    name, _, shape = metric.partition("@")
    if name in _PLAN and shape in _shapes():
        return f"imbalance@{shape}"
    return metric if has_skill(metric) else None


def metric_names() -> list[str]:
    """Every metric that a table can be asked for; which shapes of plans there are depends on the number of experts."""
    plans = [f"{name}@{shape}" for name in _PLAN for shape in _shapes()]
    return [*_FORECAST, *plans, "drop_rate@experts"]


def _shapes() -> list[str]:
    """Names of the cluster shapes, all of which exist for 64 experts."""
    return [shape.name for shape in headline_shapes(64)]
