"""`moeload-bench export forecast|trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from moeload_bench.cli.options import FirstLayer, Forecaster, Level, ModelLayers, Seed, no_trace
from moeload_bench.cli.progress import say
from moeload_bench.errors import counted
from moeload_bench.interchange.forecast_files import forecast_ahead, write_forecast
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.traces.store import load_trace

app = typer.Typer(no_args_is_help=True, help="Write forecasts and traces in the forms that other tools read.")

TraceName = Annotated[str, typer.Argument(help="An id (RECIPE/SPLIT/seedN) or a .parquet file.")]
Out = Annotated[
    Path, typer.Option(callback=no_trace, help="The file to write; one that is there is replaced, but for a trace.")
]


@app.command("forecast")
def forecast(
    trace: TraceName,
    out: Out,
    kind: Annotated[
        Literal["npz", "json", "sglang"], typer.Option("--format", help="sglang: counts for --init-expert-location.")
    ] = "json",
    horizon: Annotated[int, typer.Option(min=1, help="Steps ahead whose mean load is forecast.")] = 1000,
    forecaster: Forecaster = "sw_avg@window=100",
    model_layers: ModelLayers = None,
    first_layer: FirstLayer = None,
    level: Level = "process",
    seed: Seed = 0,
) -> None:
    """Forecast the steps after a trace: weight [layers, experts], the mean load per step, as planners take it.

    [bold]moeload-bench export forecast run.parquet --horizon 1000 --format npz --out weight.npz[/bold]
    """
    ahead = forecast_ahead(load_trace(trace), forecaster, horizon, level=parse_level(level), seed=seed)
    write_forecast(ahead, out, kind, model_layers, first_layer)
    first = ahead.about["first_step"]
    L, E = ahead.weight_LE.shape
    size, last = f"{counted(L, 'layer')}, {counted(E, 'expert')}", first + horizon - 1
    say(f"{out}: {size}, mean of steps {first} to {last} by {forecaster}")


@app.command("trace")
def trace(
    trace: TraceName,
    out: Out,
    kind: Annotated[Literal["nixtla", "fev", "gluonts", "csv"], typer.Option("--format", help="What reads it.")],
    values: Annotated[Literal["load", "share"], typer.Option(help="Counts, or shares of a layer's load.")] = "load",
) -> None:
    """Write a trace as time series, one per layer and expert.

    [bold]moeload-bench export trace run.parquet --format nixtla --out run.csv[/bold]
    """
    from moeload_bench.interchange.series import write_series  # loads pyarrow

    loaded = load_trace(trace)
    write_series(loaded, out, kind, values)
    count = loaded.num_layers * loaded.num_experts
    say(f"{out}: {count} series of {loaded.steps} steps")
