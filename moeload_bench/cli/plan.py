"""`moeload-bench plan`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import (
    BANDWIDTH,
    STEP,
    WEIGHT,
    ExpertFraction,
    FirstLayer,
    Forecaster,
    Groups,
    Level,
    Nodes,
    Overlap,
    ReplanMs,
    TraceArgument,
    no_trace,
    with_options,
)
from moeload_bench.cli.progress import command_lines, pair_progress, plain_console, said_if_stopped, say, say_document
from moeload_bench.errors import PlacementError, printable
from moeload_bench.evaluation.replanning import Comparison, compare_policies
from moeload_bench.interchange.forecast_files import forecast_ahead
from moeload_bench.interchange.placements import place_forecast, write_placement
from moeload_bench.isolation.hosts import Level as IsolationLevel
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.live.cluster import cluster_options
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, PolicyRun
from moeload_bench.plots.replanning import draw_policies
from moeload_bench.results.choice import choose_policy
from moeload_bench.results.console import plain_table
from moeload_bench.style import check_suffix, save_figure
from moeload_bench.traces.trace import Trace

CONSTANTS = ("--step-ms", "--expert-mb", "--bandwidth")


@dataclass(frozen=True)
class Writing:
    """The file that --write names, in an engine's form, and the steps that its plan is made for."""

    path: Path
    kind: str
    horizon: int
    model_layers: int | None
    first_layer: int | None


def cluster_shape(
    devices: Annotated[int, typer.Option(help="D: devices that share the experts of a layer (expert parallelism).")],
    slots: Annotated[int, typer.Option(help="R: expert slots on all devices together; R - E of them are spare.")],
    nodes: Nodes = 1,
    groups: Groups = None,
) -> ClusterShape:
    """Return what the experts are placed on."""
    return ClusterShape("plan", devices, slots, nodes, nodes if groups is None else groups)


def cost_model(
    expert_mb: Annotated[float | None, WEIGHT] = None,
    bandwidth: Annotated[float | None, BANDWIDTH] = None,
    step_ms: Annotated[float | None, STEP] = None,
    expert_fraction: ExpertFraction = 0.5,
    overlap: Overlap = 0.0,
    replan_ms: ReplanMs = 0.0,
) -> CostModel | None:
    """Return the cost model; None if no constant was given. Raise `PlacementError` if only some were."""
    if step_ms is None or expert_mb is None or bandwidth is None:
        given = dict(zip(CONSTANTS, (step_ms, expert_mb, bandwidth), strict=True))
        missing = [name for name, value in given.items() if value is None]
        if len(missing) < len(CONSTANTS):
            raise _incomplete(missing)
        return None
    return CostModel(step_ms, expert_mb, bandwidth, expert_fraction, overlap, replan_ms)


def writing(
    write: Annotated[
        Path | None,
        typer.Option(
            callback=no_trace, help="Write the plan for the steps after the trace, made from the whole of it."
        ),
    ] = None,
    kind: Annotated[
        Literal["json", "eplb", "sglang", "vllm", "vllm-ascend", "tensorrt-llm", "megatron"],
        typer.Option("--format", help="Which engine's file --write makes."),
    ] = "json",
    horizon: Annotated[int, typer.Option(min=1, help="Steps that the written plan is made for.")] = 1000,
    model_layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the model, dense ones included (sglang's file has them all).")
    ] = None,
    first_layer: FirstLayer = None,
) -> Writing | None:
    """Return the file to write, None if none is asked for."""
    return None if write is None else Writing(write, kind, horizon, model_layers, first_layer)


