"""`moeload-bench plot KIND`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import TraceArgument, no_trace
from moeload_bench.cli.progress import pair_progress
from moeload_bench.errors import not_found, printable
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.plots import (
    View,
    check_suffix,
    draw_cost,
    draw_heatmap,
    draw_horizon,
    draw_shares,
    draw_sliding,
    draw_states,
    draw_training,
    save_figure,
    training_errors,
    view_trace,
)
from moeload_bench.results.record import Result, load_result
from moeload_bench.traces.store import read_trace


class Kinds(TyperGroup):
    """Refuses an unknown kind by name, with those that exist."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a kind; raise `NotFoundError` for an unknown one."""

        found = super().get_command(ctx, cmd_name)
        if found is None:
            raise not_found("plot", cmd_name, self.list_commands(ctx))
        return found


app = typer.Typer(
    cls=Kinds, no_args_is_help=True, help="Draw figures of traces and results as .svg, .png or .pdf (extra plot)."
)

Out = Annotated[Path, typer.Option("--out", "-o", callback=no_trace, help="The figure: a .svg, .png or .pdf file.")]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", help="A layer, as `traces show` numbers them; may be repeated. All by default."),
]
First = Annotated[int | None, typer.Option("--first", help="First training step shown.")]
Last = Annotated[int | None, typer.Option("--last", help="Last training step shown.")]
Metric = Annotated[str, typer.Option(help="The metric drawn.")]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="Result files (.json) of one suite, or forecasters, which are then run."),
]
Suite = Annotated[str, typer.Option(help="Forecasters given: the suite they run on, by name or TOML file.")]
OwnTrace = Annotated[
    Path | None, typer.Option("--trace", help="Forecasters given: run them on this .parquet trace instead of a suite.")
]
Level = Annotated[str, typer.Option(help="Forecasters given: isolation, none, process or sandbox.")]


@app.command("heatmap")
def heatmap(trace: TraceArgument, out: Out, layer: Layers = None, first: First = None, last: Last = None) -> None:
    """Draw the load of every expert over training, one panel per layer."""
    check_suffix(out)
    _save(draw_heatmap(_view(trace, layer, first, last)), out)


@app.command("shares")
def shares(trace: TraceArgument, out: Out, layer: Layers = None, first: First = None, last: Last = None) -> None:
    """Draw each expert's share of a layer over training, below a strip with its state (the paper's figure 1)."""
    check_suffix(out)
    _save(draw_shares(_view(trace, layer, first, last)), out)


@app.command("states")
def states(trace: TraceArgument, out: Out, layer: Layers = None, first: First = None, last: Last = None) -> None:
    """Draw how far the loads drift, with the thresholds of the state rule, and the state of every layer."""
    check_suffix(out)
    _save(draw_states(_view(trace, layer, first, last)), out)


Window = Annotated[int, typer.Option(min=1, help="Rows that the statistic is taken over.")]


@app.command("variance")
def variance(
    trace: TraceArgument, out: Out, window: Window = 100, layer: Layers = None, first: First = None, last: Last = None
) -> None:
    """Draw the sliding variance of each expert's share (the paper's figures 2 to 4, windows of 10 and 100)."""
    check_suffix(out)
    _save(draw_sliding(_view(trace, layer, first, last), "variance", window), out)


@app.command("range")
def range_(
    trace: TraceArgument, out: Out, window: Window = 100, layer: Layers = None, first: First = None, last: Last = None
) -> None:
    """Draw the sliding range, largest minus smallest, of each expert's share (the paper's figures 10 and 11)."""
    check_suffix(out)
    _save(draw_sliding(_view(trace, layer, first, last), "range", window), out)


@app.command("training")
def training(
    trace: TraceArgument,
    forecasters: Annotated[list[str], typer.Argument(metavar="FORECASTER...", help="One or more, as for `run`.")],
    out: Out,
    horizon: Annotated[int, typer.Option(min=1, help="Training steps forecast at each origin.")] = 100,
    every: Annotated[int | None, typer.Option(min=1, help="Steps between origins; the horizon by default.")] = None,
    metric: Metric = "window_tv",
    level: Level = "process",
    layer: Layers = None,
    first: First = None,
    last: Last = None,
) -> None:
    """Draw error over training, one panel per layer, of forecasters that are run now (the paper's figures 5 to 9)."""
    check_suffix(out)
    view = _view(trace, layer, first, last)
    errors = []
    with pair_progress(unit="forecasters") as report:
        for name in forecasters:
            errors.append(
                training_errors(
                    view.trace, name, every=every or horizon, horizon=horizon, metric=metric, level=parse_level(level)
                )
            )
            report(len(errors), len(forecasters), name)
    _save(draw_training(view, errors), out)
    failed = [f"failed: {one.forecaster}, {reason}" for one in errors for reason in one.failures]
    for line in failed:
        typer.echo(printable(line), err=True)
    if failed:
        raise typer.Exit(1)


@app.command("horizon")
def horizon(
    sources: Sources,
    out: Out,
    metric: Metric = "window_tv",
    suite: Suite = "mini",
    trace: OwnTrace = None,
    level: Level = "process",
) -> None:
    """Draw error against the horizon with the floors drawn in, one panel per state."""
    check_suffix(out)
    _save(draw_horizon(_results(sources, suite, trace, level), metric), out)


@app.command("cost")
def cost(
    sources: Sources,
    out: Out,
    metric: Metric = "window_tv",
    horizon: Annotated[
        int | None, typer.Option(help="One of the suite's horizons; the one nearest to 100 by default.")
    ] = None,
    suite: Suite = "mini",
    trace: OwnTrace = None,
    level: Level = "process",
) -> None:
    """Draw accuracy against cost: error at one horizon over the time of a forecast, one panel per state."""
    check_suffix(out)
    _save(draw_cost(_results(sources, suite, trace, level), metric, horizon), out)


def _view(trace: str, layers: list[str] | None, first: int | None, last: int | None) -> View:
    return view_trace(open_trace(trace), layers or (), first, last)


def _results(sources: list[str], suite: str, trace: Path | None, level: str) -> list[Result]:
    """Return results from files, then those of forecasters that are run now."""
    results = [load_result(source) for source in sources if source.endswith(".json")]
    targets = [source for source in sources if not source.endswith(".json")]
    if targets:
        tasks = suite if trace is None else read_trace(trace)
        with pair_progress() as report:
            results += evaluate(targets, tasks, level=parse_level(level), progress=report)
    return results


def _save(figure: Any, out: Path) -> None:
    typer.echo(save_figure(figure, out))
