"""The options of `run`, `plan`, `report` and `watch` that a decision depends on."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from moeload_bench.cli.options import (
    BANDWIDTH,
    STEP,
    WEIGHT,
    ExpertFraction,
    Groups,
    Nodes,
    OneForecaster,
    Overlap,
    ReplanMs,
)
from moeload_bench.errors import PlacementError
from moeload_bench.live.cluster import Cluster
from moeload_bench.live.core import Settings
from moeload_bench.placement.plans import ClusterShape


def cluster(
    devices: Annotated[
        int | None, typer.Option(help="D: devices that share a layer's experts. E / 4 by default.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="R: expert slots on all devices. E + D by default.")] = None,
    nodes: Nodes = 1,
    groups: Groups = None,
    expert_mb: Annotated[float | None, WEIGHT] = None,
    bandwidth: Annotated[float | None, BANDWIDTH] = None,
    step_ms: Annotated[float | None, STEP] = None,
    expert_fraction: ExpertFraction = None,
    overlap: Overlap = None,
    replan_ms: ReplanMs = None,
) -> Cluster:
    """Return what was stated of the cluster; raise `PlacementError` for one that allows no plan."""
    if (devices is None) != (slots is None):
        raise PlacementError("--devices and --slots go together: got one of them")
    shape = None
    if devices is not None and slots is not None:
        shape = ClusterShape("given", devices, slots, nodes, nodes if groups is None else groups)
    elif nodes != 1 or groups is not None:
        given = f"--nodes {nodes}" if groups is None else f"--groups {groups}"
        raise PlacementError(f"{given} needs --devices and --slots")
    known = {
        "expert_mb": expert_mb, "bandwidth_gb_s": bandwidth, "step_ms": step_ms, "expert_fraction": expert_fraction,
        "overlap": overlap, "replan_ms": replan_ms,
    }  # fmt: skip
    return Cluster(shape, {name: value for name, value in known.items() if value is not None})


def watching(
    forecaster: OneForecaster = None,
    horizon: Annotated[int, typer.Option(help="Steps that forecasts, plans and advice are for.")] = 200,
    every: Annotated[
        str | None,
        typer.Option(help="Intervals between looks that are compared, in steps: 50,200. Up to 500 by default."),
    ] = None,
) -> Settings:
    """Return what a run is watched with, but for the cluster; raise `PlacementError` for intervals that are none."""
    if every is None:
        return Settings(forecaster=forecaster, horizon=horizon)
    try:
        intervals = tuple(sorted({int(part) for part in every.split(",")}))
    except ValueError:
        raise PlacementError(f"--every is {every!r}, expected whole numbers of steps such as 50,200") from None
    return Settings(forecaster=forecaster, horizon=horizon, every=math.gcd(*intervals), intervals=intervals)