@with_options(shape=cluster_shape, cost=cost_model, written=writing)
def plan(
    trace: TraceArgument,
    *,
    shape: ClusterShape,
    cost: CostModel | None,
    forecaster: Forecaster = "sw_avg@window=100",
    every: Annotated[
        str | None,
        typer.Option(
            help="Intervals k to try, in steps: 10,100,1000 (fewer for a slow forecaster). By default 10 to 2,000, "
            "of a large model only the longer ones."
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(callback=no_trace, help="Draw the re-plan curve and device loads (.png, .svg, .pdf)."),
    ] = None,
    level: Level = "process",
    seed: Annotated[int, typer.Option(help="Seed of the forecaster.")] = 0,
    written: Writing | None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record instead of a table.")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Every policy at every k, imbalance by state; wider than 80 columns.")
    ] = False,
) -> None:
    """Find how often to re-plan experts and what that saves: simulated over a whole trace, migration charged.

    [bold]moeload-bench plan run.parquet --devices 8 --slots 72 --expert-mb 350 --bandwidth 25 --step-ms 900[/bold]

    Policies: [bold]every[/bold] k steps; [bold]if_pays[/bold]: the same when the forecast promises more than the
    migration costs; [bold]stable_only[/bold]: never in the transient; [bold]reserve_allocate[/bold]: even spread in the
    transient, forecast in the stable state; [bold]on_change[/bold] of state. [bold]oracle[/bold]: if_pays knowing the
    loads to come. The cost model, its limits and a walk-through: docs/methods/placement.md in the
    project's repository.

    [bold]--write placement.json --format eplb[/bold] writes the plan for the coming window as the file that an engine
    loads; without costs (--expert-mb, --bandwidth, --step-ms) nothing is simulated then.

    Exit status: 0 done, 1 some forecast failed (each is named; its plan was kept), 2 the request cannot be served.
    """
    shown = {"--every": every, "--figure": figure, "--json": as_json, "--wide": wide}
    asked = [option for option, value in shown.items() if value not in (None, False)]
    if cost is None and (written is None or asked):
        raise _incomplete(CONSTANTS, asked)
    if figure is not None:
        check_suffix(figure)
    intervals, isolation = _intervals(every), parse_level(level)
    loaded = open_trace(trace)
    if written is not None:
        _write(loaded, forecaster, shape, written, isolation, seed)
    if cost is None:
        return
    kept = f"{written.path} is written, " if written is not None else ""
    stopped = (
        f"stopped: {kept}of the simulation nothing is kept; the same command begins again, with fewer --every sooner"
    )
    with said_if_stopped(stopped), pair_progress(quiet=as_json, unit="forecasts", first="states of the run") as report:
        comparison = compare_policies(
            loaded, forecaster, shape, cost, every=intervals, level=isolation, seed=seed, report=report
        )
    following = _next(trace, forecaster, shape, cost)
    say_document(_json(comparison, following)) if as_json else _print(comparison, following, wide)
    if figure is not None:
        save_figure(draw_policies(comparison, loaded), figure)
        say(f"figure: {figure}", err=True)
    if comparison.failures:
        raise typer.Exit(1)


def _incomplete(missing: Sequence[str], asked: Sequence[str] = ()) -> PlacementError:
    """Return the error for missing constants; ``asked`` are the options that were given and need the simulation."""
    got = f"; got {', '.join(asked)}, for a simulation with these costs" if asked else ""
    return PlacementError(f"{', '.join(missing)}: expected, to charge what a re-plan costs{got}")


def _write(
    trace: Trace, forecaster: str, shape: ClusterShape, written: Writing, level: IsolationLevel, seed: int
) -> None:
    shape.check(trace.num_experts)
    ahead = forecast_ahead(trace, forecaster, written.horizon, level=level, seed=seed)
    placement = place_forecast(ahead, shape, written.model_layers, written.first_layer)
    write_placement(placement, written.path, written.kind)
    first = ahead.about["first_step"]
    say(
        f"{written.path}: {written.kind}, {shape.slots} slots on {shape.devices} devices for steps {first} to "
        f"{first + written.horizon - 1}, from {forecaster}",
        err=True,
    )
    if written.kind == "sglang" and placement.other_rows:
        rows = ", ".join(map(str, placement.other_rows))
        say(f"{written.path}: layers without a plan, their experts in order: {rows}", err=True)


def _intervals(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PlacementError(f"--every is {text!r}, expected whole numbers of steps such as 10,100,1000") from None


def _next(trace: str, forecaster: str, shape: ClusterShape, cost: CostModel) -> str:
    """Return the next command: the run on one page, for the same cluster."""
    return (
        f"moeload-bench report {shlex.quote(trace)} --forecaster {shlex.quote(forecaster)} "
        f"{cluster_options(shape, cost)} --out report.html"
    )


def _json(comparison: Comparison, following: str) -> str:
    simulation, choice = comparison.simulation, choose_policy(comparison.runs)
    record = {
        "trace": comparison.trace,
        "forecaster": comparison.forecaster,
        "shape": dataclasses.asdict(simulation.shape),
        "cost": dataclasses.asdict(simulation.cost),
        "policies": [_run_record(run) for run in comparison.runs],
        "best": _run_record(comparison.best),
        "not_told_apart": [{"policy": run.policy, "every": run.every} for run in choice.alike],
        "take": _run_record(choice.cheapest),
        "next": following,
        "failures": list(comparison.failures),
        "notes": list(comparison.notes),
    }
    return json.dumps(record, indent=1)


def _run_record(run: PolicyRun) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(run).items() if name != "saved_parts"}


