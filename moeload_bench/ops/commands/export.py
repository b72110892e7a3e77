"""`moeload-bench export forecast|trace|routing|checkpoint|figure`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import INT, FirstLayer, Forecaster, Level, ModelLayers, RunArgument, Seed, no_trace
from moeload_bench.cli.progress import pair_progress, plain_console, say
from moeload_bench.errors import counted
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.ops.commands.figure import figure
from moeload_bench.ops.interchange.checkpoints import moe_layers, permute_checkpoint
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.ops.interchange.forecast_files import forecast_ahead, write_forecast
from moeload_bench.placement.layouts import LINEAR

app = typer.Typer(no_args_is_help=True, help="Write forecasts, traces, routing, figures, checkpoints for other tools.")

Out = Annotated[
    Path, typer.Option(callback=no_trace, help="The file to write; one that is there is replaced, but for a trace.")
]


@app.command("forecast")
def forecast(
    trace: RunArgument,
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
    """Forecast the steps after a trace, as planners take it.

    The file holds weight [layers, experts], the mean load per step.

    \b
    moeload-bench export forecast run.parquet --format npz --out weight.npz
    """
    ahead = forecast_ahead(open_trace(trace), forecaster, horizon, level=parse_level(level), seed=seed)
    write_forecast(ahead, out, kind, model_layers, first_layer)
    first = ahead.about["first_step"]
    L, E = ahead.weight_LE.shape
    size, last = f"{counted(L, 'layer')}, {counted(E, 'expert')}", first + horizon - 1
    say(f"{out}: {size}, mean of steps {first} to {last} by {forecaster}")


@app.command("trace")
def trace(
    trace: RunArgument,
    out: Out,
    kind: Annotated[Literal["nixtla", "fev", "gluonts", "csv"], typer.Option("--format", help="What reads it.")],
    values: Annotated[Literal["load", "share"], typer.Option(help="Counts, or shares of a layer's load.")] = "load",
) -> None:
    """Write a trace as time series, one per layer and expert.

    \b
    moeload-bench export trace run.parquet --format nixtla --out run.csv
    """
    from moeload_bench.ops.interchange.series import write_series  # loads pyarrow

    loaded = open_trace(trace)
    write_series(loaded, out, kind, values)
    count = loaded.num_layers * loaded.num_experts
    say(f"{out}: {count} series of {loaded.steps} steps")


@app.command("routing")
def routing(
    run: RunArgument,
    step: Annotated[str, typer.Option(metavar="S|A-B", help="The step, or the first and the last one.")],
    out: Annotated[
        Path, typer.Option(callback=no_trace, help="The file to write: .npz, .safetensors or .parquet, by its name.")
    ],
    layers: Annotated[
        str | None, typer.Option(metavar="A,B-C", help="Layers by their names: 0,3,5-8.", show_default="all layers")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar=INT, min=1, help="Tokens of a step, at most four times the recorded.", show_default="as recorded"
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(metavar=INT, min=1, help="Source ranks that share the tokens, in their order.", show_default="1"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is made up.")] = 0,
) -> None:
    """Write which experts each token goes to, for kernels.

    A step whose routing was recorded (`record --routing-steps`) is written as it was. Any other step has exactly the
    recorded count of every expert; which tokens share experts is made up, and the file says so.

    \b
    moeload-bench export routing qwen3moe-tiny-8e/test/seed1 --step 500 \\
      --ranks 8 --out routing.npz
    """
    from moeload_bench.ops.interchange.routing_export import MEANING, plan_routing
    from moeload_bench.ops.interchange.routing_files import check_routing_name, write_routing_export

    check_routing_name(out)
    with pair_progress(first=f"routing {run}"):
        export = plan_routing(run, step, layers=layers, tokens=tokens, ranks=ranks, seed=seed)
        write_routing_export(export, out)
    first, about = export.orders[0], export.about
    layers_done, steps_done = ({getattr(order, name) for order in export.orders} for name in ("layer", "step"))
    size = f"{counted(len(layers_done), 'layer')}, {counted(about['experts'], 'expert')}, top-{first.top_k}"
    tokens_said = f"{first.tokens:,} tokens ({first.recorded_tokens:,} recorded)"
    console = plain_console()
    console.print(f"{out}: {counted(len(steps_done), 'step')}, {size}, {tokens_said}")
    for mark in dict.fromkeys(order.mark for order in export.orders):
        console.print(f"{mark}: {MEANING[mark]}")


@app.command("checkpoint")
def checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint: config.json, .safetensors.")],
    placement: Annotated[Path, typer.Option(help="What `plan --write` wrote, or EPLB's, sglang's or vLLM's map.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    current: Annotated[
        str, typer.Option(help="How the engine places experts by number: linear or round_robin.")
    ] = LINEAR,
    without_optimizer: Annotated[
        bool, typer.Option("--without-optimizer", help="Leave optimizer.pt behind: its moments begin anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one JSON object.")] = False,
) -> None:
    """Put the experts of a checkpoint in the order of a plan.

    For engines that place experts by number. The model computes the same: weights and rows of the router move
    together. Device d then holds experts d * E / D to (d + 1) * E / D - 1 of the new numbers; with --current
    round_robin it holds those that are d modulo D. The plan must hold each expert once (`plan --slots E`). Traces
    recorded with the old numbers do not fit the new ones.

    \b
    moeload-bench export checkpoint my-model --placement placement.json \\
      --out my-model-placed
    """
    orders = read_orders(placement, current, moe_layers(checkpoint))
    with pair_progress(as_json, "bytes") as report:
        done = permute_checkpoint(checkpoint, orders, out, report, optimizer=not without_optimizer)
    if as_json:
        say(json.dumps(asdict(done)))
        return
    say(
        f"{out}: {len(done.layers)} of {counted(len(done.moe_layers), 'MoE layer')} in a new order: "
        f"{counted(done.renamed, 'tensor')} renamed, {done.reordered} reordered by rows"
    )
    if done.left_out:
        say(f"not taken along: {', '.join(done.left_out)}")


app.command("figure")(figure)
