"""Options that several commands share, written once: a command takes those of a function that it never sees."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from moeload_bench.errors import PlacementError
from moeload_bench.live.cluster import BANDWIDTH_GB_S, EXPERT_MB, STEP_MS, Cluster


def signed(command: Callable[..., Any], parameters: Iterable[inspect.Parameter], doc: str | None) -> Callable[..., Any]:
    """``command``, which takes keywords, with the signature that the command line is made from.

    All become keywords: required ones may stand behind those with defaults then.
    """
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keywords}
    command.__doc__ = doc
    return command


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name, their annotations resolved."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def watching(
    forecaster: Annotated[
        str, typer.Option(help="A baseline's name, FILE.py:Class or package.module:Class.")
    ] = "sw_avg",
    horizon: Annotated[int, typer.Option(help="Steps that forecasts and advice are for.")] = 200,
    devices: Annotated[
        int | None, typer.Option(help="D: devices that share a layer's experts. E / 4 by default.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="R: expert slots on all devices. E + D by default.")] = None,
    nodes: Annotated[int, typer.Option(help="Above 1: replicas of an expert stay on one of so many nodes.")] = 1,
    expert_mb: Annotated[float, typer.Option(help="MB that move with one replica.")] = EXPERT_MB,
    bandwidth: Annotated[
        float, typer.Option(help="GB/s that one device receives while experts move.")
    ] = BANDWIDTH_GB_S,
    step_ms: Annotated[float, typer.Option(help="Step time in ms, with experts spread evenly by number.")] = STEP_MS,
) -> Any:
    """The `Settings` that a run is watched with; raises `PlacementError` for a cluster that makes no plan."""
    from moeload_bench.live.core import Settings
    from moeload_bench.placement.plans import ClusterShape
    from moeload_bench.placement.replan import CostModel

    if (devices is None) != (slots is None):
        raise PlacementError("--devices and --slots go together: got one of them")
    shape = None if devices is None or slots is None else ClusterShape("given", devices, slots, nodes, nodes)
    if shape is None and nodes != 1:
        raise PlacementError(f"--nodes {nodes} needs --devices and --slots")
    return Settings(
        forecaster=forecaster, horizon=horizon, cluster=Cluster(shape, CostModel(step_ms, expert_mb, bandwidth))
    )


def with_watching(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `watching` in the place of a command's parameter ``settings``, which gets what they make."""
    own, shared = parameters_of(command), parameters_of(watching)

    def run(**given: Any) -> None:
        settings = watching(**{name: given.pop(name) for name in shared})
        command(settings=settings, **given)

    parameters = [p for name, one in own.items() for p in (shared.values() if name == "settings" else [one])]
    return signed(run, parameters, command.__doc__)