def _print(comparison: Comparison, following: str, wide: bool) -> None:
    """Print the answer, the table, what failed, the next command."""
    console = plain_console()
    cost, choice = comparison.simulation.cost, choose_policy(comparison.runs)
    console.print(choice.text)
    console.print(_answer(comparison))
    console.print("")
    console.print(
        f"{printable(comparison.trace)}, plans from {comparison.forecaster}; means over all steps and layers; percent "
        f"of the static layout's step of {cost.step_ms:g} ms"
    )
    columns = WIDE_COLUMNS if wide else COLUMNS
    table = plain_table()
    for name in columns:
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for run in comparison.runs if wide else _best_of_each(comparison.runs, choice.cheapest):
        cells = _cells(run, cost.step_ms)
        style = "bold" if run is choice.cheapest else None
        table.add_row(*(cells[name] for name in columns), style=style)
    (plain_console(wide=True) if wide else console).print(table)
    if not wide:
        console.print("k: steps between re-plans. Of each policy its best k, of the one to take every k; all: --wide.")
    for note in (*comparison.notes, *comparison.failures[:5]):
        console.print(printable(note), style="red")
    if len(comparison.failures) > 5:
        console.print(f"... {len(comparison.failures)} forecasts failed in all", style="red")
    console.print("Next:")
    console.print(command_lines(printable(following), console.width), soft_wrap=True)


COLUMNS = ("policy", "k", "re-plans", "moved GB", "imbalance", "gain %", "cost %", "saved %")
WIDE_COLUMNS = ("policy", "k", "re-plans", "moved", "moved GB", "imbalance", "transient", "stable", *COLUMNS[-3:])


def _best_of_each(runs: Sequence[PolicyRun], taken: PolicyRun) -> list[PolicyRun]:
    """Return every interval of the policy to take, and the best one of each other policy, in the order of the runs."""
    best: dict[str, PolicyRun] = {}
    for run in runs:
        if run.policy not in best or run.saved_percent > best[run.policy].saved_percent:
            best[run.policy] = run
    return [run for run in runs if run.policy == taken.policy or run is best[run.policy]]


def _cells(run: PolicyRun, step_ms: float) -> dict[str, str]:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return {
        "policy": run.policy,
        "k": "-" if run.policy == "static" else f"{run.every:,}",
        "re-plans": f"{run.replans:,}",
        "moved": f"{run.replicas_moved:,}",
        "moved GB": f"{run.moved_mb / 1000:,.1f}",
        "imbalance": number(run.imbalance, 3),
        "transient": number(run.imbalance_transient, 3),
        "stable": number(run.imbalance_stable, 3),
        "gain %": number(run.gain_percent, 2),
        "cost %": number(100 * run.migration_ms / step_ms, 2),
        "saved %": number(run.saved_percent, 2),
    }


def _answer(comparison: Comparison) -> str:
    """Return the answer in a sentence."""
    best, cost = comparison.best, comparison.simulation.cost
    if best.policy == "static":
        return "Best: leave the static layout; with these costs no policy saves anything."
    limit = max(run.saved_percent for run in comparison.runs if run.policy == "oracle")
    text = (
        f"Best: {best.policy}, k = {best.every:,}: saves {best.saved_percent:.2f} % of the step time "
        f"({cost.step_ms - best.step_ms:.3g} of {cost.step_ms:g} ms); "
        f"with the true mean loads to come: {limit:.2f} %."
    )
    details: list[Any] = []
    if best.break_even_steps is not None:
        details.append(f"a re-plan has paid for itself after {best.break_even_steps:,.1f} steps")
    if best.break_even_mb is not None:
        details.append(f"the policy gains until an expert weighs {best.break_even_mb:,.0f} MB")
    return f"{text} Break-even: {', and '.join(details)}." if details else text
