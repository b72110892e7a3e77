"""`moeload-bench plot KIND`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import TraceArgument, no_trace, with_options
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.errors import not_found
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
from moeload_bench.results.results import Results, joined, load_results
from moeload_bench.style import load_matplotlib
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


def _figure(out: Path | None) -> Path | None:
    """Return the figure's file, as given, if it can be written."""
    no_trace(out)
    if out is not None:
        check_suffix(out)
    return out


Out = Annotated[Path, typer.Option("--out", "-o", callback=_figure, help="The figure: a .svg, .png or .pdf file.")]
Metric = Annotated[str, typer.Option(help="The metric drawn.")]
Level = Annotated[str, typer.Option(help="Forecasters given: isolation, none, process or sandbox.")]
Window = Annotated[int, typer.Option(min=1, help="Rows that the statistic is taken over.")]


def view_of(
    trace: TraceArgument,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="A layer, as `traces show` numbers them; may be repeated. All by default."),
    ] = None,
    first: Annotated[int | None, typer.Option("--first", help="First training step shown.")] = None,
    last: Annotated[int | None, typer.Option("--last", help="Last training step shown.")] = None,
) -> View:
    """Return what is shown of a trace."""
    return view_trace(open_trace(trace), layer or (), first, last)


def results_of(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Results of one suite (.parquet files, or a folder), or forecasters, which are then run.",
        ),
    ],
    suite: Annotated[
        str, typer.Option(help="Forecasters given: the suite they run on, by name or TOML file.")
    ] = "mini",
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Forecasters given: run them on this .parquet trace instead of a suite."),
    ] = None,
    level: Level = "process",
) -> Results:
    """Return results from files, then those of forecasters that are run now."""
    files = [source for source in sources if source.endswith((".parquet", ".json")) or Path(source).is_dir()]
    parts = [load_results(files)] if files else []
    targets = [source for source in sources if source not in files]
    if targets:
        load_matplotlib()  # what is missing is said before hours of scoring
        tasks = suite if trace is None else read_trace(trace)
        with pair_progress() as report:
            parts.append(evaluate(targets, tasks, level=parse_level(level), progress=report))
    return joined(parts)


@app.command("heatmap")
@with_options(view=view_of)
def heatmap(view: View, out: Out) -> None:
    """Draw the load of every expert over training, one panel per layer."""
    _save(draw_heatmap(view), out)


@app.command("shares")
@with_options(view=view_of)
def shares(view: View, out: Out) -> None:
    """Draw each expert's share of a layer over training, below a strip with its state (the paper's figure 1)."""
    _save(draw_shares(view), out)


@app.command("states")
@with_options(view=view_of)
def states(view: View, out: Out) -> None:
    """Draw how far the loads drift, with the thresholds of the state rule, and the state of every layer."""
    _save(draw_states(view), out)


@app.command("variance")
@with_options(view=view_of)
def variance(view: View, out: Out, window: Window = 100) -> None:
    """Draw the sliding variance of each expert's share (the paper's figures 2 to 4, windows of 10 and 100)."""
    _save(draw_sliding(view, "variance", window), out)


@app.command("range")
@with_options(view=view_of)
def range_(view: View, out: Out, window: Window = 100) -> None:
    """Draw the sliding range, largest minus smallest, of each expert's share (the paper's figures 10 and 11)."""
    _save(draw_sliding(view, "range", window), out)


@app.command("training")
@with_options(view=view_of)
def training(
    view: View,
    forecasters: Annotated[list[str], typer.Argument(metavar="FORECASTER...", help="One or more, as for `run`.")],
    out: Out,
    horizon: Annotated[int, typer.Option(min=1, help="Training steps forecast at each origin.")] = 100,
    every: Annotated[int | None, typer.Option(min=1, help="Steps between origins; the horizon by default.")] = None,
    metric: Metric = "window_tv",
    level: Level = "process",
) -> None:
    """Draw error over training, one panel per layer, of forecasters that are run now (the paper's figures 5 to 9)."""
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
        say(line, err=True)
    if failed:
        raise typer.Exit(1)


@app.command("horizon")
@with_options(results=results_of)
def horizon(results: Results, out: Out, metric: Metric = "window_tv") -> None:
    """Draw error against the horizon with the floors drawn in, one panel per state."""
    _save(draw_horizon(results, metric), out)


@app.command("cost")
@with_options(results=results_of)
def cost(
    results: Results,
    out: Out,
    metric: Metric = "window_tv",
    horizon: Annotated[
        int | None, typer.Option(help="One of the suite's horizons; the one nearest to 100 by default.")
    ] = None,
) -> None:
    """Draw accuracy against cost: error at one horizon over the time of a forecast, one panel per state."""
    _save(draw_cost(results, metric, horizon), out)


def _save(figure: Any, out: Path) -> None:
    say(str(save_figure(figure, out)))
