"""The options of `watch` and `report`: what a run is watched with."""

from __future__ import annotations

from typing import Annotated

import typer

from moeload_bench.cli.options import (
    BANDWIDTH,
    STEP,
    WEIGHT,
    ExpertFraction,
    Forecaster,
    Groups,
    Nodes,
    Overlap,
    ReplanMs,
)
from moeload_bench.errors import PlacementError
from moeload_bench.live.cluster import BANDWIDTH_GB_S, EXPERT_MB, STEP_MS, Cluster
from moeload_bench.live.core import Settings
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel


def watching(
    forecaster: Forecaster = "sw_avg",
    horizon: Annotated[int, typer.Option(help="Steps that forecasts and advice are for.")] = 200,
    devices: Annotated[
        int | None, typer.Option(help="D: devices that share a layer's experts. E / 4 by default.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="R: expert slots on all devices. E + D by default.")] = None,
    nodes: Nodes = 1,
    groups: Groups = None,
    expert_mb: Annotated[float, WEIGHT] = EXPERT_MB,
    bandwidth: Annotated[float, BANDWIDTH] = BANDWIDTH_GB_S,
    step_ms: Annotated[float, STEP] = STEP_MS,
    expert_fraction: ExpertFraction = 0.5,
    overlap: Overlap = 0.0,
    replan_ms: ReplanMs = 0.0,
) -> Settings:
    """Return the `Settings` that a run is watched with; raise `PlacementError` for a cluster that allows no plan."""
    if (devices is None) != (slots is None):
        raise PlacementError("--devices and --slots go together: got one of them")
    if devices is None or slots is None:
        if nodes != 1 or groups is not None:
            given = f"--nodes {nodes}" if groups is None else f"--groups {groups}"
            raise PlacementError(f"{given} needs --devices and --slots")
        shape = None
    else:
        shape = ClusterShape("given", devices, slots, nodes, nodes if groups is None else groups)
    cost = CostModel(step_ms, expert_mb, bandwidth, expert_fraction, overlap, replan_ms)
    return Settings(forecaster=forecaster, horizon=horizon, cluster=Cluster(shape, cost))
