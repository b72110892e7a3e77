"""The options of `run`, `plan`, `report` and `watch` that a decision depends on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import typer

from moeload_bench.cli.options import TARGET, with_options
from moeload_bench.errors import PlacementError
from moeload_bench.inspection.cluster import Cluster
from moeload_bench.inspection.planning import Settings
from moeload_bench.placement.plans import ClusterShape


def cluster(
    devices: Annotated[
        int | None, typer.Option(help="D: devices that share a layer's experts. E / 4 by default.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="R: expert slots on all devices. E + D by default.")] = None,
    nodes: Annotated[int, typer.Option(help="Above 1: replicas of an expert stay on one of so many nodes.")] = 1,
    groups: Annotated[
        int | None, typer.Option(help="Groups of experts kept on a node; one per node by default.")
    ] = None,
    expert_mb: Annotated[
        float | None, typer.Option(help="MB that move with one replica: weights, and optimizer state if it moves too.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s that one device receives while experts move.")] = None,
    step_ms: Annotated[
        float | None, typer.Option(help="Measured step time in ms, with experts spread evenly by number.")
    ] = None,
    expert_fraction: Annotated[
        float | None,
        typer.Option(help="Part of the step that waits for the most loaded device: expert compute, all-to-all."),
    ] = None,
    overlap: Annotated[float | None, typer.Option(help="Part of a migration hidden behind training, 0 to 1.")] = None,
    replan_ms: Annotated[
        float | None, typer.Option(help="Fixed cost of a re-plan in ms: synchronising, rewiring.")
    ] = None,
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


@with_options(cluster=cluster)
def watching(
    forecaster: Annotated[str | None, typer.Option(help=f"{TARGET} Several are compared by default.")] = None,
    horizon: Annotated[int, typer.Option(help="Steps that forecasts, plans and advice are for.")] = 200,
    every: Annotated[
        str | None,
        typer.Option(help="Intervals between looks that are compared, in steps: 50,200. Up to 500 by default."),
    ] = None,
    *,
    cluster: Cluster,
) -> Settings:
    """Return what a run is watched with; raise `PlacementError` for intervals that are none."""
    settings = Settings(forecaster=forecaster, horizon=horizon, cluster=cluster)
    if every is None:
        return settings
    try:
        intervals = tuple(sorted({int(part) for part in every.split(",")}))
    except ValueError:
        raise PlacementError(f"--every is {every!r}, expected whole numbers of steps such as 50,200") from None
    return replace(settings, every=math.gcd(*intervals), intervals=intervals)
