"""`moeload-bench export figure`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import no_trace
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.errors import PlotError
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.style import check_suffix, load_matplotlib, save_figure

if TYPE_CHECKING:
    from moeload_bench.plots import TrainingErrors, View
    from moeload_bench.results.results import Results
    from moeload_bench.traces.trace import Trace


def drawable(out: Path | None) -> Path | None:
    """Return the figure's file, as given, if it can be drawn and written: this is said before hours of work."""
    if out is not None:
        no_trace(out)
        check_suffix(out)
        load_matplotlib()
    return out


def figure(
    kind: Annotated[
        Literal["heatmap", "shares", "states", "variance", "range", "training", "horizon", "cost"],
        typer.Argument(metavar="KIND", help="Which figure; see above."),
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A trace; for training also forecasters; for horizon and cost results (.parquet files, or a folder), "
            "or forecasters, which are then run.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=drawable, help="The figure: .svg, .png or .pdf.")],
    layer: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="A layer of the trace; may be repeated. All by default.")
    ] = None,
    first: Annotated[int | None, typer.Option(help="First training step shown.")] = None,
    last: Annotated[int | None, typer.Option(help="Last training step shown.")] = None,
    window: Annotated[int, typer.Option(min=1, help="variance, range: rows that it is taken over.")] = 100,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="training: steps ahead, 100 by default; cost: the one nearest to 100.")
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="training: steps between origins; the horizon by default.")
    ] = None,
    metric: Annotated[str, typer.Option(help="training, horizon, cost: the metric drawn.")] = "window_tv",
    suite: Annotated[str, typer.Option(help="Forecasters given: the suite they run on, or a TOML file.")] = "mini",
    trace: Annotated[str | None, typer.Option(help="Forecasters given: a trace to run them on instead.")] = None,
    level: Annotated[str, typer.Option(help="Forecasters given: isolation, none, process or sandbox.")] = "process",
) -> None:
    """Draw a trace or results (extra plot).

    \b
    heatmap   the load of every expert over training, a panel per layer
    shares    each expert's share of a layer, with its state (figure 1)
    states    drift, the thresholds of the state rule, the state of every layer
    variance  sliding variance of each share (figures 2 to 4)
    range     sliding range, largest minus smallest (figures 10 and 11)
    training  error over training, of forecasters that are run now (5 to 9)
    horizon   error against the horizon with the floors, a panel per state
    cost      error at one horizon over the time of a forecast

    Numbers of figures are those of the founding paper.

    \b
    moeload-bench export figure shares run.parquet --layer 3 --out shares.svg
    moeload-bench export figure training run.parquet sw_avg ema --out errors.svg
    moeload-bench export figure cost leaderboard/results/mini --out cost.svg
    """
    from moeload_bench import plots  # loads pandas

    if kind in ("horizon", "cost"):
        results = _results(sources, suite if trace is None else open_trace(trace), level)
        figure = plots.draw_horizon(results, metric) if kind == "horizon" else plots.draw_cost(results, metric, horizon)
        say(str(save_figure(figure, out)))
        return
    name, *forecasters = sources
    if forecasters and kind != "training":
        raise PlotError(f"{kind}: got {len(sources)} sources, expected one trace")
    view = plots.view_trace(open_trace(name), layer or (), first, last)
    errors: list[TrainingErrors] = []
    if kind == "training":
        errors = _errors(view, forecasters, every or horizon or 100, horizon or 100, metric, level)
    draw: dict[str, Any] = {
        "heatmap": lambda: plots.draw_heatmap(view),
        "shares": lambda: plots.draw_shares(view),
        "states": lambda: plots.draw_states(view),
        "variance": lambda: plots.draw_sliding(view, "variance", window),
        "range": lambda: plots.draw_sliding(view, "range", window),
        "training": lambda: plots.draw_training(view, errors),
    }
    say(str(save_figure(draw[kind](), out)))
    failed = [f"failed: {error.forecaster}, {reason}" for error in errors for reason in error.failures]
    for line in failed:
        say(line, err=True)
    if failed:
        raise typer.Exit(1)


def _results(sources: Sequence[str], tasks: str | Trace, level: str) -> Results:
    """Return results from files, then those of forecasters that are run now."""
    from moeload_bench.harness.evaluate import evaluate
    from moeload_bench.results.results import joined, load_results

    files = [source for source in sources if source.endswith((".parquet", ".json")) or Path(source).is_dir()]
    parts = [load_results(files)] if files else []
    targets = [source for source in sources if source not in files]
    if targets:
        with pair_progress() as report:
            parts.append(evaluate(targets, tasks, level=parse_level(level), progress=report))
    return joined(parts)


def _errors(
    view: View, forecasters: Sequence[str], every: int, horizon: int, metric: str, level: str
) -> list[TrainingErrors]:
    """Return the errors of forecasters along a trace."""
    from moeload_bench.plots import training_errors

    if not forecasters:
        raise PlotError("training: expected a trace and forecasters")
    errors = []
    with pair_progress(unit="forecasters") as report:
        for name in forecasters:
            run = training_errors(
                view.trace, name, every=every, horizon=horizon, metric=metric, level=parse_level(level)
            )
            errors.append(run)
            report(len(errors), len(forecasters), name)
    return errors
